"""REDUCE, SOFTMAX, TOPK, NORMALIZATION, CUMULATIVE and LRN.

fp16 and bf16 accumulate in fp32 and round once. MAX and MIN skip NaN; integer arithmetic is exact (TensorRT
8.5 reduced int32 in floating point, which we do not copy).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trtcore_reference.emit import Emitter, Evaluator
from trtcore_reference.values import Value

_HALF = (torch.float16, torch.bfloat16)


# -- reduce ---------------------------------------------------------------------------------------


def reduce(e: Emitter) -> Value:
    op = e.attributes["op"]
    if op not in _REDUCTIONS:
        raise e.unsupported("op")
    axes, keep = e.attributes["axes"], e.attributes["keep_dims"]
    if op == "AVG" and e.is_float:
        return e.call(torch.mean, e.value(), axes, keep)
    return e.call(_REDUCTIONS[op], e.value(), axes, keep)


def reduce_sum(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    """Sum; integers keep their type and wrap."""
    return torch.sum(x, tuple(axes), keep, dtype=x.dtype)


def reduce_prod(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    y = x.float() if x.dtype in _HALF else x
    for axis in sorted(axes, reverse=True):
        y = y.prod(axis, keepdim=keep, dtype=y.dtype)
    return y.to(x.dtype)


def reduce_max(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    """Maximum without NaN; -inf over NaN alone and over an empty axis."""
    return _extreme(x, axes, keep, torch.amax, -math.inf)


def reduce_min(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    """Minimum without NaN; +inf over NaN alone and over an empty axis."""
    return _extreme(x, axes, keep, torch.amin, math.inf)


def _extreme(x: Tensor, axes: Sequence[int], keep: bool, function: Any, neutral: float) -> Tensor:
    if x.is_floating_point():
        x = x.nan_to_num(nan=neutral, posinf=math.inf, neginf=-math.inf)
    else:
        limits = torch.iinfo(x.dtype)
        neutral = limits.min if neutral < 0 else limits.max
    if any(x.shape[axis] == 0 for axis in axes):
        return torch.sum(x, tuple(axes), keep, dtype=x.dtype).fill_(neutral)
    result: Tensor = function(x, tuple(axes), keep)
    return result


def reduce_average(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    """Integer average, truncated towards zero."""
    total = torch.sum(x, tuple(axes), keep, dtype=torch.int64)
    return torch.div(total, math.prod(x.shape[axis] for axis in axes), rounding_mode="trunc").to(x.dtype)


_REDUCTIONS = {
    "SUM": reduce_sum,
    "PROD": reduce_prod,
    "MAX": reduce_max,
    "MIN": reduce_min,
    "AVG": reduce_average,
}


# -- softmax, topk --------------------------------------------------------------------------------


def softmax(e: Emitter) -> Value:
    """Softmax over one axis; a row of -inf, or with +inf or NaN, is NaN."""
    (axis,) = e.attributes["axes"]
    return e.call(torch.softmax, e.value(), axis)


def topk(e: Emitter) -> Sequence[Value]:
    """The k largest (MAX) or smallest values along one axis, sorted, ties by lowest index, and their
    indices.
    """
    (axis,) = e.attributes["axes"]
    k: Value | int = e.attributes["k"]
    if e.has(1):
        static = e.ints(1)
        k = static[0] if static is not None else e.value(1, host=True)
    largest = {"MAX": True, "MIN": False}[e.attributes["op"]]
    return e.calls(2, top, e.value(), k, axis, largest, e.out(1).dtype)


def top(
    x: Tensor, k: Tensor | int, axis: int, largest: bool, index_type: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `topk`. NaN is never chosen while numbers remain; a chosen worst value (-inf for MAX) has index
    -1.
    """
    count = int(k)
    worst = -math.inf if largest else math.inf
    if x.is_floating_point():
        x = x.nan_to_num(nan=worst, posinf=math.inf, neginf=-math.inf)
    if count == 1 and x.shape[axis]:
        values, indices = x.max(axis, keepdim=True) if largest else x.min(axis, keepdim=True)
    else:
        values, indices = torch.sort(x, dim=axis, descending=largest, stable=True)
        values, indices = values.narrow(axis, 0, count), indices.narrow(axis, 0, count)
    if x.is_floating_point():
        indices = torch.where(values == worst, -1, indices)
    return values, indices.to(index_type)


# -- normalization --------------------------------------------------------------------------------


def normalization(e: Emitter) -> Value:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, the variance without Bessel's correction.

    With several groups, axis 1 is split and each group is normalised over its channels and the given axes; a
    scale with one value a group (the first version of the layer) covers that group's channels.
    """
    a = e.attributes
    axes, epsilon, groups = a["axes"], a["epsilon"], a["num_groups"]
    scale, bias = e.value(1), e.value(2) if e.has(2) else None
    if groups != 1:
        return e.call(normalize_groups, e.value(), scale, bias, axes, epsilon, groups)
    tail = len(axes)
    shape = e.info().shape[e.rank - tail :] if tail else ()
    if axes == tuple(range(e.rank - tail, e.rank)) and -1 not in shape:
        weights = [_trailing(e, i, shape) for i in (1, 2) if e.has(i)]
        if None not in weights:
            return e.call(F.layer_norm, e.value(), shape, *weights, eps=epsilon)
    return e.call(normalize, e.value(), scale, bias, axes, epsilon)


def _trailing(e: Emitter, index: int, shape: tuple[int, ...]) -> Value | None:
    """Input `index` as torch's layer_norm takes it, if it varies along the normalised axes only."""
    info = e.info(index)
    lead = len(info.shape) - len(shape)
    if lead < 0 or info.shape[lead:] != shape or any(n != 1 for n in info.shape[:lead]):
        return None
    value = e.value(index)
    return e.call(torch.reshape, value, shape) if lead else value


def normalize(x: Tensor, scale: Tensor, bias: Tensor | None, axes: Sequence[int], epsilon: float) -> Tensor:
    y = x.float()
    centered = y - y.mean(tuple(axes), keepdim=True)
    variance = (centered * centered).mean(tuple(axes), keepdim=True)
    y = centered * torch.rsqrt(variance + epsilon) * scale
    return (y if bias is None else y + bias).to(x.dtype)


def normalize_groups(
    x: Tensor, scale: Tensor, bias: Tensor | None, axes: Sequence[int], epsilon: float, groups: int
) -> Tensor:
    batch, channels = x.shape[0], x.shape[1]
    grouped = x.float().reshape(batch, groups, channels // groups, *x.shape[2:])
    over = (2, *(axis + 1 for axis in axes if axis >= 2))
    centered = grouped - grouped.mean(over, keepdim=True)
    variance = (centered * centered).mean(over, keepdim=True)
    y = (centered * torch.rsqrt(variance + epsilon)).reshape(x.shape)
    y = y * _per_channel(scale, channels, groups)
    return (y if bias is None else y + _per_channel(bias, channels, groups)).to(x.dtype)


def _per_channel(weights: Tensor, channels: int, groups: int) -> Tensor:
    if weights.shape[1] == groups != channels:
        return weights.repeat_interleave(channels // groups, 1)
    return weights


# -- cumulative, lrn ------------------------------------------------------------------------------


def cumulative(e: Emitter) -> Value:
    """Running sum along the axis that input 1 gives."""
    if e.attributes["op"] != "SUM":
        raise e.unsupported("op")
    axes = e.ints(1)
    axis: Value | int = axes[0] if axes is not None else e.value(1, host=True)
    return e.call(running_sum, e.value(), axis, e.attributes["exclusive"], e.attributes["reverse"])


def running_sum(x: Tensor, axis: Tensor | int, exclusive: bool, reverse: bool) -> Tensor:
    """Inclusive: elements 0..i (i..n-1 if reversed); exclusive leaves element i itself out."""
    axis = int(axis)
    y = x.float() if x.dtype in _HALF else x
    if reverse:
        y = y.flip(axis)
    if exclusive:
        ahead = torch.zeros_like(y.narrow(axis, 0, min(1, y.shape[axis])))
        y = torch.cat((ahead, y.narrow(axis, 0, max(y.shape[axis] - 1, 0))), axis)
    y = torch.cumsum(y, axis, dtype=y.dtype)
    if reverse:
        y = y.flip(axis)
    return y.to(x.dtype)


def lrn(e: Emitter) -> Value:
    """x / (k + alpha * mean over the window of x**2) ** beta across channels, as torch has it."""
    a = e.attributes
    return e.call(F.local_response_norm, e.value(), a["window_size"], a["alpha"], a["beta"], a["k"])


TABLE: Mapping[str, Evaluator] = {
    "REDUCE": reduce,
    "SOFTMAX": softmax,
    "TOPK": topk,
    "NORMALIZATION": normalization,
    "CUMULATIVE": cumulative,
    "LRN": lrn,
}

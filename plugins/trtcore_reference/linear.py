"""MATRIX_MULTIPLY, EINSUM, CONVOLUTION, DECONVOLUTION and attention. fp16 and bf16 accumulate in fp32."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from trtcore_reference.emit import Emitter, Evaluator
from trtcore_reference.values import Const, Value


def transpose(x: Tensor) -> Tensor:
    return x.mT


def matrix_multiply(e: Emitter) -> Value:
    """Batched matrix product; VECTOR operands have no row (first) or column (second) axis."""
    a, b = e.value(0), e.value(1)
    op0, op1 = e.attributes["op0"], e.attributes["op1"]
    if op0 == "TRANSPOSE":
        a = e.call(transpose, a)
    elif op0 == "VECTOR":
        a = e.call(torch.unsqueeze, a, -2)
    if op1 == "TRANSPOSE":
        b = e.call(transpose, b)
    elif op1 == "VECTOR":
        b = e.call(torch.unsqueeze, b, -1)
    result = _product(e, a, b)
    if op1 == "VECTOR":
        result = e.call(torch.squeeze, result, -1)
    if op0 == "VECTOR":
        result = e.call(torch.squeeze, result, -1 if op1 == "VECTOR" else -2)
    return result


def _product(e: Emitter, a: Value, b: Value) -> Value:
    weight_like = isinstance(b, Const) and math.prod(b.tensor.shape[:-2]) == 1 and b.tensor.dim() <= e.rank
    if isinstance(b, Const) and weight_like and not isinstance(a, Const):
        # a weight without batch dims: one matrix product, as torch.nn.Linear computes it
        weight = e.const(b.tensor.reshape(b.tensor.shape[-2:]).mT)
        node = e.call(F.linear, a, weight)
        if isinstance(node, fx.Node):
            e.region.linears[node] = (a, weight)
        return node
    return e.call(torch.matmul, a, b)


def einsum(e: Emitter) -> Value:
    return e.call(torch.einsum, e.attributes["equation"], *e.values())


# -- convolution ----------------------------------------------------------------------------------


def paddings(
    e: Emitter, size: Sequence[int] | None, kernel: Sequence[int]
) -> tuple[tuple[int, int], ...] | None:
    """(before, after) for each spatial axis, as TensorRT's PaddingMode formulas give them.

    SAME modes ignore the explicit padding, and a negative total counts as 0; EXPLICIT_ROUND_UP adds what the
    last window needs. None if that needs the size of the input, and it is known only at run time.
    """
    a = e.attributes
    mode = a["padding_mode"]
    pre, post, stride = a["pre_padding"], a["post_padding"], a["stride_nd"]
    if mode == "EXPLICIT_ROUND_DOWN":
        return tuple(zip(pre, post))
    if size is None:
        return None
    dilation = a.get("dilation_nd") or (1,) * len(kernel)
    return padded(mode, size, kernel, stride, dilation, pre, post)


def padded(
    mode: str,
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    pre: Sequence[int],
    post: Sequence[int],
) -> tuple[tuple[int, int], ...]:
    """The formulas of `paddings` for a known input size."""
    found = []
    for n, k, s, d, before, after in zip(size, kernel, stride, dilation, pre, post):
        reach = d * (k - 1) + 1
        if mode.startswith("SAME"):
            total = max((-(n // -s) - 1) * s + reach - n, 0)
            half, rest = total // 2, total - total // 2
            before, after = (half, rest) if mode == "SAME_UPPER" else (rest, half)
        elif mode == "EXPLICIT_ROUND_UP":
            windows = -((n + before + after - reach) // -s) + 1
            after = (windows - 1) * s + reach - n - before
        elif mode != "EXPLICIT_ROUND_DOWN":
            raise ValueError(f"padding mode {mode}")
        found.append((before, after))
    return tuple(found)


def flat_padding(pads: Sequence[tuple[int, int]]) -> list[int]:
    """For torch's `pad`: last axis first."""
    return [amount for pair in reversed(pads) for amount in pair]


_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def convolution(e: Emitter) -> Value:
    """Convolution with the kernel from weights or input 1, the bias from weights or input 2."""
    kernel, bias = _kernel(e, deconvolution=False)
    window = e.attributes["kernel_size_nd"]
    function = _CONVOLUTIONS[len(window)]
    stride, dilation, groups = (
        e.attributes["stride_nd"],
        e.attributes["dilation_nd"],
        e.attributes["num_groups"],
    )
    static = e.static()
    pads = paddings(e, static[2:] if static else None, window)
    if pads is None:
        mode = e.attributes["padding_mode"]
        pre, post = e.attributes["pre_padding"], e.attributes["post_padding"]
        x = e.call(pad_windows, e.value(), mode, window, stride, dilation, pre, post, 0.0)
        pads = ((0, 0),) * len(window)
    elif all(before == after for before, after in pads):
        x = e.value()
    else:
        x = e.call(F.pad, e.value(), flat_padding(pads))
        pads = ((0, 0),) * len(window)
    return e.call(function, x, kernel, bias, stride, tuple(before for before, _ in pads), dilation, groups)


def pad_windows(
    x: Tensor,
    mode: str,
    window: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    pre: Sequence[int],
    post: Sequence[int],
    fill: float,
) -> Tensor:
    """Pad so that every window of the padding mode exists (sizes known at run time)."""
    pads = padded(mode, x.shape[2:], window, stride, dilation, pre, post)
    return F.pad(x, flat_padding(pads), value=fill)


def deconvolution(e: Emitter) -> Value:
    """The transposed convolution, cropped by the padding."""
    kernel, bias = _kernel(e, deconvolution=True)
    a = e.attributes
    window = a["kernel_size_nd"]
    return e.call(
        deconvolve,
        e.value(),
        kernel,
        bias,
        a["stride_nd"],
        a["dilation_nd"],
        a["num_groups"],
        a["padding_mode"],
        window,
        a["pre_padding"],
        a["post_padding"],
    )


def deconvolve(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    mode: str,
    window: Sequence[int],
    pre: Sequence[int],
    post: Sequence[int],
) -> Tensor:
    """Full transposed convolution; EXPLICIT modes crop pre and post, SAME modes crop to input size *
    stride.
    """
    spatial = len(window)
    crops = []
    for n, k, s, d, before, after in zip(x.shape[2:], window, stride, dilation, pre, post):
        if mode.startswith("SAME"):
            total = max((n - 1) * s + d * (k - 1) + 1 - n * s, 0)
            half, rest = total // 2, total - total // 2
            before, after = (half, rest) if mode == "SAME_UPPER" else (rest, half)
        crops.append((before, after))
    function = _TRANSPOSED[spatial]
    even = all(before == after for before, after in crops)
    inner = tuple(before for before, _ in crops) if even else (0,) * spatial
    y = function(x, kernel, bias, tuple(stride), inner, (0,) * spatial, groups, tuple(dilation))
    if not even:
        for axis, (before, after) in enumerate(crops, start=2):
            y = y.narrow(axis, before, y.shape[axis] - before - after)
    return y


def _kernel(e: Emitter, *, deconvolution: bool) -> tuple[Value, Value | None]:
    a = e.attributes
    bias: Value | None = None
    if "bias" in e.constants:
        bias = e.const(e.constants["bias"].reshape(-1))
    elif e.has(2):
        bias = e.call(torch.reshape, e.value(2), (-1,))
    if e.has(1):
        return e.value(1), bias
    if "kernel" not in e.constants:
        raise e.error("has no kernel")
    maps, groups, window = a["num_output_maps"], a["num_groups"], a["kernel_size_nd"]
    shape = (-1, maps // groups, *window) if deconvolution else (maps, -1, *window)
    return e.const(e.constants["kernel"].reshape(shape)), bias


# -- attention ------------------------------------------------------------------------------------


def attention_input(e: Emitter) -> Sequence[Value]:
    """A boundary mark; ATTENTION_OUTPUT holds the whole attention."""
    return ()


def attention_output(e: Emitter) -> Value:
    """softmax(Q K^T + mask) V without any scaling; fewer key heads than query heads are repeated.

    Inputs as in `ATTENTION_OPERANDS`. A row with nothing to attend to is NaN, the softmax of an empty row.
    """
    a = e.attributes
    for form in ("query_form", "key_value_form"):
        if a.get(form) not in (None, "PADDED_BHND"):
            raise e.unsupported(form)
    if e.has(4) or e.has(5) or e.has(6):
        raise e.error("has a quantised normalization, or lengths, for which there is no evaluator")
    kind = a.get("causal_kind") or ("UPPER_LEFT" if a.get("causal") else "NONE")
    query, key, value = e.value(0), e.value(1), e.value(2)
    grouped = e.info(0).shape[1] != e.info(1).shape[1]
    mask = e.value(3) if e.has(3) else None
    if a["norm_op"] == "NONE":
        if kind != "NONE" or (mask is not None and e.info(3).dtype is torch.bool):
            raise e.error(
                "has normalization NONE with a boolean or causal mask, whose meaning is not documented"
            )
        return e.call(unnormalized_attention, query, key, value, mask)
    if a["norm_op"] != "SOFTMAX":
        raise e.unsupported("norm_op")
    if isinstance(mask, Const) and _masks_nothing(mask.tensor):
        mask = None
    extra: dict[str, Any] = {"enable_gqa": True} if grouped else {}
    if mask is None and kind in ("NONE", "UPPER_LEFT"):
        function = F.scaled_dot_product_attention
        return e.call(function, query, key, value, is_causal=kind == "UPPER_LEFT", scale=1.0, **extra)
    if mask is None:
        return e.call(masked_attention, query, key, value, None, None, kind, grouped)
    if isinstance(mask, fx.Node):  # layers often share a mask
        dead: Any = e.region.dead_rows.get(mask)
        if dead is None:
            dead = e.region.dead_rows[mask] = e.emit(dead_rows, mask)
    else:
        dead = dead_rows(mask.tensor)
        dead = dead if dead is None else e.const(dead)
    return e.call(masked_attention, query, key, value, mask, dead, kind, grouped)


def _masks_nothing(mask: Tensor) -> bool:
    """Whether a mask lets every query see every key (and there are keys)."""
    return bool(mask.numel() and (mask.all() if mask.dtype is torch.bool else (mask == 0).all()))


def dead_rows(mask: Tensor) -> Tensor | None:
    """True for each row of a mask (last dim kept as 1) with nothing to attend to.

    None if there is none; on a GPU, and where Inductor traces it, that is never None: looking would wait for the
    device.
    """
    allowed = mask if mask.dtype is torch.bool else mask != -math.inf
    dead = ~allowed.any(-1, keepdim=True)
    looks = dead.device.type == "cpu" and not torch.compiler.is_compiling()
    return None if looks and not bool(dead.any()) else dead


def causal_mask(query: Tensor, key: Tensor, kind: str) -> Tensor | None:
    """True where a query may look: at keys up to its own place, counted from the upper left or lower
    right.
    """
    if kind == "NONE":
        return None
    rows, columns = query.shape[-2], key.shape[-2]
    offset = 0 if kind == "UPPER_LEFT" else columns - rows
    return torch.ones(rows, columns, dtype=torch.bool, device=query.device).tril(offset)


def masked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dead: Tensor | None,
    kind: str,
    grouped: bool,
) -> Tensor:
    """Attention with a boolean (True attends) or additive mask and its `dead_rows`, or a causal mask."""
    if mask is None:
        mask = causal_mask(query, key, kind)
        assert mask is not None
        dead = dead_rows(mask)
    result = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0, enable_gqa=grouped)
    return result if dead is None else torch.where(dead, math.nan, result)


def unnormalized_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """(Q K^T + mask) V."""
    repeat = query.shape[1] // key.shape[1]
    if repeat > 1:
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scores = query @ key.mT
    return (scores if mask is None else scores + mask) @ value


TABLE: Mapping[str, Evaluator] = {
    "MATRIX_MULTIPLY": matrix_multiply,
    "EINSUM": einsum,
    "CONVOLUTION": convolution,
    "DECONVOLUTION": deconvolution,
    "ATTENTION_INPUT": attention_input,
    "ATTENTION_OUTPUT": attention_output,
}

"""Normalisations, softmax, and distances between rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from trtcore_contrib_torch_tensorrt._by_torch import by_torch
from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor

__all__ = [
    "batch_norm",
    "cdist_forward",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "native_group_norm",
    "native_layer_norm",
    "pdist",
    "rms_norm",
    "softmax",
]


def batch_norm(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
    return_mean_rstd: bool = False,
) -> Any:
    """Batch normalisation; with `return_mean_rstd` a tuple whose other results are None."""

    def normalise(x: torch.Tensor, *more: Any) -> torch.Tensor:
        scale, shift, mean, variance = more
        return F.batch_norm(x, mean, variance, scale, shift, training, momentum, eps)

    made = by_torch(ctx, normalise, input, weight, bias, running_mean, running_var)
    return (made, None, None) if return_mean_rstd else made


def layer_norm(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    normalized_shape: Sequence[int],
    weight: Any,
    bias: Any,
    eps: float,
    cudnn_enable: bool = True,
    return_mean_rstd: bool = False,
) -> Any:
    """Layer normalisation over the last dims; `weight` and `bias` may be None or one number."""
    shape = list(normalized_shape)

    def normalise(x: torch.Tensor, scale: Any, shift: Any) -> torch.Tensor:
        return F.layer_norm(x, shape, _filled(scale, shape), _filled(shift, shape), eps)

    made = by_torch(ctx, normalise, input, _not(weight, 1), _not(bias, 0))
    return (made, None, None) if return_mean_rstd else made


def native_layer_norm(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    normalized_shape: Sequence[int],
    weight: Any,
    bias: Any,
    eps: float,
) -> Any:
    """Layer normalisation; the op's other results, which only a backward pass reads, are None."""
    return layer_norm(
        ctx, target, source_ir, name, input, normalized_shape, weight, bias, eps, return_mean_rstd=True
    )


def _not(value: Any, neutral: float) -> Any:
    """None in the place of a number that changes nothing."""
    return None if isinstance(value, (int, float)) and value == neutral else value


def _filled(value: Any, shape: Sequence[int]) -> Any:
    return torch.full(list(shape), float(value)) if isinstance(value, (int, float)) else value


def group_norm(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    """Group normalisation."""
    return by_torch(
        ctx, lambda x, scale, shift: F.group_norm(x, num_groups, scale, shift, eps), input, weight, bias
    )


def native_group_norm(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    weight: Any,
    bias: Any,
    N: int,
    C: int,
    HxW: int,
    group: int,
    eps: float,
    return_mean_rstd: bool = True,
) -> Any:
    """Group normalisation; the op's other results, which only a backward pass reads, are None."""
    made = group_norm(ctx, target, source_ir, name, input, group, weight, bias, eps)
    return (made, None, None) if return_mean_rstd else made


def instance_norm(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Any:
    """Instance normalisation."""

    def normalise(x: torch.Tensor, *more: Any) -> torch.Tensor:
        scale, shift, mean, variance = more
        return F.instance_norm(x, mean, variance, scale, shift, use_input_stats, momentum, eps)

    return by_torch(ctx, normalise, input, weight, bias, running_mean, running_var)


def rms_norm(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    normalized_shape: Sequence[int],
    weight: Any = None,
    eps: float | None = None,
) -> Any:
    """Root mean square normalisation over the last dims."""
    return by_torch(ctx, lambda x, scale: F.rms_norm(x, list(normalized_shape), scale, eps), input, weight)


def softmax(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    dim: int,
    half_to_float: bool = False,
) -> Any:
    """Softmax along `dim`; of ints, and of half precision with `half_to_float`, in float32."""
    x = get_trt_tensor(ctx, input, name)
    if half_to_float or not ctx.dtype(x).is_floating_point:
        x = ctx.cast(x, torch.float32)
    return by_torch(ctx, lambda value: torch.softmax(value, dim), x)


def pdist(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, p: float = 2) -> Any:
    """Distances between all pairs of rows, each pair once."""
    return by_torch(ctx, lambda x: torch.ops.aten._pdist_forward.default(x, float(p)), input)


def cdist_forward(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    x1: Any,
    x2: Any,
    p: float,
    compute_mode: int | None = None,
) -> Any:
    """Distances between every row of `x1` and every row of `x2`."""
    return by_torch(
        ctx, lambda a, b: torch.ops.aten._cdist_forward.default(a, b, float(p), compute_mode), x1, x2
    )

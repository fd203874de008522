"""Reductions over one dim, several, or (None, or no dim) all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from trtcore_contrib_torch_tensorrt._by_torch import by_torch
from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor

__all__ = ["all", "amax", "amin", "any", "max", "mean", "min", "norm", "prod", "std", "sum", "var"]

_Dims = int | Sequence[int] | None


def amax(
    ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, dim: _Dims = None, keepdim: bool = False
) -> Any:
    """The largest elements."""
    return _by_torch(ctx, name, torch.amax, input_val, dim, keepdim)


def amin(
    ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, dim: _Dims = None, keepdim: bool = False
) -> Any:
    """The smallest elements."""
    return _by_torch(ctx, name, torch.amin, input_val, dim, keepdim)


def sum(
    ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, dim: _Dims = None, keepdim: bool = False
) -> Any:
    """Sums; bools are counted as int64."""
    x = get_trt_tensor(ctx, input_val, name)
    x = ctx.cast(x, torch.int64) if ctx.dtype(x) == torch.bool else x
    return _reduce(ctx, name, "SUM", x, dim, keepdim)


def prod(
    ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, dim: int | None, keepdim: bool = False
) -> Any:
    """Products; those of bools as int64."""
    x = get_trt_tensor(ctx, input_val, name)
    x = ctx.cast(x, torch.int64) if ctx.dtype(x) == torch.bool else x
    return _reduce(ctx, name, "PROD", x, dim, keepdim)


def mean(
    ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, dim: _Dims = None, keepdim: bool = False
) -> Any:
    """Means; those of ints in float32."""
    x = get_trt_tensor(ctx, input_val, name)
    x = x if ctx.dtype(x).is_floating_point else ctx.cast(x, torch.float32)
    return _reduce(ctx, name, "AVG", x, dim, keepdim)


def max(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input_val: Any,
    dim: int | None = None,
    keepdim: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest elements; with `return_indices` also where they are."""
    return _extreme(ctx, name, torch.max, torch.amax, input_val, dim, keepdim, return_indices)


def min(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input_val: Any,
    dim: int | None = None,
    keepdim: bool = False,
    return_indices: bool = False,
) -> Any:
    """The smallest elements; with `return_indices` also where they are."""
    return _extreme(ctx, name, torch.min, torch.amin, input_val, dim, keepdim, return_indices)


def any(
    ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, dim: _Dims = None, keepdim: bool = False
) -> Any:
    """Whether an element is not zero."""
    return _logical(ctx, name, torch.any, input_val, dim, keepdim)


def all(
    ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, dim: _Dims = None, keepdim: bool = False
) -> Any:
    """Whether no element is zero."""
    return _logical(ctx, name, torch.all, input_val, dim, keepdim)


def var(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input_val: Any,
    dim: _Dims = None,
    correction: float = 1,
    keepdim: bool = False,
) -> Any:
    """Variances."""
    axes = _axes(dim) or None
    return by_torch(ctx, lambda x: torch.var(x, axes, correction=correction, keepdim=keepdim), input_val)


def std(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input_val: Any,
    dim: _Dims = None,
    correction: float = 1,
    keepdim: bool = False,
) -> Any:
    """Standard deviations."""
    axes = _axes(dim) or None
    return by_torch(ctx, lambda x: torch.std(x, axes, correction=correction, keepdim=keepdim), input_val)


def norm(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input_val: Any,
    ord: float = 2,
    dim: _Dims = None,
    keepdim: bool = False,
) -> Any:
    """Vector norms."""
    axes = _axes(dim) or None
    return by_torch(ctx, lambda x: torch.linalg.vector_norm(x, ord, axes, keepdim), input_val)


def _axes(dim: _Dims) -> list[int]:
    return [] if dim is None else [dim] if isinstance(dim, int) else list(dim)


def _reduce(ctx: Any, name: str, operation: str, x: Any, dim: _Dims, keepdim: bool) -> Any:
    x = get_trt_tensor(ctx, x, name)
    if not ctx.rank(x):  # one element is its own sum, product and mean
        return x
    return ctx.reduce(x, operation, _axes(dim), keepdim)


def _by_torch(ctx: Any, name: str, function: Callable[..., Any], x: Any, dim: _Dims, keepdim: bool) -> Any:
    axes = _axes(dim)
    return by_torch(ctx, lambda one: function(one, axes, keepdim), get_trt_tensor(ctx, x, name))


def _logical(ctx: Any, name: str, function: Callable[..., Any], x: Any, dim: _Dims, keepdim: bool) -> Any:
    axes = _axes(dim)

    def ask(one: torch.Tensor) -> torch.Tensor:
        if not axes and not keepdim:
            return function(one)
        return function(one, dim=axes or list(range(one.dim())), keepdim=keepdim)

    return by_torch(ctx, ask, get_trt_tensor(ctx, x, name))


def _extreme(
    ctx: Any,
    name: str,
    with_indices: Callable[..., Any],
    values: Callable[..., Any],
    x: Any,
    dim: int | None,
    keepdim: bool,
    return_indices: bool,
) -> Any:
    x = get_trt_tensor(ctx, x, name)
    if dim is None:
        found = by_torch(ctx, with_indices, x)
        return (found, None) if return_indices else found
    if return_indices:
        return tuple(by_torch(ctx, lambda one: list(with_indices(one, dim, keepdim)), x))
    return by_torch(ctx, lambda one: values(one, dim, keepdim), x)

"""The largest, in order."""

from __future__ import annotations

from typing import Any

import torch

from trtcore_contrib_torch_tensorrt._by_torch import by_torch

__all__ = ["argmax", "argmax_argmin", "argmin", "sort", "topk"]


def argmax(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    dim: int | None = None,
    keep_dim: bool = False,
) -> Any:
    """Where the largest is (without `dim`: in the flat tensor)."""
    return by_torch(ctx, lambda x: torch.argmax(x, dim, keep_dim), input)


def argmin(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    dim: int | None = None,
    keep_dim: bool = False,
) -> Any:
    """Where the smallest is (without `dim`: in the flat tensor)."""
    return by_torch(ctx, lambda x: torch.argmin(x, dim, keep_dim), input)


def argmax_argmin(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    topk_option: Any,
    dim: int | None = None,
    keep_dim: bool = False,
    return_indices: bool = True,
) -> Any:
    """`argmax` or `argmin`, by a ``trt.TopKOperation``; the value itself without `return_indices`."""
    largest = topk_option.name == "MAX"
    if return_indices:
        return (argmax if largest else argmin)(ctx, target, source_ir, name, input, dim, keep_dim)
    reduce = torch.amax if largest else torch.amin
    return by_torch(ctx, lambda x: reduce(x, () if dim is None else dim, keep_dim), input)


def sort(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    dim: int,
    descending: bool,
    return_indices: bool = True,
) -> Any:
    """Values in order along `dim`, and where they were."""
    values, indices = by_torch(ctx, lambda x: list(torch.sort(x, dim=dim, descending=descending)), input)
    return (values, indices) if return_indices else values


def topk(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    k: int,
    dim: int,
    largest: bool,
    sorted: bool,
    return_indices: bool = True,
) -> Any:
    """The `k` largest (or smallest) values along `dim`, and where they are."""
    values, indices = by_torch(ctx, lambda x: list(torch.topk(x, k, dim, largest, sorted)), input)
    return (values, indices) if return_indices else values

"""Elements by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trtcore_contrib_torch_tensorrt._by_torch import Size, by_torch

__all__ = [
    "gather",
    "index",
    "index_put_converter",
    "index_select",
    "is_boolean_tensor",
    "scatter",
    "scatter_add",
    "scatter_reduce",
    "select",
]


def select(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, dim: int, index: Any) -> Any:
    """The slice at `index` of `dim`, which goes; `index` may be an ITensor."""
    return by_torch(ctx, lambda x, place: torch.select(x, dim, place), input, Size(index))


def gather(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    dim: int,
    index: Any,
    sparse_grad: Any = None,
) -> Any:
    """``out[i][j] = input[index[i][j]][j]`` for dim 0."""
    return by_torch(ctx, lambda x, places: torch.gather(x, dim, places.long()), input, index)


def scatter(
    ctx: Any, target: Any, source_ir: Any, name: str, input: Any, dim: int, index: Any, src: Any
) -> Any:
    """`input` with `src` (a tensor or a number) at the places that `index` names along `dim`."""

    def put(x: torch.Tensor, places: torch.Tensor, values: Any) -> torch.Tensor:
        values = values.to(x.dtype) if isinstance(values, torch.Tensor) else values
        return torch.scatter(x, dim, places.long(), values)

    return by_torch(ctx, put, input, index, src)


def scatter_add(
    ctx: Any, target: Any, source_ir: Any, name: str, input: Any, dim: int, index: Any, src: Any
) -> Any:
    """`input` with `src` added at the places that `index` names along `dim`."""
    return by_torch(
        ctx, lambda x, places, values: torch.scatter_add(x, dim, places.long(), values), input, index, src
    )


def scatter_reduce(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    dim: int,
    index: Any,
    src: Any,
    reduce: str,
    include_self: bool = True,
) -> Any:
    """`input` with `src` reduced into the places that `index` names along `dim`."""

    def put(x: torch.Tensor, places: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return torch.scatter_reduce(x, dim, places.long(), values, reduce, include_self=include_self)

    return by_torch(ctx, put, input, index, src)


def index(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, index: Any) -> Any:
    """``input[index]`` with a list of tensors, None for all of a dim."""
    return by_torch(ctx, lambda x, places: torch.ops.aten.index.Tensor(x, places), input, list(index))


def index_select(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, dim: int, index: Any) -> Any:
    """The slices of `dim` at `index`."""
    return by_torch(ctx, lambda x, places: torch.index_select(x, dim, places), input, index)


def index_put_converter(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input_tensor: Any,
    input_indices: Sequence[Any],
    values: Any,
    accumulate: bool = False,
) -> Any:
    """`input_tensor` with `values` at the places that tensors (None: all of a dim) name."""

    def put(x: torch.Tensor, places: list[Any], new: Any) -> torch.Tensor:
        new = new.to(x.dtype) if isinstance(new, torch.Tensor) else torch.tensor(new, dtype=x.dtype)
        return torch.ops.aten.index_put.default(x, places, new, accumulate)

    places = [torch.tensor(one) if isinstance(one, int) else one for one in input_indices]
    return by_torch(ctx, put, input_tensor, places, values)


def is_boolean_tensor(tensor: Any) -> bool:
    """Whether a tensor, an ITensor or what a node computes is of bools."""
    meta = getattr(tensor, "meta", None)
    value = (
        (meta.get("val") if meta.get("val") is not None else meta.get("tensor_meta"))
        if isinstance(meta, dict)
        else tensor
    )
    dtype = getattr(value, "dtype", None)
    return dtype == torch.bool or getattr(dtype, "name", "") in ("BOOL", "bool")

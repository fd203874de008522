"""Decompositions of ops that pick, count or place elements by what they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

aten = torch.ops.aten

_NOWHERE = 1 << 60


def _is_empty(x: torch.Tensor) -> bool:
    """Whether a tensor surely has no elements. Asks no symbolic size."""
    return any(isinstance(size, int) and size == 0 for size in x.shape)


def _masked_scatter(x: torch.Tensor, mask: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Where the mask is set, the elements of `source` one after the other: the n-th place takes element n."""
    x, mask = torch.broadcast_tensors(x, mask)  # type: ignore[no-untyped-call]
    if _is_empty(x) or _is_empty(source):
        return x.clone()
    flat = source.reshape(-1)
    number = mask.reshape(-1).to(torch.int64).cumsum(0) - 1
    taken = flat.index_select(0, number.clamp(min=0)).reshape(x.shape)
    return torch.where(mask, taken, x)


def _nonzero_static(x: torch.Tensor, *, size: int, fill_value: int = -1) -> torch.Tensor:
    """The first `size` indices of elements that are not zero; `fill_value` where there are fewer.

    The elements' numbers are sorted, those of zeros behind all others.
    """
    count = x.numel()
    if x.dim() == 0 or size == 0 or _is_empty(x):
        return x.new_full((size, x.dim()), fill_value, dtype=torch.int64)
    numbers = torch.where(x.reshape(-1) != 0, torch.arange(count, device=x.device), _NOWHERE)
    first = torch.topk(torch.constant_pad_nd(numbers, (0, size), _NOWHERE), size, largest=False).values
    columns, step = [], count
    for length in x.shape:
        step //= length
        columns.append(torch.div(first, step, rounding_mode="floor") % length)
    return torch.where((first == _NOWHERE).unsqueeze(1), fill_value, torch.stack(columns, 1))


def _diagonal_scatter(
    x: torch.Tensor, src: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> torch.Tensor:
    """`x` with `src` on its diagonals: `src` as the diagonal of a square matrix, cut to the size of `x`."""
    dims = (dim1 % x.dim(), dim2 % x.dim())
    moved = x.movedim(dims, (-2, -1))
    rows, columns = moved.shape[-2:]

    def as_matrix(diagonal: torch.Tensor) -> torch.Tensor:
        square = torch.diag_embed(diagonal, offset)
        side = square.shape[-1]
        return torch.constant_pad_nd(square, (0, columns - side, 0, rows - side))

    on_diagonal = as_matrix(torch.ones_like(src, dtype=torch.int32)) != 0
    return torch.where(on_diagonal, as_matrix(src), moved).movedim((-2, -1), dims)


def _repeat_interleave(
    x: torch.Tensor, repeats: int, dim: int | None = None, *, output_size: int | None = None
) -> torch.Tensor:
    """Every slice `repeats` times in a row."""
    if dim is None:
        x, dim = x.reshape(-1), 0
    if x.dim() == 0:
        x, dim = x.reshape(1), 0
    dim %= x.dim()
    shape = list(x.shape)
    wide = x.unsqueeze(dim + 1).expand(*shape[: dim + 1], repeats, *shape[dim + 1 :])
    return wide.reshape(*shape[:dim], shape[dim] * repeats, *shape[dim + 1 :])


def _numbers_repeated(repeats: torch.Tensor, *, output_size: int | None = None) -> torch.Tensor:
    """Number i as often as `repeats` says: how many of the running sums a place has passed."""
    if output_size is None:
        raise ValueError("the length of its result depends on data; output_size gives it")
    ends = repeats.reshape(-1).to(torch.int64).cumsum(0)
    places = torch.arange(output_size, device=repeats.device).unsqueeze(1)
    return (places >= ends).sum(1).to(repeats.dtype)


def _repeat_interleave_by(
    x: torch.Tensor, repeats: torch.Tensor, dim: int | None = None, *, output_size: int | None = None
) -> torch.Tensor:
    """Every slice as often as `repeats` says; the model gives the length of the result."""
    if dim is None or x.dim() == 0:
        x, dim = x.reshape(-1), 0
    counts = repeats.reshape(-1)
    counts = counts.expand(x.shape[dim]) if counts.shape[0] == 1 else counts
    return x.index_select(dim, _numbers_repeated(counts, output_size=output_size))


def _cosine_similarity(a: torch.Tensor, b: torch.Tensor, dim: int = 1, eps: float = 1e-8) -> torch.Tensor:
    """The sum of the products of vectors scaled to length one; shorter ones than `eps` are divided by `eps`."""
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = torch.broadcast_tensors(a.to(dtype), b.to(dtype))  # type: ignore[no-untyped-call]
    lengths = [torch.linalg.vector_norm(x, 2, dim, keepdim=True).clamp(min=eps) for x in (a, b)]
    product: torch.Tensor = a / lengths[0] * (b / lengths[1])
    return product.sum(dim)


def _put(
    x: torch.Tensor, index: torch.Tensor, source: torch.Tensor, accumulate: bool = False
) -> torch.Tensor:
    """Elements written (or added) at their numbers in the flat tensor."""
    flat: torch.Tensor = aten.index_put(x.reshape(-1), [index.reshape(-1)], source.reshape(-1), accumulate)
    return flat.reshape(x.shape)


def _take(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Elements by their numbers in the flat tensor."""
    return x.reshape(-1).index_select(0, _from_the_front(index.reshape(-1), x.numel())).reshape(index.shape)


def _from_the_front(index: torch.Tensor, count: int) -> torch.Tensor:
    """Indices that may count from the end, counted from the front."""
    return torch.where(index < 0, index + count, index)


def _index_put(
    x: torch.Tensor, indices: list[torch.Tensor | None], values: torch.Tensor, accumulate: bool = False
) -> torch.Tensor:
    """Several values through one mask: the n-th place that it sets takes (or adds) value n."""
    (mask,) = indices
    if mask is None or mask.dtype != torch.bool:
        raise NotImplementedError("only one mask is taken apart")
    if _is_empty(x) or _is_empty(values):
        return x.clone()
    rest = x.shape[mask.dim() :]
    flat = mask.reshape(-1)
    rows = values.to(x.dtype).expand(torch.broadcast_shapes(values.shape, (1, *rest)))  # type: ignore[no-untyped-call]
    if rows.shape[0] != 1:
        rows = rows.index_select(0, (flat.to(torch.int64).cumsum(0) - 1).clamp(min=0))
    old = x.reshape(-1, *rest)
    new = old + rows if accumulate else rows
    return torch.where(flat.reshape(-1, *[1] * len(rest)), new, old).reshape(x.shape)


def _embedding_renorm(
    weight: torch.Tensor, indices: torch.Tensor, max_norm: float, norm_type: float
) -> torch.Tensor:
    """The rows that occur among the indices, shortened to `max_norm` where they are longer."""
    rows = torch.arange(weight.shape[0], device=weight.device).unsqueeze(1)
    used = (rows == indices.reshape(-1)).any(1, keepdim=True)
    length = torch.linalg.vector_norm(weight, norm_type, 1, keepdim=True)
    return torch.where(used & (length > max_norm), weight * (max_norm / (length + 1e-7)), weight)


def _resize(x: torch.Tensor, size: list[int], *, memory_format: Any = None) -> torch.Tensor:
    """The first elements in another shape. Where there are more of them than before, they are undefined."""
    count = 1
    for length in size:
        count *= length
    if count > x.numel():
        raise NotImplementedError("elements that were not there before are undefined")
    return x.reshape(-1)[:count].reshape(size)


def _resize_as(x: torch.Tensor, template: torch.Tensor, *, memory_format: Any = None) -> torch.Tensor:
    """The same, in the shape of another tensor."""
    return _resize(x, list(template.shape))


def _fill_diagonal_(x: torch.Tensor, fill_value: float, wrap: bool = False) -> torch.Tensor:
    """By a view of the diagonal: torch's own, when it is made free of writes, counts from the start of the storage, and
    fails for an input that is a part of a larger tensor."""
    if x.dim() != 2 or wrap:
        return x.fill_diagonal_(fill_value, wrap)
    x.diagonal().fill_(fill_value)
    return x


def _polygamma_(x: torch.Tensor, n: int) -> torch.Tensor:
    """Torch's names its arguments in another order than the op without a write, and is not made free of writes."""
    return x.copy_(torch.polygamma(n, x))


TABLE: Mapping[Any, Callable[..., Any]] = {
    aten.masked_scatter.default: _masked_scatter,
    aten.nonzero_static.default: _nonzero_static,
    aten.diagonal_scatter.default: _diagonal_scatter,
    aten.repeat_interleave.self_int: _repeat_interleave,
    aten.repeat_interleave.self_Tensor: _repeat_interleave_by,
    aten.repeat_interleave.Tensor: _numbers_repeated,
    aten.cosine_similarity.default: _cosine_similarity,
    aten.put.default: _put,
    aten.take.default: _take,
    aten.index_put.default: _index_put,
    aten._unsafe_index_put.default: _index_put,
    aten.embedding_renorm.default: _embedding_renorm,
    aten.fill_diagonal_.default: _fill_diagonal_,
    aten.polygamma_.default: _polygamma_,
    aten.resize.default: _resize,
    aten.resize_as.default: _resize_as,
}
"""Op to function."""

"""Decompositions for sizes that vary from call to call: what the converters do with constant indices or windows.

They are tried where the op's converter has refused the node. Places along a dim are computed from its size at run
time, and no function here asks for the value of a size: lengths are compared as tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sympy
import torch

from trtcore_converters._values import LOW_PRECISION, along, least

aten = torch.ops.aten


# ---- elements by their place -------------------------------------------------------------------------------


def _diagonal(x: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> torch.Tensor:
    """The diagonals of the matrices over two dims, as a last dim; `offset` counts to the right of the main one."""
    matrices = x.movedim((dim1 % x.dim(), dim2 % x.dim()), (-2, -1))
    rows, columns = matrices.shape[-2:]
    down, right = max(-offset, 0), max(offset, 0)
    length = torch.sym_min(rows - down, columns - right)  # type: ignore[no-untyped-call]
    if not least(length):
        raise ValueError("some of its sizes have no such diagonal")
    places = torch.arange(length, device=x.device) * (columns + 1) + (down * columns + right)
    return matrices.flatten(-2).index_select(-1, places)


def _trace(x: torch.Tensor) -> torch.Tensor:
    return _diagonal(x).sum()


def _unfold(x: torch.Tensor, dimension: int, size: int, step: int) -> torch.Tensor:
    """Windows of `size`, every `step`, along a dim, which counts the windows then; their elements are a last dim."""
    dim = dimension % x.dim()
    count = (x.shape[dim] - size) // step + 1
    starts = torch.arange(count, device=x.device) * step
    places = starts.unsqueeze(1) + torch.arange(size, device=x.device)
    windows = x.movedim(dim, 0)[places]
    return windows.movedim((0, 1), (dim, -1))


def _slice_scatter(
    x: torch.Tensor, src: torch.Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> torch.Tensor:
    """`src` where the slice is, taken by place, and `x` besides."""
    dim %= x.dim()
    count = src.shape[dim]
    if not least(count):
        raise ValueError("the slice may be empty")
    start = 0 if start is None else start
    if isinstance(start, int) and start < 0:
        start = x.shape[dim] + start
    distance = torch.arange(x.shape[dim], device=x.device) - start
    number = torch.div(distance, step, rounding_mode="floor")
    inside = (number >= 0) & (number < count)
    if step != 1:
        inside &= number * step == distance
    taken = src.index_select(dim, number.clamp(min=0).clamp(max=count - 1))
    return torch.where(along(inside, dim, x.dim()), taken, x)


# ---- adaptive pooling --------------------------------------------------------------------------------------


def _edges(size: Any, count: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(count, 1) each: the adaptive windows' first elements and the first behind them, i * size / count rounded."""
    numbers = torch.arange(count, device=device).unsqueeze(1)
    first = torch.div(numbers * size, count, rounding_mode="floor")
    behind = torch.div((numbers + 1) * size + (count - 1), count, rounding_mode="floor")
    return first, behind


def _within(size: Any, count: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(count, size) bool: which elements are in which window; and how many are, (count, 1)."""
    first, behind = _edges(size, count, device)
    places = torch.arange(size, device=device)
    return (places >= first) & (places < behind), behind - first


def _spatial(x: torch.Tensor, output_size: Any, dims: int) -> list[tuple[int, Any]]:
    """(dim, wanted size) of the dims that are pooled, from the last to the first."""
    wanted = list(output_size) if isinstance(output_size, (list, tuple)) else [output_size]
    wanted = wanted * dims if len(wanted) == 1 else wanted
    if any(isinstance(size, torch.SymInt) and size.node.expr.has(sympy.Float) for size in wanted):
        raise ValueError("the size to pool to is computed in floating point")
    pairs = zip(range(x.dim() - dims, x.dim()), wanted)
    return [(dim, size) for dim, size in pairs if size is not None][::-1]


def _adaptive_average(dims: int) -> Callable[..., torch.Tensor]:
    def compute(x: torch.Tensor, output_size: Any) -> torch.Tensor:
        """Along one dim after the other a product with the matrix of averages, in float32."""
        result = x.to(torch.float32) if x.dtype in LOW_PRECISION else x
        for dim, wanted in _spatial(x, output_size, dims):
            inside, count = _within(x.shape[dim], wanted, x.device)
            averages = inside.to(result.dtype) / count.to(result.dtype)
            result = torch.matmul(result.movedim(dim, -1), averages.t()).movedim(-1, dim)
        return result.to(x.dtype)

    return compute


def _adaptive_maximum(dims: int) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    def compute(x: torch.Tensor, output_size: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The maxima of the windows and their numbers in the flat input; of equal ones the first."""
        result, places = x, torch.zeros_like(x, dtype=torch.int64)
        factor: Any = 1
        for dim, wanted in _spatial(x, output_size, dims):
            inside, _ = _within(x.shape[dim], wanted, x.device)
            rows = torch.where(inside, result.movedim(dim, -1).unsqueeze(-2), -torch.inf)
            where = rows.argmax(-1)
            inner = places.movedim(dim, -1).gather(-1, where)
            places = (inner + where * factor).movedim(-1, dim)
            result = rows.amax(-1).movedim(-1, dim)
            factor = factor * x.shape[dim]
        return result, places

    return compute


def _pools(kind: str, make: Callable[[int], Callable[..., Any]]) -> dict[Any, Callable[..., Any]]:
    return {getattr(aten, f"{kind}{dims}d").default: make(dims) for dims in (1, 2, 3)}


TABLE: Mapping[Any, Callable[..., Any]] = {
    aten.diagonal.default: _diagonal,
    aten.diagonal_copy.default: _diagonal,
    aten.linalg_diagonal.default: lambda x, *, offset=0, dim1=-2, dim2=-1: _diagonal(x, offset, dim1, dim2),
    aten.trace.default: _trace,
    aten.unfold.default: _unfold,
    aten.unfold_copy.default: _unfold,
    aten.slice_scatter.default: _slice_scatter,
    **_pools("adaptive_avg_pool", _adaptive_average),
    aten._adaptive_avg_pool2d.default: _adaptive_average(2),
    aten._adaptive_avg_pool3d.default: _adaptive_average(3),
    **_pools("adaptive_max_pool", _adaptive_maximum),
}
"""Op to function."""

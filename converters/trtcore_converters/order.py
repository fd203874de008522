"""Order statistics, as decompositions into sorts: median, k-th value, mode, quantiles, histograms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from trtcore_converters.torch_private import ranks_are_exact

aten = torch.ops.aten


# ---- one element of the order ------------------------------------------------------------------------------


def _ordered(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sorted values and their indices; a 0-d tensor counts as one element."""
    return torch.sort(x, dim=dim) if x.dim() else (x, torch.zeros_like(x, dtype=torch.int64))


def _picked(
    x: torch.Tensor, dim: int, keepdim: bool, pick: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `pick` takes along `dim` of the sorted values, one element, and its index."""
    values, indices = _ordered(x, dim)
    if not x.dim():
        return values, indices
    values, indices = pick(values), pick(indices)
    return (values, indices) if keepdim else (values.squeeze(dim), indices.squeeze(dim))


def _kthvalue(
    x: torch.Tensor, k: int, dim: int = -1, keepdim: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k-th smallest element, k counted from 1, and an index of it."""
    return _picked(x, dim, keepdim, lambda part: part.narrow(dim, k - 1, 1))


def _median_dim(x: torch.Tensor, dim: int, keepdim: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """The lower of the elements in the middle, and an index of it; the length of the dim may vary."""

    def middle(part: torch.Tensor) -> torch.Tensor:
        place = torch.full((1,), (x.shape[dim] - 1) // 2, dtype=torch.int64, device=x.device)
        return part.index_select(dim, place)

    return _picked(x, dim, keepdim, middle)


def _median(x: torch.Tensor) -> torch.Tensor:
    return _median_dim(x.reshape(-1), 0)[0]


def _nanmedian_dim(x: torch.Tensor, dim: int, keepdim: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """The median of what is no NaN; NaN where there is nothing else."""
    if not x.is_floating_point() or not x.dim():
        return _median_dim(x, dim, keepdim)
    missing = x != x
    values, indices = _ordered(torch.where(missing, math.inf, x), dim)
    count = (~missing).sum(dim, keepdim=True)
    middle = torch.div(torch.clamp(count - 1, min=0), 2, rounding_mode="floor")
    value, index = values.gather(dim, middle), indices.gather(dim, middle)
    value = torch.where(count == 0, math.nan, value)
    return (value, index) if keepdim else (value.squeeze(dim), index.squeeze(dim))


def _nanmedian(x: torch.Tensor) -> torch.Tensor:
    return _nanmedian_dim(x.reshape(-1), 0)[0]


def _mode(x: torch.Tensor, dim: int = -1, keepdim: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """The most frequent element, the smallest of several, and an index of it: every element against every other."""
    if not x.dim():
        return x, torch.zeros_like(x, dtype=torch.int64)
    rows = x.movedim(dim, -1)
    count = (rows.unsqueeze(-1) == rows.unsqueeze(-2)).sum(-1)
    frequent = count == count.amax(-1, keepdim=True)
    ordered, indices = torch.sort(rows.to(torch.int64) if rows.dtype == torch.bool else rows, dim=-1)
    first = frequent.gather(-1, indices).to(torch.int64).argmax(-1, keepdim=True)
    value, index = (
        ordered.gather(-1, first).to(x.dtype).movedim(-1, dim),
        indices.gather(-1, first).movedim(-1, dim),
    )
    return (value, index) if keepdim else (value.squeeze(dim), index.squeeze(dim))


# ---- quantiles ---------------------------------------------------------------------------------------------


def _quantile(
    x: torch.Tensor,
    q: Any,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
    ignore_nan: bool = False,
) -> torch.Tensor:
    """Between the two elements around rank ``q * (n - 1)``; one result for each q, along a first dim.

    The rank is rounded to float32 as in torch before 2.14, and not at all as since then (`ranks_are_exact`).
    """
    rank = x.dim()
    rows = x.reshape(-1) if dim is None or not rank else x.movedim(dim, -1)
    many = isinstance(q, torch.Tensor) and q.dim() > 0
    wanted = q.reshape(-1) if isinstance(q, torch.Tensor) else torch.full((1,), q, dtype=x.dtype)
    missing = rows != rows
    values, _ = torch.sort(torch.where(missing, math.inf, rows), dim=-1)
    last = (
        (~missing).sum(-1, keepdim=True) - 1
        if ignore_nan
        else torch.full_like(rows[..., :1], rows.shape[-1] - 1)
    )
    last = torch.clamp(last, min=0)
    if ranks_are_exact() and x.dtype is torch.float32:
        result = _between_ranks(values, *_exact_ranks(wanted, last.to(torch.int64)), interpolation)
    else:
        result = _between(values, wanted * last.to(x.dtype), interpolation)
    nothing = missing.all(-1, keepdim=True) if ignore_nan else missing.any(-1, keepdim=True)
    result = torch.where(nothing, math.nan, result).movedim(-1, 0)
    if keepdim:
        result = (
            result.reshape([-1] + [1] * rank) if dim is None or not rank else result.unsqueeze(dim % rank + 1)
        )
    return result if many else result.squeeze(0)


def _between(values: torch.Tensor, place: torch.Tensor, interpolation: str) -> torch.Tensor:
    """Elements of sorted rows at fractional places."""
    if interpolation == "nearest":
        return values.gather(-1, torch.round(place).to(torch.int64))
    below, above = torch.floor(place), torch.ceil(place)
    low, high = values.gather(-1, below.to(torch.int64)), values.gather(-1, above.to(torch.int64))
    if interpolation == "lower":
        return low
    if interpolation == "higher":
        return high
    weight = torch.full_like(place, 0.5) if interpolation == "midpoint" else place - below
    mixed = low + weight * (high - low)
    return torch.where(below == above, low, mixed)  # inf - inf would be NaN


_UNIT = (
    1 << 36
)  # of a rank: q has no bits below 2 ** -36 unless it is less than 2 ** -12, and n - 1 is below 2 ** 27


def _exact_ranks(q: torch.Tensor, last: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``q * last`` without rounding, as int64: the whole ranks below and above, and what it is above the one below in
    `_UNIT`. TensorRT has no float64, in which torch multiplies the two."""
    whole, rest = torch.zeros_like(q, dtype=torch.int64), q
    for _ in range(3):
        rest = rest * 4096  # a power of 2: exact, as are what is cut off and what is left
        part = torch.floor(rest)
        whole, rest = whole * 4096 + part.to(torch.int64), rest - part
    product = whole * last
    below = torch.div(product, _UNIT, rounding_mode="floor")
    over = product - below * _UNIT
    is_between = (over > 0) | ((rest > 0) & (last > 0))
    return below, below + is_between.to(torch.int64), over


def _between_ranks(
    values: torch.Tensor, below: torch.Tensor, above: torch.Tensor, over: torch.Tensor, interpolation: str
) -> torch.Tensor:
    """`_between` of ranks that `_exact_ranks` gave."""
    if interpolation == "nearest":  # of two that are as near the even one
        odd = below - 2 * torch.div(below, 2, rounding_mode="floor")
        half = _UNIT // 2
        return values.gather(-1, below + ((over > half) | ((over == half) & (odd == 1))).to(torch.int64))
    if interpolation in ("lower", "higher"):
        return values.gather(-1, below if interpolation == "lower" else above)
    low, high = values.gather(-1, below), values.gather(-1, above)
    weight = over.to(values.dtype) / _UNIT
    if interpolation == "midpoint":
        weight = torch.full_like(weight, 0.5)
    return torch.where(below == above, low, low + weight * (high - low))  # inf - inf would be NaN


def _nanquantile(x: torch.Tensor, q: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`_quantile` of what is no NaN."""
    return _quantile(x, q, *args, **kwargs, ignore_nan=True)


# ---- histogram ---------------------------------------------------------------------------------------------


def _histc(x: torch.Tensor, bins: int = 100, min: float = 0, max: float = 0) -> torch.Tensor:
    """How many elements are in each of `bins` intervals; the last one has its upper end, too."""
    flat = x.reshape(-1).float()
    low, high = torch.full((1,), float(min)), torch.full((1,), float(max))
    if min == max and x.numel():
        low, high = flat.amin(0, keepdim=True), flat.amax(0, keepdim=True)
    single = low == high
    low, high = torch.where(single, low - 1, low), torch.where(single, high + 1, high)
    # In torch's order, which decides where an element on an edge goes.
    place = torch.clamp(torch.floor((flat - low) * bins / (high - low)), max=bins - 1)
    inside = (flat >= low) & (flat <= high)
    hits = (place.unsqueeze(-1) == torch.arange(bins, dtype=torch.float32)) & inside.unsqueeze(-1)
    return hits.sum(0).to(x.dtype)


ORDER: Mapping[Any, Callable[..., Any]] = {
    aten.kthvalue.default: _kthvalue,
    aten.median.default: _median,
    aten.median.dim: _median_dim,
    aten.nanmedian.default: _nanmedian,
    aten.nanmedian.dim: _nanmedian_dim,
    aten.mode.default: _mode,
    aten.quantile.default: _quantile,
    aten.quantile.scalar: _quantile,
    aten.nanquantile.default: _nanquantile,
    aten.nanquantile.scalar: _nanquantile,
    aten.histc.default: _histc,
}

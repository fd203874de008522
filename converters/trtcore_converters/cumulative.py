"""Running sums, products and extremes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from trtcore.pack import (
    ConversionContext,
    ITensor,
    Operand,
    Requires,
)
from trtcore_converters._checks import numeric
from trtcore_converters._declare import converts
from trtcore_converters._values import LOW_PRECISION, along, known_dim, most, output_dtype

aten = torch.ops.aten


@converts(
    aten.cumsum.default,
    capability_validator=numeric,
    requires=Requires(layers=frozenset({"add_cumulative"})),
)
def cumsum(ctx: ConversionContext, x: Operand, dim: int, *, dtype: torch.dtype | None = None) -> ITensor:
    """The running sum along a dim; integers as int64, fp16 and bf16 summed in fp32."""
    own = ctx.dtype(x)
    result = dtype or output_dtype(ctx, own if own.is_floating_point else torch.int64)
    x = ctx.tensor(x, result)
    if ctx.rank(x) == 0:
        return x
    x = ctx.cast(x, torch.float32 if result in LOW_PRECISION else result)
    axis = ctx.constant(dim % ctx.rank(x), torch.int64)
    layer = ctx.net.add_cumulative(x, axis, ctx.trt.CumulativeOperation.SUM, False, False)
    return ctx.cast(ctx.output(layer), result)


# ---- other scans, as decompositions ----

Pair = tuple[torch.Tensor, ...]


def _scanned(parts: Pair, dim: int, combine: Callable[[Pair, Pair], Pair]) -> Pair:
    """Every element combined with all before it, in steps of 1, 2, 4, ... along `dim`."""
    if not parts[0].dim():
        return parts
    length = parts[0].shape[dim]
    if known_dim(length) is None:
        return _scanned_by_place(parts, dim, combine)
    step = 1
    while step < length:
        earlier = tuple(part.narrow(dim, 0, length - step) for part in parts)
        later = tuple(part.narrow(dim, step, length - step) for part in parts)
        joined = combine(earlier, later)
        parts = tuple(torch.cat([part.narrow(dim, 0, step), new], dim) for part, new in zip(parts, joined))
        step *= 2
    return parts


def _scanned_by_place(parts: Pair, dim: int, combine: Callable[[Pair, Pair], Pair]) -> Pair:
    """The same along a dim whose length varies: as many steps as the longest needs, and what is earlier is gathered."""
    length = parts[0].shape[dim]
    longest = most(length)
    if longest is None:
        raise ValueError(
            "TensorRT's cumulative layer only sums, and the length of the dim has no upper bound"
        )
    places = torch.arange(length, device=parts[0].device)
    step = 1
    while step < longest:
        earlier = tuple(part.index_select(dim, (places - step).clamp(min=0)) for part in parts)
        alone = along(places < step, dim, parts[0].dim())
        parts = tuple(torch.where(alone, part, new) for part, new in zip(parts, combine(earlier, parts)))
        step *= 2
    return parts


def _cumprod(x: torch.Tensor, dim: int, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Running products; integers as int64, float16 and bfloat16 in float32."""
    result = dtype or (x.dtype if x.dtype.is_floating_point else torch.int64)
    wide = x.to(result).to(torch.float32 if result in LOW_PRECISION else result)
    return _scanned((wide,), dim, lambda a, b: (a[0] * b[0],))[0].to(result)


def _logcumsumexp(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Logarithms of running sums of exponentials."""
    wide = x.to(torch.float32)
    return _scanned((wide,), dim, lambda a, b: (torch.logaddexp(a[0], b[0]),))[0].to(x.dtype)


def _running(better: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., Pair]:
    """The best so far and the index where it was last met."""

    def pick(earlier: Pair, later: Pair) -> Pair:
        new = better(later[0], earlier[0])
        return tuple(torch.where(new, b, a) for a, b in zip(earlier, later))

    def compute(x: torch.Tensor, dim: int) -> Pair:
        if not x.dim():
            return x.clone(), torch.zeros_like(x, dtype=torch.int64)
        indices = along(torch.arange(x.shape[dim], device=x.device), dim, x.dim()).expand(x.shape)
        return _scanned((x, indices), dim, pick)

    return compute


SCANS: Mapping[Any, Callable[..., Any]] = {
    aten.cumprod.default: _cumprod,
    aten.logcumsumexp.default: _logcumsumexp,
    aten.cummax.default: _running(torch.ge),
    aten.cummin.default: _running(torch.le),
}
"""TensorRT's cumulative layer only sums: these are built of slices, by doubling."""

"""Running sums."""

from __future__ import annotations

from typing import Any

import torch

from trtcore.pack import ConversionContext, Requires, converter
from trtcore_converters._checks import numeric
from trtcore_converters._values import LOW_PRECISION, output_dtype

aten = torch.ops.aten


@converter(
    aten.cumsum.default,
    capability_validator=numeric,
    supports_dynamic_shapes=True,
    requires=Requires(layers=frozenset({"add_cumulative"})),
)
def cumsum(ctx: ConversionContext, x: Any, dim: int, *, dtype: torch.dtype | None = None) -> Any:
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

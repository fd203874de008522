"""Grid sampling."""

from __future__ import annotations

import torch

from trtcore.pack import (
    ConversionContext,
    ITensor,
    Operand,
    Requires,
)
from trtcore_converters._checks import floating
from trtcore_converters._declare import converts

aten = torch.ops.aten

_INTERPOLATION = ("LINEAR", "NEAREST", "CUBIC")
_BORDER = ("FILL", "CLAMP", "REFLECT")


@converts(
    [aten.grid_sampler_2d.default],
    capability_validator=floating("input", "grid"),
    requires=Requires(layers=frozenset({"add_grid_sample"})),
)
def grid_sampler_2d(
    ctx: ConversionContext,
    x: Operand,
    grid: Operand,
    interpolation_mode: int,
    padding_mode: int,
    align_corners: bool,
) -> ITensor:
    """torch.nn.functional.grid_sample of a batch of images; modes numbered as in ATen."""
    layer = ctx.net.add_grid_sample(ctx.tensor(x), ctx.tensor(grid))
    layer.interpolation_mode = getattr(ctx.trt.InterpolationMode, _INTERPOLATION[interpolation_mode])
    layer.sample_mode = getattr(ctx.trt.SampleMode, _BORDER[padding_mode])
    layer.align_corners = align_corners
    return ctx.output(layer)

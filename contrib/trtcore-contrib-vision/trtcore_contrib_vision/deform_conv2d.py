"""Deformable convolution: a grid sample at the moved points, and a matrix product."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from trtcore.pack import ConversionContext, NodeContext, Reject, Requires, converter, node_arguments
from trtcore_contrib_vision._layers import add, part, positions, times, traced


def _fixed_kernel(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = node_arguments(node)
    numbers = (
        "stride_h",
        "stride_w",
        "pad_h",
        "pad_w",
        "dilation_h",
        "dilation_w",
        "groups",
        "offset_groups",
    )
    if not all(isinstance(given[name], int) for name in numbers):
        return Reject("strides, padding or dilation vary from call to call")
    for name in ("input", "weight"):
        value = traced(given[name])
        if value is None or not value.is_floating_point():
            return Reject("deform_conv2d is computed in floating point only")
        fixed = value.shape if name == "weight" else value.shape[1:2]
        if not all(isinstance(size, int) for size in fixed):
            return Reject("the channels or the kernel vary from call to call")
    return True


@converter(
    "torchvision::deform_conv2d",
    capability_validator=_fixed_kernel,
    supports_dynamic_shapes=True,
    requires=Requires(layers=frozenset({"add_grid_sample"})),
)
def deform_conv2d(
    ctx: ConversionContext,
    image: Any,
    weight: Any,
    offset: Any,
    mask: Any,
    bias: Any,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    offset_groups: int,
    use_mask: bool,
) -> Any:
    """Convolution at points moved by `offset`, each weighted by `mask`; in float32 whatever the dtype.

    Shapes: image (N, C, H, W), weight (O, C / groups, kh, kw), offset (N, 2 * offset_groups * kh * kw, oh, ow),
    mask (N, offset_groups * kh * kw, oh, ow), bias (O,); the result is (N, O, oh, ow). Points outside of the
    image are bilinear towards zero, as TensorRT's grid sample with FILL has it.
    """
    image, offset = ctx.tensor(image), ctx.cast(ctx.tensor(offset), torch.float32)
    dtype = ctx.dtype(image)
    out_channels, _, kernel_h, kernel_w = ctx.shape(weight)
    batch, channels, height, width = ctx.dims_of(image)
    rows, columns = ctx.dim(offset, 2), ctx.dim(offset, 3)
    taps = kernel_h * kernel_w

    moves = ctx.reshape(offset, [batch, offset_groups, taps, 2, rows, columns])
    tap_y, tap_x = torch.meshgrid(torch.arange(kernel_h), torch.arange(kernel_w), indexing="ij")
    coordinates = []
    for axis, taps_at, size, stride, pad, dilation, shape in (
        (1, tap_x, width, stride_w, pad_w, dilation_w, [1, 1, 1, 1, 1, columns]),
        (0, tap_y, height, stride_h, pad_h, dilation_h, [1, 1, 1, 1, rows, 1]),
    ):
        places = times(ctx, positions(ctx, columns if axis else rows), float(stride))
        kernel = (taps_at.flatten().float() * dilation - pad).reshape(1, 1, taps, 1, 1, 1)
        point = add(ctx, ctx.reshape(places, shape), ctx.constant(kernel), part(ctx, moves, 3, axis))
        # With align_corners=False a pixel's centre i is at (2 i + 1) / size - 1.
        doubled = ctx.elementwise(times(ctx, point, 2.0), 1.0, "SUM")
        scaled = ctx.elementwise(doubled, ctx.scalar(size, torch.float32), "DIV")
        coordinates.append(ctx.elementwise(scaled, 1.0, "SUB"))
    many = ctx.dim_op(batch, offset_groups, "PROD")
    grid = ctx.permute(ctx.concat(coordinates, 3), [0, 1, 2, 4, 5, 3])
    grid = ctx.reshape(grid, [many, ctx.dim_op(rows, taps, "PROD"), columns, 2])
    share = channels // offset_groups
    layer = ctx.net.add_grid_sample(
        ctx.reshape(ctx.cast(image, torch.float32), [many, share, height, width]), grid
    )
    layer.interpolation_mode = ctx.trt.InterpolationMode.LINEAR
    layer.sample_mode = ctx.trt.SampleMode.FILL
    layer.align_corners = False
    sampled = ctx.reshape(ctx.output(layer), [batch, offset_groups, share, taps, rows, columns])
    if use_mask:
        factors = ctx.cast(ctx.tensor(mask), torch.float32)
        sampled = times(ctx, sampled, ctx.reshape(factors, [batch, offset_groups, 1, taps, rows, columns]))

    each = channels // groups * taps
    columns_of = ctx.reshape(sampled, [batch, groups, each, ctx.dim_op(rows, columns, "PROD")])
    kernel_of = ctx.reshape(
        ctx.cast(ctx.tensor(weight), torch.float32), [1, groups, out_channels // groups, each]
    )
    result = ctx.reshape(ctx.matmul(kernel_of, columns_of), [batch, out_channels, rows, columns])
    shift = ctx.reshape(ctx.cast(ctx.tensor(bias), torch.float32), [1, out_channels, 1, 1])
    return ctx.cast(ctx.elementwise(result, shift, "SUM"), dtype)

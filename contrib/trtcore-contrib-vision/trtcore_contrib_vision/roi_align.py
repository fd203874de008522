"""Regions of interest, averaged to a grid: four gathers per sampling point, weighted."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from trtcore.pack import ConversionContext, NodeContext, Reject, converter, node_arguments
from trtcore_contrib_vision._layers import add, part, times, traced


def _fixed_samples(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = node_arguments(node)
    if not all(isinstance(given[name], int) for name in ("pooled_height", "pooled_width")):
        return Reject("the size of the pooled grid varies from call to call")
    if given["sampling_ratio"] <= 0:
        return Reject(
            "with sampling_ratio <= 0 the number of sampling points depends on the boxes; give a positive one"
        )
    image = traced(given["input"])
    if image is not None and not image.is_floating_point():
        return Reject("roi_align is computed in floating point only")
    return True


@converter("torchvision::roi_align", capability_validator=_fixed_samples, supports_dynamic_shapes=True)
def roi_align(
    ctx: ConversionContext,
    image: Any,
    rois: Any,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Any:
    """Bilinear samples of image (N, C, H, W) in rois (K, 5) = batch index, x1, y1, x2, y2; (K, C, ph, pw).

    In float32 whatever the dtype. Every bin is the mean of sampling_ratio² points. A point more than one pixel
    outside of the image counts as zero; others are moved to its border.
    """
    image = ctx.tensor(image)
    dtype = ctx.dtype(image)
    rois = ctx.cast(ctx.tensor(rois), torch.float32)
    count, channels = ctx.dim(rois, 0), ctx.dim(image, 1)
    height, width = ctx.dim(image, 2), ctx.dim(image, 3)
    ys = _axis(ctx, rois, (2, 4), spatial_scale, pooled_height, sampling_ratio, aligned, height)
    xs = _axis(ctx, rois, (1, 3), spatial_scale, pooled_width, sampling_ratio, aligned, width)
    rows, columns = pooled_height * sampling_ratio, pooled_width * sampling_ratio

    flat = ctx.reshape(ctx.permute(ctx.cast(image, torch.float32), [0, 2, 3, 1]), [-1, channels])
    batch = ctx.reshape(ctx.cast(part(ctx, rois, 1, 0), torch.int64), [count, 1, 1])
    area = ctx.dim_op(height, width, "PROD")
    base = ctx.elementwise(batch, ctx.scalar(area, torch.int64), "PROD")
    total = None
    for place_y, weight_y in ys:
        line = ctx.elementwise(ctx.reshape(place_y, [count, rows, 1]), ctx.scalar(width, torch.int64), "PROD")
        for place_x, weight_x in xs:
            place = add(ctx, base, line, ctx.reshape(place_x, [count, 1, columns]))
            weight = times(
                ctx,
                ctx.reshape(weight_y, [count, rows, 1, 1]),
                ctx.reshape(weight_x, [count, 1, columns, 1]),
            )
            term = times(ctx, ctx.gather(flat, place, 0), weight)
            total = term if total is None else ctx.elementwise(total, term, "SUM")
    dims = [count, pooled_height, sampling_ratio, pooled_width, sampling_ratio, channels]
    mean = ctx.reduce(ctx.reshape(total, dims), "AVG", [2, 4])
    return ctx.cast(ctx.permute(mean, [0, 3, 1, 2]), dtype)


def _axis(
    ctx: ConversionContext,
    rois: Any,
    corners: tuple[int, int],
    scale: float,
    bins: int,
    samples: int,
    aligned: bool,
    size: Any,
) -> list[tuple[Any, Any]]:
    """The two neighbours of every sampling point along one axis: (place (K, bins * samples) int64, weight float32)."""
    offset = 0.5 if aligned else 0.0
    start, end = (
        ctx.elementwise(times(ctx, part(ctx, rois, 1, corner), scale), offset, "SUB") for corner in corners
    )
    extent = ctx.elementwise(end, start, "SUB")
    if not aligned:
        extent = ctx.elementwise(extent, 1.0, "MAX")
    # The centres of the samples in units of bins: 0 .. bins.
    steps = (torch.arange(bins * samples, dtype=torch.float32) + 0.5) / samples
    bin_size = ctx.elementwise(extent, float(bins), "DIV")
    point = add(ctx, start, times(ctx, bin_size, ctx.constant(steps.reshape(1, -1))))

    last = ctx.elementwise(ctx.scalar(size, torch.float32), 1.0, "SUB")
    inside = ctx.elementwise(
        ctx.unary(ctx.elementwise(point, -1.0, "LESS"), "NOT"),
        ctx.unary(ctx.elementwise(point, ctx.scalar(size, torch.float32), "GREATER"), "NOT"),
        "AND",
    )
    clamped = ctx.elementwise(ctx.elementwise(point, 0.0, "MAX"), last, "MIN")
    low = ctx.unary(clamped, "FLOOR")
    high = ctx.elementwise(ctx.elementwise(low, 1.0, "SUM"), last, "MIN")
    fraction = ctx.elementwise(clamped, low, "SUB")
    counts = ctx.cast(inside, torch.float32)
    weights = (ctx.elementwise(1.0, fraction, "SUB"), fraction)
    return [(ctx.cast(place, torch.int64), times(ctx, w, counts)) for place, w in zip((low, high), weights)]

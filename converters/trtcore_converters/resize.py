"""Upsampling: nearest, linear, bilinear, trilinear and bicubic.

Linear and cubic use TensorRT's Resize, whose coordinates are torch's: a given scale factor is used as it is,
else the ratio of the sizes. Nearest picks elements by a rounded product, and a rounding error more is another
element; so Resize is used where the index is exact for every element, and a gather by torch's own index
elsewhere. Antialiased resizing is a product with torch's own weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, cast

import torch
from torch import fx

from trtcore.pack import ConversionContext, ITensor, NodeContext, Operand, Reject
from trtcore_converters._checks import all_of, arguments, floating, numeric, shape_of
from trtcore_converters._declare import converts
from trtcore_converters._spatial import apply_along

aten = torch.ops.aten


def _scales_of(scales: Any, dims: int) -> list[float | None]:
    """A scale factor per spatial dim; None where only the sizes count."""
    if scales is None:
        return [None] * dims
    given = list(scales) if isinstance(scales, (list, tuple)) else [scales]
    return given * dims if len(given) == 1 else given


def _out_size(
    ctx: ConversionContext, x: Operand, output_size: Any, factors: Sequence[float | None]
) -> list[Any]:
    """The output's spatial sizes: those given, else the factors times the input's, rounded down."""
    if output_size is not None:
        return list(output_size)
    return [_scaled(ctx, ctx.dim(x, axis), factor) for axis, factor in enumerate(factors, start=2)]


def _scaled(ctx: ConversionContext, size: Any, factor: float | None) -> Any:
    if factor is None:
        return size
    if not ctx.is_tensor(size):
        return math.floor(size * factor)
    ratio = _ratio(factor)
    assert ratio is not None, "the validator has seen to it"
    return ctx.dim_op(ctx.dim_op(size, ratio.numerator, "PROD"), ratio.denominator, "FLOOR_DIV")


_LONGEST = 1 << 16
"""Sizes up to here are tried out where a rounding could matter."""


@lru_cache(maxsize=256)
def _ratio(factor: float) -> Fraction | None:
    """A fraction with torch's ``floor(size * factor)`` for every size; None if float32 differs."""
    ratio = Fraction(factor).limit_denominator(1000)
    sizes = torch.arange(1, _LONGEST)
    wanted = (sizes.double() * factor).floor().long()
    by_ratio = (sizes * ratio.numerator).div(ratio.denominator, rounding_mode="floor")
    in_float = (sizes.float() * torch.tensor(factor, dtype=torch.float32)).floor().long()
    return ratio if torch.equal(wanted, by_ratio) and torch.equal(wanted, in_float) else None


def _factors_fit(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    """TensorRT computes the sizes that torch computes from the scale factors."""
    given = arguments(node)
    shape, out = shape_of(given.get("self", given.get("input"))), shape_of(node)
    if shape is None or out is None:
        return True
    for size, wanted, factor in zip(shape[2:], out[2:], _factors(given, len(shape) - 2)):
        if factor is None:
            continue
        if not isinstance(size, int) or not isinstance(wanted, int):
            if _ratio(factor) is None:
                return Reject(
                    f"scale factor {factor} of a dynamic size: its rounding varies; give the output size"
                )
        elif float(torch.tensor(float(size)) * torch.tensor(factor)) // 1 != wanted:
            return Reject(f"{size} * {factor} is {wanted} in torch but not in float32; give the output size")
    return True


def _factors(given: Mapping[str, Any], dims: int) -> list[float | None]:
    """The scale factors among an op's arguments, whose names depend on the overload."""
    if "scale_factors" in given:
        return _scales_of(given["scale_factors"], dims)
    return [given[name] for name in ("scales", "scales_d", "scales_h", "scales_w") if name in given]


# ---- linear and cubic ----


def _interpolated(
    ctx: ConversionContext, x: Operand, output_size: Any, align: bool, scales: Any, mode: str
) -> ITensor:
    x = ctx.tensor(x)
    dims = ctx.rank(x) - 2
    factors = _scales_of(scales, dims)
    layer = ctx.net.add_resize(x)
    layer.resize_mode = getattr(ctx.trt.InterpolationMode, mode)
    transform = ctx.trt.ResizeCoordinateTransformation
    layer.coordinate_transformation = transform.ALIGN_CORNERS if align else transform.HALF_PIXEL
    layer.cubic_coeff = -0.75
    if not align and all(factors):
        layer.scales = (1.0, 1.0, *(float(factor) for factor in factors if factor))
    else:
        _set_size(ctx, layer, x, _out_size(ctx, x, output_size, factors))
    return ctx.output(layer)


def _set_size(ctx: ConversionContext, layer: Any, x: Operand, sizes: Sequence[Any]) -> None:
    shape = ctx.dims([*ctx.dims_of(x)[:2], *sizes])
    if ctx.is_tensor(shape):
        layer.set_input(1, shape)
    else:
        layer.shape = shape


def _all_or_none(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = arguments(node)
    factors = _factors(given, len(shape_of(node) or ()) - 2)
    if not given["align_corners"] and any(factors) and not all(factors):
        return Reject("a scale factor for some dims only: TensorRT takes factors for all dims or for none")
    return True


_LINEAR = {aten.upsample_linear1d: 1, aten.upsample_bilinear2d: 2, aten.upsample_trilinear3d: 3}

for _packet in (*_LINEAR, aten.upsample_bicubic2d):
    _mode = "LINEAR" if _packet in _LINEAR else "CUBIC"

    def _by_size(
        ctx: ConversionContext,
        x: Operand,
        output_size: Any,
        align_corners: bool,
        *scales: Any,
        mode: str = _mode,
    ) -> ITensor:
        return _interpolated(ctx, x, output_size, align_corners, scales, mode)

    def _by_factors(
        ctx: ConversionContext,
        x: Operand,
        output_size: Any,
        align_corners: bool,
        scales: Any,
        *,
        mode: str = _mode,
    ) -> ITensor:
        return _interpolated(ctx, x, output_size, align_corners, scales, mode)

    for _op, _convert in ((_packet.default, _by_size), (_packet.vec, _by_factors)):
        converts(
            _op,
            name=str(_packet).removeprefix("aten."),
            capability_validator=all_of(floating(), _all_or_none, _factors_fit),
        )(_convert)


# ---- antialiased ----


def _static(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    shapes = [shape_of(arguments(node).get(name)) for name in ("self", "input")] + [shape_of(node)]
    if all(isinstance(dim, int) for shape in shapes if shape is not None for dim in shape[2:]):
        return True
    return Reject("antialiased resizing of a dynamic size: the weights depend on the sizes; make them static")


def _antialiased(op: Any) -> Callable[..., Any]:
    def convert(
        ctx: ConversionContext, x: Operand, output_size: Any, align_corners: bool, *scales: Any
    ) -> ITensor:
        if len(scales) == 1:  # the overload with one list of factors
            scales = tuple(_scales_of(scales[0], 2))
        x = ctx.tensor(x)
        dtype = ctx.dtype(x)
        y = ctx.cast(x, torch.float32)
        for axis, wanted, factor in zip((2, 3), _out_size(ctx, x, output_size, scales), scales):
            size = ctx.dim(x, axis)
            # One dim of the op at a time, on the unit vectors: its weights, of shape (wanted, size).
            weights = op(torch.eye(cast(int, size))[None, None], [wanted, size], align_corners, factor, None)[
                0, 0
            ]
            if wanted != size or factor not in (None, 1.0):
                y = apply_along(ctx, y, axis, weights)
        return ctx.cast(y, dtype)

    return convert


for _packet in (aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa):
    converts(
        [_packet.default, _packet.vec],
        name=str(_packet).removeprefix("aten."),
        capability_validator=all_of(floating(), _static),
    )(_antialiased(_packet.default))


# ---- nearest ----


def nearest_index(size: int, count: int, factor: float | None, exact: bool) -> torch.Tensor:
    """torch's source index of every output element, int64 of shape (count,).

    ``floor(i * scale)``, or ``floor((i + 0.5) * scale)`` for "nearest-exact", in float32, at most size - 1;
    the scale is ``1 / factor``, or ``size / count`` without a factor (ATen/native/UpSample.h).
    """
    scale = torch.tensor(1.0 / factor) if factor else torch.tensor(float(size)) / count
    places = torch.arange(count, dtype=torch.float32)
    if exact:
        places = places + 0.5
    return (places * scale).floor().long().clamp(max=size - 1)


def _nearest(ctx: ConversionContext, x: Operand, output_size: Any, scales: Any, exact: bool) -> ITensor:
    x = ctx.tensor(x)
    dims = ctx.rank(x) - 2
    factors = _scales_of(scales, dims)
    sizes = _out_size(ctx, x, output_size, factors)
    if not exact and _is_exact(ctx, x, sizes, factors):
        return _resized(ctx, x, sizes, factors)
    for axis, (count, factor) in enumerate(zip(sizes, factors), start=2):
        size = ctx.dim(x, axis)
        if ctx.is_tensor(size) or ctx.is_tensor(count):
            index = _index_at_run_time(ctx, size, count, factor, exact)
        elif torch.equal(known := nearest_index(size, count, factor, exact), torch.arange(size)):
            continue
        else:
            index = ctx.constant(known)
        x = ctx.gather(x, index, axis)
    return x


def _is_exact(
    ctx: ConversionContext, x: Operand, sizes: Sequence[Any], factors: Sequence[float | None]
) -> bool:
    """Whether every index is the exact floor of i / scale, so that no rounding in TensorRT can change it."""
    if not ctx.dtype(x).is_floating_point:
        return False
    for axis, (count, factor) in enumerate(zip(sizes, factors), start=2):
        size = ctx.dim(x, axis)
        dynamic = ctx.is_tensor(size) or ctx.is_tensor(count)
        if dynamic and not factor:
            return False
        if factor:
            if not float(factor).is_integer():
                return False
            multiple = int(factor)
        elif count % size:
            return False
        else:
            multiple = count // size
        length = _LONGEST if dynamic else count
        if multiple & (multiple - 1) or length > _LONGEST:  # i / 2**k is exact in float32
            return False
        if not dynamic and count != cast(int, size) * multiple:
            return False
    return True


def _resized(
    ctx: ConversionContext, x: Operand, sizes: Sequence[Any], factors: Sequence[float | None]
) -> ITensor:
    layer = ctx.net.add_resize(x)
    layer.resize_mode = ctx.trt.InterpolationMode.NEAREST
    layer.coordinate_transformation = ctx.trt.ResizeCoordinateTransformation.ASYMMETRIC
    layer.nearest_rounding = ctx.trt.ResizeRoundMode.FLOOR
    if all(factors):
        layer.scales = (1.0, 1.0, *(float(factor) for factor in factors if factor))
    else:
        _set_size(ctx, layer, x, sizes)
    return ctx.output(layer)


def _index_at_run_time(
    ctx: ConversionContext, size: Any, count: Any, factor: float | None, exact: bool
) -> ITensor:
    """`nearest_index` as layers, where a size is known only at run time."""
    number = _range(ctx, count)
    if exact:
        number = ctx.elementwise(number, 0.5, "SUM")
    if factor:
        scale = ctx.constant(1.0 / factor, torch.float32)
    else:
        scale = ctx.elementwise(ctx.scalar(size, torch.float32), ctx.scalar(count, torch.float32), "DIV")
    index = ctx.cast(ctx.unary(ctx.elementwise(number, scale, "PROD"), "FLOOR"), torch.int64)
    last = ctx.dim_op(size, 1, "SUB")
    return ctx.elementwise(index, last if ctx.is_tensor(last) else ctx.constant([last], torch.int64), "MIN")


def _range(ctx: ConversionContext, count: Any) -> ITensor:
    """0, 1, ..., count - 1 as float32."""
    if not ctx.is_tensor(count):
        return ctx.constant(torch.arange(count, dtype=torch.float32))
    layer = ctx.net.add_fill((1,), ctx.trt.FillOperation.LINSPACE, ctx.trt.DataType.FLOAT)
    layer.set_input(0, count)
    layer.set_input(1, ctx.constant(0.0))
    layer.set_input(2, ctx.constant([1.0]))
    return ctx.output(layer)


_NEAREST = {
    aten.upsample_nearest1d: False,
    aten.upsample_nearest2d: False,
    aten.upsample_nearest3d: False,
    aten._upsample_nearest_exact1d: True,
    aten._upsample_nearest_exact2d: True,
    aten._upsample_nearest_exact3d: True,
}


def _nearest_converters(exact: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def by_size(ctx: ConversionContext, x: Operand, output_size: Any, *scales: Any) -> ITensor:
        return _nearest(ctx, x, output_size, scales, exact)

    def by_factors(ctx: ConversionContext, x: Operand, output_size: Any, scales: Any) -> ITensor:
        return _nearest(ctx, x, output_size, scales, exact)

    return by_size, by_factors


for _packet, _exact in _NEAREST.items():
    for _op, _convert in zip((_packet.default, _packet.vec), _nearest_converters(_exact)):
        converts(
            _op,
            name=str(_packet).removeprefix("aten."),
            capability_validator=all_of(numeric, _factors_fit),
        )(_convert)

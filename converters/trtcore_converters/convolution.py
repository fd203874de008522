"""Convolutions and transposed convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from trtcore.pack import ConversionContext, ITensor, NodeContext, Operand, Reject
from trtcore_converters._checks import all_of, floating, shape_of, static
from trtcore_converters._checks import arguments as arguments_of
from trtcore_converters._declare import converts
from trtcore_converters._spatial import in_two_dims, one_dim, pad_with_zeros, spread

aten = torch.ops.aten


def _kernel_known(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    """A kernel's shape is fixed in the layer, also where its values come at run time."""
    given = arguments_of(node)
    shape = shape_of(given["weight"])
    if shape is not None and not all(isinstance(dim, int) for dim in shape):
        return Reject("the kernel's shape varies from call to call, and TensorRT wants it fixed")
    return True


_static = static("stride", "padding", "dilation", "output_padding", "groups")
_accepts = all_of(floating("input", "weight"), _static, _kernel_known)


@converts([aten.conv1d.default, aten.conv2d.default, aten.conv3d.default], capability_validator=_accepts)
def conv(
    ctx: ConversionContext,
    x: Operand,
    weight: Operand,
    bias: Operand | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Any:
    """conv1d, conv2d, conv3d with explicit padding."""
    return _convolve(ctx, x, weight, bias, _Geometry.of(ctx, weight, stride, padding, dilation, groups))


@converts([aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding], capability_validator=_accepts)
def conv_named_padding(
    ctx: ConversionContext,
    x: Operand,
    weight: Operand,
    bias: Operand | None,
    stride: Any,
    padding: str,
    dilation: Any,
    groups: int,
) -> Any:
    """conv1d, conv2d, conv3d with padding "valid" or "same" (the odd one goes behind, as in torch)."""
    geometry = _Geometry.of(ctx, weight, stride, 0, dilation, groups)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(geometry.dilation, geometry.kernel)]
        geometry.pre = tuple(t // 2 for t in total)
        geometry.post = tuple(t - t // 2 for t in total)
    return _convolve(ctx, x, weight, bias, geometry)


@converts(
    [aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input],
    capability_validator=_accepts,
)
def conv_transpose(
    ctx: ConversionContext,
    x: Operand,
    weight: Operand,
    bias: Operand | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> ITensor:
    """conv_transpose1d, conv_transpose2d, conv_transpose3d."""
    geometry = _Geometry.of(ctx, weight, stride, padding, dilation, groups)
    return _deconvolve(ctx, x, weight, bias, geometry, spread(output_padding, len(geometry.kernel)))


@converts(aten.convolution.default, capability_validator=_accepts)
def convolution(
    ctx: ConversionContext,
    x: Operand,
    weight: Operand,
    bias: Operand | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Any:
    """What every convolution decomposes into."""
    geometry = _Geometry.of(ctx, weight, stride, padding, dilation, groups)
    if transposed:
        return _deconvolve(ctx, x, weight, bias, geometry, spread(output_padding, len(geometry.kernel)))
    return _convolve(ctx, x, weight, bias, geometry)


@dataclass
class _Geometry:
    """A convolution's settings, one entry per spatial dim."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pre: tuple[int, ...]
    post: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(
        cls, ctx: ConversionContext, weight: Any, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> _Geometry:
        kernel = ctx.shape(weight)[2:]
        dims = len(kernel)
        pads = spread(padding, dims)
        return cls(kernel, spread(stride, dims), pads, pads, spread(dilation, dims), groups)

    def apply(self, layer: Any) -> None:
        dims = len(self.kernel)
        layer.stride_nd = one_dim(self.stride, dims, 1)
        layer.pre_padding = one_dim(self.pre, dims, 0)
        layer.post_padding = one_dim(self.post, dims, 0)
        layer.dilation_nd = one_dim(self.dilation, dims, 1)
        layer.num_groups = self.groups


def _convolve(
    ctx: ConversionContext, x: Operand, weight: Operand, bias: Operand | None, geometry: _Geometry
) -> Any:
    def layer(batch: Any) -> Any:
        return _add(ctx, ctx.net.add_convolution_nd, batch, weight, bias, ctx.shape(weight)[0], geometry)

    return in_two_dims(ctx, ctx.tensor(x), len(geometry.kernel), layer)


def _deconvolve(
    ctx: ConversionContext,
    x: Operand,
    weight: Operand,
    bias: Operand | None,
    geometry: _Geometry,
    output_padding: Sequence[int],
) -> ITensor:
    """A transposed convolution.

    Output padding keeps more of the far end: first what the padding cut away there, and past that, where no
    input reaches, zeros.
    """
    dims, dtype = len(geometry.kernel), ctx.dtype(x)
    channels = ctx.shape(weight)[1] * geometry.groups
    geometry.post = tuple(max(p - extra, 0) for p, extra in zip(geometry.pre, output_padding))
    beyond = [max(extra - p, 0) for p, extra in zip(geometry.pre, output_padding)]
    if max(geometry.stride) > 1 and max(geometry.dilation) > 1:
        # TensorRT-RTX refuses strided and dilated ones: put the dilation into the kernel.
        if isinstance(weight, torch.Tensor):
            weight = _dilated(weight, geometry.dilation)
        else:
            weight = _dilated_at_run_time(ctx, weight, geometry.dilation)
        geometry.kernel, geometry.dilation = ctx.shape(weight)[2:], (1,) * dims
    if dtype == torch.bfloat16:
        # TensorRT-RTX has no bf16 transposed convolution: compute in fp32 and round once, as torch does.
        x, weight = _as_float32(ctx, x), _as_float32(ctx, weight)
        bias = None if bias is None else _as_float32(ctx, bias)

    def layer(batch: Any) -> Any:
        early, late = (None, bias) if any(beyond) else (bias, None)
        out = _add(ctx, ctx.net.add_deconvolution_nd, batch, weight, early, channels, geometry)
        if any(beyond):
            behind = (0, 0, *one_dim(beyond, dims, 0))
            out = pad_with_zeros(ctx, out, (0,) * len(behind), behind)
        return out if late is None else _add_bias(ctx, out, late)

    return ctx.cast(in_two_dims(ctx, ctx.tensor(x), dims, layer), dtype)


def _as_float32(ctx: ConversionContext, value: Operand) -> Operand:
    """A tensor or a constant in fp32. Constants stay constants."""
    return value.float() if isinstance(value, torch.Tensor) else ctx.cast(value, torch.float32)


def _add(
    ctx: ConversionContext,
    add: Any,
    x: Operand,
    weight: Operand,
    bias: Operand | None,
    channels: int,
    geometry: _Geometry,
) -> ITensor:
    """Add a (de)convolution layer. Kernel and bias are weights where they are constant, else inputs."""
    dims = len(geometry.kernel)
    window = one_dim(geometry.kernel, dims, 1)
    absent = ctx.trt.Weights(ctx.backend.trt_dtype(ctx.dtype(weight)))
    if isinstance(weight, torch.Tensor):
        kernel, shift = ctx.weights(weight), absent
        # Of two bf16 weights of one size TensorRT does not say which is which.
        if isinstance(bias, torch.Tensor) and (
            bias.numel() != weight.numel() or bias.dtype != torch.bfloat16
        ):
            shift, bias = ctx.weights(bias), None
        layer = add(x, channels, window, kernel, shift)
    else:
        layer = add(x, channels, window, absent, absent)
        layer.set_input(1, ctx.reshape(weight, [*ctx.shape(weight)[:2], *window]))
    geometry.apply(layer)
    out = ctx.output(layer)
    return out if bias is None else _add_bias(ctx, out, bias)


def _add_bias(ctx: ConversionContext, x: ITensor, bias: Operand) -> ITensor:
    """`x` plus a bias per channel."""
    if isinstance(bias, torch.Tensor):
        bias = ctx.cast(ctx.constant(bias.float()), ctx.dtype(x))
    return ctx.elementwise(x, ctx.reshape(bias, [-1, *[1] * (ctx.rank(x) - 2)]), "SUM")


def _dilated(kernel: torch.Tensor, dilation: Sequence[int]) -> torch.Tensor:
    """A kernel with ``dilation - 1`` zeros between its taps."""
    taps = kernel.shape[2:]
    grown = kernel.new_zeros(*kernel.shape[:2], *((k - 1) * d + 1 for k, d in zip(taps, dilation)))
    places = (slice(None), slice(None), *(slice(None, None, d) for d in dilation))
    grown[places] = kernel
    return grown


def _dilated_at_run_time(ctx: ConversionContext, kernel: Any, dilation: Sequence[int]) -> ITensor:
    """The same for a kernel that the engine computes: zeros in a new dim behind each, merged with it, cut to size."""
    taps = ctx.shape(kernel)[2:]
    outer = list(ctx.shape(kernel)[:2])
    apart = [size for k in taps for size in (k, 1)]
    behind = [0, 0, *(size for d in dilation for size in (0, d - 1))]
    spread_out = pad_with_zeros(ctx, ctx.reshape(kernel, [*outer, *apart]), (0,) * len(behind), behind)
    merged = ctx.reshape(spread_out, [*outer, *(k * d for k, d in zip(taps, dilation))])
    wanted = [*outer, *((k - 1) * d + 1 for k, d in zip(taps, dilation))]
    return ctx.slice(merged, [0] * len(wanted), wanted)

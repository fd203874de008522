"""Fake quantisation (`quantize_ops`, and ModelOpt's ops of that kind) as Q/DQ layers.

A weight becomes a constant of the format and a dequantise layer, an activation a quantise and a dequantise layer. What
TensorRT has no such layers for is computed in floating point with the same numbers, and the report says so: weights
whose blocks do not divide them, 4-bit activations, scales that are computed when the model runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from trtcore.pack import ConversionContext, ITensor, NodeContext, Operand, Reject, Requires, node_arguments
from trtcore_converters import quantize_ops as formulas
from trtcore_converters._checks import val
from trtcore_converters._declare import converts
from trtcore_converters.quantize import constant_of

ops: Any = torch.ops.trtcore_quantize

_QDQ = Requires(layers=frozenset({"add_quantize", "add_dequantize"}))
_DTYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
_INT4: torch.dtype = getattr(torch, "int4")  # noqa: B009 (not in torch's stubs)
#: What a format's layers are to `Backend.can`.
_OF_ACTIVATIONS = {
    "fp8": "layer:add_quantize:fp8",
    "nvfp4": "layer:add_dynamic_quantize",
    "mxfp8": "layer:add_dynamic_quantize_v2",
}
_OF_WEIGHTS = {
    "fp8": "layer:add_quantize:fp8",
    "int4": "layer:add_dequantize:int4",
    "nvfp4": "layer:add_dequantize:fp4",
    "mxfp8": "layer:add_dequantize:mxfp8",
}
_NAMES = {"fp8": "FP8", "int4": "INT4", "nvfp4": "NVFP4", "mxfp8": "MXFP8"}


def _can(ctx: NodeContext | ConversionContext, feature: str | None) -> bool:
    if feature is None or ctx.target is None:
        return True
    return ctx.backend.can(feature, ctx.target).ok


def _is_constant(value: Any) -> bool:
    return isinstance(constant_of(value), torch.Tensor)


def _is_activation(value: Any) -> bool:
    return not _is_constant(value) and isinstance(val(value), torch.Tensor)


def _fits_blocks(source: Any, to: str) -> bool | Reject:
    """Of activations the last dim is whole blocks, and there are as many dims as TensorRT's layers take."""
    if not _is_activation(source):
        return True
    x, block = val(source), formulas.BLOCKS[to]
    if not isinstance(x.shape[-1], int) or x.shape[-1] % block:
        return Reject(
            f"{_NAMES[to]} is in blocks of {block}, and the last dim of {tuple(x.shape)} is no multiple of it"
        )
    if x.dim() not in (2, 3):
        return Reject(f"{_NAMES[to]} activations of {x.dim()} dims, and TensorRT takes 2 or 3 of them")
    return True


def _has_layers(node: fx.Node, ctx: NodeContext, to: str, x: Any) -> bool | Reject:
    """Weights can be dequantised on the host; activations of the format cannot be made without its layers."""
    if _is_constant(x) or _can(ctx, _OF_ACTIVATIONS.get(to)):
        return True
    target = ctx.target.name if ctx.target else "this target"
    return Reject(
        f"{_NAMES[to]} activations, and {ctx.backend.name} has none for {target}: compile for a GPU that has them "
        "(device=...), or quantise to int8"
    )


def _floats(node: fx.Node, name: str) -> bool | Reject:
    x = val(node_arguments(node)[name])
    if isinstance(x, torch.Tensor) and not x.is_floating_point():
        return Reject("quantises a tensor that is not floating point")
    return True


def _known_amax(amax: Any) -> bool | Reject:
    known = constant_of(amax)
    if isinstance(known, torch.Tensor) and not bool((known >= 0).all() and known.float().isfinite().all()):
        return Reject("an amax that is negative or not finite: calibrate the model again")
    return True


def _accepts(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = node_arguments(node)
    amax, x, to = given["amax"], val(given["x"]), given["to"]
    if to not in formulas.LARGEST:
        return Reject(f"quantises to {to}, and TensorRT has {', '.join(formulas.LARGEST)}")
    shape = getattr(val(amax), "shape", None)
    static = isinstance(x, torch.Tensor) and all(isinstance(dim, int) for dim in x.shape)
    if static and shape is not None and shape.numel() != 1:
        if not formulas.blocks_fit(x.shape, shape, given["blocks"]):
            return Reject(f"scales of shape {tuple(shape)} do not fit a tensor of shape {tuple(x.shape)}")
    elif given["blocks"]:
        return Reject("blocks of a size that varies")
    if not _is_constant(amax) and given["blocks"]:
        return Reject("blocks whose scales are computed when the model runs")
    for verdict in (_floats(node, "x"), _known_amax(amax), _has_layers(node, ctx, to, given["x"])):
        if not verdict:
            return verdict
    return True


@converts(ops.fake_quantize.default, capability_validator=_accepts, requires=_QDQ)
def fake_quantize(
    ctx: ConversionContext,
    x: Operand,
    amax: Operand,
    to: str,
    narrow: bool,
    blocks: Sequence[int],
    gain: float = 1.0,
) -> ITensor:
    """Quantised and dequantised by scales from calibration."""
    if not isinstance(amax, torch.Tensor):
        return _by_scales_of_the_call(ctx, ctx.tensor(x), amax, to, narrow, gain)
    scale = formulas.scales(amax, to)
    layout = _Layout.of(scale, blocks, ctx.rank(x))
    if isinstance(x, torch.Tensor):
        return _weight(ctx, x, scale, layout, to, narrow, blocks, gain)
    if to == "int4" or layout is None or layout.is_of_blocks:
        ctx.note(f"{to} activations, computed in floating point: TensorRT has no layer for such ones")
        step = ctx.constant(formulas.spread(scale, ctx.shape(x), blocks))
        return _in_floats(ctx, x, step, to, narrow, gain)
    return _quantise_dequantise(ctx, x, layout, to, narrow, gain)


@dataclass
class _Layout:
    """Scales as Q/DQ layers take them: one, one for each channel of an axis, or one for each block.

    Attributes:
        values: float32, of no dims, of one, or of the tensor's rank.
        axis: the channels'; None where there are none.
        block_shape: of blocks of several dims; of others TensorRT finds it from the shapes.
    """

    values: torch.Tensor
    axis: int | None = None
    block_shape: tuple[int, ...] | None = None

    @property
    def is_of_blocks(self) -> bool:
        return self.values.dim() > 1

    @classmethod
    def of(cls, scale: torch.Tensor, blocks: Sequence[int], rank: int) -> _Layout | None:
        """None where no layer takes such scales."""
        if scale.numel() == 1:
            return cls(scale.reshape(()))
        wide = [axis for axis, size in enumerate(scale.shape) if size != 1]
        if not blocks or all(block == 1 for axis, block in enumerate(blocks) if axis in wide):
            return cls(scale.reshape(-1), wide[0]) if len(wide) == 1 else None
        if rank != 2:
            return None
        several = sum(block != 1 for block in blocks) > 1
        return cls(scale, block_shape=tuple(blocks) if several else None)

    def put_on(self, ctx: ConversionContext, layer: Any) -> ITensor:
        if layer is not None and self.axis is not None:
            layer.axis = self.axis
        if layer is not None and self.block_shape is not None:
            layer.block_shape = ctx.trt.Dims(self.block_shape)
        return ctx.output(layer)


def _quantise_dequantise(
    ctx: ConversionContext, x: ITensor, layout: _Layout, to: str, narrow: bool, gain: float = 1.0
) -> ITensor:
    dtype = ctx.dtype(x)
    scale = ctx.constant(layout.values)
    if narrow and to != "fp8":
        shape = [1] * ctx.rank(x)
        if layout.axis is not None:
            shape[layout.axis] = -1
        lowest = (layout.values * -formulas.LARGEST[to]).reshape(shape).to(dtype)
        x = ctx.elementwise(x, ctx.constant(lowest), "MAX")
    quantised = layout.put_on(ctx, ctx.net.add_quantize(x, scale, ctx.backend.trt_dtype(_DTYPES[to])))
    back = scale if gain == 1.0 else ctx.constant(layout.values * gain)
    return layout.put_on(ctx, ctx.net.add_dequantize(quantised, back, ctx.backend.trt_dtype(dtype)))


def _weight(
    ctx: ConversionContext,
    x: torch.Tensor,
    scale: torch.Tensor,
    layout: _Layout | None,
    to: str,
    narrow: bool,
    blocks: Sequence[int],
    gain: float,
) -> ITensor:
    """A constant of the format and its dequantise layer; in floating point where there is no such layer."""
    everywhere = formulas.spread(scale, x.shape, blocks)
    values = formulas.quantised(x, everywhere, to, narrow)
    problem = _problem(x, layout, blocks, to)
    if not problem and not _can(ctx, _weight_feature(to, layout)):
        problem = "the target has no such weights"
    if problem or layout is None:
        ctx.note(f"{to} weights, dequantised when the engine was built: {problem}")
        return ctx.constant((values * (everywhere * gain)).to(x.dtype))
    return _dequantised(ctx, values, to, replace(layout, values=layout.values * gain), x.dtype)


def _dequantised(
    ctx: ConversionContext, values: torch.Tensor, form: str, layout: _Layout, dtype: torch.dtype
) -> ITensor:
    """A constant of the format with a dequantise layer."""
    if form == "int4":
        constant = ctx.packed_constant(formulas.packed_int4(values.cpu()), values.shape, _INT4)
    else:
        constant = ctx.constant(values.to(_DTYPES[form]))
    # TensorRT wants the scales of 4-bit weights in the type that comes out; those of others stay exact.
    scale = ctx.constant(layout.values.to(dtype) if form == "int4" else layout.values)
    return layout.put_on(ctx, ctx.net.add_dequantize(constant, scale, ctx.backend.trt_dtype(dtype)))


def _problem(x: torch.Tensor, layout: _Layout | None, blocks: Sequence[int], to: str) -> str:
    """Why no dequantise layer gives such a weight."""
    if any(size % block for size, block in zip(x.shape, blocks)):
        return f"its blocks {tuple(blocks)} do not divide {tuple(x.shape)}"
    if layout is None:
        return f"TensorRT has no such scales for a weight of shape {tuple(x.shape)}"
    if to == "int4" and (x.dim() == 0 or x.shape[-1] % 2):
        return f"rows of {x.shape[-1] if x.dim() else 1} numbers do not fill bytes"
    return ""


def _by_scales_of_the_call(
    ctx: ConversionContext, x: ITensor, amax: ITensor, to: str, narrow: bool, gain: float
) -> ITensor:
    """Scales that the model computes: the division and the product by them are layers of their own."""
    ctx.note(
        f"{to} with scales that are computed when the model runs: TensorRT does not fuse it into products"
    )
    dtype = ctx.dtype(x)
    amax = ctx.elementwise(ctx.cast(amax, torch.float32), 2.0**-24, "MAX")
    step = ctx.elementwise(amax, formulas.LARGEST[to], "DIV")
    if to == "int4":
        return _in_floats(ctx, x, step, to, narrow, gain)
    x, step = ctx.broadcast(ctx.cast(x, torch.float32), step)
    y = ctx.elementwise(x, step, "DIV")
    y = _quantise_dequantise(ctx, y, _Layout(torch.ones(())), to, narrow, gain)
    return ctx.cast(ctx.elementwise(y, step, "PROD"), dtype)


def _in_floats(
    ctx: ConversionContext, x: ITensor, step: ITensor, to: str, narrow: bool, gain: float
) -> ITensor:
    """The formula, layer by layer."""
    dtype = ctx.dtype(x)
    x, step = ctx.broadcast(ctx.cast(x, torch.float32), step)
    y = ctx.elementwise(x, step, "DIV")
    if to == "fp8":
        y = _quantise_dequantise(ctx, y, _Layout(torch.ones(())), to, narrow)
    else:
        largest = formulas.LARGEST[to]
        y = ctx.unary(y, "ROUND")
        y = ctx.elementwise(ctx.elementwise(y, narrow - largest - 1, "MAX"), largest, "MIN")
    y = ctx.elementwise(y, step, "PROD")
    return ctx.cast(y if gain == 1.0 else ctx.elementwise(y, gain, "PROD"), dtype)


# ---- what is quantised already ------------------------------------------------------------------------------------


def _accepts_dequantize(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = node_arguments(node)
    if not _is_constant(given["q"]) or not _is_constant(given["scale"]):
        return Reject("dequantises numbers, or by scales, that are computed when the model runs")
    return True


@converts(ops.dequantize.default, capability_validator=_accepts_dequantize, requires=_QDQ)
def dequantize(
    ctx: ConversionContext,
    q: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    form: str,
    blocks: Sequence[int],
    dtype: torch.dtype,
) -> ITensor:
    """A weight that torchao stores quantised: a constant of its format, and a dequantise layer."""
    scale = scale.float()
    layout = _Layout.of(scale, blocks, q.dim())
    problem = _problem(q, layout, blocks, form)
    if zero_point is not None and bool((zero_point != 0).any()):
        problem = "a zero point that is not 0; quantise symmetrically to keep it small"
    elif bool((scale <= 0).any()):
        problem = "a scale that is not positive"
    elif not problem and not _can(ctx, _weight_feature(form, layout)):
        problem = "the target has no such weights"
    if problem or layout is None:
        ctx.note(f"{form} weights, dequantised when the engine was built: {problem}")
        return ctx.constant(ops.dequantize(q, scale, zero_point, form, blocks, dtype))
    return _dequantised(ctx, q, form, layout, dtype)


def _weight_feature(to: str, layout: _Layout | None) -> str | None:
    if to == "fp8" and layout is not None and layout.block_shape is not None:
        return "layer:add_dequantize:fp8_blocks"
    return _OF_WEIGHTS.get(to)


# ---- blocks with scales of their own ------------------------------------------------------------------------------


def _accepts_blocks(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = node_arguments(node)
    to = given["to"]
    if to not in formulas.BLOCKS:
        return Reject(f"quantises to blocks of {to}, and TensorRT has {', '.join(formulas.BLOCKS)}")
    if not (fits := _fits_blocks(given["x"], to)):
        return fits
    if to == "nvfp4" and not _is_constant(given["amax"]):
        return Reject("NVFP4 with an amax that is computed when the model runs: calibrate the model first")
    for verdict in (_floats(node, "x"), _known_amax(given["amax"]), _has_layers(node, ctx, to, given["x"])):
        if not verdict:
            return verdict
    return True


@converts(ops.fake_quantize_blocks.default, capability_validator=_accepts_blocks, requires=_QDQ)
def fake_quantize_blocks(ctx: ConversionContext, x: Operand, amax: Operand | None, to: str) -> ITensor:
    """NVFP4 and MXFP8: dynamic quantise layers; weights as constants with the scales of their blocks."""
    if isinstance(x, torch.Tensor):
        whole = x.dim() == 2 and x.shape[1] % formulas.BLOCKS[to] == 0
        if not whole or not _can(ctx, _OF_WEIGHTS[to]):
            why = "the target has no such weights" if whole else f"of shape {tuple(x.shape)}"
            ctx.note(f"{_NAMES[to]} weights, dequantised when the engine was built: {why}")
            return ctx.constant(ops.fake_quantize_blocks(x, amax, to))
        return _nvfp4_weight(ctx, x, amax) if to == "nvfp4" else _mxfp8_weight(ctx, x)
    dtype = ctx.backend.trt_dtype(ctx.dtype(x))
    fp8, last = ctx.trt.DataType.FP8, ctx.rank(x) - 1
    if to == "nvfp4":
        step = ctx.constant(formulas.nvfp4_step(amax))  # type: ignore[arg-type]  # checked to be a constant
        layer = ctx.net.add_dynamic_quantize(x, last, formulas.BLOCKS[to], ctx.trt.DataType.FP4, fp8)
        values = ctx.output(layer)
        layer.set_input(1, step)
        scales = ctx.output(ctx.net.add_dequantize(ctx.output(layer, 1), step, dtype))
        return ctx.output(ctx.net.add_dequantize(values, scales, dtype))
    block = ctx.trt.Dims([1] * last + [formulas.BLOCKS[to]])
    layer = ctx.net.add_dynamic_quantize_v2(x, block, fp8, ctx.trt.DataType.E8M0)
    back = ctx.net.add_dequantize(ctx.output(layer), ctx.output(layer, 1), dtype)
    back.block_shape = block
    return ctx.output(back)


def _nvfp4_weight(ctx: ConversionContext, x: torch.Tensor, amax: Any) -> ITensor:
    step = formulas.nvfp4_step(amax)
    values, _ = formulas.quantised_nvfp4(x, amax)
    constant = ctx.packed_constant(formulas.packed_e2m1(values.cpu()), x.shape, torch.float4_e2m1fn_x2)
    dtype = ctx.backend.trt_dtype(x.dtype)
    blocks = ctx.constant(formulas.nvfp4_block_scales(x, step))
    scales = ctx.output(ctx.net.add_dequantize(blocks, ctx.constant(step), dtype))
    return ctx.output(ctx.net.add_dequantize(constant, scales, dtype))


def _mxfp8_weight(ctx: ConversionContext, x: torch.Tensor) -> ITensor:
    values, scales = formulas.quantised_mxfp8(x)
    constant = ctx.constant(values.to(torch.float8_e4m3fn))
    back = ctx.net.add_dequantize(
        constant, ctx.constant(scales.to(torch.float8_e8m0fnu)), ctx.backend.trt_dtype(x.dtype)
    )
    back.block_shape = ctx.trt.Dims([1, formulas.BLOCKS["mxfp8"]])
    return ctx.output(back)


# ---- ModelOpt's ops -----------------------------------------------------------------------------------------------

_MODELOPT = {(8, 0): "int8", (8, 4): "fp8", (4, 0): "int4"}
_MODELOPT_BLOCKS: Mapping[tuple[int, ...], str] = {(16, 4, 2, 8, 4): "nvfp4", (32, 8, 4, 8, 8): "mxfp8"}


def _accepts_quantize_op(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = node_arguments(node)
    to = _MODELOPT.get((given["num_bits"], given["exponent_bits"]))
    if to is None or given["unsigned"]:
        return Reject(
            f"ModelOpt's format of {given['num_bits']} bits, {given['exponent_bits']} of them exponent"
            f"{', unsigned' if given['unsigned'] else ''}: TensorRT has int8, int4 and fp8 (E4M3), signed, zero point 0"
        )
    for verdict in (
        _floats(node, "input"),
        _known_amax(given["amax"]),
        _has_layers(node, ctx, to, given["input"]),
    ):
        if not verdict:
            return verdict
    x, shape = val(given["input"]), val(given["amax"]).shape
    if shape.numel() != 1 and not formulas.blocks_fit(x.shape, shape, ()):
        return Reject(f"scales of shape {tuple(shape)} do not fit a tensor of shape {tuple(x.shape)}")
    return True


@converts("tensorrt::quantize_op", capability_validator=_accepts_quantize_op, requires=_QDQ)
def modelopt_quantize(
    ctx: ConversionContext,
    x: Operand,
    amax: Operand,
    num_bits: int,
    exponent_bits: int,
    unsigned: bool,
    narrow_range: bool,
) -> ITensor:
    """As ModelOpt's own export leaves it in the graph."""
    return fake_quantize(ctx, x, amax, _MODELOPT[num_bits, exponent_bits], narrow_range, ())


def _accepts_modelopt_blocks(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = node_arguments(node)
    key = tuple(
        given[name]
        for name in ("block_size", "num_bits", "exponent_bits", "scale_num_bits", "scale_exponent_bits")
    )
    to = _MODELOPT_BLOCKS.get(key)
    if to is None:
        return Reject(
            f"ModelOpt's blocks of {key[0]} with {key[1]} bits: TensorRT has NVFP4 in blocks of 16 with E4M3 scales, "
            "and MXFP8 in blocks of 32"
        )
    return _fits_blocks(given["input"], to) and _has_layers(node, ctx, to, given["input"])


@converts(
    ["tensorrt::dynamic_block_quantize_op.default", "tensorrt::dynamic_block_quantize_op.overload"],
    capability_validator=_accepts_modelopt_blocks,
    requires=_QDQ,
)
def modelopt_quantize_blocks(
    ctx: ConversionContext, x: Operand, block_size: int, amax: Operand | None, num_bits: int, *rest: int
) -> ITensor:
    """As ModelOpt's own export leaves it in the graph."""
    key = (block_size, num_bits, *rest)
    return fake_quantize_blocks(ctx, x, amax, _MODELOPT_BLOCKS[key])

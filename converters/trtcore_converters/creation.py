"""Tensors made from numbers: ranges, fills, constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from trtcore.pack import (
    ConversionContext,
    ITensor,
    NodeContext,
    Operand,
    Reject,
    node_arguments,
)
from trtcore_converters._checks import is_static
from trtcore_converters._declare import converts
from trtcore_converters._values import output, output_dtype, traced_dims
from trtcore_converters.elementwise import ARITHMETIC

aten = torch.ops.aten


# ---- arange ------------------------------------------------------------------------------------------------


def _whole_range(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    """A range whose length varies is filled in int64, so its bounds must be whole numbers."""
    given = node_arguments(node)
    bounds = [given.get(name) for name in ("start", "end", "step")]
    if is_static(bounds):
        return True
    for bound in bounds:
        if isinstance(bound, float) or (
            isinstance(bound, fx.Node) and isinstance(bound.meta.get("val"), torch.SymFloat)
        ):
            return Reject("a range of varying length with bounds that are no whole numbers")
    result = node.meta.get("val")
    if not isinstance(result, torch.Tensor):
        return Reject("the length of the range is unknown")
    if result.dtype not in ARITHMETIC:
        return Reject(f"TensorRT fills no {str(result.dtype).removeprefix('torch.')}")
    return True


def _arange(ctx: ConversionContext, start: Any, end: Any, step: Any, dtype: torch.dtype | None) -> ITensor:
    if is_static([start, end, step]):
        return ctx.constant(torch.arange(start, end, step, dtype=output_dtype(ctx, dtype or torch.int64)))
    value = output(ctx)
    assert value is not None
    return ctx.cast(positions(ctx, traced_dims(ctx, value.shape)[0], start, step), value.dtype)


def positions(ctx: ConversionContext, size: Any, start: Any = 0, step: Any = 1) -> ITensor:
    """``start, start + step, ...``: `size` numbers, as an int64 ITensor. The arguments are ints or symbolic ints."""
    if is_static([size, start, step]):
        return ctx.constant(torch.arange(size) * step + start)
    layer = ctx.net.add_fill((1,), ctx.trt.FillOperation.LINSPACE, ctx.backend.trt_dtype(torch.int64))
    layer.set_input(0, ctx.shape_tensor([size]))
    layer.set_input(1, ctx.scalar(start, torch.int64))
    layer.set_input(2, step if ctx.is_tensor(step) else ctx.constant([step], torch.int64))
    return ctx.output(layer)


@converts(aten.arange.default, capability_validator=_whole_range)
def arange(ctx: ConversionContext, end: Any, *, dtype: torch.dtype | None = None, **_: Any) -> ITensor:
    """``0, 1, ... end - 1``."""
    return _arange(ctx, 0, end, 1, dtype)


@converts(aten.arange.start, capability_validator=_whole_range)
def arange_start(
    ctx: ConversionContext, start: Any, end: Any, *, dtype: torch.dtype | None = None, **_: Any
) -> ITensor:
    """``start, start + 1, ... end - 1``."""
    return _arange(ctx, start, end, 1, dtype)


@converts(aten.arange.start_step, capability_validator=_whole_range)
def arange_step(
    ctx: ConversionContext, start: Any, end: Any, step: Any = 1, *, dtype: torch.dtype | None = None, **_: Any
) -> ITensor:
    """``start, start + step, ...`` up to but without `end`."""
    return _arange(ctx, start, end, step, dtype)


# ---- evenly spaced numbers ----------------------------------------------------------------------------------


def _numbers_known(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    """Every argument is a number known now, and the result is of a dtype that a constant can have."""
    result = node.meta.get("val")
    if isinstance(result, torch.Tensor) and result.dtype not in ARITHMETIC:
        return Reject(f"TensorRT fills no {str(result.dtype).removeprefix('torch.')}")
    given = node_arguments(node)
    for name in ("start", "end", "steps", "base", "row", "col", "offset"):
        if not is_static(given.get(name)):
            return Reject(
                f"{name} varies from call to call, and the numbers are made when the engine is built"
            )
    return True


@converts(aten.linspace.default, capability_validator=_numbers_known, supports_dynamic_shapes=False)
def linspace(ctx: ConversionContext, start: Any, end: Any, steps: Any, **_: Any) -> ITensor:
    """`steps` numbers from `start` to `end`, both included; torch's own."""
    return ctx.constant(torch.linspace(start, end, steps, dtype=output_dtype(ctx, torch.float32)))


@converts(aten.logspace.default, capability_validator=_numbers_known, supports_dynamic_shapes=False)
def logspace(
    ctx: ConversionContext, start: Any, end: Any, steps: Any, base: float = 10.0, **_: Any
) -> ITensor:
    """`base` to the power of evenly spaced numbers; torch's own."""
    return ctx.constant(torch.logspace(start, end, steps, base, dtype=output_dtype(ctx, torch.float32)))


def _triangle_indices(make: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    def convert(ctx: ConversionContext, row: int, col: int, offset: int = 0, **_: Any) -> ITensor:
        return ctx.constant(make(row, col, offset, dtype=output_dtype(ctx, torch.int64)))

    return convert


for _op, _make in (
    (aten.tril_indices.default, torch.tril_indices),
    (aten.triu_indices.default, torch.triu_indices),
):
    converts(
        _op,
        name=_op.overloadpacket.__name__,
        capability_validator=_numbers_known,
        supports_dynamic_shapes=False,
    )(_triangle_indices(_make))


# ---- fills -------------------------------------------------------------------------------------------------


def _fillable(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    result = node.meta.get("val")
    for source in node.all_input_nodes:
        given = source.meta.get("val")
        if (
            isinstance(given, torch.Tensor)
            and isinstance(result, torch.Tensor)
            and given.device != result.device
        ):
            return Reject(
                f"makes a tensor on {result.device} from one on {given.device}; an engine has one device"
            )
    if isinstance(result, torch.Tensor) and result.dtype == torch.uint8:
        return Reject(
            "TensorRT has uint8 only for the inputs and outputs of a network, and neither fills nor slices it"
        )
    return True


def filled(
    ctx: ConversionContext, dims: Sequence[Any], value: Operand | float, dtype: torch.dtype
) -> ITensor:
    """`value` repeated to a tensor of `dims`: one constant element, stretched."""
    if dtype == torch.uint8 and not ctx.is_tensor(value) and is_static(list(dims)):  # it has no slices
        number = value.item() if isinstance(value, torch.Tensor) else value
        return ctx.constant(torch.full(tuple(dims), number, dtype=dtype))
    one = ctx.scalar(value, dtype) if ctx.is_tensor(value) else ctx.constant(value, dtype)
    return ctx.expand(one, dims) if dims else one


@converts(aten.full.default, capability_validator=_fillable)
def full(ctx: ConversionContext, size: Any, value: Operand | float, **_: Any) -> ITensor:
    """A tensor of `size` filled with `value`."""
    return filled(ctx, size, value, output_dtype(ctx, torch.float32))


@converts(aten.full_like.default, capability_validator=_fillable)
def full_like(ctx: ConversionContext, x: Operand, value: Operand | float, **_: Any) -> ITensor:
    """A tensor of the shape of `x` filled with `value`."""
    return filled(ctx, ctx.dims_of(x), value, output_dtype(ctx, ctx.dtype(x)))


@converts(aten.new_full.default, capability_validator=_fillable)
def new_full(ctx: ConversionContext, x: Operand, size: Any, value: Operand | float, **_: Any) -> ITensor:
    """A tensor of `size` filled with `value`, of the dtype of `x` unless told."""
    return filled(ctx, size, value, output_dtype(ctx, ctx.dtype(x)))


# What torch.empty holds is undefined, so zeros are as good as anything.
for _name, _value in {"zeros": 0, "ones": 1, "empty": 0}.items():

    def _sized(ctx: ConversionContext, size: Any, *, _value: int = _value, **_: Any) -> ITensor:
        return filled(ctx, size, _value, output_dtype(ctx, torch.float32))

    def _like(ctx: ConversionContext, x: Operand, *, _value: int = _value, **_: Any) -> ITensor:
        return filled(ctx, ctx.dims_of(x), _value, output_dtype(ctx, ctx.dtype(x)))

    def _new(ctx: ConversionContext, x: Operand, size: Any, *, _value: int = _value, **_: Any) -> ITensor:
        return filled(ctx, size, _value, output_dtype(ctx, ctx.dtype(x)))

    _base = aten.empty.memory_format if _name == "empty" else getattr(aten, _name).default
    converts(_base, name=_name, capability_validator=_fillable)(_sized)
    converts(
        getattr(aten, f"{_name}_like").default,
        name=f"{_name}_like",
        capability_validator=_fillable,
    )(_like)
    converts(
        getattr(aten, f"new_{_name}").default,
        name=f"new_{_name}",
        capability_validator=_fillable,
    )(_new)


# Strides and physical layouts mean nothing inside an engine.
@converts(aten.empty_strided.default, capability_validator=_fillable)
def empty_strided(ctx: ConversionContext, size: Any, stride: Any, **_: Any) -> ITensor:
    """Zeros of `size`."""
    return filled(ctx, size, 0, output_dtype(ctx, torch.float32))


@converts(aten.empty_permuted.default, capability_validator=_fillable)
def empty_permuted(ctx: ConversionContext, size: Any, physical_layout: Any, **_: Any) -> ITensor:
    """Zeros of `size`."""
    return filled(ctx, size, 0, output_dtype(ctx, torch.float32))


@converts(aten.new_empty_strided.default, capability_validator=_fillable)
def new_empty_strided(ctx: ConversionContext, x: Operand, size: Any, stride: Any, **_: Any) -> ITensor:
    """Zeros of `size`, of the dtype of `x` unless told."""
    return filled(ctx, size, 0, output_dtype(ctx, ctx.dtype(x)))


@converts(aten.scalar_tensor.default)
def scalar_tensor(ctx: ConversionContext, value: Operand | float, **_: Any) -> ITensor:
    """A 0-d tensor of a number."""
    return filled(ctx, (), value, output_dtype(ctx, torch.float32))


@converts([aten.eye.default, aten.eye.m], capability_validator=_fillable)
def eye(ctx: ConversionContext, rows: Any, columns: Any = None, **_: Any) -> ITensor:
    """Ones on the diagonal of (rows, columns), zeros besides."""
    columns = rows if columns is None else columns
    row = ctx.reshape(positions(ctx, rows), [rows, 1])
    column = ctx.reshape(positions(ctx, columns), [1, columns])
    return ctx.cast(ctx.elementwise(row, column, "EQUAL"), output_dtype(ctx, torch.float32))

"""Comparisons, logic, and choosing by a condition."""

from __future__ import annotations

from collections.abc import Callable
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
from trtcore_converters._checks import val
from trtcore_converters._declare import converts
from trtcore_converters._values import broadcast_dims, operand, output_dtype
from trtcore_converters.elementwise import arithmetic

aten = torch.ops.aten


# ---- comparisons -------------------------------------------------------------------------------------------


def compare(ctx: ConversionContext, a: Operand | float, b: Operand | float, *operations: str) -> ITensor:
    """Whether any of the operations (EQUAL, LESS, GREATER) holds, after promotion."""
    dtype = ctx.result_type(a, b)
    a, b = ctx.promote(a, b, to=torch.int32 if dtype == torch.bool else dtype)
    result = ctx.elementwise(a, b, operations[0])
    for operation in operations[1:]:
        result = ctx.elementwise(result, ctx.elementwise(a, b, operation), "OR")
    return result


def _comparison(*operations: str) -> Callable[..., Any]:
    def convert(ctx: ConversionContext, a: Operand | float, b: Operand | float) -> ITensor:
        return compare(ctx, operand(ctx, "self", a), operand(ctx, "other", b), *operations)

    return convert


def _not_equal(ctx: ConversionContext, a: Operand | float, b: Operand | float) -> ITensor:
    return ctx.unary(compare(ctx, operand(ctx, "self", a), operand(ctx, "other", b), "EQUAL"), "NOT")


# "Less or equal" is LESS or EQUAL, not "not GREATER", which would be true for NaN.
for _name, _convert in {
    "eq": _comparison("EQUAL"),
    "ne": _not_equal,
    "lt": _comparison("LESS"),
    "gt": _comparison("GREATER"),
    "le": _comparison("LESS", "EQUAL"),
    "ge": _comparison("GREATER", "EQUAL"),
}.items():
    _packet = getattr(aten, _name)
    converts(
        [_packet.Tensor, _packet.Scalar],
        name=_name,
        capability_validator=arithmetic,
    )(_convert)


@converts(aten.isnan.default, capability_validator=arithmetic)
def isnan(ctx: ConversionContext, x: Operand) -> ITensor:
    """Whether an element is NaN; never, for integers."""
    x = ctx.tensor(x)
    if ctx.dtype(x).is_floating_point:
        return ctx.unary(x, "ISNAN")
    return _never(ctx, x)


@converts(aten.isinf.default, capability_validator=arithmetic)
def isinf(ctx: ConversionContext, x: Operand) -> ITensor:
    """Whether an element is infinite; never, for integers."""
    x = ctx.tensor(x)
    return ctx.unary(x, "ISINF") if ctx.dtype(x).is_floating_point else _never(ctx, x)


@converts(aten.isfinite.default, capability_validator=arithmetic)
def isfinite(ctx: ConversionContext, x: Operand) -> ITensor:
    """Whether an element is neither NaN nor infinite."""
    x = ctx.tensor(x)
    if not ctx.dtype(x).is_floating_point:
        return ctx.unary(_never(ctx, x), "NOT")
    return ctx.unary(ctx.elementwise(ctx.unary(x, "ISNAN"), ctx.unary(x, "ISINF"), "OR"), "NOT")


def _never(ctx: ConversionContext, x: Operand) -> ITensor:
    x = ctx.cast(x, torch.int32)
    return ctx.unary(ctx.elementwise(x, x, "EQUAL"), "NOT")


# ---- logic -------------------------------------------------------------------------------------------------


def truth(ctx: ConversionContext, x: Operand | float) -> ITensor:
    """Whether an element is anything but zero (NaN is)."""
    return ctx.tensor(x, torch.bool)


def _logic(operation: str) -> Callable[..., Any]:
    def convert(ctx: ConversionContext, a: Operand | float, b: Operand | float) -> ITensor:
        a, b = operand(ctx, "self", a), operand(ctx, "other", b)
        return ctx.elementwise(truth(ctx, a), truth(ctx, b), operation)

    return convert


for _name, _operation in {"and": "AND", "or": "OR", "xor": "XOR"}.items():
    converts(
        getattr(aten, f"logical_{_name}").default,
        name=f"logical_{_name}",
        capability_validator=arithmetic,
    )(_logic(_operation))


@converts(aten.logical_not.default, capability_validator=arithmetic)
def logical_not(ctx: ConversionContext, x: Operand) -> ITensor:
    """Whether an element is zero."""
    return ctx.unary(truth(ctx, x), "NOT")


# ---- choosing ----------------------------------------------------------------------------------------------


def _bool_condition(name: str) -> Callable[[fx.Node, NodeContext], bool | Reject]:
    def check(node: fx.Node, ctx: NodeContext) -> bool | Reject:
        condition = val(node_arguments(node).get(name))
        if isinstance(condition, torch.Tensor) and condition.dtype != torch.bool:
            return Reject(f"{name} is no bool tensor")
        result = node.meta.get("val")
        if isinstance(result, torch.Tensor) and result.dtype == torch.uint8:
            return Reject("TensorRT has no select on uint8")
        return True

    return check


@converts(
    [aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther, aten.where.Scalar],
    capability_validator=_bool_condition("condition"),
)
def where(ctx: ConversionContext, condition: Any, a: Operand | float, b: Operand | float) -> ITensor:
    """`a` where the condition holds, else `b`."""
    a, b = operand(ctx, "self", a), operand(ctx, "other", b)
    dtype = output_dtype(ctx, ctx.result_type(a, b))
    chosen, other = ctx.tensor(a, dtype), ctx.tensor(b, dtype)
    if a is b:
        # TensorRT for RTX 1.7 dies (SIGSEGV) of a Select that stretches one tensor which is in both its branches.
        return ctx.expand(chosen, broadcast_dims(ctx, [condition, chosen]))
    return ctx.select(ctx.tensor(condition), chosen, other)


@converts([aten.masked_fill.Scalar, aten.masked_fill.Tensor], capability_validator=_bool_condition("mask"))
def masked_fill(ctx: ConversionContext, x: Operand, mask: Any, value: Operand | float) -> ITensor:
    """`value`, cast to the dtype of `x`, where the mask holds, else `x`."""
    x = ctx.tensor(x)
    value = ctx.tensor(operand(ctx, "value", value), ctx.dtype(x))
    return ctx.select(ctx.tensor(mask), value, x)

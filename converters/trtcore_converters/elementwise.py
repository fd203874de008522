"""Arithmetic of two operands, with torch's promotion: the op's dtype is the traced one."""

from __future__ import annotations

import math
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
from trtcore_converters._checks import all_of
from trtcore_converters._declare import converts
from trtcore_converters._loops import LOOPS, whole_power
from trtcore_converters._values import compute_dtype, number, operand, output_dtype, power_of_two
from trtcore_converters.remainders import floor_divide as floor_quotient
from trtcore_converters.remainders import fmod, remainder

aten = torch.ops.aten

ARITHMETIC = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool})
"""The dtypes that TensorRT calculates in (bool is turned into logic)."""

_ON_BOOL = {"SUM": "OR", "PROD": "AND", "MAX": "OR", "MIN": "AND"}


def arithmetic(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    """TensorRT has no arithmetic on uint8 and int8."""
    for source in (node, *node.all_input_nodes):
        tensor = source.meta.get("val")
        if isinstance(tensor, torch.Tensor) and tensor.dtype not in ARITHMETIC:
            return Reject(f"TensorRT has no arithmetic on {str(tensor.dtype).removeprefix('torch.')}")
    return True


def calculate(
    ctx: ConversionContext,
    operation: str,
    a: Operand | float,
    b: Operand | float,
    *,
    to: torch.dtype | None = None,
) -> ITensor:
    """``a operation b`` in the op's dtype; numbers that a low precision would round are taken in float32."""
    dtype = to or output_dtype(ctx, ctx.result_type(a, b))
    if dtype == torch.bool:
        return ctx.elementwise(a, b, _ON_BOOL[operation], to=torch.bool)
    return ctx.cast(ctx.elementwise(a, b, operation, to=compute_dtype(ctx, dtype, a, b)), dtype)


def _operands(
    ctx: ConversionContext, a: Operand | float, b: Operand | float
) -> tuple[Operand | float, Operand | float]:
    return operand(ctx, "self", a), operand(ctx, "other", b)


def _binary(operation: str) -> Callable[..., Any]:
    def convert(ctx: ConversionContext, a: Operand | float, b: Operand | float) -> ITensor:
        return calculate(ctx, operation, *_operands(ctx, a, b))

    return convert


for _op, _name, _operation in (
    (aten.mul.Tensor, "mul", "PROD"),
    (aten.mul.Scalar, "mul", "PROD"),
    (aten.maximum.default, "maximum", "MAX"),
    (aten.minimum.default, "minimum", "MIN"),
    (aten.max.other, "maximum", "MAX"),
    (aten.min.other, "minimum", "MIN"),
    (aten.fmax.default, "fmax", "MAX"),
    (aten.fmin.default, "fmin", "MIN"),
):
    converts(_op, name=_name, capability_validator=arithmetic)(_binary(_operation))


# ---- add, sub ----------------------------------------------------------------------------------------------


def _scaled(
    ctx: ConversionContext, operation: str, a: Operand | float, b: Operand | float, alpha: Any
) -> ITensor:
    """``a operation alpha * b``."""
    if number(alpha) == 1:
        return calculate(ctx, operation, a, b)
    dtype = output_dtype(ctx, ctx.result_type(a, b))
    if dtype == torch.bool:  # alpha is a bool, too
        return calculate(ctx, operation, a, calculate(ctx, "PROD", b, bool(alpha)))
    inside = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    b = ctx.elementwise(b, alpha, "PROD", to=inside)
    return ctx.cast(ctx.elementwise(a, b, operation, to=inside), dtype)


@converts(aten.add.Tensor, capability_validator=arithmetic)
def add(ctx: ConversionContext, a: Operand | float, b: Operand | float, *, alpha: Any = 1) -> ITensor:
    """``a + alpha * b``; the logical or on bools."""
    return _scaled(ctx, "SUM", *_operands(ctx, a, b), operand(ctx, "alpha", alpha))


@converts(aten.add.Scalar, capability_validator=arithmetic)
def add_scalar(ctx: ConversionContext, a: Operand | float, b: Operand | float, alpha: Any = 1) -> ITensor:
    """``a + alpha * b``."""
    return add(ctx, a, b, alpha=alpha)


@converts(aten.sub.Tensor, capability_validator=arithmetic)
def sub(ctx: ConversionContext, a: Operand | float, b: Operand | float, *, alpha: Any = 1) -> ITensor:
    """``a - alpha * b``."""
    return _scaled(ctx, "SUB", *_operands(ctx, a, b), operand(ctx, "alpha", alpha))


@converts(aten.sub.Scalar, capability_validator=arithmetic)
def sub_scalar(ctx: ConversionContext, a: Operand | float, b: Operand | float, alpha: Any = 1) -> ITensor:
    """``a - alpha * b``."""
    return sub(ctx, a, b, alpha=alpha)


@converts([aten.rsub.Tensor, aten.rsub.Scalar], capability_validator=arithmetic)
def rsub(ctx: ConversionContext, a: Operand | float, b: Operand | float, alpha: Any = 1) -> ITensor:
    """``b - alpha * a``."""
    a, b = _operands(ctx, a, b)
    return _scaled(ctx, "SUB", b, a, operand(ctx, "alpha", alpha))


# ---- division ----------------------------------------------------------------------------------------------


def _divide(ctx: ConversionContext, a: Operand | float, b: Operand | float, rounding: str | None) -> ITensor:
    if rounding is None:
        dtype = output_dtype(ctx, torch.float32)
        return ctx.cast(ctx.elementwise(a, b, "DIV", to=compute_dtype(ctx, dtype, a, b)), dtype)
    dtype = output_dtype(ctx, ctx.result_type(a, b))
    if not dtype.is_floating_point:
        return ctx.elementwise(a, b, "FLOOR_DIV" if rounding == "floor" else "DIV", to=dtype)
    if rounding == "floor" and dtype == torch.float32 and not power_of_two(number(b)):
        # 1.0 // 0.1 is 9 (0.1 is a little more than a tenth), and 1.0 / 0.1 is 10. For float16 and bfloat16, float32
        # tells a quotient from a whole number.
        return floor_quotient(ctx, *_broadcast(ctx, a, b, dtype))
    quotient = ctx.elementwise(a, b, "DIV", to=torch.float32)
    return ctx.cast(ctx.unary(quotient, "FLOOR") if rounding == "floor" else truncate(ctx, quotient), dtype)


def _broadcast(
    ctx: ConversionContext, a: Operand | float, b: Operand | float, dtype: torch.dtype
) -> list[ITensor]:
    """Both in float32, after they were rounded to the op's dtype."""
    return [ctx.cast(value, torch.float32) for value in ctx.promote(a, b, to=dtype)]


def truncate(ctx: ConversionContext, x: ITensor) -> ITensor:
    """Floats rounded towards zero: ``sign(x) * floor(abs(x))``."""
    return ctx.elementwise(ctx.unary(x, "SIGN"), ctx.unary(ctx.unary(x, "ABS"), "FLOOR"), "PROD")


@converts(
    [aten.div.Tensor, aten.div.Scalar, aten.true_divide.Tensor, aten.true_divide.Scalar],
    capability_validator=arithmetic,
)
def div(ctx: ConversionContext, a: Operand | float, b: Operand | float) -> ITensor:
    """``a / b``; ints divide as float32."""
    return _divide(ctx, *_operands(ctx, a, b), None)


@converts([aten.div.Tensor_mode, aten.div.Scalar_mode], capability_validator=arithmetic)
def div_mode(
    ctx: ConversionContext, a: Operand | float, b: Operand | float, *, rounding_mode: str | None
) -> ITensor:
    """``a / b``, rounded towards zero (``trunc``), down (``floor``) or not at all."""
    return _divide(ctx, *_operands(ctx, a, b), rounding_mode)


@converts([aten.floor_divide.default, aten.floor_divide.Scalar], capability_validator=arithmetic)
def floor_divide(ctx: ConversionContext, a: Operand | float, b: Operand | float) -> ITensor:
    """``a / b`` rounded down."""
    return _divide(ctx, *_operands(ctx, a, b), "floor")


def _modulus(rounding: str) -> Callable[..., Any]:
    def convert(ctx: ConversionContext, a: Operand | float, b: Operand | float) -> ITensor:
        a, b = _operands(ctx, a, b)
        dtype = output_dtype(ctx, ctx.result_type(a, b))
        if dtype.is_floating_point and not power_of_two(number(b)):
            exact = fmod if rounding == "trunc" else remainder
            return ctx.cast(exact(ctx, *_broadcast(ctx, a, b, dtype)), dtype)
        inside = torch.float32 if dtype.is_floating_point else dtype
        quotient = ctx.cast(_divide(ctx, a, b, rounding), inside)
        return ctx.cast(
            ctx.elementwise(a, ctx.elementwise(quotient, b, "PROD", to=inside), "SUB", to=inside), dtype
        )

    return convert


for _op, _name, _rounding in (
    (aten.remainder.Tensor, "remainder", "floor"),
    (aten.remainder.Scalar, "remainder", "floor"),
    (aten.remainder.Scalar_Tensor, "remainder", "floor"),
    (aten.fmod.Tensor, "fmod", "trunc"),
    (aten.fmod.Scalar, "fmod", "trunc"),
):
    converts(
        _op,
        name=_name,
        capability_validator=arithmetic,
    )(_modulus(_rounding))


# ---- powers ------------------------------------------------------------------------------------------------


def _whole_exponent(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    """Integers to a constant power are multiplied out."""
    result, exponent = node.meta.get("val"), node_arguments(node).get("exponent")
    if not isinstance(result, torch.Tensor) or result.is_floating_point():
        return True
    if not isinstance(exponent, int) or exponent < 0:
        return Reject("integers to a power that is negative, or varies from call to call")
    return True


def _kind_of_power(floating_point: bool) -> Callable[[fx.Node, NodeContext], bool | Reject]:
    def check(node: fx.Node, ctx: NodeContext) -> bool | Reject:
        result = node.meta.get("val")
        if isinstance(result, torch.Tensor) and result.is_floating_point() != floating_point:
            return Reject(f"made for {'floating point' if floating_point else 'integers'}")
        return True

    return check


@converts(aten.pow.Tensor_Scalar, capability_validator=all_of(arithmetic, _whole_exponent))
def pow_scalar(ctx: ConversionContext, x: Operand, exponent: Any) -> ITensor:
    """``x ** exponent``; small whole exponents by multiplication, as torch does."""
    exponent = operand(ctx, "exponent", exponent)
    dtype = output_dtype(ctx, ctx.result_type(x, exponent))
    whole = number(exponent)
    # One product of two float16 numbers is rounded once, in float32 or not.
    inside = torch.float32 if dtype.is_floating_point and whole not in (1, 2) else dtype
    base = ctx.tensor(x, inside)
    if whole == 0:
        result = ctx.elementwise(ctx.elementwise(base, 0, "PROD", to=inside), 1, "SUM", to=inside)
        if inside.is_floating_point:  # 0 * inf is no zero, but inf ** 0 is one
            result = ctx.expand(ctx.constant(torch.ones([1] * ctx.rank(x))), ctx.dims_of(x))
    elif whole in (0.5, -0.5):
        result = ctx.unary(base, "SQRT")
        result = ctx.unary(result, "RECIP") if whole < 0 else result
    elif whole in (-1, -2):
        result = ctx.unary(_multiplied(ctx, base, int(-whole), inside), "RECIP")
    elif whole in (1, 2, 3) or not inside.is_floating_point:
        result = _multiplied(ctx, base, int(whole), inside)
    else:
        result = ctx.elementwise(base, exponent, "POW", to=inside)
    return ctx.cast(result, dtype)


def _multiplied(ctx: ConversionContext, x: ITensor, exponent: int, dtype: torch.dtype) -> ITensor:
    """``x ** exponent`` for exponent >= 1, by repeated squaring."""
    result: ITensor | None = None
    while exponent:
        if exponent & 1:
            result = x if result is None else ctx.elementwise(result, x, "PROD", to=dtype)
        exponent >>= 1
        if exponent:
            x = ctx.elementwise(x, x, "PROD", to=dtype)
    assert result is not None
    return result


@converts(
    [aten.pow.Tensor_Tensor, aten.pow.Scalar],
    capability_validator=all_of(arithmetic, _kind_of_power(True)),
)
def pow_tensor(ctx: ConversionContext, x: Operand | float, exponent: Any) -> ITensor:
    """``x ** exponent`` in floating point (float16 and bfloat16 through float32)."""
    x, exponent = operand(ctx, "self", x), operand(ctx, "exponent", exponent)
    dtype = output_dtype(ctx, torch.float32)
    return ctx.cast(ctx.elementwise(x, exponent, "POW", to=torch.float32), dtype)


@converts(
    [aten.pow.Tensor_Tensor, aten.pow.Scalar],
    capability_validator=all_of(arithmetic, _kind_of_power(False)),
    requires=LOOPS,
)
def pow_integers(ctx: ConversionContext, x: Operand | float, exponent: Any) -> ITensor:
    """``x ** exponent`` of integers, which TensorRT's own power would compute in floating point."""
    x, exponent = operand(ctx, "self", x), operand(ctx, "exponent", exponent)
    return whole_power(ctx, x, exponent, output_dtype(ctx, torch.int64))


# ---- clamp -------------------------------------------------------------------------------------------------


@converts(
    [aten.clamp.default, aten.clamp.Tensor, aten.clip.default, aten.clip.Tensor],
    capability_validator=arithmetic,
)
def clamp(ctx: ConversionContext, x: Operand, low: Any = None, high: Any = None) -> ITensor:
    """``min(max(x, low), high)``; where low > high, the result is high, as in torch."""
    result = ctx.tensor(x)
    dtype = output_dtype(ctx, ctx.dtype(result))
    for name, bound, operation in (("min", low, "MAX"), ("max", high, "MIN")):
        if bound is not None:
            result = calculate(ctx, operation, result, operand(ctx, name, bound), to=dtype)
    return ctx.cast(result, dtype)


@converts([aten.clamp_min.default, aten.clamp_min.Tensor], capability_validator=arithmetic)
def clamp_min(ctx: ConversionContext, x: Operand, low: Any) -> ITensor:
    """``max(x, low)``."""
    return clamp(ctx, x, low)


@converts([aten.clamp_max.default, aten.clamp_max.Tensor], capability_validator=arithmetic)
def clamp_max(ctx: ConversionContext, x: Operand, high: Any) -> ITensor:
    """``min(x, high)``."""
    return clamp(ctx, x, None, high)


# ---- angles -------------------------------------------------------------------------------------------------


@converts(aten.atan2.default, capability_validator=arithmetic)
def atan2(ctx: ConversionContext, y: Any, x: Operand) -> ITensor:
    """The angle of (x, y): ``atan(y / x)``, turned by pi to the side where x is negative; 0 for (0, 0)."""
    dtype = output_dtype(ctx, torch.float32)
    y, x = ctx.promote(y, x, to=torch.float32)
    angle = ctx.unary(ctx.elementwise(y, x, "DIV"), "ATAN")
    # 1 / y tells -0.0 from 0.0.
    below = ctx.elementwise(
        ctx.elementwise(y, 0.0, "LESS"), ctx.elementwise(ctx.unary(y, "RECIP"), 0.0, "LESS"), "OR"
    )
    turn = ctx.select(below, -math.pi, math.pi)
    angle = ctx.select(ctx.elementwise(x, 0.0, "LESS"), ctx.elementwise(angle, turn, "SUM"), angle)
    # On the axis y = 0 with x >= 0; 0 / 0 would be NaN.
    flat = ctx.elementwise(
        ctx.elementwise(y, 0.0, "EQUAL"), ctx.unary(ctx.elementwise(x, 0.0, "LESS"), "NOT"), "AND"
    )
    return ctx.cast(ctx.select(flat, 0.0, angle), dtype)

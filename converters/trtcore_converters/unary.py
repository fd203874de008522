"""Functions of one tensor, element by element.

Integers and bools become float32 first where torch's result is floating point, as in torch. What has no layer
of its own is composed in float32 and rounded once; the compositions keep their relative precision where the
obvious formula would cancel (``exp(x) - 1`` near 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from trtcore.pack import (
    ConversionContext,
    ITensor,
    Operand,
)
from trtcore_converters._checks import all_of, floating, not_bool, numeric
from trtcore_converters._declare import converts
from trtcore_converters._exponents import exponent, scaled
from trtcore_converters._values import LOW_PRECISION, output_dtype

aten = torch.ops.aten

# ---- one layer ----

_FLOATING = {
    aten.exp.default: "EXP",
    aten.log.default: "LOG",
    aten.sqrt.default: "SQRT",
    aten.reciprocal.default: "RECIP",
    aten.sin.default: "SIN",
    aten.cos.default: "COS",
    aten.tan.default: "TAN",
    aten.sinh.default: "SINH",
    aten.cosh.default: "COSH",
    aten.asin.default: "ASIN",
    aten.acos.default: "ACOS",
    aten.atan.default: "ATAN",
    aten.asinh.default: "ASINH",
    aten.acosh.default: "ACOSH",
    aten.atanh.default: "ATANH",
    aten.erf.default: "ERF",
}
"""The result is floating point, whatever goes in."""

_KEEPING = {
    aten.abs.default: "ABS",
    aten.neg.default: "NEG",
    aten.sign.default: "SIGN",
    aten.sgn.default: "SIGN",
}
"""The result has the input's dtype, floating point or integer."""

_ROUNDING = {aten.ceil.default: "CEIL", aten.floor.default: "FLOOR", aten.round.default: "ROUND"}
"""Integers stay as they are. ROUND is half to even, in TensorRT as in torch."""


def _floating(operation: str) -> Callable[..., Any]:
    return lambda ctx, x: ctx.unary(_as_float(ctx, x), operation)


def _keeping(operation: str) -> Callable[..., Any]:
    return lambda ctx, x: ctx.unary(ctx.tensor(x), operation)


def _rounding(operation: str) -> Callable[..., Any]:
    return lambda ctx, x: (
        ctx.unary(ctx.tensor(x), operation) if ctx.dtype(x).is_floating_point else ctx.tensor(x)
    )


for _table, _make, _check in (
    (_FLOATING, _floating, numeric),
    (_KEEPING, _keeping, all_of(numeric, not_bool())),
    (_ROUNDING, _rounding, all_of(numeric, not_bool())),
):
    for _op, _operation in _table.items():
        converts(_op, name=str(_op).split(".")[1], capability_validator=_check)(_make(_operation))


# ---- several layers ----


def _as_float(ctx: ConversionContext, x: Operand) -> ITensor:
    """`x` in the dtype of torch's floating-point result: its own, or the default dtype for an integer."""
    return ctx.tensor(x, ctx.dtype(x) if ctx.dtype(x).is_floating_point else output_dtype(ctx, torch.float32))


def _in_float32(formula: Callable[[ConversionContext, Any], Any]) -> Callable[..., Any]:
    """A converter that evaluates `formula` in float32 and rounds once."""

    def convert(ctx: ConversionContext, x: Operand) -> ITensor:
        x = _as_float(ctx, x)
        dtype = ctx.dtype(x)
        wide = torch.float32 if dtype in LOW_PRECISION else dtype
        return ctx.cast(formula(ctx, ctx.cast(x, wide)), dtype)

    return convert


def _rsqrt(ctx: ConversionContext, x: ITensor) -> ITensor:
    return ctx.unary(ctx.unary(x, "SQRT"), "RECIP")


def _expm1(ctx: ConversionContext, x: Operand) -> ITensor:
    """``2 sinh(x/2) exp(x/2)``: no cancellation near 0."""
    half = ctx.elementwise(x, 0.5, "PROD")
    product = ctx.elementwise(ctx.unary(half, "SINH"), ctx.unary(half, "EXP"), "PROD")
    # Far below 0 the two overflow and underflow; there the result is -1.
    small = ctx.elementwise(x, -80.0, "LESS")
    return ctx.select(small, -1.0, ctx.elementwise(product, 2.0, "PROD"))


def _log1p(ctx: ConversionContext, x: Operand) -> ITensor:
    """``log(u) * x / (u - 1)`` with ``u = 1 + x``, whose rounding cancels (Kahan); x itself where u is 1."""
    u = ctx.elementwise(x, 1.0, "SUM")
    excess = ctx.elementwise(u, 1.0, "SUB")
    log = ctx.unary(u, "LOG")
    corrected = ctx.elementwise(log, ctx.elementwise(x, excess, "DIV"), "PROD")
    unchanged = ctx.elementwise(u, 1.0, "EQUAL")
    infinite = ctx.elementwise(u, math.inf, "EQUAL")
    return ctx.select(unchanged, x, ctx.select(infinite, log, corrected))


def _log(base: float) -> Callable[[ConversionContext, Any], Any]:
    return lambda ctx, x: ctx.elementwise(ctx.unary(x, "LOG"), 1.0 / math.log(base), "PROD")


def _exp2(ctx: ConversionContext, x: Operand) -> ITensor:
    return ctx.elementwise(2.0, x, "POW")


def _spherical_bessel_j0(ctx: ConversionContext, x: ITensor) -> ITensor:
    """``sin(x) / x``; where x is small the first terms of its series, at the infinities 0."""
    square = ctx.elementwise(x, x, "PROD")
    series = ctx.elementwise(square, -1 / 5040, "PROD")
    for coefficient in (1 / 120, -1 / 6):
        series = ctx.elementwise(ctx.elementwise(series, coefficient, "SUM"), square, "PROD")
    series = ctx.elementwise(series, 1.0, "SUM")
    size = ctx.unary(x, "ABS")
    ratio = ctx.elementwise(ctx.unary(x, "SIN"), x, "DIV")
    far = ctx.select(ctx.elementwise(size, math.inf, "EQUAL"), 0.0, ratio)
    return ctx.select(ctx.elementwise(size, 0.5, "LESS"), series, far)


def _scaled(factor: float) -> Callable[[ConversionContext, Any], Any]:
    return lambda ctx, x: ctx.elementwise(x, factor, "PROD")


for _op, _formula in {
    aten.rsqrt.default: _rsqrt,
    aten.expm1.default: _expm1,
    aten.log1p.default: _log1p,
    aten.log2.default: _log(2.0),
    aten.log10.default: _log(10.0),
    aten.exp2.default: _exp2,
    aten.special_spherical_bessel_j0.default: _spherical_bessel_j0,
    aten.deg2rad.default: _scaled(math.pi / 180.0),
    aten.rad2deg.default: _scaled(180.0 / math.pi),
}.items():
    converts(_op, name=str(_op).split(".")[1], capability_validator=numeric)(_in_float32(_formula))


_NUMBERS = all_of(numeric, not_bool())


@converts(aten.square.default, capability_validator=_NUMBERS)
def square(ctx: ConversionContext, x: Operand) -> ITensor:
    """``x * x``, in the input's dtype."""
    return ctx.elementwise(x, x, "PROD")


@converts([aten.trunc.default, aten.fix.default], capability_validator=_NUMBERS)
def trunc(ctx: ConversionContext, x: Operand) -> ITensor:
    """Towards zero: the ceiling of negative numbers, the floor of others."""
    x = ctx.tensor(x)
    return _truncated(ctx, x) if ctx.dtype(x).is_floating_point else x


@converts(aten.frac.default, capability_validator=_NUMBERS)
def frac(ctx: ConversionContext, x: Operand) -> ITensor:
    """What `trunc` cuts off."""
    x = ctx.tensor(x)
    return ctx.elementwise(x, _truncated(ctx, x), "SUB")


def _truncated(ctx: ConversionContext, x: ITensor) -> ITensor:
    return ctx.select(ctx.elementwise(x, 0.0, "LESS"), ctx.unary(x, "CEIL"), ctx.unary(x, "FLOOR"))


@converts(aten.round.decimals, capability_validator=_NUMBERS)
def round_decimals(ctx: ConversionContext, x: Operand, *, decimals: int) -> ITensor:
    """Scale by a power of ten, round half to even, scale back; each in the input's dtype, as torch does."""
    x = ctx.tensor(x)
    if not ctx.dtype(x).is_floating_point:
        return x
    if decimals == 0:
        return ctx.unary(x, "ROUND")
    there, back = ("PROD", "DIV") if decimals > 0 else ("DIV", "PROD")
    factor = 10.0 ** abs(decimals)
    return ctx.elementwise(ctx.unary(ctx.elementwise(x, factor, there), "ROUND"), factor, back)


@converts(aten.signbit.default, capability_validator=_NUMBERS)
def signbit(ctx: ConversionContext, x: Operand) -> ITensor:
    """Whether an element is negative; TensorRT does not see the sign of a zero."""
    return ctx.elementwise(x, 0, "LESS")


@converts(aten.nan_to_num.default, capability_validator=_NUMBERS)
def nan_to_num(
    ctx: ConversionContext,
    x: Operand,
    nan: float | None = None,
    posinf: float | None = None,
    neginf: float | None = None,
) -> ITensor:
    """NaN and infinities replaced, by 0 and the dtype's largest and smallest number unless given."""
    x = ctx.tensor(x)
    dtype = ctx.dtype(x)
    if not dtype.is_floating_point:
        return x
    limits = torch.finfo(dtype)
    out = ctx.select(ctx.unary(x, "ISNAN"), ctx.constant(0.0 if nan is None else nan, dtype), x)
    for infinity, given, limit in ((math.inf, posinf, limits.max), (-math.inf, neginf, limits.min)):
        found = ctx.elementwise(x, ctx.constant(infinity, dtype), "EQUAL")
        out = ctx.select(found, ctx.constant(limit if given is None else given, dtype), out)
    return out


@converts(aten.logit.default, capability_validator=numeric)
def logit(ctx: ConversionContext, x: Operand, eps: float | None = None) -> Any:
    """``log(x / (1 - x))``, x clamped to ``[eps, 1 - eps]``."""

    def formula(ctx: ConversionContext, x: Operand) -> ITensor:
        if eps is not None:
            x = ctx.elementwise(ctx.elementwise(x, eps, "MAX"), 1.0 - eps, "MIN")
        return ctx.unary(ctx.elementwise(x, ctx.elementwise(1.0, x, "SUB"), "DIV"), "LOG")

    return _in_float32(formula)(ctx, x)


@converts(aten.frexp.Tensor, capability_validator=floating())
def frexp(ctx: ConversionContext, x: Operand) -> tuple[ITensor, ITensor]:
    """m and e (int32) with ``x == m * 2**e`` and 0.5 <= abs(m) < 1; for 0, infinities and NaN x itself and 0."""
    x = ctx.tensor(x)
    wide = ctx.cast(x, torch.float32)
    size = ctx.unary(wide, "ABS")
    e = ctx.elementwise(exponent(ctx, size), 1, "SUM")
    m = scaled(ctx, wide, ctx.unary(e, "NEG"))
    for wrong, factor, step in (  # a logarithm may be rounded to the wrong side
        (ctx.unary(ctx.elementwise(ctx.unary(m, "ABS"), 1.0, "LESS"), "NOT"), 0.5, 1),
        (ctx.elementwise(ctx.unary(m, "ABS"), 0.5, "LESS"), 2.0, -1),
    ):
        m = ctx.select(wrong, ctx.elementwise(m, factor, "PROD"), m)
        e = ctx.select(wrong, ctx.elementwise(e, step, "SUM"), e)
    has_one = ctx.elementwise(
        ctx.elementwise(size, math.inf, "LESS"), ctx.elementwise(size, 0.0, "GREATER"), "AND"
    )
    return ctx.cast(ctx.select(has_one, m, wide), ctx.dtype(x)), ctx.cast(
        ctx.select(has_one, e, 0), torch.int32
    )

"""Bitwise operations and shifts.

TensorRT's AND, OR and XOR take bools only (operator reference, IElementWiseLayer: "AND, OR, XOR: BOOL"). Integers are
taken apart into digits of four bits, which are looked up in a table of 256 results and put together again; shifts are
products and quotients of powers of two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from trtcore.pack import (
    ConversionContext,
    ITensor,
    Operand,
)
from trtcore_converters._declare import converts
from trtcore_converters._values import operand, output_dtype
from trtcore_converters.comparison import truth
from trtcore_converters.elementwise import arithmetic

aten = torch.ops.aten

_BASE = 16
_BITS = {torch.int32: 32, torch.int64: 64}


# ---- and, or, xor ------------------------------------------------------------------------------------------


def _digits(ctx: ConversionContext, x: ITensor, count: int) -> ITensor:
    """The base-16 digits of int64 numbers in two's complement, lowest first, along a new last dim.

    Digit k is ``floor(x / 16**k) mod 16``, negative numbers included.
    """
    column = ctx.reshape(x, [*ctx.dims_of(x), 1])
    powers = ctx.constant(torch.tensor([_BASE**k for k in range(count)]))
    quotient = ctx.elementwise(column, powers, "FLOOR_DIV")
    above = ctx.elementwise(quotient, _BASE, "FLOOR_DIV")
    return ctx.elementwise(quotient, ctx.elementwise(above, _BASE, "PROD"), "SUB")


def _number(ctx: ConversionContext, digits: Any, count: int) -> ITensor:
    """The int64 numbers of digits; the highest bit of the last digit is the sign."""
    last = torch.zeros(count, dtype=torch.int64)
    last[-1] = _BASE
    negative = ctx.elementwise(digits, _BASE // 2, "FLOOR_DIV")
    signed = ctx.elementwise(digits, ctx.elementwise(negative, ctx.constant(last), "PROD"), "SUB")
    powers = ctx.constant(torch.tensor([_BASE**k for k in range(count)]))
    return ctx.reduce(ctx.elementwise(signed, powers, "PROD"), "SUM", [ctx.rank(digits) - 1])


def _on_integers(
    ctx: ConversionContext, a: Operand | float, b: Operand | float, table: torch.Tensor, dtype: torch.dtype
) -> ITensor:
    count = _BITS[dtype] // 4
    a, b = ctx.promote(a, b, to=torch.int64)
    left = ctx.elementwise(_digits(ctx, a, count), _BASE, "PROD")
    pairs = ctx.elementwise(left, _digits(ctx, b, count), "SUM")
    return ctx.cast(_number(ctx, ctx.gather(ctx.constant(table), pairs, 0), count), dtype)


def _table(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Result of two digits at ``16 * a + b``."""
    digits = torch.arange(_BASE)
    return function(digits[:, None], digits[None, :]).flatten()


def _bitwise(operation: str, function: Callable[..., Any]) -> Callable[..., Any]:
    table = _table(function)

    def convert(ctx: ConversionContext, a: Operand | float, b: Operand | float) -> ITensor:
        a, b = operand(ctx, "self", a), operand(ctx, "other", b)
        dtype = output_dtype(ctx, ctx.result_type(a, b))
        if dtype == torch.bool:
            return ctx.elementwise(truth(ctx, a), truth(ctx, b), operation)
        return _on_integers(ctx, a, b, table, dtype)

    return convert


for _name, _operation, _function in (
    ("and", "AND", torch.bitwise_and),
    ("or", "OR", torch.bitwise_or),
    ("xor", "XOR", torch.bitwise_xor),
):
    _packet, _dunder = getattr(aten, f"bitwise_{_name}"), getattr(aten, f"__{_name}__")
    converts(
        [_packet.Tensor, _packet.Scalar, _packet.Scalar_Tensor, _dunder.Tensor, _dunder.Scalar],
        name=f"bitwise_{_name}",
        capability_validator=arithmetic,
    )(_bitwise(_operation, _function))


@converts(aten.bitwise_not.default, capability_validator=arithmetic)
def bitwise_not(ctx: ConversionContext, x: Operand) -> ITensor:
    """Not, on bools; ``-1 - x`` on integers, which is the same bits."""
    x = ctx.tensor(x)
    if ctx.dtype(x) == torch.bool:
        return ctx.unary(x, "NOT")
    return ctx.elementwise(-1, x, "SUB", to=ctx.dtype(x))


# ---- shifts ------------------------------------------------------------------------------------------------


def _power(ctx: ConversionContext, shift: Any) -> ITensor:
    """2 to the power of integers from 0 to 63, as int64 (2**63 wraps, as it does in torch)."""
    powers = torch.tensor([1 << k for k in range(63)] + [-(1 << 63)])
    return ctx.gather(ctx.constant(powers), shift, 0)


def _shift_left(ctx: ConversionContext, x: Operand | float, shift: Any) -> ITensor:
    """``x * 2 ** shift``; 0 where the shift is negative or as wide as the dtype, as in torch."""
    x, shift = operand(ctx, "self", x), operand(ctx, "other", shift)
    dtype = output_dtype(ctx, ctx.result_type(x, shift))
    bits = _BITS[dtype]
    x, shift = ctx.promote(x, shift, to=torch.int64)
    outside = _outside(ctx, shift, bits)
    power = ctx.select(outside, 0, _power(ctx, ctx.select(outside, 0, shift)))
    return ctx.cast(ctx.elementwise(ctx.cast(x, dtype), _wrapped(ctx, power, dtype), "PROD"), dtype)


def _wrapped(ctx: ConversionContext, power: Any, dtype: torch.dtype) -> Any:
    """Powers of two in a dtype; 2**31 becomes the lowest int32, since casts of what is out of range saturate."""
    if dtype == torch.int64:
        return power
    return ctx.cast(ctx.select(ctx.elementwise(power, 1 << 31, "EQUAL"), -(1 << 31), power), dtype)


def _shift_right(ctx: ConversionContext, x: Operand | float, shift: Any) -> ITensor:
    """``floor(x / 2 ** shift)``; a negative or too large shift leaves only the sign, as in torch."""
    x, shift = operand(ctx, "self", x), operand(ctx, "other", shift)
    dtype = output_dtype(ctx, ctx.result_type(x, shift))
    bits = _BITS[dtype]
    x, shift = ctx.promote(x, shift, to=torch.int64)
    shift = ctx.select(_outside(ctx, shift, bits), bits - 1, shift)
    half = ctx.elementwise(shift, 2, "FLOOR_DIV")  # 2**63 is no int64: in two steps
    x = ctx.elementwise(x, _power(ctx, half), "FLOOR_DIV")
    return ctx.cast(ctx.elementwise(x, _power(ctx, ctx.elementwise(shift, half, "SUB")), "FLOOR_DIV"), dtype)


def _outside(ctx: ConversionContext, shift: Any, bits: int) -> ITensor:
    below, above = ctx.elementwise(shift, 0, "LESS"), ctx.elementwise(shift, bits - 1, "GREATER")
    return ctx.elementwise(below, above, "OR")


for _name, _dunder_name, _convert in (
    ("bitwise_left_shift", "__lshift__", _shift_left),
    ("bitwise_right_shift", "__rshift__", _shift_right),
):
    _packet, _dunder = getattr(aten, _name), getattr(aten, _dunder_name)
    converts(
        [_packet.Tensor, _packet.Tensor_Scalar, _packet.Scalar_Tensor, _dunder.Tensor, _dunder.Scalar],
        name=_name,
        capability_validator=arithmetic,
    )(_convert)

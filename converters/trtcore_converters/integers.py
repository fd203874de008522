"""Divisors of integers: as many steps as any numbers may need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trtcore.pack import (
    ConversionContext,
    ITensor,
    Operand,
)
from trtcore_converters._declare import converts
from trtcore_converters._loops import LOOPS, repeat, stretched
from trtcore_converters._values import output_dtype
from trtcore_converters.elementwise import arithmetic

aten = torch.ops.aten

# Euclid's algorithm is slowest on neighbours in Fibonacci's sequence: the 46th is the last in int32, the 92nd in int64.
_EUCLID = {torch.int32: 48, torch.int64: 94}


def _gcd(ctx: ConversionContext, a: ITensor, b: ITensor, dtype: torch.dtype) -> ITensor:
    def step(a: Any, b: Any) -> Sequence[Any]:
        """(b, a mod b); once b is 0, as it was: what is left of a divided by one is 0."""
        done = ctx.elementwise(b, 0, "EQUAL")
        divisor = ctx.select(done, 1, b)
        rest = ctx.elementwise(a, ctx.elementwise(ctx.elementwise(a, divisor, "DIV"), divisor, "PROD"), "SUB")
        return ctx.select(done, a, b), rest

    return repeat(ctx, _EUCLID[dtype], step, [ctx.unary(value, "ABS") for value in (a, b)])


@converts(aten.gcd.default, capability_validator=arithmetic, requires=LOOPS)
def gcd(ctx: ConversionContext, a: Operand | float, b: Operand | float) -> ITensor:
    """The greatest common divisor, by Euclid's algorithm."""
    dtype = output_dtype(ctx, ctx.result_type(a, b))
    a, b = stretched(ctx, dtype, a, b)
    return _gcd(ctx, a, b, dtype)


@converts(aten.lcm.default, capability_validator=arithmetic, requires=LOOPS)
def lcm(ctx: ConversionContext, a: Operand | float, b: Operand | float) -> ITensor:
    """The least common multiple: ``abs(a / gcd * b)``, and 0 where both are 0."""
    dtype = output_dtype(ctx, ctx.result_type(a, b))
    a, b = stretched(ctx, dtype, a, b)
    divisor = ctx.elementwise(_gcd(ctx, a, b, dtype), 1, "MAX")
    return ctx.unary(ctx.elementwise(ctx.elementwise(a, divisor, "DIV"), b, "PROD"), "ABS")

"""Loops of a fixed number of steps, and powers of integers by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from trtcore.pack import ConversionContext, ITensor, Operand, Requires
from trtcore_converters._values import broadcast_dims

LOOPS = Requires(layers=frozenset({"add_loop"}))


def repeat(
    ctx: ConversionContext,
    count: int,
    step: Callable[..., Sequence[Any]],
    initial: Sequence[Any],
    result: int = 0,
) -> ITensor:
    """The value `result` after `count` times ``values = step(*values)``; every value keeps its shape and dtype."""
    loop = ctx.net.add_loop()
    loop.add_trip_limit(ctx.constant(count, torch.int32), ctx.trt.TripLimit.COUNT)
    recurrences = [loop.add_recurrence(value) for value in initial]
    values = [ctx.output(layer) for layer in recurrences]
    for layer, value in zip(recurrences, step(*values)):
        layer.set_input(1, value)
    return ctx.output(loop.add_loop_output(values[result], ctx.trt.LoopOutput.LAST_VALUE))


def stretched(ctx: ConversionContext, dtype: torch.dtype, *values: Any) -> list[ITensor]:
    """The values, broadcast against each other: what a loop carries cannot change its shape."""
    tensors = ctx.promote(*values, to=dtype)
    dims = broadcast_dims(ctx, tensors)
    return [ctx.expand(tensor, dims) if dims else tensor for tensor in tensors]


# ---- powers ------------------------------------------------------------------------------------------------


def whole_power(ctx: ConversionContext, base: Any, exponent: Any, dtype: torch.dtype) -> ITensor:
    """Integers to the power of integers, wrapping, by repeated squaring.

    With a negative exponent 1 and -1 have a power, as in torch; of everything else it is 0.
    """
    base, exponent = stretched(ctx, dtype, base, exponent)

    def step(result: Any, base: Any, rest: Any) -> Sequence[Any]:
        half = ctx.elementwise(rest, 2, "DIV")
        factor = ctx.select(_odd(ctx, rest, half), base, 1)
        return ctx.elementwise(result, factor, "PROD"), ctx.elementwise(base, base, "PROD"), half

    one = ctx.expand(ctx.constant(1, dtype), ctx.dims_of(base)) if ctx.rank(base) else ctx.constant(1, dtype)
    power = repeat(ctx, torch.iinfo(dtype).bits - 1, step, [one, base, ctx.elementwise(exponent, 0, "MAX")])
    odd = _odd(ctx, exponent, ctx.elementwise(exponent, 2, "DIV"))
    of_minus_one = ctx.select(
        ctx.elementwise(base, -1, "EQUAL"), ctx.select(odd, -1, ctx.constant(1, dtype)), 0
    )
    inverse = ctx.select(ctx.elementwise(base, 1, "EQUAL"), 1, of_minus_one)
    return ctx.select(ctx.elementwise(exponent, 0, "LESS"), inverse, power)


def _odd(ctx: ConversionContext, x: Operand, half: Any) -> ITensor:
    """Whether `x`, of which the half is `half` rounded towards zero, is odd."""
    return ctx.unary(ctx.elementwise(ctx.elementwise(half, 2, "PROD"), x, "EQUAL"), "NOT")

"""Shape expressions (sympy, as torch.export makes them) as TensorRT shape arithmetic on int64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sympy

from trtcore.errors import ConversionError

if TYPE_CHECKING:
    from trtcore.conversion.context import ConversionContext


def build_expression(ctx: ConversionContext, expression: Any, memo: dict[Any, Any]) -> Any:
    """Return an int, or an int64 ITensor of shape (1,), for a sympy expression over bound symbols.

    Raises ConversionError for a symbol that nothing binds, or a function with no TensorRT counterpart.
    """
    if isinstance(expression, int):
        return expression
    if expression.is_Integer:
        return int(expression)
    if expression in memo:
        return memo[expression]
    if expression.is_Symbol:
        return ctx.symbol(expression.name)
    arguments = [build_expression(ctx, argument, memo) for argument in _arguments(expression)]
    result = _apply(ctx, expression, arguments)
    memo[expression] = result
    return result


def _arguments(expression: sympy.Expr) -> tuple[Any, ...]:
    if isinstance(expression, sympy.Pow):
        exponent = expression.exp
        if not (exponent.is_Integer and 0 < int(exponent) <= 8):
            raise ConversionError(
                f"the size {expression} is a power that TensorRT cannot compute on integers"
            )
        return (expression.base,) * int(exponent)
    return tuple(expression.args)


def _apply(ctx: ConversionContext, expression: sympy.Expr, arguments: list[Any]) -> Any:
    kind = type(expression).__name__
    if kind in ("Add", "Mul", "Pow", "Max", "Min"):
        operation = {"Add": "SUM", "Mul": "PROD", "Pow": "PROD", "Max": "MAX", "Min": "MIN"}[kind]
        result = arguments[0]
        for argument in arguments[1:]:
            result = ctx.dim_op(result, argument, operation)
        return result
    if kind in ("FloorDiv", "CleanDiv"):
        numerator, denominator = arguments
        return ctx.dim_op(numerator, denominator, "FLOOR_DIV")
    if kind in ("Mod", "PythonMod"):
        return _modulo(ctx, *arguments)
    if kind == "ModularIndexing":
        base, divisor, modulus = arguments
        return _modulo(ctx, ctx.dim_op(base, divisor, "FLOOR_DIV"), modulus)
    raise ConversionError(f"the size {expression} uses {kind}, which has no TensorRT counterpart")


def _modulo(ctx: ConversionContext, a: Any, b: Any) -> Any:
    return ctx.dim_op(a, ctx.dim_op(ctx.dim_op(a, b, "FLOOR_DIV"), b, "PROD"), "SUB")

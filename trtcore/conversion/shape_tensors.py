"""Shape expressions (sympy, as torch.export makes them) as TensorRT shape arithmetic on int64."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import sympy

from trtcore.errors import ConversionError

if TYPE_CHECKING:
    from trtcore.conversion.tensors import Dim

DimOp: TypeAlias = "Callable[[Dim, Dim, str], Dim]"
"""Integer arithmetic on two dims by its ElementWiseOperation name."""


def build_expression(
    expression: sympy.Expr | int,
    symbol: Callable[[str], Dim],
    dim_op: DimOp,
    memo: dict[sympy.Expr, Dim],
) -> Dim:
    """Return an int, or an int64 ITensor of shape (1,), for a sympy expression over bound symbols.

    Args:
        symbol: the dim that a symbol's name stands for.
        dim_op: see `DimOp`.
        memo: what was built before, by expression; added to.

    Raises:
        ConversionError: a symbol that nothing binds, or a function with no TensorRT counterpart.
    """
    if isinstance(expression, int):
        return expression
    if expression.is_Integer:
        return int(expression)
    if expression in memo:
        return memo[expression]
    if expression.is_Symbol:
        return symbol(expression.name)
    arguments = [build_expression(argument, symbol, dim_op, memo) for argument in _arguments(expression)]
    result = memo[expression] = _apply(dim_op, expression, arguments)
    return result


def _arguments(expression: sympy.Expr) -> tuple[sympy.Expr, ...]:
    if isinstance(expression, sympy.Pow):
        exponent = expression.exp
        if not (exponent.is_Integer and 0 < int(exponent) <= 8):
            raise ConversionError(
                f"the size {expression} is a power that TensorRT cannot compute on integers"
            )
        return (expression.base,) * int(exponent)
    return tuple(expression.args)


def _apply(dim_op: DimOp, expression: sympy.Expr, arguments: list[Dim]) -> Dim:
    kind = type(expression).__name__
    if kind in ("Add", "Mul", "Pow", "Max", "Min"):
        operation = {"Add": "SUM", "Mul": "PROD", "Pow": "PROD", "Max": "MAX", "Min": "MIN"}[kind]
        result = arguments[0]
        for argument in arguments[1:]:
            result = dim_op(result, argument, operation)
        return result
    if kind in ("FloorDiv", "CleanDiv"):
        numerator, denominator = arguments
        return dim_op(numerator, denominator, "FLOOR_DIV")
    if kind in ("Mod", "PythonMod"):
        return _modulo(dim_op, *arguments)
    if kind == "ModularIndexing":
        base, divisor, modulus = arguments
        return _modulo(dim_op, dim_op(base, divisor, "FLOOR_DIV"), modulus)
    raise ConversionError(f"the size {expression} uses {kind}, which has no TensorRT counterpart")


def _modulo(dim_op: DimOp, a: Dim, b: Dim) -> Dim:
    return dim_op(a, dim_op(dim_op(a, b, "FLOOR_DIV"), b, "PROD"), "SUB")

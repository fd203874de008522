"""Sizes as expressions: from sympy, as torch traces them, to any integer arithmetic.

TensorRT's shape expressions have sum, difference, product, floor and ceiling division, minimum, maximum, and
the comparisons "equal" and "less", which are 1 or 0. `lower` writes every expression that torch makes of sizes
in these; `Integers` evaluates it on numbers, `trtcore_plugins.quick.ShapeArithmetic` builds it for TensorRT.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, Protocol

import sympy

from trtcore.pack import ConversionError


class Arithmetic(Protocol):
    """Integer operations on some kind of number. An operand may be a Python int."""

    def add(self, a: Any, b: Any) -> Any: ...
    def sub(self, a: Any, b: Any) -> Any: ...
    def mul(self, a: Any, b: Any) -> Any: ...
    def floor_div(self, a: Any, b: Any) -> Any: ...
    def ceil_div(self, a: Any, b: Any) -> Any: ...
    def min(self, a: Any, b: Any) -> Any: ...
    def max(self, a: Any, b: Any) -> Any: ...
    def equal(self, a: Any, b: Any) -> Any: ...
    def less(self, a: Any, b: Any) -> Any: ...


class Integers:
    """Python ints."""

    def add(self, a: int, b: int) -> int:
        return a + b

    def sub(self, a: int, b: int) -> int:
        return a - b

    def mul(self, a: int, b: int) -> int:
        return a * b

    def floor_div(self, a: int, b: int) -> int:
        return a // b

    def ceil_div(self, a: int, b: int) -> int:
        return -(-a // b)

    def min(self, a: int, b: int) -> int:
        return min(a, b)

    def max(self, a: int, b: int) -> int:
        return max(a, b)

    def equal(self, a: int, b: int) -> int:
        return int(a == b)

    def less(self, a: int, b: int) -> int:
        return int(a < b)


INTEGERS = Integers()


def lower(expression: Any, symbols: Mapping[str, Any], arithmetic: Arithmetic) -> Any:
    """Return an expression over sizes in another arithmetic; a Python int where it is a constant.

    Args:
        expression: an int, a sympy expression (or relation, whose value is 1 or 0), or a `Choice`.
        symbols: the value of each symbol by name.
        arithmetic: what computes.

    Raises:
        ConversionError: a symbol without a value, or a function that sizes cannot be computed with.
    """
    return _Lowering(symbols, arithmetic).value(expression)


class Choice:
    """The first of some expressions whose condition holds.

    Args:
        cases: (condition, expression) pairs.
        otherwise: the expression where no condition holds.
    """

    def __init__(self, cases: Sequence[tuple[Any, Any]], otherwise: Any) -> None:
        self.cases = tuple(cases)
        self.otherwise = otherwise

    def __repr__(self) -> str:
        cases = ", ".join(f"{value} if {condition}" for condition, value in self.cases)
        return f"Choice({cases}, else {self.otherwise})"


class _Lowering:
    """One call of `lower`; constants are folded on the way."""

    def __init__(self, symbols: Mapping[str, Any], arithmetic: Arithmetic) -> None:
        self.symbols = symbols
        self.arithmetic = arithmetic

    def value(self, expression: Any) -> Any:
        if isinstance(expression, Choice):
            result = self.value(expression.otherwise)
            for condition, value in reversed(expression.cases):
                result = self.choose(self.value(condition), self.value(value), result)
            return result
        if isinstance(expression, (bool, int)):
            return int(expression)
        if expression in (sympy.true, sympy.false):
            return int(expression is sympy.true)
        if expression.is_Integer:
            return int(expression)
        if expression.is_Symbol:
            if expression.name not in self.symbols:
                raise ConversionError(f"the size {expression} depends on data: no input's shape gives it")
            return self.symbols[expression.name]
        rule = _RULES.get(type(expression).__name__)
        if rule is None:
            kind = type(expression).__name__
            raise ConversionError(
                f"the size {expression} uses {kind}, which TensorRT cannot compute on sizes"
            )
        return rule(self, expression)

    def apply(self, operation: str, a: Any, b: Any) -> Any:
        """One operation; on ints at once, and without the ones that change nothing."""
        if isinstance(a, int) and isinstance(b, int):
            return getattr(INTEGERS, operation)(a, b)
        if operation in _NEUTRAL:
            neutral, on_the_left = _NEUTRAL[operation]
            if isinstance(b, int) and b == neutral:
                return a
            if on_the_left and isinstance(a, int) and a == neutral:
                return b
        if operation == "mul" and (_is_zero(a) or _is_zero(b)):
            return 0
        return getattr(self.arithmetic, operation)(a, b)

    def fold(self, operation: str, values: Sequence[Any]) -> Any:
        return reduce(lambda a, b: self.apply(operation, a, b), values)

    def choose(self, condition: Any, value: Any, otherwise: Any) -> Any:
        """``value`` where `condition` is 1, `otherwise` where it is 0."""
        if isinstance(condition, int):
            return value if condition else otherwise
        taken = self.apply("mul", condition, value)
        return self.apply("add", taken, self.apply("mul", self.negation(condition), otherwise))

    def negation(self, condition: Any) -> Any:
        return self.apply("sub", 1, condition)

    def add(self, expression: sympy.Expr) -> Any:
        """Sums, with what is subtracted gathered on the right, so that few values are negative."""
        plus: list[sympy.Expr] = []
        minus: list[sympy.Expr] = []
        for term in expression.args:
            coefficient, rest = term.as_coeff_Mul()
            (minus if coefficient.is_negative else plus).append(
                -coefficient * rest if coefficient.is_negative else term
            )
        rounded = self.rounded_up(plus, minus)
        if rounded is not None:
            return rounded
        total = self.fold("add", [self.value(term) for term in plus] or [0])
        return (
            self.apply("sub", total, self.fold("add", [self.value(term) for term in minus]))
            if minus
            else total
        )

    def rounded_up(self, plus: list[Any], minus: list[Any]) -> Any:
        """None, or the value of ``... - floor(-a / b)``, which is ``... + ceil(a / b)``."""
        ceilings = [term for term in minus if _is_floor_of_negative(term)]
        if not ceilings:
            return None
        rest = [self.value(term) for term in [*plus, *(-term for term in minus if term not in ceilings)]]
        return self.fold("add", [*rest, *(self.ceiling(term) for term in ceilings)])

    def ceiling(self, floor: sympy.Expr) -> Any:
        numerator, denominator = floor.args
        return self.apply("ceil_div", self.value(-numerator), self.value(denominator))

    def mul(self, expression: sympy.Expr) -> Any:
        coefficient, rest = expression.as_coeff_Mul()
        if coefficient.is_negative:
            if coefficient == -1 and _is_floor_of_negative(rest):
                return self.ceiling(rest)
            return self.apply("sub", 0, self.value(-coefficient * rest))
        if not coefficient.is_Integer:
            raise ConversionError(f"the size {expression} has the factor {coefficient}, which is no integer")
        return self.fold("mul", [self.value(factor) for factor in expression.args])

    def power(self, expression: sympy.Expr) -> Any:
        base, exponent = expression.args
        if not (exponent.is_Integer and 0 < int(exponent) <= 8):
            raise ConversionError(
                f"the size {expression} is a power that TensorRT cannot compute on integers"
            )
        return self.fold("mul", [self.value(base)] * int(exponent))

    def floor_div(self, expression: sympy.Expr) -> Any:
        numerator, denominator = expression.args
        if denominator.is_Integer:  # (a + b - 1) // b
            constant, rest = numerator.as_coeff_Add()
            if int(denominator) > 1 and constant == denominator - 1:
                return self.apply("ceil_div", self.value(rest), int(denominator))
        return self.apply("floor_div", self.value(numerator), self.value(denominator))

    def modulo(self, expression: sympy.Expr) -> Any:
        return self.remainder(*(self.value(argument) for argument in expression.args))

    def remainder(self, a: Any, b: Any) -> Any:
        return self.apply("sub", a, self.apply("mul", self.apply("floor_div", a, b), b))

    def modular_indexing(self, expression: sympy.Expr) -> Any:
        base, divisor, modulus = (self.value(argument) for argument in expression.args)
        return self.remainder(self.apply("floor_div", base, divisor), modulus)

    def rounding(self, operation: str) -> Callable[[sympy.Expr], Any]:
        """``math.floor`` and ``math.ceil`` of a true division."""

        def value(expression: sympy.Expr) -> Any:
            (inner,) = expression.args
            if type(inner).__name__ not in ("IntTrueDiv", "FloatTrueDiv"):
                raise ConversionError(
                    f"the size {expression} rounds {inner}, which is no quotient of integers"
                )
            return self.apply(operation, *(self.value(argument) for argument in inner.args))

        return value


def _is_zero(value: Any) -> bool:
    return isinstance(value, int) and value == 0


def _is_floor_of_negative(term: Any) -> bool:
    if type(term).__name__ != "FloorDiv":
        return False
    return bool(term.args[0].as_coeff_Mul()[0].is_negative)


def _folded(operation: str) -> Callable[[_Lowering, Any], Any]:
    return lambda self, e: self.fold(operation, [self.value(argument) for argument in e.args])


def _compared(
    operation: str, swapped: bool = False, negated: bool = False
) -> Callable[[_Lowering, Any], Any]:
    def rule(self: _Lowering, expression: Any) -> Any:
        a, b = (self.value(argument) for argument in expression.args)
        result = self.apply(operation, b, a) if swapped else self.apply(operation, a, b)
        return self.negation(result) if negated else result

    return rule


def _either(self: _Lowering, expression: Any) -> Any:
    none = self.fold("mul", [self.negation(self.value(argument)) for argument in expression.args])
    return self.negation(none)


def _piecewise(self: _Lowering, expression: Any) -> Any:
    *cases, (otherwise, last) = expression.args
    if last != sympy.true:
        raise ConversionError(f"the size {expression} has no value where none of its conditions holds")
    return self.value(Choice([(condition, value) for value, condition in cases], otherwise))


_NEUTRAL = {
    "add": (0, True),
    "sub": (0, False),
    "mul": (1, True),
    "floor_div": (1, False),
    "ceil_div": (1, False),
}

_RULES: dict[str, Callable[[_Lowering, Any], Any]] = {
    "Add": _Lowering.add,
    "Mul": _Lowering.mul,
    "Pow": _Lowering.power,
    "PowByNatural": _Lowering.power,
    "FloorDiv": _Lowering.floor_div,
    "CleanDiv": _Lowering.floor_div,
    "Mod": _Lowering.modulo,
    "PythonMod": _Lowering.modulo,
    "ModularIndexing": _Lowering.modular_indexing,
    "FloorToInt": lambda self, e: self.rounding("floor_div")(e),
    "TruncToInt": lambda self, e: self.rounding("floor_div")(e),
    "CeilToInt": lambda self, e: self.rounding("ceil_div")(e),
    "Max": _folded("max"),
    "Min": _folded("min"),
    "Identity": lambda self, e: self.value(e.args[0]),
    "Equality": _compared("equal"),
    "Unequality": _compared("equal", negated=True),
    "StrictLessThan": _compared("less"),
    "StrictGreaterThan": _compared("less", swapped=True),
    "LessThan": _compared("less", swapped=True, negated=True),
    "GreaterThan": _compared("less", negated=True),
    "And": _folded("mul"),
    "Or": _either,
    "Not": lambda self, e: self.negation(self.value(e.args[0])),
    "Piecewise": _piecewise,
    "Where": lambda self, e: self.choose(*(self.value(argument) for argument in e.args)),
}

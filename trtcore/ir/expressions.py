"""Shape expressions, and conditions on sizes, as small strings: written at compile time, read at run time.

The one language for sizes in anything that is saved, and the one evaluator of it: no text reaches ``eval`` or sympy.
An engine's manifest gives every output dimension as an int or as an expression over the symbols of the
program (``s77``, ``batch``). The text is Python expression syntax restricted to what `evaluate` accepts:

    integers, finite floats, names          ``s77``, ``2``, ``0.5``
    ``+  -  *  //  %  **``                  the exponent of ``**`` is a literal from 0 to 63
    ``<  <=  >  >=  ==  !=``                only as the condition of ``Where``
    `FUNCTIONS`                             ``FloorDiv(s0, 2)``, ``Max(1, s0 - 2)``, ``CeilToInt(...)``, ...

and a condition (`parse_condition`) is comparisons of these, joined by ``and``, ``or``, ``not``:
``s0 % 4 == 0 and 2 <= s1 < s0``.

Function names and meanings are those of ``torch.utils._sympy.functions``, which torch.export uses in
shapes. Values may be Python ints or ``torch.SymInt``: the fake implementation of the engine op runs the
same text on symbols. Anything else in a text is an `ArtifactError`; so is a text that is too long or
nested too deep, a number beyond 64 bits, and a result that is not an integer.

A text becomes closures, as it is read in every call: 10 us where torch's own interpreter of sympy, which is what
`trtcore.ir.symbols` makes nodes of a graph with, takes 360 (measured).
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Any

from trtcore.errors import ArtifactError

if TYPE_CHECKING:
    import sympy
    import torch

MAX_LENGTH = 16_384
MAX_DEPTH = 150
MAX_INT = 2**63 - 1
MAX_EXPONENT = 63
MOST_TERMS = 1 << 20

_Values = Mapping[str, Any]
_Closure = Callable[[_Values], Any]
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")


@dataclass(frozen=True)
class Expression:
    """A checked expression, ready to be evaluated many times.

    Attributes:
        text: the expression as it was given.
        symbols: names that `evaluate` needs, in order of first appearance.
        constant: the value, when the text has no symbols.
    """

    text: str
    symbols: tuple[str, ...]
    constant: int | None
    _closure: _Closure

    def evaluate(self, values: Mapping[str, int | torch.SymInt]) -> int | torch.SymInt:
        """The value for these symbols; `ArtifactError` for a missing symbol or a value outside 64 bits."""
        if self.constant is not None:
            return self.constant
        try:
            result = self._closure(values)
        except KeyError as error:
            raise ArtifactError(f"expression {self.text!r}: symbol {error.args[0]!r} has no value") from None
        except (ZeroDivisionError, OverflowError, ValueError) as error:  # of a NaN there is no integer
            raise ArtifactError(f"expression {self.text!r}: {error}") from None
        if isinstance(result, bool) or (isinstance(result, int) and abs(result) > MAX_INT):
            raise ArtifactError(f"expression {self.text!r}: the value {result} is not a 64-bit integer")
        if isinstance(result, float) or type(result).__name__ in ("SymFloat", "SymBool"):
            raise ArtifactError(f"expression {self.text!r}: the value {result} is not an integer")
        return result  # type: ignore[no-any-return]


def evaluate(text: str, values: Mapping[str, int | torch.SymInt]) -> int | torch.SymInt:
    """Evaluate an expression.

    Args:
        text: what `to_text` wrote.
        values: value of every symbol in it, ints or SymInts; more are ignored.

    Raises:
        ArtifactError: the text is not in the language, a symbol is missing, the result is no 64-bit integer.
    """
    return parse(text).evaluate(values)


def symbols_of(text: str) -> tuple[str, ...]:
    """Names of the symbols in an expression, in order of first appearance."""
    return parse(text).symbols


@lru_cache(maxsize=8192)
def parse(text: str) -> Expression:
    """Check a text and turn it into closures, once per text.

    Raises:
        ArtifactError: the text is not in the language.
    """
    builder = _Builder(text)
    closure = builder.build(_syntax_tree(text), 0)
    constant = None
    if not builder.symbols:
        constant = Expression(text, (), None, closure).evaluate({})
    return Expression(text, tuple(builder.symbols), constant, closure)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Condition:
    """A checked condition on sizes.

    Attributes:
        text: the condition as it was given.
        symbols: names that `holds` needs, in order of first appearance.
    """

    text: str
    symbols: tuple[str, ...]
    _closure: _Closure

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether it is true for these symbols; a division by zero in it, or a number beyond 64 bits, makes it false.

        Raises:
            ArtifactError: a symbol has no value.
        """
        try:
            return bool(self._closure(values))
        except KeyError as error:
            raise ArtifactError(f"condition {self.text!r}: symbol {error.args[0]!r} has no value") from None
        except (ZeroDivisionError, OverflowError, ValueError):
            return False

    def __reduce__(self) -> tuple[Any, ...]:
        return parse_condition, (self.text,)


@lru_cache(maxsize=8192)
def parse_condition(text: str) -> Condition:
    """Check a condition and turn it into closures, once per text.

    Raises:
        ArtifactError: the text is not in the language.
    """
    builder = _Builder(text)
    closure = builder.condition(_syntax_tree(text), 0)
    return Condition(text, tuple(builder.symbols), closure)


def _syntax_tree(text: str) -> ast.expr:
    """Python's syntax tree of a text that is not too long; nothing is run."""
    if not isinstance(text, str):
        raise ArtifactError(f"an expression must be a string, not {type(text).__name__}")
    if len(text) > MAX_LENGTH:
        raise ArtifactError(f"expression of {len(text)} characters; at most {MAX_LENGTH} are allowed")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ArtifactError(f"expression {_short(text)!r} does not parse: {error}") from None


def expanded_terms(text: str) -> int:
    """How many terms a checked expression at most has when it is multiplied out, as sympy does with every size; the
    largest number that is told is `MOST_TERMS`."""
    return _terms(_syntax_tree(text))


def _terms(node: ast.AST) -> int:
    if not isinstance(node, ast.BinOp):
        return max((_terms(child) for child in ast.iter_child_nodes(node)), default=1)
    left, right = _terms(node.left), _terms(node.right)
    if isinstance(node.op, (ast.Add, ast.Sub)):
        return min(left + right, MOST_TERMS)
    if isinstance(node.op, ast.Mult):
        return min(left * right, MOST_TERMS)
    if isinstance(node.op, ast.Pow) and isinstance(node.right, ast.Constant):
        exponent: Any = node.right.value
        return min(int(left**exponent), MOST_TERMS)
    return max(left, right)


# ---- evaluation -----------------------------------------------------------------------------------------


class _Builder:
    """One text's syntax tree to closures. Every node kind that is not named here is refused."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.symbols: dict[str, None] = {}

    def refuse(self, what: str) -> ArtifactError:
        return ArtifactError(f"expression {_short(self.text)!r}: {what} is not allowed")

    def build(self, node: ast.expr, depth: int) -> _Closure:
        if depth > MAX_DEPTH:
            raise self.refuse(f"nesting deeper than {MAX_DEPTH}")
        depth += 1
        if isinstance(node, ast.Constant):
            return self.literal(node.value)
        if isinstance(node, ast.Name):
            return self.symbol(node.id)
        if isinstance(node, ast.UnaryOp):
            if not isinstance(node.op, ast.USub):
                raise self.refuse(f"operator {type(node.op).__name__}")
            operand = self.build(node.operand, depth)
            return lambda values: -operand(values)
        if isinstance(node, ast.BinOp):
            return self.binary(node, depth)
        if isinstance(node, ast.Call):
            return self.call(node, depth)
        raise self.refuse(type(node).__name__)

    def literal(self, value: object) -> _Closure:
        if type(value) is int and abs(value) <= MAX_INT:
            return lambda values: value
        if type(value) is float and math.isfinite(value):
            return lambda values: value
        raise self.refuse(f"literal {_short(repr(value))}")

    def symbol(self, name: str) -> _Closure:
        if name in FUNCTIONS or not _SYMBOL.match(name):
            raise self.refuse(f"name {_short(name)!r}")
        self.symbols.setdefault(name)
        return lambda values: values[name]

    def binary(self, node: ast.BinOp, depth: int) -> _Closure:
        kind = type(node.op)
        if kind is ast.Pow:
            exponent = node.right
            if not (isinstance(exponent, ast.Constant) and type(exponent.value) is int):
                raise self.refuse("an exponent that is not a literal integer")
            if not 0 <= exponent.value <= MAX_EXPONENT:
                raise self.refuse(f"exponent {exponent.value}")
            base, power = self.build(node.left, depth), exponent.value
            return lambda values: _power(base(values), power)
        # A sum of n terms parses as a left-leaning tree n deep: walk it here, so that depth counts nesting.
        operation = _BINARY.get(kind)
        if operation is None:
            raise self.refuse(f"operator {kind.__name__}")
        chain: list[tuple[Callable[[Any, Any], Any], _Closure]] = []
        left: ast.expr = node
        while isinstance(left, ast.BinOp) and type(left.op) in _BINARY:
            chain.append((_BINARY[type(left.op)], self.build(left.right, depth)))
            left = left.left
        first = self.build(left, depth)
        if len(chain) == 1:
            second = chain[0][1]
            return lambda values: operation(first(values), second(values))
        chain.reverse()
        steps = tuple(chain)
        return lambda values: reduce(lambda acc, step: step[0](acc, step[1](values)), steps, first(values))

    def call(self, node: ast.Call, depth: int) -> _Closure:
        if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS:
            raise self.refuse(f"call of {_short(ast.dump(node.func))}")
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
            raise self.refuse("a keyword or starred argument")
        name = node.func.id
        arity, function = FUNCTIONS[name]
        if len(node.args) != arity if arity else len(node.args) < 1:
            raise self.refuse(f"{name} of {len(node.args)} arguments")
        if name == "Where":
            condition = self.one_comparison(node.args[0], depth)
            yes, no = self.build(node.args[1], depth), self.build(node.args[2], depth)
            return lambda values: _where(condition(values), yes, no, values)
        arguments = tuple(self.build(argument, depth) for argument in node.args)
        if len(arguments) == 1:
            only = arguments[0]
            return lambda values: function(only(values))
        if len(arguments) == 2:
            one, two = arguments
            return lambda values: function(one(values), two(values))
        return lambda values: function(*(argument(values) for argument in arguments))

    def condition(self, node: ast.expr, depth: int) -> _Closure:
        """Comparisons, joined by and, or, not."""
        if depth > MAX_DEPTH:
            raise self.refuse(f"nesting deeper than {MAX_DEPTH}")
        depth += 1
        if isinstance(node, ast.BoolOp):
            parts = tuple(self.condition(part, depth) for part in node.values)
            every = all if isinstance(node.op, ast.And) else any
            return lambda values: every(part(values) for part in parts)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            operand = self.condition(node.operand, depth)
            return lambda values: not operand(values)
        if not isinstance(node, ast.Compare) or any(type(op) not in _COMPARE for op in node.ops):
            raise self.refuse("a condition without a comparison")
        operations = tuple(_COMPARE[type(op)] for op in node.ops)
        operands = tuple(self.build(part, depth) for part in (node.left, *node.comparators))

        def compare(values: _Values) -> bool:
            numbers = [operand(values) for operand in operands]
            return all(test(a, b) for test, a, b in zip(operations, numbers, numbers[1:]))

        return compare

    def one_comparison(self, node: ast.expr, depth: int) -> _Closure:
        """The condition of a ``Where``: its sizes may be SymInts, and ``and`` would decide them."""
        if not isinstance(node, ast.Compare) or len(node.ops) != 1 or type(node.ops[0]) not in _COMPARE:
            raise self.refuse("a condition that is not one comparison")
        operation = _COMPARE[type(node.ops[0])]
        left, right = self.build(node.left, depth), self.build(node.comparators[0], depth)
        return lambda values: operation(left(values), right(values))


def _power(base: Any, exponent: int) -> Any:
    result = base**exponent
    if isinstance(result, int) and abs(result) > MAX_INT:
        raise OverflowError("a power beyond 64 bits")
    return result


def _exact_div(a: Any, b: Any) -> Any:
    quotient = a // b
    if isinstance(a, int) and isinstance(b, int) and quotient * b != a:
        raise OverflowError(f"{a} is not a multiple of {b}")
    return quotient


def _extreme(name: str) -> Callable[..., Any]:
    builtin = {"Max": max, "Min": min}[name]

    def function(*arguments: Any) -> Any:
        if all(isinstance(argument, (int, float)) for argument in arguments):
            return builtin(arguments)
        import torch

        return reduce(torch.sym_max if name == "Max" else torch.sym_min, arguments)

    return function


def _where(condition: Any, yes: _Closure, no: _Closure, values: _Values) -> Any:
    if isinstance(condition, bool):
        return yes(values) if condition else no(values)
    import torch

    return torch.sym_ite(condition, yes(values), no(values))  # type: ignore[no-untyped-call]


def _to_float(value: Any) -> Any:
    if isinstance(value, (int, float)):
        return float(value)
    import torch

    return torch.sym_float(value)  # type: ignore[no-untyped-call]


# name -> (number of arguments, 0 = one or more; function). Semantics: torch.utils._sympy.functions.
FUNCTIONS: Mapping[str, tuple[int, Callable[..., Any]]] = {
    "FloorDiv": (2, lambda a, b: a // b),
    "CleanDiv": (2, _exact_div),
    "CeilDiv": (2, lambda a, b: -(-a // b)),
    "Mod": (2, lambda a, b: a % b),
    "PythonMod": (2, lambda a, b: a % b),
    "ModularIndexing": (3, lambda base, divisor, modulus: (base // divisor) % modulus),
    "Max": (0, _extreme("Max")),
    "Min": (0, _extreme("Min")),
    "IntTrueDiv": (2, lambda a, b: a / b),
    "FloatTrueDiv": (2, lambda a, b: a / b),
    "ToFloat": (1, _to_float),
    "CeilToInt": (1, math.ceil),
    "FloorToInt": (1, math.floor),
    "TruncToInt": (1, math.trunc),
    "RoundToInt": (1, round),
    "Where": (3, lambda *arguments: None),
}
_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
}
_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
}


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


# ---- writing --------------------------------------------------------------------------------------------


def to_text(expression: sympy.Expr | int | torch.SymInt) -> str:
    """Write an expression as text that `evaluate` reads, the same in every process.

    Args:
        expression: an int, a SymInt, or a sympy expression over plain symbols as torch.export makes them.

    Raises:
        ArtifactError: the expression uses a function outside the language (the text names it).
    """
    if isinstance(expression, int):
        return str(int(expression))
    node = getattr(expression, "node", None)
    text = _write(node.expr if node is not None else expression)
    text = text[1:-1] if _is_wrapped(text) else text
    parse(text)
    return text


def _is_wrapped(text: str) -> bool:
    if not (text.startswith("(") and text.endswith(")")):
        return False
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return index == len(text) - 1
    return False


def _write(e: Any) -> str:
    import sympy

    from trtcore.ir.torch_private import size_functions

    torch_functions = size_functions()

    if e.is_Symbol:
        if not _SYMBOL.match(e.name) or e.name in FUNCTIONS:
            raise ArtifactError(f"symbol name {e.name!r} cannot be written to a manifest")
        return str(e.name)
    if e.is_Integer:
        return str(int(e)) if e >= 0 else f"({int(e)})"
    if e.is_Float:
        return repr(float(e)) if e >= 0 else f"({float(e)!r})"
    if isinstance(e, (sympy.floor, sympy.ceiling)):
        numerator, denominator = e.args[0].as_numer_denom()
        name = "FloorDiv" if isinstance(e, sympy.floor) else "CeilDiv"
        return f"{name}({_write(numerator)}, {_write(denominator)})"
    if isinstance(e, (sympy.Add, sympy.Mul, sympy.Pow, sympy.Rational)):
        return _write_arithmetic(e)
    if isinstance(e, (sympy.Max, torch_functions.Max, sympy.Min, torch_functions.Min)):
        # A set in sympy: sorted, so that every process writes the same text.
        return f"{type(e).__name__}({', '.join(sorted(_write(a) for a in e.args))})"
    if isinstance(e, torch_functions.Identity):
        return _write(e.args[0])
    if isinstance(e, torch_functions.Where):
        return _write_where(e.args[0], e.args[1], e.args[2])
    if isinstance(e, sympy.Piecewise) and len(e.args) == 2 and e.args[1][1] == sympy.true:
        return _write_where(e.args[0][1], e.args[0][0], e.args[1][0])
    name = type(e).__name__
    if name in FUNCTIONS and isinstance(e, (sympy.Mod, sympy.Function)):
        return f"{name}({', '.join(_write(argument) for argument in e.args)})"
    raise _cannot_write(e)


def _write_arithmetic(e: Any) -> str:
    import sympy

    if not e.has(sympy.Float):
        # Rational coefficients: torch's simplifications leave them where the whole is an integer.
        numerator, denominator = e.as_numer_denom()
        if denominator != 1:
            return f"CleanDiv({_write(numerator)}, {_write(denominator)})"
    if isinstance(e, sympy.Pow):
        base, exponent = e.args
        if not (exponent.is_Integer and 0 <= int(exponent) <= MAX_EXPONENT):
            raise _cannot_write(e)
        return f"({_write(base)} ** {int(exponent)})"
    parts = [_write(argument) for argument in e.args]
    return f"({(' + ' if isinstance(e, sympy.Add) else ' * ').join(parts)})"


def _write_where(condition: Any, yes: Any, no: Any) -> str:
    symbol = _RELATIONS.get(type(condition).__name__)
    if symbol is None:
        raise _cannot_write(condition)
    left, right = condition.args
    return f"Where({_write(left)} {symbol} {_write(right)}, {_write(yes)}, {_write(no)})"


def _cannot_write(e: object) -> ArtifactError:
    return ArtifactError(
        f"the shape expression {_short(str(e))!r} ({type(e).__name__}) cannot be written to a manifest",
        advice="run the op that makes this shape in torch (settings.torch_executed_ops)",
    )


_RELATIONS = {
    "StrictLessThan": "<",
    "LessThan": "<=",
    "StrictGreaterThan": ">",
    "GreaterThan": ">=",
    "Equality": "==",
    "Unequality": "!=",
}

"""Symbolic sizes: finding symbols in shapes, bounding expressions, and making SymInts in a graph.

A symbol is a name such as ``s77`` that torch.export gave to a dynamic dim. Every backed symbol can be
computed from the shapes of the graph's inputs, so a size that is needed anywhere is recomputed from them,
never read back from an engine's output.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sympy
import torch

from trtcore.ir.torch_private import (
    evaluate_expression,
    expression,
    expression_bounds,
    is_data_symbol,
    is_size_decision,
    size_functions,
    undecided_sizes,
)

if TYPE_CHECKING:
    from trtcore.ir.program import SymbolRange


__all__ = [
    "SizeMaterialiser",
    "bounds",
    "expression_of",
    "free_symbols",
    "is_data_symbol",
    "is_decided_by_data",
    "is_integral",
    "is_size_decision",
    "is_symbolic",
    "solve_linear",
    "surely",
    "undecided_sizes",
]


def expression_of(dim: Any) -> sympy.Expr | int:
    """The sympy expression of a SymInt, or the int itself."""
    if isinstance(dim, torch.SymInt):
        dim = expression(dim)
    if isinstance(dim, sympy.Expr):
        return int(dim) if dim.is_Integer else dim if dim.is_Symbol else _in_whole_numbers(dim)
    return int(dim)


@lru_cache(maxsize=8192)
def _in_whole_numbers(expression: sympy.Expr) -> sympy.Expr:
    """``math.ceil(n / 2)``, ``math.floor(n / 2)`` and ``int(n / 2)`` without the float between, where it is as exact.

    It is for quotients of sizes: a float holds each of them, and is nearer to none of its neighbours.
    """
    functions = size_functions()
    if not expression.has(functions.IntTrueDiv):
        return expression

    def whole(rounded: Any) -> Any:
        quotient = rounded.args[0]
        if not isinstance(quotient, functions.IntTrueDiv):
            return rounded
        number, divisor = quotient.args
        if not (divisor.is_Integer and divisor > 0):
            return rounded
        if isinstance(rounded, functions.CeilToInt):
            return functions.FloorDiv(number + divisor - 1, divisor)
        if isinstance(rounded, functions.FloorToInt) or number.is_nonnegative:
            return functions.FloorDiv(number, divisor)
        return rounded

    kinds = (functions.CeilToInt, functions.FloorToInt, functions.TruncToInt)
    return expression.replace(lambda part: isinstance(part, kinds), whole)


def surely(condition: Any) -> bool:
    """Whether a condition on sizes holds for all that a trace knows they can be; asks without deciding."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)


def free_symbols(dims: Iterable[Any]) -> list[str]:
    """Names of all symbols in the dims, in order of first use, sorted within one dim."""
    found: dict[str, None] = {}
    for dim in dims:
        expression = expression_of(dim)
        if not isinstance(expression, int):
            found.update(dict.fromkeys(sorted(symbol.name for symbol in expression.free_symbols)))
    return list(found)


def solve_linear(dim: Any) -> tuple[str, int, int] | None:
    """``(symbol, scale, offset)`` where ``dim == scale * symbol + offset``; None for any other form."""
    expression = expression_of(dim)
    if isinstance(expression, int) or len(expression.free_symbols) != 1:
        return None
    (symbol,) = expression.free_symbols
    if expression == symbol:
        return symbol.name, 1, 0
    scale = expression.coeff(symbol, 1)
    offset = sympy.expand(expression - scale * symbol)
    if scale.is_Integer and offset.is_Integer and int(scale) > 0:
        return symbol.name, int(scale), int(offset)
    return None


def bounds(dim: Any, ranges: Mapping[str, SymbolRange]) -> tuple[int, int, int]:
    """``(min, opt, max)`` of a dim over the ranges of its symbols.

    min and max are interval bounds, which is exact for the sums, products and divisions of sizes that
    shapes are made of. Where a divisor's interval has 0 in it they would be infinite: then they are the least and
    the largest value at the symbols' min, opt and max. opt is the value at every symbol's opt.
    """
    expression = expression_of(dim)
    if isinstance(expression, int):
        return expression, expression, expression
    if expression.is_Symbol:
        known = ranges[str(expression)]
        return known.min, known.opt, known.max
    used = {symbol: ranges[symbol.name] for symbol in expression.free_symbols}
    opt = expression.xreplace({s: sympy.Integer(r.opt) for s, r in used.items()})
    low, high = expression_bounds(expression, {s: (r.min, r.max) for s, r in used.items()})
    if not (low.is_Integer and high.is_Integer):
        at_corners = _at_corners(expression, used)
        low, high = min(at_corners), max(at_corners)
    return max(int(low), 0), int(opt), int(high)


_MOST_CORNERS = 729


def _at_corners(expression: sympy.Expr, ranges: Mapping[sympy.Symbol, SymbolRange]) -> list[int]:
    """Its values with the symbols at their min, opt and max in every combination (of six symbols at most)."""
    ends = [dict.fromkeys((r.min, r.opt, r.max)) for r in ranges.values()]
    corners = itertools.islice(itertools.product(*ends), _MOST_CORNERS)
    values = (expression.xreplace(dict(zip(ranges, map(sympy.Integer, corner)))) for corner in corners)
    return [int(value) for value in values if value.is_Integer]


def is_decided_by_data(value: Any) -> bool:
    """Whether a size is (computed from) a number that data decide, and not from the sizes of inputs alone."""
    return is_symbolic(value) and any(
        is_data_symbol(one.name, of_floats=True) for one in expression(value).free_symbols
    )


def is_integral(dim: Any) -> bool:
    """Whether a size is computed from whole numbers alone, and not as ``int(n * 0.6)``."""
    expression = expression_of(dim)
    return isinstance(expression, int) or all(
        part.is_Integer or part.is_Symbol or (part.args and getattr(part, "is_integer", False))
        for part in sympy.preorder_traversal(expression)
    )


def _is_by_float(part: Any) -> bool:
    """Whether a part of an expression is no whole number; torch says of its quotients that nobody knows."""
    return part.is_integer is False or isinstance(part, size_functions().IntTrueDiv)


def is_symbolic(value: Any) -> bool:
    """True for a SymInt, SymFloat or SymBool."""
    return isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool))


class SizeMaterialiser:
    """Makes fx nodes that compute SymInts from a graph's placeholders, each expression once.

    Args:
        graph: where the nodes are added, at the current insertion point.
        placeholders: the graph's inputs, with FakeTensors or SymInts in meta["val"].
    """

    def __init__(self, graph: torch.fx.Graph, placeholders: Iterable[torch.fx.Node]) -> None:
        self._graph = graph
        self._sources: dict[str, tuple[torch.fx.Node, int | None, int, int]] = {}
        self._made: dict[Any, Any] = {}
        for node in placeholders:
            self._learn(node, lambda name: True)

    def learn(self, node: torch.fx.Node) -> None:
        """Another node of the graph, which shows sizes that data decide."""
        self._learn(node, is_data_symbol)

    def _learn(self, node: torch.fx.Node, wanted: Callable[[str], bool]) -> None:
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt):
            found = solve_linear(value)
            if found and wanted(found[0]):
                self._add_source(found, node, None)
        elif isinstance(value, torch.Tensor):
            for index, dim in enumerate(value.shape):
                found = solve_linear(dim)
                if found and wanted(found[0]):
                    self._add_source(found, node, index)

    def _add_source(self, found: tuple[str, int, int], node: torch.fx.Node, index: int | None) -> None:
        name, scale, offset = found
        known = self._sources.get(name)
        plain = (scale, offset) == (1, 0)
        if known is None or (
            plain and known[2:] != (1, 0)
        ):  # a dim that is the symbol itself needs no arithmetic
            self._sources[name] = (node, index, scale, offset)

    def can_make(self, expression: Any) -> bool:
        """Whether every symbol comes from the placeholders, and it is integer arithmetic all the way."""
        expression = expression_of(expression)
        if isinstance(expression, int):
            return True
        known = all(name in self._sources for name in free_symbols([expression]))
        return known and not any(_is_by_float(part) for part in sympy.preorder_traversal(expression))

    def make(self, expression: Any, like: Any = None) -> Any:
        """An fx node (or an int) for the expression. `like`, a SymInt, becomes the node's meta["val"]."""
        expression = expression_of(expression)
        if isinstance(expression, int):
            return expression
        if expression not in self._made:
            if expression.is_Symbol:
                node = self._symbol(expression.name)
            else:
                node = self._expression(expression)
            if isinstance(node, torch.fx.Node) and like is not None:
                node.meta.setdefault("val", like)
            self._made[expression] = node
        return self._made[expression]

    def _symbol(self, name: str) -> torch.fx.Node:
        source, index, scale, offset = self._sources[name]
        node = source
        if index is not None:
            node = self._graph.call_function(torch.ops.aten.sym_size.int, (source, index))
            node.meta["val"] = source.meta["val"].shape[index]
        for function, operand in ((operator.sub, offset), (operator.floordiv, scale)):
            if operand != (0 if function is operator.sub else 1):
                value = function(node.meta["val"], operand)
                node = self._graph.call_function(function, (node, operand))
                node.meta["val"] = value
        return node

    def _expression(self, expression: sympy.Expr) -> Any:
        bindings: dict[sympy.Symbol, Any] = {
            symbol: torch.fx.Proxy(self.make(symbol)) for symbol in expression.free_symbols
        }
        result = evaluate_expression(expression, bindings)
        return result.node if isinstance(result, torch.fx.Proxy) else result

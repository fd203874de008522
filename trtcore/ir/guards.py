"""What torch.export assumed about input sizes, kept as data and checked without ``eval``.

torch.export leaves its guards as Python text over ``L['x'].size()[0]``. They are translated once into the
same text over ``size(i, d)`` (dimension d of input i), and evaluated by a small interpreter over a fixed set
of operations. A guard about anything else than sizes (strides, for example) is left out.
"""

from __future__ import annotations

import ast
import functools
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils import _pytree as pytree

SizeOf = Callable[[int, int], Any]

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_CALLS: dict[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "Min": min,
    "Max": max,
    "abs": abs,
    "int": int,
    "math.floor": math.floor,
    "math.ceil": math.ceil,
    "math.trunc": math.trunc,
    "FloorDiv": operator.floordiv,
    "PythonMod": operator.mod,
    "Mod": operator.mod,
}


@dataclass(frozen=True)
class Guard:
    """A condition on input sizes that the captured graph relies on.

    Attributes:
        text: for people, over the user's names: ``x.size()[0] % 2 == 0``.
        expression: over ``size(i, d)``, dimension d of flattened input i.
    """

    text: str
    expression: str

    def holds(self, size: SizeOf) -> bool:
        """Whether the condition is true for these sizes; a division by zero makes it false."""
        try:
            return bool(_compiled(self.expression)(size))
        except ZeroDivisionError:
            return False

    def inputs(self) -> frozenset[tuple[int, int]]:
        """The ``(input, dimension)`` pairs that the condition reads."""
        found = set()
        for node in ast.walk(ast.parse(self.expression, mode="eval")):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "size":
                index, dim = (argument.value for argument in node.args)  # type: ignore[attr-defined]
                found.add((index, dim))
        return frozenset(found)


def parse_guards(code: Sequence[str], sources: Mapping[str, int]) -> tuple[Guard, ...]:
    """Guards from the text that torch.export keeps (``ExportedProgram._guards_code``).

    Args:
        code: Python expressions over ``L[...]``.
        sources: index of each flattened input by its path text, such as ``['x'][0]['y']``.
    """
    guards: dict[str, Guard] = {}
    for text in code:
        try:
            tree = ast.parse(text.strip(), mode="eval")
            expression = ast.unparse(_ReplaceSizes(sources).visit(tree))
            _compiled(expression)
        except (SyntaxError, _Unsupported, RecursionError):
            continue
        guards.setdefault(expression, Guard(_readable(text), expression))
    return tuple(guards.values())


def input_sources(paths: Sequence[Sequence[Any]], arg_names: Sequence[str]) -> dict[str, int]:
    """How torch.export's guards name each flattened input, from the pytree paths into ``(args, kwargs)``."""
    sources: dict[str, int] = {}
    for index, path in enumerate(paths):
        (top, *rest) = path
        sources[f"['flat_args'][{index}]"] = index
        if not rest:
            continue
        first, *rest = rest
        tail = pytree.keystr(tuple(rest))
        if top.idx == 0:
            if first.idx < len(arg_names):
                sources[f"['{arg_names[first.idx]}']{tail}"] = index
            sources[f"['args'][{first.idx}]{tail}"] = index
        else:
            sources[f"['{first.key}']{tail}"] = index
            sources[f"['kwargs']['{first.key}']{tail}"] = index
    # The arguments of *tensors are called tensors_0, tensors_1, ..., and L['tensors'][0] in guards.
    for name, index in list(sources.items()):
        if variadic := re.match(r"\['(\w+)_(\d+)'\](.*)", name):
            base, number, tail = variadic.groups()
            sources.setdefault(f"['{base}'][{number}]{tail}", index)
    return sources


class _Unsupported(Exception):
    """The guard uses something outside the fixed set."""


class _ReplaceSizes(ast.NodeTransformer):
    """``L['x'].size()[0]`` -> ``size(i, 0)``."""

    def __init__(self, sources: Mapping[str, int]) -> None:
        self._sources = sources

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        call, dim = node.value, node.slice
        if not (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr == "size"
            and not call.args
            and isinstance(dim, ast.Constant)
            and isinstance(dim.value, int)
        ):
            raise _Unsupported
        path = ast.unparse(call.func.value)
        index = self._sources.get(path[1:]) if path.startswith("L[") else None
        if index is None:
            raise _Unsupported
        return ast.Call(ast.Name("size", ast.Load()), [ast.Constant(index), ast.Constant(dim.value)], [])


@functools.lru_cache(maxsize=4096)
def _compiled(expression: str) -> Callable[[SizeOf], Any]:
    return _closure(ast.parse(expression, mode="eval").body)


def _closure(node: ast.AST) -> Callable[[SizeOf], Any]:
    """The expression as nested closures over the function that gives a size."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, bool)):
        value = node.value
        return lambda size: value
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        binary, left, right = _BINARY[type(node.op)], _closure(node.left), _closure(node.right)
        return lambda size: binary(left(size), right(size))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        unary = operator.neg if isinstance(node.op, ast.USub) else operator.not_
        operand = _closure(node.operand)
        return lambda size: unary(operand(size))
    if isinstance(node, ast.BoolOp):
        every = all if isinstance(node.op, ast.And) else any
        parts = [_closure(value) for value in node.values]
        return lambda size: every(part(size) for part in parts)
    if isinstance(node, ast.Compare) and all(type(op) in _COMPARE for op in node.ops):
        return _comparison(node)
    if isinstance(node, ast.Call) and not node.keywords:
        return _call(node)
    raise _Unsupported


def _comparison(node: ast.Compare) -> Callable[[SizeOf], Any]:
    operands = [_closure(part) for part in (node.left, *node.comparators)]
    compares = [_COMPARE[type(op)] for op in node.ops]

    def compare(size: SizeOf) -> bool:
        values = [operand(size) for operand in operands]
        return all(test(a, b) for test, a, b in zip(compares, values, values[1:]))

    return compare


def _call(node: ast.Call) -> Callable[[SizeOf], Any]:
    name = ast.unparse(node.func)
    if name == "size" and all(isinstance(argument, ast.Constant) for argument in node.args):
        index, dim = (argument.value for argument in node.args)  # type: ignore[attr-defined]
        return lambda size: size(index, dim)
    if name not in _CALLS:
        raise _Unsupported
    function = _CALLS[name]
    arguments = [_closure(argument) for argument in node.args]
    return lambda size: function(*(argument(size) for argument in arguments))


def _readable(text: str) -> str:
    """The guard with ``L['x']`` as ``x`` and without redundant parentheses."""

    class Names(ast.NodeTransformer):
        def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
            self.generic_visit(node)
            if (
                isinstance(node.value, ast.Name)
                and node.value.id == "L"
                and isinstance(node.slice, ast.Constant)
            ):
                return ast.Name(str(node.slice.value), ast.Load())
            return node

    return ast.unparse(Names().visit(ast.parse(text.strip(), mode="eval")))

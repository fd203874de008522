"""What a captured graph relies on, as lines of its own code: for whoever calls it by another way than its module.

The check of a compiled module's arguments is part of its call, which torch.export and Dynamo pass over. What they see
is the code, or, where torch.export interprets the graph, the codegen that takes the inputs apart: a condition on sizes
there becomes one of theirs, and a fixed number is compared. Texts are made here from parsed conditions and plain
values, never taken from elsewhere.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from trtcore.errors import InputError
from trtcore.runtime.input_check import InputCheck, _Constant, _LinearDim, _Number, _Tensor, check_constant

CONDITION = re.compile(
    r"^ +(if not \(.*\): raise ValueError\((['\"]).*\2\)|if not torch\.compiler\._is_exporting_flag:"
    r"|if isinstance\(\w+, torch\.fx\.Proxy\):|else:|torch\._(assert|check)\(.*\))\n",
    re.MULTILINE,
)
"""A line of `condition_lines` in generated code: calls that have been checked do without."""

_LINE = re.compile(r"if not \((?P<condition>.*)\): raise ValueError\((?P<told>(['\"]).*\3)\)")
_LEAST_THAT_VARIES = 2
"""To torch.export sizes that vary are this or more: a check that one is no more would fix it. The engine still asks."""
_RANGE = re.compile(r"(\d+) <= (.+) <= (\d+)")
_TYPE = re.compile(r"type\(\w+\) is \w+ and ")


def condition_lines(check: InputCheck, names: Sequence[str]) -> list[str]:
    """Lines of Python that raise where a call does not fit.

    Args:
        check: what the calls are held to.
        names: a variable for each of its leaves.
    """
    always = [
        line
        for name, leaf in zip(names, check.leaves)
        if isinstance(leaf, _Constant)
        for line in _fixed(name, leaf)
    ]
    values = _symbols(check, names)
    for guard in check.guards:
        if set(guard.symbols) <= values.keys():
            always.append(_raise_unless(_python(guard.expression, values), _told(guard.text)))
    traced = [line for name, leaf in zip(names, check.leaves) for line in _sizes(name, leaf, values)]
    if traced:
        # The function is_exporting() of torch 2.11 says True wherever Dynamo traces it.
        given = [
            _raise_unless(
                f"isinstance({name}, torch.Tensor) and {name}.dim() == {leaf.rank} and {name}.dtype == {leaf.dtype}",
                f"input {leaf.name} must be a tensor of {leaf.dtype} with {leaf.rank} dimensions",
            )
            for name, leaf in zip(names, check.leaves)
            if isinstance(leaf, _Tensor)
        ]
        always += ["if not torch.compiler._is_exporting_flag:", *(f"    {line}" for line in given + traced)]
        always += ["else:", *(f"    {_narrowed(line)}" for line in traced)]
    if not always:
        return []
    lines = [line.strip() for line in always if line.lstrip().startswith("if not (")]
    proxies = [_asserted(line) for line in lines if not line.startswith("if not (isinstance(")]
    return [
        f"if isinstance({names[0]}, torch.fx.Proxy):",
        *(f"    {line}" for line in proxies),
        "else:",
        *(f"    {line}" for line in always),
    ]


def require(check: InputCheck, leaves: Sequence[Any]) -> None:
    """See that the conditions hold, for sizes that may be symbols: to whoever traces, they become conditions of theirs.

    Raises:
        InputError: one does not.
    """
    sizes: dict[str, Any] = {}
    for leaf, value in zip(check.leaves, leaves):
        if isinstance(leaf, _Constant) and not isinstance(
            value, (torch.SymInt, torch.SymFloat, torch.SymBool)
        ):
            check_constant(leaf, value)
        elif isinstance(leaf, _Number) and leaf.symbol:
            sizes.setdefault(leaf.symbol, value)
            if isinstance(value, torch.SymInt):
                _expect(value >= leaf.min, partial(_number_told, leaf))
                _expect(value <= leaf.max, partial(_number_told, leaf))
        elif isinstance(leaf, _Tensor) and isinstance(value, torch.Tensor):
            for index, fixed in leaf.fixed:
                if isinstance(value.shape[index], torch.SymInt):
                    _expect(value.shape[index] == fixed, partial(_size_told, leaf.name, index, str(fixed)))
            for dim in leaf.linear:
                _require_size(leaf, dim, value.shape[dim.index], sizes)
    for guard in check.guards:
        if set(guard.symbols) <= sizes.keys() and not guard.holds(sizes):
            raise InputError(_told(guard.text))


_expect: Callable[[Any, Callable[[], str]], None] = torch._check


def _require_size(leaf: _Tensor, dim: _LinearDim, found: Any, sizes: dict[str, Any]) -> None:
    """See that one size fits, and learn a symbol's value of it."""
    known = sizes.setdefault(dim.symbol, (found - dim.offset) // dim.scale)
    if isinstance(found, torch.SymInt):  # else the check of the arguments has looked at it
        told = partial(_size_told, leaf.name, dim.index, f"{dim.min}..{dim.max}")
        _expect(found >= dim.min, told)
        if dim.max > _LEAST_THAT_VARIES:
            _expect(found <= dim.max, told)
        _expect(found == dim.scale * known + dim.offset, partial(_disagrees, leaf.name, dim.index))


def _told(condition: str) -> str:
    return f"the model was captured under the condition {condition}, which does not hold for these inputs"


def _size_told(name: str, dim: int, size: str) -> str:
    return f"input {name} must have size {size} at dimension {dim}"


def _number_told(leaf: _Number) -> str:
    return f"input {leaf.name} must be {leaf.min}..{leaf.max}"


def _disagrees(name: str, dim: int) -> str:
    return f"input {name} has a size at dimension {dim} that does not agree with the other inputs"


def _raise_unless(condition: str, message: str) -> str:
    return f"if not ({condition}): raise ValueError({message!r})"


def _narrowed(line: str) -> str:
    """The line for torch.export: what it checks of a size becomes the range that the exported program has.

    Without a text: a function in a graph is more than torch.export(strict=True) of torch 2.13 can take.
    """
    found = _LINE.fullmatch(line)
    assert found is not None, line
    ranged = _RANGE.fullmatch(found["condition"])
    if ranged is None:
        return f"torch._check({found['condition']})"
    low, size, high = ranged.groups()
    if int(high) <= _LEAST_THAT_VARIES:
        return f"torch._check({size} >= {low})"
    return f"torch._check({size} >= {low}); torch._check({size} <= {high})"


def _asserted(line: str) -> str:
    """The line for proxies of torch.fx, which take no ``if``: what it asserts becomes a node of the traced graph."""
    found = _LINE.fullmatch(line)
    assert found is not None, line
    condition, told = _TYPE.sub("", found["condition"]), found["told"]
    ranged = _RANGE.fullmatch(condition)
    if ranged is not None:
        low, size, high = ranged.groups()
        return f"torch._assert({size} >= {low}, {told}); torch._assert({size} <= {high}, {told})"
    return f"torch._assert({condition}, {told})"


def _fixed(name: str, leaf: _Constant) -> list[str]:
    same = same_text(name, leaf.value)
    if same is None:
        return []
    return [_raise_unless(same, f"input {leaf.name} was fixed to {leaf.value!r} when the model was compiled")]


def same_text(name: str, value: Any) -> str | None:
    """Python that says whether a variable is one with a plain value (`same_value`); None for what has no such form."""
    text = literal(value)
    if text is None:
        return None
    if value is None:
        return f"{name} is None"
    if not isinstance(value, (bool, int, float)):
        return f"{name} == {text}"
    same = f"{name} == {text}"
    if isinstance(value, float) and math.isnan(value):
        same = f"{name} != {name}"
    elif isinstance(value, float) and value == 0:
        same = f"str({name}) == {str(value)!r}"
    return f"type({name}) is {type(value).__name__} and {same}"


def literal(value: Any) -> str | None:
    """A plain value as Python writes it; None for what has no such form."""
    if isinstance(value, float):
        return f"float({str(value)!r})"
    if value is None or isinstance(value, (bool, int, str)):
        return repr(value)
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        return str(value)
    return f"torch.device({str(value)!r})" if isinstance(value, torch.device) else None


def _symbols(check: InputCheck, names: Sequence[str]) -> dict[str, str]:
    """Text of every symbol's value, from where it is first seen."""
    values: dict[str, str] = {}
    for name, leaf in zip(names, check.leaves):
        if isinstance(leaf, _Number) and leaf.symbol:
            values.setdefault(leaf.symbol, name)
        elif isinstance(leaf, _Tensor):
            for dim in leaf.linear:
                values.setdefault(dim.symbol, f"(({name}.shape[{dim.index}] - {dim.offset}) // {dim.scale})")
    return values


def _sizes(name: str, leaf: Any, values: Mapping[str, str]) -> list[str]:
    """A tensor's sizes, and numbers that are sizes: what Dynamo would take as they come."""
    if isinstance(leaf, _Number) and leaf.symbol:
        return [_raise_unless(f"{leaf.min} <= {name} <= {leaf.max}", _number_told(leaf))]
    if not isinstance(leaf, _Tensor):
        return []
    lines = []
    for index, fixed in leaf.fixed:
        told = _size_told(leaf.name, index, str(fixed))
        lines.append(_raise_unless(f"{name}.shape[{index}] == {fixed}", told))
    for dim in leaf.linear:
        found = f"{name}.shape[{dim.index}]"
        told = _size_told(leaf.name, dim.index, f"{dim.min}..{dim.max}")
        lines.append(_raise_unless(f"{dim.min} <= {found} <= {dim.max}", told))
        told = _disagrees(leaf.name, dim.index)
        if dim.scale != 1 or not values[dim.symbol].startswith(f"(({found} "):
            lines.append(_raise_unless(f"{found} == {dim.scale} * {values[dim.symbol]} + {dim.offset}", told))
    return lines


# Functions of `trtcore.ir.expressions` as Python that SymInts go through.
_FORMS: Mapping[str, Callable[..., str]] = {
    "FloorDiv": lambda a, b: f"({a} // {b})",
    "CleanDiv": lambda a, b: f"({a} // {b})",
    "CeilDiv": lambda a, b: f"(-(-{a} // {b}))",
    "Mod": lambda a, b: f"({a} % {b})",
    "PythonMod": lambda a, b: f"({a} % {b})",
    "ModularIndexing": lambda a, b, c: f"(({a} // {b}) % {c})",
    "Max": lambda *a: a[0] if len(a) == 1 else f"max({', '.join(a)})",
    "Min": lambda *a: a[0] if len(a) == 1 else f"min({', '.join(a)})",
    "IntTrueDiv": lambda a, b: f"({a} / {b})",
    "FloatTrueDiv": lambda a, b: f"({a} / {b})",
    "ToFloat": lambda a: f"torch.sym_float({a})",
    "CeilToInt": lambda a: f"(-(-{a} // 1))",
    "FloorToInt": lambda a: f"({a} // 1)",
    "TruncToInt": lambda a: f"torch.sym_int({a})",
    "RoundToInt": lambda a: f"round({a})",
    "Where": lambda c, a, b: f"({a} if {c} else {b})",
}


def _python(condition: str, values: Mapping[str, str]) -> str:
    """A condition that is already parsed, over Python's variables."""
    return _written(ast.parse(condition.strip(), mode="eval").body, values)


def _written(node: ast.AST, values: Mapping[str, str]) -> str:
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.Call):
        return _FORMS[ast.unparse(node.func)](*(_written(argument, values) for argument in node.args))
    if isinstance(node, ast.BinOp):
        sign = ast.unparse(ast.BinOp(ast.Name("a"), node.op, ast.Name("b")))[2:-2]
        return f"({_written(node.left, values)} {sign} {_written(node.right, values)})"
    if isinstance(node, ast.UnaryOp):
        sign = "not " if isinstance(node.op, ast.Not) else "-"
        return f"({sign}{_written(node.operand, values)})"
    if isinstance(node, ast.BoolOp):
        word = " and " if isinstance(node.op, ast.And) else " or "
        return f"({word.join(_written(value, values) for value in node.values)})"
    if isinstance(node, ast.Compare):
        signs = [ast.unparse(ast.Compare(ast.Name("a"), [op], [ast.Name("b")]))[2:-2] for op in node.ops]
        rest = " ".join(f"{sign} {_written(value, values)}" for sign, value in zip(signs, node.comparators))
        return f"({_written(node.left, values)} {rest})"
    return ast.unparse(node)

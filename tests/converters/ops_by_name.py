"""The ops that a test of converters tries, read from its code."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

FAMILIES = Path(__file__).parents[2] / "converters" / "trtcore_converters"
FOLDER = Path(__file__).parent


@functools.cache
def families() -> dict[str, frozenset[str]]:
    """Module of the ATen pack -> the ops that it names."""
    return {
        path.stem: _ops_in(path) for path in FAMILIES.glob("*.py") if path.stem != "strict_ops"
    }  # a table


def _ops_in(path: Path) -> frozenset[str]:
    return frozenset(re.findall(r"\b(?:aten|prims)\.(\w+)", path.read_text()))


@functools.cache
def ops_of(path: Path, test: str) -> frozenset[str]:
    """The ops that a test names, itself or in the functions and tables of its module that it uses.

    What Python writes as an operator counts in the tests of the op's family only.
    """
    known, uses = families(), _uses(path)
    mine = known.get(path.stem.removeprefix("test_"), frozenset())
    reached, todo = {test}, [test]
    while todo:
        for name in uses.get(todo.pop(), frozenset()):
            if name in uses and name not in reached:
                reached.add(name)
                todo.append(name)
    words = frozenset().union(*(uses.get(name, frozenset()) for name in reached))
    named = {_plain(word) for word in words}
    return frozenset(
        op
        for op in frozenset().union(*known.values())
        if named & {_plain(op), *SPELLINGS.get(op, ())} or (op in mine and f"operator {op}" in words)
    )


def _plain(name: str) -> str:
    """What the spellings of an op have in common: LogSigmoid and log_sigmoid, erfcx and special_erfcx, add and add_."""
    return re.sub(r"^(special|linalg|unsafe)|[123]d$", "", name.lower().replace("_", ""))


@functools.cache
def _uses(path: Path) -> dict[str, frozenset[str]]:
    """What a module defines -> the names, attributes, operators and one-word texts in the definition."""
    found: dict[str, frozenset[str]] = {}
    for statement in ast.parse(path.read_text()).body:
        words = frozenset(_words(statement))
        for name in _defined(statement):
            found[name] = found.get(name, frozenset()) | words
    return found


def names_of_tests(path: Path) -> list[str]:
    """The test functions of a module."""
    return [name for name in _uses(path) if name.startswith("test_")]


def _defined(statement: ast.stmt) -> list[str]:
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return [statement.name]
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        return [
            node.id
            for node in ast.walk(statement)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        ]
    return []


def _words(statement: ast.stmt) -> Iterator[str]:
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.value
        else:
            yield from (f"operator {op}" for op in OPERATORS.get(type(node).__name__, ()))


#: Ops that the tests reach by another name.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "_cdist_forward": ("cdist",),
    "_pdist_forward": ("pdist",),
    "constant_pad_nd": ("pad",),
    "grid_sampler_2d": ("gridsample",),
    "grid_sampler_3d": ("gridsample",),
    "max_pool2d_with_indices": ("maxpool",),
    "rnn_relu": ("rnn",),
    "rnn_tanh": ("rnn",),
}

#: Node of Python's syntax -> the ops that tensors make of it.
OPERATORS = {
    "Add": ("add",), "Sub": ("sub", "rsub"), "Mult": ("mul",), "Div": ("div", "true_divide"), "Pow": ("pow",),
    "MatMult": ("matmul", "mm", "bmm", "mv", "dot"), "FloorDiv": ("floor_divide",), "Mod": ("remainder", "fmod"),
    "USub": ("neg",), "Invert": ("bitwise_not", "logical_not"), "BitAnd": ("bitwise_and",), "BitOr": ("bitwise_or",),
    "BitXor": ("bitwise_xor",), "LShift": ("bitwise_left_shift",), "RShift": ("bitwise_right_shift",), "Eq": ("eq",),
    "NotEq": ("ne",), "Lt": ("lt",), "LtE": ("le",), "Gt": ("gt",), "GtE": ("ge",),
    "Subscript": ("slice", "select", "index"),
}  # fmt: skip

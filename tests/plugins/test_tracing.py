"""Sizes for all inputs, from functions traced with symbolic ones; and expressions in another arithmetic."""

from __future__ import annotations

import math
from typing import Any

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._sympy.functions import CeilToInt, FloorDiv, IntTrueDiv, Mod, Where

from trtcore.pack import ConversionError
from trtcore_plugins.expressions import INTEGERS, Choice, lower
from trtcore_plugins.tracing import TensorSpec, trace_sizes

A, B = sympy.symbols("a b", integer=True, nonnegative=True)
SIZE = st.one_of(st.integers(1, 4), st.integers(5, 300))


def of(*shapes: tuple[int | None, ...]) -> list[TensorSpec]:
    return [TensorSpec(torch.float32, shape) for shape in shapes]


def shape_of(function: Any) -> Any:
    def run(tensors: list[torch.Tensor]) -> Any:
        out = function(*tensors)
        return out.shape, (out.dtype, out.dim())

    return run


@pytest.mark.parametrize(
    ("expression", "python"),
    [
        (A + 2 * B - 3, lambda a, b: a + 2 * b - 3),
        (3 - A, lambda a, b: 3 - a),
        (A**3 * B, lambda a, b: a**3 * b),
        (FloorDiv(A + 6, 7), lambda a, b: -(-a // 7)),
        (FloorDiv(A, 7) - FloorDiv(B, 3), lambda a, b: a // 7 - b // 3),
        (-FloorDiv(-A, 5), lambda a, b: math.ceil(a / 5)),
        (B - 2 - FloorDiv(-A * B, 5), lambda a, b: b - 2 + -(-a * b // 5)),
        (CeilToInt(IntTrueDiv(A, sympy.Integer(3))), lambda a, b: -(-a // 3)),
        (Mod(A, 4) + 1, lambda a, b: a % 4 + 1),
        (sympy.Max(A, B, 9), lambda a, b: max(a, b, 9)),
        (sympy.Min(A, B), lambda a, b: min(a, b)),
        (Where(A < B, A, B + 7), lambda a, b: a if a < b else b + 7),
        (sympy.Piecewise((A, A > B), (B, True)), lambda a, b: a if a > b else b),
        (
            Choice([(sympy.Eq(A, 1), B), (sympy.Ne(B, 2) & (A >= B), A)], 5),
            lambda a, b: b if a == 1 else a if b != 2 and a >= b else 5,
        ),
        ((A <= B) | sympy.Eq(B, 3), lambda a, b: a <= b or b == 3),
        (sympy.Not(sympy.And(A < 3, B < 3), evaluate=False), lambda a, b: not (a < 3 and b < 3)),
    ],
)
@given(a=SIZE, b=SIZE)
@settings(max_examples=60, deadline=None)
def test_expressions_have_their_values(expression: Any, python: Any, a: int, b: int) -> None:
    assert lower(expression, {"a": a, "b": b}, INTEGERS) == int(python(a, b))


class Recorder:
    """An arithmetic that writes down what it is asked."""

    def __getattr__(self, operation: str) -> Any:
        return lambda a, b: f"{operation}({a}, {b})"


@pytest.mark.parametrize(
    ("expression", "asked"),
    [
        (FloorDiv(A + 127, 128), "ceil_div(a, 128)"),
        (-FloorDiv(-A, 128), "ceil_div(a, 128)"),
        (A - B, "sub(a, b)"),
        (A * 1, "a"),
        (sympy.Integer(7), 7),
        (Choice([(sympy.Eq(A, 1), B)], A), "add(mul(equal(a, 1), b), mul(sub(1, equal(a, 1)), a))"),
    ],
)
def test_what_an_arithmetic_is_asked(expression: Any, asked: Any) -> None:
    assert lower(expression, {"a": "a", "b": "b"}, Recorder()) == asked


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        (sympy.Symbol("u0"), "depends on data"),
        (A / 2, "no integer"),
        (sympy.sqrt(A), "power"),
        (sympy.sin(A), "uses sin"),
    ],
)
def test_expressions_that_are_no_sizes(expression: Any, reason: str) -> None:
    with pytest.raises(ConversionError, match=reason):
        lower(expression, {"a": 3}, INTEGERS)


BROADCASTS = [
    ((None, None), (None, None)),
    ((None, None), (None, 1)),
    ((None, None), ()),
    ((None,), (None, 3, None)),
]


@pytest.mark.parametrize("shapes", BROADCASTS)
def test_broadcasting_for_all_sizes(shapes: tuple[tuple[int | None, ...], ...]) -> None:
    traced = trace_sizes(shape_of(torch.add), of(*shapes), "add")
    checked = 0

    @given(data=st.data())
    @settings(max_examples=60, deadline=None)
    def check(data: Any) -> None:
        nonlocal checked
        common = {d: data.draw(st.integers(0, 40)) for d in range(1, 4)}
        sizes = [
            tuple(
                size if size is not None else data.draw(st.sampled_from([1, common[len(shape) - d]]))
                for d, size in enumerate(shape)
            )
            for shape in shapes
        ]
        try:
            expected = torch.broadcast_shapes(*sizes)
        except RuntimeError:
            return
        checked += 1
        assert traced.evaluate(sizes) == tuple(expected)

    check()
    assert checked > 15


FUNCTIONS = {
    "same": (lambda x: torch.empty_like(x), [(None, None)]),
    "halves": (lambda x: x.new_empty(x.shape[0], x.shape[1] // 2), [(None, None)]),
    "rounded up": (lambda x: x.new_empty(-(-x.shape[0] // 16), (x.shape[1] + 6) // 7), [(None, None)]),
    "flattened": (lambda x: x.new_empty(x.numel()), [(None, 3, None)]),
    "concatenated": (lambda x, y: torch.cat([x, y]), [(None, 5), (None, 5)]),
    "padded": (lambda x: torch.nn.functional.pad(x, (1, 2)), [(None, None)]),
    "at least 8": (lambda x: x.new_empty(max(x.shape[0], 8)), [(None,)]),
    "at most both": (lambda x, y: x.new_empty(min(x.shape[0], y.shape[0])), [(None,), (None,)]),
    "convolved": (lambda x: torch.nn.functional.conv2d(x, x.new_empty(6, 3, 3, 3), stride=2, padding=1), [(None, 3, 32, 40)]),
    "matrix product": (lambda x, y: x @ y, [(None, 7), (7, None)]),
    "reduced": (lambda x: x.sum(1), [(None, None, None)]),
    "to scalar": (lambda x: x.sum(), [(None, None)]),
    "steps": (lambda x: x.new_empty(4 if x.shape[0] < 10 else x.shape[0] * 2), [(None,)]),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_all_sizes(name: str) -> None:
    function, shapes = FUNCTIONS[name]
    traced = trace_sizes(shape_of(function), of(*shapes), name)

    @given(data=st.data())
    @settings(max_examples=100, deadline=None)
    def check(data: Any) -> None:
        sizes = [tuple(data.draw(SIZE) if size is None else size for size in shape) for shape in shapes]
        out = function(*(torch.empty(size, device="meta") for size in sizes))
        assert traced.evaluate(sizes) == tuple(out.shape)

    check()


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: torch.nonzero(x), "raises on tensors without data"),
        (lambda x: x.reshape(3, 5, 7, 11, 13), "raises on tensors without data"),
        (lambda x: x.new_empty(x.shape) if x.shape[0] > 3 else x.new_empty(5), "for some sizes and"),
        (lambda x: x.new_empty(int(x.shape[0]) * 2), "as if it were a fixed one"),
    ],
)
def test_functions_that_cannot_be_followed(function: Any, reason: str) -> None:
    with pytest.raises(ConversionError, match=reason):
        trace_sizes(shape_of(function), of((None, None)), "it")

"""Random subgraphs: whatever becomes a kernel computes what torch computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
import torch
from codegen_cases import assert_right, random
from hypothesis import strategies as st

pytest.importorskip("triton")

from trtcore_plugins.codegen.plan import run
from trtcore_plugins.codegen.program import evaluate
from trtcore_plugins.codegen.rules import Unsupported
from trtcore_plugins.codegen.trace import program_of

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

UNARY: tuple[Callable[..., Any], ...] = (
    torch.tanh, torch.sigmoid, torch.neg, torch.abs, torch.relu, torch.sin, torch.floor, torch.sign,
    torch.nn.functional.silu, torch.nn.functional.gelu, lambda x: x.clamp(-1, 2), lambda x: x * 0.7 + 0.1,
    lambda x: torch.where(x > 0, x, x * 0.1), lambda x: (x.abs() + 1).log(), lambda x: x.to(torch.float32),
    lambda x: x.unsqueeze(0).squeeze(0), lambda x: (x * x + 1).rsqrt(),
)  # fmt: skip
BINARY: tuple[Callable[..., Any], ...] = (
    torch.add, torch.sub, torch.mul, torch.maximum, torch.minimum,
    lambda x, y: x / (y.abs() + 1), lambda x, y: torch.where(x < y, x, y), lambda x, y: (x > y).to(x.dtype) * y,
)  # fmt: skip
REDUCE: tuple[Callable[..., Any], ...] = (
    lambda x, d: x.sum(d, keepdim=True), lambda x, d: x.mean(d, keepdim=True), lambda x, d: x.amax(d, keepdim=True),
    lambda x, d: x.amin(d, keepdim=True), lambda x, d: torch.softmax(x, d), lambda x, d: x.var(d, keepdim=True),
    lambda x, d: torch.log_softmax(x, d), lambda x, d: x.argmax(d, keepdim=True).to(x.dtype),
)  # fmt: skip


@st.composite
def graphs(draw: Any) -> tuple[Callable[..., Any], list[torch.Tensor]]:
    """A function of up to eight ops over two or three inputs that broadcast, and inputs for it."""
    rank = draw(st.integers(1, 3))
    shape = draw(st.lists(st.integers(2, 9), min_size=rank, max_size=rank))
    dtype = draw(st.sampled_from((torch.float32, torch.float32, torch.float16, torch.bfloat16)))
    dim = draw(st.integers(0, rank - 1))
    seed = draw(st.integers(0, 1 << 30))
    torch.manual_seed(seed)
    inputs = [random(shape, dtype)]
    for _ in range(draw(st.integers(1, 2))):
        kept = [size if draw(st.booleans()) else 1 for size in shape]
        one = random(kept, dtype)
        if draw(st.booleans()) and rank > 1 and kept == shape:
            one = random(shape[::-1], dtype).permute(*range(rank)[::-1])
        inputs.append(one)
    steps = []
    for at in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from("uubbr"))
        table = {"u": UNARY, "b": BINARY, "r": REDUCE}[kind]
        function = draw(st.sampled_from(table))
        count = len(inputs) + at
        operands = [draw(st.integers(max(0, count - 3), count - 1)), draw(st.integers(0, count - 1))]
        steps.append((kind, function, operands))
    results = draw(st.integers(1, 2))

    def compute(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = list(tensors)
        for kind, function, (one, two) in steps:
            if kind == "u":
                values.append(function(values[one]))
            elif kind == "b":
                values.append(function(values[one], values[two]))
            else:
                values.append(function(values[one], dim))
        return tuple(values[-results:])

    return compute, inputs


def check(drawn: tuple[Callable[..., Any], list[torch.Tensor]]) -> None:
    function, inputs = drawn
    try:
        program = program_of(function, *inputs)
    except Unsupported:
        hypothesis.reject()
    assert_like_eager(function, inputs, run(program, inputs, interpret=True, poisoned=True))
    for one, two in zip(evaluate(program, inputs), function(*inputs)):
        assert torch.equal(one.nan_to_num(7), two.nan_to_num(7))


def assert_like_eager(
    function: Callable[..., Any], inputs: list[torch.Tensor], results: list[torch.Tensor]
) -> None:
    """Near float64, or (where a comparison of rounded numbers went another way in float64) near eager."""
    try:
        assert_right(function, inputs, results)
    except AssertionError:
        for got, wanted in zip(results, function(*inputs)):
            step = torch.finfo(wanted.dtype).eps if wanted.is_floating_point() else 0
            torch.testing.assert_close(got, wanted, rtol=16 * step, atol=16 * step, equal_nan=True)


common = {"deadline": None, "suppress_health_check": list(hypothesis.HealthCheck), "database": None}


@hypothesis.settings(max_examples=20, derandomize=True, **common)
@hypothesis.given(graphs())
def test_random_graphs(drawn: tuple[Callable[..., Any], list[torch.Tensor]]) -> None:
    check(drawn)


@pytest.mark.slow
@hypothesis.settings(max_examples=500, **common)
@hypothesis.given(graphs())
def test_many_random_graphs(drawn: tuple[Callable[..., Any], list[torch.Tensor]]) -> None:
    check(drawn)

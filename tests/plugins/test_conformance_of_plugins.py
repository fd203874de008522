"""`assert_plugin`: what it proves, and that it notices what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import triton
from toy_kernels import BLOCK, accumulate, axpy, axpy_kernel, interprets_loops, row_stats

from trtcore_plugins import assert_plugin, generate_plugin, triton_plugin

PAIR = (torch.randn(5, 77), torch.randn(5, 77))
GOOD: dict[str, Any] = {
    "schema": "(Tensor x, Tensor y, float alpha=1.0) -> Tensor",
    "shapes": lambda x: x.shape,
    "grid": lambda x: triton.cdiv(x.numel(), BLOCK),
    "arguments": {"n": lambda x: x.numel(), "BLOCK": BLOCK},
    "reference": lambda x, y, alpha: x + alpha * y,
}


@pytest.mark.interpreter
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_right_kernel_in_the_interpreter(dtype: torch.dtype) -> None:
    proof = assert_plugin(
        axpy, [x.to(dtype) for x in PAIR], kwargs={"alpha": 2.0}, dynamic={"x": [0], 1: [0]}
    )
    assert proof.proved == ("values", "op", "shapes")
    assert proof.not_run == {"compiled": "this process interprets Triton kernels"}
    assert proof.largest < 0.01


@pytest.mark.interpreter
def test_without_a_reference_the_values_are_not_proved() -> None:
    proof = assert_plugin(accumulate, [torch.randn(9), torch.randn(9)])
    assert proof.proved == ("op", "shapes")
    assert "no reference" in proof.not_run["values"]


@pytest.mark.interpreter
@interprets_loops
def test_several_outputs() -> None:
    assert assert_plugin(row_stats, [torch.randn(3, 4, 9)]).proved == ("op", "shapes")


def test_a_right_kernel_without_a_gpu() -> None:
    proof = assert_plugin(axpy, PAIR)
    assert proof.proved == ("shapes", "compiled")
    assert set(proof.not_run) == {"values", "op"}


@pytest.mark.interpreter
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": lambda x, y, alpha: x - alpha * y}, "out is wrong"),
        ({"reference": lambda x, y, alpha: (x + alpha * y)[:1]}, "out has shape"),
        ({"grid": 1}, "out is wrong"),  # the rest stays poisoned
        ({"shapes": lambda x: (x.shape[0] + 1, x.shape[1])}, "out has shape"),
    ],
)
def test_a_wrong_declaration_is_noticed(changes: dict[str, Any], message: str) -> None:
    op = triton_plugin("toys::noticed", axpy_kernel, **{**GOOD, **changes})
    with pytest.raises(AssertionError, match=message):
        assert_plugin(op, PAIR)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"arguments": {"n": lambda x: x.numel(), "BLOCK": lambda x: x.shape[0]}},
            "depends on a dynamic size",
        ),
        ({"num_warps": 4, "arguments": {"n": lambda x: x.numel(), "BLOCK": 100}}, "power of 2"),
    ],
)
def test_a_kernel_that_tensorrt_could_not_launch_is_noticed(changes: dict[str, Any], message: str) -> None:
    op = triton_plugin("toys::noticed", axpy_kernel, **{**GOOD, **changes})
    with pytest.raises(AssertionError, match=message):
        assert_plugin(op, PAIR)


def test_an_op_of_torch() -> None:
    proof = assert_plugin(generate_plugin("aten::mul.Tensor"), [torch.randn(3, 4), torch.randn(3, 1)])
    assert proof.proved == ("op", "shapes")
    assert proof.not_run["compiled"] == "the plugin is a Python callback"

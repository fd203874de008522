"""`assert_plugin`: what it proves, and that it notices what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl
from toy_kernels import BLOCK, accumulate, axpy, axpy_kernel, interprets_loops, row_stats

from trtcore_plugins import assert_plugin, generate_plugin, triton_plugin
from trtcore_plugins.isolated import in_fork, in_interpreter, place_of

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
    assert proof.proved == ("values", "memory", "op", "shapes", "isolated")
    assert proof.not_run == {"compiled": "this process interprets Triton kernels"}
    assert proof.largest < 0.01


@pytest.mark.interpreter
def test_without_a_reference_the_values_are_not_proved() -> None:
    """That is told, and an error where they are required."""
    with pytest.warns(UserWarning, match="no value of the kernel was proved: there is no reference"):
        proof = assert_plugin(accumulate, [torch.randn(9), torch.randn(9)])
    assert proof.proved == ("memory", "op", "shapes", "isolated")
    assert "no reference" in proof.not_run["values"]
    assert "not run: values: there is no reference" in str(proof)
    with pytest.raises(
        AssertionError, match="what is required was not proved: values: there is no reference"
    ):
        assert_plugin(accumulate, [torch.randn(9), torch.randn(9)], require=("values",))


@pytest.mark.interpreter
@interprets_loops
def test_several_outputs() -> None:
    with pytest.warns(UserWarning, match="no value"):
        proof = assert_plugin(row_stats, [torch.randn(3, 4, 9)])
    assert proof.proved == ("memory", "op", "shapes", "isolated")


def test_a_right_kernel_without_a_gpu() -> None:
    with pytest.warns(UserWarning, match="no value of the kernel was proved: the inputs are not on a GPU"):
        proof = assert_plugin(axpy, PAIR)
    assert proof.proved == ("shapes", "compiled", "isolated")
    assert set(proof.not_run) == {"values", "memory", "op"}
    with pytest.raises(AssertionError, match="values: the inputs are not on a GPU"):
        assert_plugin(axpy, PAIR, require=("values",))
    with pytest.raises(ValueError, match="'value' is none of"):
        assert_plugin(axpy, PAIR, require=("value",))


@pytest.mark.interpreter
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": lambda x, y, alpha: x - alpha * y}, "out is wrong"),
        ({"reference": lambda x, y, alpha: (x + alpha * y)[:1]}, "out has shape"),
        ({"grid": 1}, "out is wrong"),  # the rest stays poisoned
        ({"shapes": lambda x: (x.shape[0] + 1, x.shape[1])}, "out has shape"),
        (
            {"shapes": lambda x: (1,)},
            r"out has shape \(1,\), not \(5, 77\)",
        ),  # before the kernel writes there
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
    with pytest.warns(UserWarning, match="no value"):
        proof = assert_plugin(generate_plugin("aten::mul.Tensor"), [torch.randn(3, 4), torch.randn(3, 1)])
    assert proof.proved == ("op", "shapes", "isolated")
    assert proof.not_run["compiled"] == "the plugin is a Python callback"


@triton.jit
def without_mask(x_ptr, y_ptr, out_ptr, n, alpha, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.store(out_ptr + at, x + alpha * tl.load(y_ptr + at, mask=at < n))


@triton.jit
def before(x_ptr, y_ptr, out_ptr, n, alpha, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK) - 3
    x = tl.load(x_ptr + at, mask=at < n)
    tl.store(out_ptr + at, x + alpha * tl.load(y_ptr + at, mask=at < n), mask=at < n)


@triton.jit
def into_an_input(x_ptr, y_ptr, out_ptr, n, alpha, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    y = tl.load(y_ptr + at, mask=at < n)
    tl.store(out_ptr + at, x + alpha * y, mask=at < n)
    tl.store(y_ptr + at, x, mask=at < n)


@triton.jit
def reads_too_far(x_ptr, y_ptr, out_ptr, n, alpha, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at + 1)
    y = tl.load(y_ptr + at, mask=at < n)
    tl.store(out_ptr + at, x * 0 + x + alpha * y, mask=at < n)


@triton.jit
def far_away(x_ptr, y_ptr, out_ptr, n, alpha, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK).to(tl.int64) + (1 << 45)
    tl.store(out_ptr + at, at.to(tl.float32))


@triton.jit
def for_ever(x_ptr, y_ptr, out_ptr, n, alpha, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(x_ptr)
    while total == total:
        total = tl.load(x_ptr)
    tl.store(out_ptr + at, total + tl.load(y_ptr + at, mask=at < n), mask=at < n)


@pytest.mark.interpreter
@pytest.mark.parametrize(
    ("kernel", "options", "message"),
    [
        (without_mask, {}, r"writes outside of out, up to 127 elements behind its last \(it has 385\)"),
        (before, {}, "writes outside of out, up to 3 elements before its first"),
        (into_an_input, {}, "writes to its input y, and the schema says that it does not"),
        (reads_too_far, {}, "out is wrong"),
        (far_away, {}, "gave no answer: it was killed by SIGSEGV"),
        (for_ever, {"timeout": 5}, "did not end within 5 s; does the kernel loop for ever"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_kernel_that_does_harm(kernel: Any, options: dict[str, Any], message: str) -> None:
    """One clear AssertionError, and the process of the test goes on."""
    op = triton_plugin("toys::harm", kernel, **GOOD)
    with pytest.raises(AssertionError, match=message):
        assert_plugin(op, PAIR, **options)
    assert assert_plugin(axpy, PAIR).largest < 1e-5


@pytest.mark.interpreter
def test_shapes_that_are_too_small_are_told_before_the_launch() -> None:
    op = triton_plugin("toys::harm", far_away, **{**GOOD, "shapes": lambda x: (x.shape[0],)})
    with pytest.raises(AssertionError, match=r"out has shape \(5,\), not \(5, 77\)"):
        assert_plugin(op, PAIR)


def test_a_child_that_raises_what_cannot_be_pickled() -> None:
    class Odd(Exception):
        pass

    def fails() -> None:
        raise Odd("so")

    with pytest.raises(AssertionError, match="Odd: so") as caught:
        in_fork(fails, 60)
    assert "in fails" in str(caught.value.__cause__)


@pytest.mark.slow
def test_a_fresh_interpreter() -> None:
    """As for CUDA tensors: the plugin is imported there by its name."""
    place = place_of(axpy)
    assert place == ("toy_kernels", "axpy")
    options = {"values": axpy.signature.bind(PAIR, {}), "dynamic": None, "compute_capabilities": [(8, 0)]}
    call = "trtcore_plugins.conformance:prove"
    proof = in_interpreter(place, call, {**options, "rtol": None, "atol": None}, 300)
    assert proof.proved == ("shapes", "compiled")
    assert in_interpreter(("os", "abort"), "toy_kernels:call", {}, 300).why == "it was killed by SIGABRT"

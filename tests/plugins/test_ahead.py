"""Triton kernels compiled for GPUs that are not here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trtcore.pack import ConversionError

pytest.importorskip("triton")

import triton
import triton.language as tl
from toy_kernels import BLOCK, accumulate, axpy, axpy_kernel, row_stats

from trtcore_plugins import ahead, triton_plugin
from trtcore_plugins.launching import Role
from trtcore_plugins.tracing import TensorSpec

F32, F16 = torch.float32, torch.float16


def specs(*shapes: tuple[int | None, ...], dtype: torch.dtype = F32) -> list[TensorSpec]:
    return [TensorSpec(dtype, shape) for shape in shapes]


@pytest.mark.parametrize(
    ("capability", "target", "version"),
    [
        ((7, 5), "sm_75", "8.0"),
        ((8, 9), "sm_89", "8.0"),
        ((9, 0), "sm_90a", "8.0"),
        ((10, 0), "sm_100a", "8.6"),
        ((12, 0), "sm_120a", "8.7"),
    ],
)
def test_targets_and_ptx_versions(capability: tuple[int, int], target: str, version: str) -> None:
    _, kernel = axpy.compile(specs((None, 7), (None, 7)), {"alpha": 2.0}, capability)
    lines = kernel.ptx.splitlines()
    assert f".target {target}" in lines
    assert f".version {version}" in lines
    assert f".entry {kernel.name}(" in kernel.ptx
    assert (kernel.threads, kernel.compute_capability) == (128, capability)


def test_a_ptx_version_of_ones_own() -> None:
    newer = _declared(ptx_version=84, num_warps=8)
    _, kernel = newer.compile(specs((None,), (None,)), {"alpha": 2.0}, (9, 0))
    assert ".version 8.4" in kernel.ptx
    assert kernel.threads == 256


def test_parameters_come_in_tensorrts_order() -> None:
    """The kernel has x, mean, count, columns; TensorRT gives inputs, sizes, outputs."""
    plan, kernel = row_stats.compile(specs((None, 7, None), dtype=F16), {"threshold": 0.5}, (9, 0))
    scratch = [".u64"] * ahead.scratch_parameters()
    assert ahead.read_parameters(kernel.ptx) == [".u64", ".u32", ".u64", ".u64", *scratch]
    assert [str(size) for size in plan.sizes] == ["d0_2"]
    assert [str(size) for size in plan.grid] == ["7*d0_0", "1", "1"]
    assert dict(plan.roles)["threshold"] == Role("number", 0.5)
    assert kernel.shared_bytes > 0  # tl.sum over four warps


def test_fixed_sizes_are_constants() -> None:
    plan, kernel = row_stats.compile(specs((None, 33)), {"threshold": 0.5}, (9, 0))
    assert plan.sizes == ()
    assert dict(plan.roles)["columns"] == Role("number", 33)
    assert ".u32" not in ahead.read_parameters(kernel.ptx)


def test_an_input_that_is_written_is_an_output_too() -> None:
    plan, kernel = accumulate.compile(specs((None,), (None,)), {}, (9, 0))
    assert plan.aliased == (F32,)
    pointers = 3 + ahead.scratch_parameters()
    assert ahead.read_parameters(kernel.ptx) == [".u64"] * 2 + [".u32"] + [".u64"] * (pointers - 2)


def test_kernels_are_compiled_once() -> None:
    one = axpy.compile(specs((None, 3), (None, 3)), {"alpha": 2.0}, (9, 0))[1]
    assert axpy.compile(specs((None, 3), (None, 3)), {"alpha": 2.0}, (9, 0))[1] is one
    other = axpy.compile(specs((None, 3), (None, 3)), {"alpha": 3.0}, (9, 0))[1]
    assert (other is one, other.ptx == one.ptx) == (False, False)


@triton.jit
def dot_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    x = tl.load(x_ptr + at)
    tl.store(out_ptr + at, tl.dot(x, tl.trans(x)))


@triton.jit
def wrong_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    tl.store(out_ptr, tl.load(x_ptr) + tl.arange(0, BLOCK + 1))


@triton.jit
def autotuned_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    tl.store(out_ptr + tl.arange(0, BLOCK), tl.load(x_ptr + tl.arange(0, BLOCK)))


TUNED = triton.autotune(configs=[triton.Config({"BLOCK": 16})], key=[])(autotuned_kernel)


def _declared(kernel: Any = axpy_kernel, **changes: Any) -> Any:
    known = {
        "schema": "(Tensor x, Tensor y, float alpha=1.0) -> Tensor",
        "shapes": lambda x: x.shape,
        "grid": lambda x: triton.cdiv(x.numel(), BLOCK),
        "arguments": {"n": lambda x: x.numel(), "BLOCK": BLOCK},
    }
    return triton_plugin("toys::ahead", kernel, **{**known, **changes})


UNARY = {"schema": "(Tensor x) -> Tensor", "arguments": {"BLOCK": 16}}


@pytest.mark.parametrize(
    ("kernel", "changes", "reason"),
    [
        (dot_kernel, {**UNARY, "arguments": {"BLOCK": 128}, "num_warps": 8}, "shared memory"),
        (wrong_kernel, UNARY, "cannot compile it for compute capability 9.0: .*power of 2"),
        (TUNED, {"schema": "(Tensor x) -> Tensor", "arguments": {"BLOCK": 16}}, "choose their constants at run time"),
        (axpy_kernel, {"arguments": {"n": 4, "BLOCK": lambda x: 16 * x.shape[0]}}, "constant BLOCK depends on a dynamic size"),
        (axpy_kernel, {"num_ctas": 2}, "clusters of 2"),
        (axpy_kernel, {"arguments": {"n": lambda x: x + 1, "BLOCK": 16}}, "n is a tensor that is no input or output"),
        (axpy_kernel, {"arguments": {"n": lambda x: x.shape[5], "BLOCK": 16}}, "raises on tensors without data"),
    ],
)  # fmt: skip
def test_kernels_that_no_plugin_can_be(kernel: Any, changes: dict[str, Any], reason: str) -> None:
    op = _declared(kernel, **changes)
    count = len(op.signature.tensors)
    with pytest.raises(ConversionError, match=reason):
        op.compile(specs(*[(None, 256)] * count), {"alpha": 1.0} if count == 2 else {}, (9, 0))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"global_scratch_size": 512}, "512 bytes of global scratch memory, which TensorRT has not"),
        ({"profile_scratch_size": 8}, "scratch memory for profiling"),
        ({"launch_pdl": True}, "launch attribute launch_pdl"),
        ({"num_warps": 8}, "wants 128 threads, not 8 warps"),
    ],
)
def test_what_launch_parameters_cannot_say(changes: dict[str, Any], reason: str) -> None:
    metadata = SimpleNamespace(shared=0, num_warps=4, num_ctas=1)
    ahead._check_metadata("it", metadata, ".reqntid 128")
    vars(metadata).update(changes)
    with pytest.raises(ConversionError, match=reason):
        ahead._check_metadata("it", metadata, ".reqntid 128")


def test_parameters_that_triton_adds_are_refused_where_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "scratch_parameters", lambda: 1)
    with pytest.raises(ConversionError, match=r"Triton \d.*gave the kernel the parameters") as error:
        axpy.compile(specs((None, 11), (None, 11)), {"alpha": 2.0}, (9, 0))
    assert "Triton 3.6 to 3.9" in str(error.value)


def test_ptx_without_exactly_one_kernel() -> None:
    with pytest.raises(ConversionError, match="0 kernels"):
        ahead.read_parameters(".version 8.0")


@pytest.mark.interpreter
def test_an_interpreting_process_compiles_nothing() -> None:
    with pytest.raises(ConversionError, match="TRITON_INTERPRET=1"):
        axpy.compile(specs((None, 3), (None, 3)), {"alpha": 2.0}, (9, 0))

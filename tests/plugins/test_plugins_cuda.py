"""Kernel plugins on a real GPU: the torch op, and the compiled kernel launched as TensorRT launches it.

The machines with a GPU have no TensorRT. What a plugin gives TensorRT (PTX, and a launch with inputs, integers,
outputs and unread outputs) is given to the CUDA driver here.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl
from toy_kernels import BLOCK, accumulate, axpy, row_stats

from trtcore.pack import scoped_registry
from trtcore_plugins import assert_plugin, generate_plugin, triton_plugin
from trtcore_plugins.expressions import INTEGERS, lower
from trtcore_plugins.isolated import place_of
from trtcore_plugins.quick import Definition, Registration
from trtcore_plugins.tracing import TensorSpec, symbol_name

pytestmark = pytest.mark.gpu

SHAPES = [(1,), (BLOCK,), (BLOCK + 1,), (3, 77), (1000, 1001), (2, 3, 5, 7, 11)]
FLOATS = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_op_on_the_gpu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    inputs = [torch.randn(shape, device="cuda").to(dtype) for _ in range(2)]
    proof = assert_plugin(
        axpy, inputs, kwargs={"alpha": 0.5}, compute_capabilities=[torch.cuda.get_device_capability()]
    )
    assert proof.proved == ("values", "memory", "op", "shapes", "compiled", "isolated")


@triton.jit
def far_away_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK).to(tl.int64) + (1 << 40)
    tl.store(out_ptr + at, at.to(tl.float32))


@triton.jit
def too_many_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(out_ptr + at, at.to(tl.float32))


def _harm(name: str, kernel: Any) -> Any:
    return triton_plugin(
        name,
        kernel,
        schema="(Tensor x) -> Tensor",
        shapes=lambda x: x.shape,
        grid=1,
        arguments={"BLOCK": 128},
        reference=lambda x: torch.arange(len(x), device=x.device),
    )


with scoped_registry():
    far_away = _harm("toys::far_away", far_away_kernel)
    too_many = _harm("toys::too_many", too_many_kernel)


def test_a_kernel_that_does_harm_on_the_gpu() -> None:
    """An illegal access ends the CUDA context of the child, not of this process; a plugin that no module has runs here."""
    x = torch.zeros(100, device="cuda")
    with pytest.raises(AssertionError, match="illegal memory access"):
        assert_plugin(far_away, [x])
    with pytest.raises(AssertionError, match=r"writes outside of out, up to 28 elements behind its last"):
        assert_plugin(too_many, [x])
    with scoped_registry():
        local = _harm("toys::local", too_many_kernel)
        assert place_of(local) is None
        proof = assert_plugin(local, [torch.zeros(128, device="cuda")])
    assert "ran in this process" in proof.not_run["isolated"]
    assert float(x.sum()) == 0


def test_under_torch_compile_without_recompiling() -> None:
    from torch._dynamo import testing

    counter = testing.CompileCounterWithBackend("inductor")
    compiled = torch.compile(
        lambda x, y: axpy(x.relu(), y, 2.0) * 3, fullgraph=True, dynamic=True, backend=counter
    )
    for rows in (5, 64, 333):
        x, y = torch.randn(rows, 65, device="cuda"), torch.randn(rows, 65, device="cuda")
        torch.testing.assert_close(compiled(x, y), (x.relu() + 2 * y) * 3)
    assert counter.frame_count == 1


def test_on_a_stream_of_the_callers_and_captured_in_a_graph() -> None:
    x, y = torch.randn(1000, device="cuda"), torch.randn(1000, device="cuda")
    axpy(x, y, 2.0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = axpy(x, y, 2.0)
    x.copy_(torch.randn(1000, device="cuda"))
    graph.replay()
    torch.testing.assert_close(out, x + 2 * y)


class Driver:
    """The CUDA driver, as far as launching a kernel from PTX needs it."""

    def __init__(self) -> None:
        torch.cuda.init()
        torch.zeros(1, device="cuda")  # makes the context current
        self.cuda = ctypes.CDLL("libcuda.so.1")

    def check(self, code: int) -> None:
        text = ctypes.c_char_p()
        self.cuda.cuGetErrorString(code, ctypes.byref(text))
        assert code == 0, text.value

    def launch(
        self, name: str, ptx: str, grid: list[int], threads: int, shared: int, arguments: list[Any]
    ) -> None:
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.check(self.cuda.cuModuleLoadData(ctypes.byref(module), ptx.encode()))
        self.check(self.cuda.cuModuleGetFunction(ctypes.byref(function), module, name.encode()))
        pointers = (ctypes.c_void_p * len(arguments))(*[ctypes.addressof(a) for a in arguments])
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        self.check(self.cuda.cuLaunchKernel(function, *grid, threads, 1, 1, shared, stream, pointers, None))
        torch.cuda.synchronize()
        self.check(self.cuda.cuModuleUnload(module))


def launch_as_tensorrt(
    plugin: Any, inputs: list[torch.Tensor], attributes: dict[str, Any]
) -> list[torch.Tensor]:
    """Compile a plugin for inputs of any sizes and launch it with exactly what TensorRT would give it."""
    specs = [TensorSpec(tensor.dtype, tuple(None for _ in tensor.shape)) for tensor in inputs]
    plan, kernel = plugin.compile(specs, attributes, torch.cuda.get_device_capability())
    sizes = {
        symbol_name(i, d): size for i, tensor in enumerate(inputs) for d, size in enumerate(tensor.shape)
    }
    outputs = [
        torch.full([lower(dim, sizes, INTEGERS) for dim in shape], 77, device="cuda").to(dtype)
        for shape, dtype in zip(plan.shapes, plan.dtypes)
    ]
    unread = [torch.full((1,), 77.0, device="cuda") for _ in range(kernel.scratch_parameters)]
    aliased = [inputs[plugin.signature.tensors.index(name)] for name in plugin.signature.mutated]
    arguments = [ctypes.c_uint64(tensor.data_ptr()) for tensor in inputs]
    arguments += [ctypes.c_int32(lower(size, sizes, INTEGERS)) for size in plan.sizes]
    arguments += [ctypes.c_uint64(tensor.data_ptr()) for tensor in (*aliased, *outputs, *unread)]
    grid = [max(lower(size, sizes, INTEGERS), 1) for size in plan.grid]
    Driver().launch(kernel.name, kernel.ptx, grid, kernel.threads, kernel.shared_bytes, arguments)
    assert all(tensor.item() == 77.0 for tensor in unread)
    return outputs


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_compiled_kernel_equals_the_op(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, y = (torch.randn(shape, device="cuda").to(dtype) for _ in range(2))
    (found,) = launch_as_tensorrt(axpy, [x, y], {"alpha": 0.3})
    assert torch.equal(found, axpy(x, y, 0.3))  # the same kernel, the same promotion of its scalars


def test_a_compiled_kernel_of_several_outputs_and_shared_memory() -> None:
    x = torch.randn(7, 5, 1001, device="cuda", dtype=torch.float16)
    mean, count = launch_as_tensorrt(row_stats, [x], {"threshold": 0.25})
    torch.testing.assert_close(mean, x.float().mean(-1))
    assert torch.equal(count, (x > 0.25).sum(-1, dtype=torch.int32))


def test_a_compiled_kernel_that_writes_to_its_input() -> None:
    state, x = torch.randn(1000, device="cuda"), torch.randn(1000, device="cuda")
    expected = state + x
    launch_as_tensorrt(accumulate, [state, x], {})
    torch.testing.assert_close(state, expected)


@triton.jit
def constants_kernel(x_ptr, out_ptr, n, scale, shift, flag, BLOCK: tl.constexpr, MODE: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    if MODE == "scaled":
        x = x * scale
    if flag:
        x = x + shift
    tl.store(out_ptr + at, x, mask=at < n)


@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize("scale", [0.1, float("inf"), 1e-9])
def test_constants_are_compiled_in(flag: bool, scale: float) -> None:
    op = triton_plugin(
        "toys::constants",
        constants_kernel,
        schema="(Tensor x, float scale, int shift, bool flag, str mode) -> Tensor",
        shapes=lambda x: x.shape,
        grid=lambda x: triton.cdiv(x.numel(), 64),
        arguments={"n": lambda x: x.numel(), "BLOCK": 64, "MODE": lambda mode: mode},
    )
    x = torch.randn(200, device="cuda", dtype=torch.float16)
    arguments = {"scale": scale, "shift": 3, "flag": flag, "mode": "scaled"}
    (found,) = launch_as_tensorrt(op, [x], arguments)
    torch.testing.assert_close(found, op(x, **arguments), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int64, torch.bool])
def test_a_python_callback_on_tensorrts_memory_and_stream(dtype: torch.dtype) -> None:
    definition: Definition = generate_plugin("aten::mul.Tensor").definition()
    backend: Any = SimpleNamespace(torch_dtype=lambda given: given)
    stream = torch.cuda.Stream()
    x, y = (torch.randint(0, 2, (5, 64), device="cuda").to(dtype) for _ in range(2))
    out = torch.zeros(5, 64, device="cuda", dtype=dtype)
    torch.cuda.synchronize()
    given = [
        SimpleNamespace(data_ptr=t.data_ptr(), shape=tuple(t.shape), strides=t.stride(), dtype=t.dtype)
        for t in (x, y, out)
    ]
    Registration(definition, backend, None).run(given[0], given[1], [given[2]], stream=stream.cuda_stream)
    stream.synchronize()
    assert torch.equal(out, x * y)

"""The native runtime's call path on a GPU without TensorRT: everything but the engine's own kernels is real.

A `Connection` whose engines are the network's snapshot, evaluated by torch on the memory at the addresses and on the
stream that the runtime gives it: streams, torch's allocator, captures, relaxed mode and user objects are CUDA's. The
first run of a context copies its constants, which a capture forbids.
"""

from __future__ import annotations

import gc
import threading
import time
from typing import Any

import pytest
import torch

import trtcore
from trtcore.runtime import engine as engines
from trtcore.runtime.native import captures
from trtcore.runtime.native.bindings import IOTensor, NativeError
from trtcore.runtime.native.cuda import Cuda
from trtcore.runtime.native.logic import NativeEngine

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("full_precision")]


class At:
    """Memory at an address, as torch takes it without a copy."""

    def __init__(self, address: int, count: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (count,), "typestr": "|u1", "data": (address, False), "version": 3, "strides": None,
        }  # fmt: skip


def memory(address: int, dtype: torch.dtype, shape: Any) -> torch.Tensor:
    count = torch.Size(shape).numel() * dtype.itemsize
    return torch.as_tensor(At(address, count), device="cuda").view(dtype).view(shape)


class Context:
    """What is set on a context, and its run."""

    def __init__(self, connection: Snapshots) -> None:
        self.connection = connection
        self.module = connection.compile(connection.artifact.snapshot)
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.scratch = (0, 0)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_device_memory(self, address: int, size: int) -> None:
        self.scratch = (address, size)

    def execute_async_v3(self, stream: int) -> bool:
        self.connection.executed += 1
        manifest = self.connection.artifact.manifest
        with torch.no_grad(), torch.cuda.stream(torch.cuda.ExternalStream(stream)):
            address, size = self.scratch
            scratch = memory(address, torch.float32, (size // 4,))
            arguments = []
            for binding in manifest.inputs:
                given = memory(self.addresses[binding.name], binding.dtype, self.shapes[binding.name])
                staged = scratch[: given.numel()].view(given.shape)  # as activations are
                arguments.append(staged.copy_(given) if binding.dtype is torch.float32 else given)
            for binding, result in zip(manifest.outputs, self.module(*arguments)):
                memory(self.addresses[binding.name], binding.dtype, result.shape).copy_(result)
        return True


class Snapshots(Cuda):
    """A `Connection` for one engine."""

    def __init__(self, artifact: Any) -> None:
        from trtcore_reference import compile_snapshot

        super().__init__()
        self.artifact, self.compile = artifact, compile_snapshot
        self.contexts = 0
        self.executed = 0

    def deserialize(self, plan: torch.Tensor) -> Any:
        return self

    def io_tensors(self, engine: Any) -> tuple[IOTensor, ...]:
        manifest = self.artifact.manifest
        return tuple(
            IOTensor(
                binding.name,
                binding in manifest.inputs,
                binding.dtype,
                tuple(dim if isinstance(dim, int) else -1 for dim in binding.shape),
                False,
                binding.all_profiles if binding in manifest.inputs else (),
            )
            for binding in (*manifest.inputs, *manifest.outputs)
        )

    def create_context(self, engine: Any) -> Context:
        self.contexts += 1
        return Context(self)

    def run_calls(self, context: Context) -> Any:
        return context.set_tensor_address, context.set_device_memory, context.execute_async_v3

    def set_profile(self, context: Context, index: int, stream: int) -> None:
        pass

    def set_input_shape(self, context: Context, name: str, shape: Any) -> None:
        context.shapes[name] = tuple(shape)

    def missing(self, context: Context) -> list[str]:
        return []

    def output_shape(self, context: Context, name: str) -> tuple[int, ...]:
        binding = next(binding for binding in self.artifact.manifest.outputs if binding.name == name)
        return (-1,) * len(binding.shape)

    def memory_size(self, context: Context) -> int:
        return 4 * sum(torch.Size(shape).numel() for shape in context.shapes.values())

    def refused(self, what: str) -> NativeError:
        return NativeError(what)


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Snapshots]:
    """Every native engine runs by a `Snapshots`; those made so far."""
    made: list[Snapshots] = []

    def native(manifest: Any, artifact: Any) -> NativeEngine:
        made.append(Snapshots(artifact))
        return NativeEngine(manifest, artifact.plan, made[-1])

    monkeypatch.setattr(engines, "_native", native)
    return made


class Model(torch.nn.Module):
    """Two engines around an op in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.special.erfcx(self.a(x).relu() * 0.1)).relu()


@pytest.fixture
def model() -> torch.nn.Module:
    return Model().eval().cuda()


@pytest.fixture
def module(model: torch.nn.Module, connections: list[Snapshots]) -> Any:
    rows = trtcore.Input(min_shape=(1, 64), opt_shape=(4, 64), max_shape=(16, 64), device="cuda")
    return trtcore.compile(
        model, [rows], runtime="native", min_block_size=1, torch_executed_ops={"aten.special_erfcx"}
    )


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, 64, device="cuda")


def same(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def poison() -> None:
    """What memory the allocator has free is full of something else."""
    torch.full((1 << 22,), float("nan"), device="cuda")
    for size in (64, 1024, 4096, 65536):
        for _ in range(8):
            torch.full((size,), float("nan"), device="cuda")


@torch.no_grad()
def test_eager_calls_on_every_stream(module: Any, model: Any, connections: list[Snapshots]) -> None:
    for stream in (torch.cuda.default_stream(), torch.cuda.Stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            for count in (4, 2, 4, 16, 2):
                x = rows(count) @ torch.eye(64, device="cuda")  # queued just before
                same(module(x) + 0, model(x))
    assert len(connections) == 2
    assert [one.contexts for one in connections] == [9, 9]  # by stream and shape


@torch.no_grad()
def test_the_default_stream_is_ordered_with_the_engine(module: Any, model: Any) -> None:
    heavy = torch.randn(2048, 2048, device="cuda")
    for _ in range(20):
        x = (heavy @ heavy)[:8, :64].clone()
        y = module(x) * 2
        x.zero_()  # behind the engine, which must have read it
        heavy.mul_(0.999)
        z = module(x) * 2
        same(z, model(torch.zeros_like(x)) * 2)
        assert not y.isnan().any()


@torch.no_grad()
def test_capture_without_any_warm_up(module: Any, model: Any) -> None:
    x = rows(4)
    static, graph = x.clone(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = module(static)
    for _ in range(3):
        x = rows(4)
        static.copy_(x)
        graph.replay()
        same(y, model(x))


@torch.no_grad()
def test_several_graphs_and_eager_calls_between(
    module: Any, model: Any, connections: list[Snapshots]
) -> None:
    """PyTorch's recipe, graphs of two shapes, calls of other shapes and of the same one between replays."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            module(rows(2))
    torch.cuda.current_stream().wait_stream(side)
    graphs = []
    for count in (2, 8, 2):
        static, graph = rows(count), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = module(static)
        graphs.append((static, graph, y))
    for _ in range(3):
        for count in (16, 2, 8):
            x = rows(count)
            same(module(x), model(x))
        poison()
        for static, graph, y in graphs:
            x = torch.randn_like(static)
            static.copy_(x)
            bystanders = [torch.zeros(4096, device="cuda") for _ in range(8)]
            graph.replay()
            same(y, model(x))
            assert not any(one.any() for one in bystanders), "a replay wrote into memory of others"


@torch.no_grad()
def test_the_warm_up_of_a_context_is_never_on_the_stream_that_is_captured(module: Any, model: Any) -> None:
    """torch's streams are from a pool of 32: after as many, the one that is captured comes again."""
    for count in range(1, 17):
        for stream in (torch.cuda.Stream(), torch.cuda.Stream(), torch.cuda.Stream()):
            static, graph = rows(count), torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                y = module(static)
            graph.replay()
            torch.cuda.synchronize()
            same(y, model(static))
            del graph


@torch.no_grad()
def test_contexts_come_back_when_graphs_go(module: Any, connections: list[Snapshots]) -> None:
    for _ in range(12):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            module(rows(4))
        graph.replay()
        torch.cuda.synchronize()
        del graph
        gc.collect()
        until = time.monotonic() + 5
        while any(not one.token.done() for one in captures._held) and time.monotonic() < until:
            time.sleep(0.01)
    assert [one.contexts for one in connections] == [1, 1]


@torch.no_grad()
def test_a_graph_outlives_its_module(model: Any, module: Any) -> None:
    static, graph = rows(4), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = module(static)
    del module
    gc.collect()
    poison()
    graph.replay()
    same(y, model(static))


@torch.no_grad()
def test_graphed_callables(module: Any, model: Any) -> None:
    graphed = torch.cuda.make_graphed_callables(module, (rows(4),))
    for _ in range(3):
        x = rows(4)
        same(graphed(x), model(x))


@torch.no_grad()
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_torch_compile_of_it(module: Any, model: Any, mode: str) -> None:
    torch._dynamo.reset()
    again = torch.compile(module, mode=mode, dynamic=False)
    for count in (4, 2):
        for _ in range(4):
            x = rows(count)
            same(again(x).clone(), model(x))
    torch._dynamo.reset()


@torch.no_grad()
def test_a_first_call_while_another_thread_captures(module: Any, model: Any) -> None:
    capturing, called = threading.Event(), threading.Event()
    results: list[Any] = []

    def capture() -> None:
        static, graph = rows(4), torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            y = static * 2
            capturing.set()
            called.wait(60)
        graph.replay()
        torch.cuda.synchronize()
        results.append((static, y))

    thread = threading.Thread(target=capture)
    x, warm = rows(4), model(rows(4))
    torch.cuda.synchronize()
    thread.start()
    assert capturing.wait(60)
    with torch.cuda.stream(torch.cuda.Stream()):
        got = module(x)
    called.set()
    thread.join()
    torch.cuda.synchronize()
    same(got, model(x))
    same(results[0][1], results[0][0] * 2)
    del warm


@torch.no_grad()
def test_calls_leave_nothing_behind(module: Any) -> None:
    for count in (4, 2, 8):
        module(rows(count))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for index in range(60):
        module(rows((4, 2, 8)[index % 3]))
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


@torch.no_grad()
def test_a_call_does_not_wait_for_the_gpu(module: Any) -> None:
    x, own = rows(4), torch.cuda.Stream()

    def calls() -> None:
        module(x)
        with torch.cuda.stream(own):
            module(x)

    calls()  # the first on a stream copies the constants of this test's contexts
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        calls()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@torch.no_grad()
def test_threads_with_streams_of_their_own(module: Any, model: Any) -> None:
    failures: list[str] = []

    def work(seed: int) -> None:
        with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
            for index in range(50):
                x = rows((seed + index) % 16 + 1)
                if not torch.allclose(module(x), model(x), rtol=1e-4, atol=1e-4):
                    failures.append(f"{seed} {index}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures

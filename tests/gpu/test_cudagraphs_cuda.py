"""CUDA graphs of whole compiled modules, and PyTorch's own recipes over them, in the reference runtime on a GPU."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn

import trtcore
from trtcore.runtime import enable_cudagraphs

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("full_precision")]


class Hybrid(nn.Module):
    """Two engines around an op in torch, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)
        self.register_buffer("calls", torch.zeros(64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        return self.b(torch.special.erfcx(self.a(x).relu() * 0.1)).relu() + self.calls


@pytest.fixture
def model() -> nn.Module:
    return Hybrid().eval().cuda()


@pytest.fixture
def module(model: nn.Module) -> Any:
    rows = trtcore.Input(min_shape=(1, 64), opt_shape=(4, 64), max_shape=(16, 64), device="cuda")
    made = trtcore.compile(
        model, [rows], runtime="reference", min_block_size=1, torch_executed_ops={"aten.special_erfcx"}
    )
    made.calls = torch.zeros(64, device="cuda")  # not the model's own
    return made


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, 64, device="cuda")


def same(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_replays_of_several_shapes_with_a_buffer_that_is_written(module: Any, model: Any) -> None:
    graphed = enable_cudagraphs(module)
    for index in range(12):
        x = rows((4, 2, 8)[index % 3])
        same(graphed(x), model(x))
        same(module.calls, model.calls)
        torch.full((1 << 20,), float("nan"), device="cuda")  # what is free is full of something else
    assert len(graphed) == 3


@torch.no_grad()
def test_the_number_of_graphs_and_the_memory_are_bounded(module: Any, model: Any) -> None:
    graphed = enable_cudagraphs(module, max_graphs=2)
    used = []
    for _ in range(4):
        for count in (1, 2, 3, 4, 5):
            x = rows(count)
            same(graphed(x), model(x))
        torch.cuda.synchronize()
        used.append(torch.cuda.memory_allocated())
    assert len(graphed) == 2
    assert used[2] == used[3], used


@torch.no_grad()
def test_streams_and_threads(module: Any, model: Any) -> None:
    graphed = enable_cudagraphs(module)
    plain = model.b, model.a
    for count in (4, 2):
        graphed(rows(count))
    failures: list[str] = []

    def work(seed: int) -> None:
        with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
            for index in range(30):
                x = rows((4, 2)[(seed + index) % 2])
                got = graphed(x)
                want = plain[0](torch.special.erfcx(plain[1](x).relu() * 0.1)).relu()
                rest = got - want
                if (rest - rest.round()).abs().max() > 1e-3:  # the counter's value is another thread's matter
                    failures.append(f"{seed} {index}")

    torch.cuda.synchronize()
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.cuda.synchronize()
    assert not failures
    same(module.calls, torch.full((64,), 122.0, device="cuda"))


@torch.no_grad()
def test_a_replay_does_not_wait_for_the_gpu(module: Any) -> None:
    graphed = enable_cudagraphs(module)
    x = rows(4)
    graphed(x)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        graphed(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@torch.no_grad()
def test_what_must_wait_for_the_gpu_runs_without(module: Any) -> None:
    class Chosen(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * 2)[x[:, 0] > 0] + 1

    made = trtcore.compile(Chosen(), [rows(4)], runtime="reference", min_block_size=1)
    x = rows(4)
    with pytest.warns(UserWarning, match="without a CUDA graph"):
        same(enable_cudagraphs(made)(x), Chosen()(x))


@torch.no_grad()
def test_pytorchs_recipe(module: Any, model: Any) -> None:
    static = rows(4)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            module(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = module(static)
    module.calls.zero_()
    for _ in range(3):
        x = rows(4)
        static.copy_(x)
        graph.replay()
        same(y, model(x))
        module(rows(8))  # another shape between
        model.calls.copy_(module.calls)


@torch.no_grad()
def test_graphed_callables_and_reduce_overhead(module: Any, model: Any) -> None:
    inner = module
    graphed = torch.cuda.make_graphed_callables(inner, (rows(4),))
    inner.calls.zero_()
    for _ in range(3):
        x = rows(4)
        same(graphed(x), model(x))
    torch._dynamo.reset()


@torch.no_grad()
def test_capture_without_any_warm_up(module: Any, model: Any) -> None:
    static, graph = rows(4), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = module(static)
    for _ in range(2):
        x = rows(4)
        static.copy_(x)
        graph.replay()
        same(y, model(x))


@torch.no_grad()
def test_torch_compile_with_reduce_overhead() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval().cuda()
    made = trtcore.compile(model, [rows(4)], runtime="reference", min_block_size=1)
    torch._dynamo.reset()
    again = torch.compile(lambda x: made(x * 2) + 1, mode="reduce-overhead", dynamic=False)
    for _ in range(5):
        x = rows(4)
        same(again(x).clone(), model(x * 2) + 1)
    torch._dynamo.reset()


class Positions(nn.Module):
    """Numbers that follow from a shape, as data."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.shape[0] + torch.arange(x.shape[0], device=x.device)[:, None]


@torch.no_grad()
def test_numbers_of_shapes_in_a_graph() -> None:
    given = trtcore.Input(min_shape=(1, 64), opt_shape=(4, 64), max_shape=(16, 64), device="cuda")
    made = trtcore.compile(Positions(), [given], runtime="reference", min_block_size=1)
    graphed = enable_cudagraphs(made)
    for count in (4, 2, 4, 16):
        x = rows(count)
        same(graphed(x), Positions()(x))
    static, graph = rows(8), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = made(static)
    graph.replay()
    same(y, Positions()(static))

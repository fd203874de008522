"""The native runtime with a real TensorRT: needs a GPU and a `tensorrt` with the 10.x API, nothing else.

The tests of the call path (`test_native_path`) run again, here with engines that TensorRT built and runs, and those of what
only a real engine shows: numbers in each dtype, profiles, sizes that the engine finds out, files, refit, what a call costs.
"""

from __future__ import annotations

import copy
import pickle
import threading
import time
from typing import Any

import pytest
import torch
from test_native_path import (  # noqa: F401  (tests that run here with this module's fixtures)
    Model,
    model,
    rows,
    same,
    test_a_call_does_not_wait_for_the_gpu,
    test_a_first_call_while_another_thread_captures,
    test_a_graph_outlives_its_module,
    test_calls_leave_nothing_behind,
    test_capture_without_any_warm_up,
    test_graphed_callables,
    test_the_default_stream_is_ordered_with_the_engine,
    test_the_warm_up_of_a_context_is_never_on_the_stream_that_is_captured,
    test_threads_with_streams_of_their_own,
    test_torch_compile_of_it,
)
from test_native_path import test_several_graphs_and_eager_calls_between as several_graphs
from torch import nn

import trtcore
from trtcore.runtime import enable_cudagraphs

pytestmark = [pytest.mark.gpu, pytest.mark.tensorrt, pytest.mark.usefixtures("full_precision")]


def compiled(given: nn.Module, inputs: Any, **settings: Any) -> Any:
    """One engine, or several, of TensorRT's, run natively."""
    made = trtcore.compile(given, inputs, backend="tensorrt", runtime="native", min_block_size=1, **settings)
    assert made.report.engines, str(made.report)
    return made


@pytest.fixture
def module(model: nn.Module) -> Any:  # noqa: F811
    given = trtcore.Input(min_shape=(1, 64), opt_shape=(4, 64), max_shape=(16, 64), device="cuda")
    return compiled(model, [given], torch_executed_ops={"aten.special_erfcx"})


@torch.no_grad()
def test_several_graphs_and_eager_calls_between(module: Any, model: nn.Module) -> None:  # noqa: F811
    several_graphs.__wrapped__(module, model, [])


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64])
def test_numbers_in_each_dtype(dtype: torch.dtype) -> None:
    class Sums(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x * 2 + y, (x > y)

    x, y = (torch.randint(-50, 50, (3, 5), device="cuda").to(dtype) for _ in range(2))
    made = compiled(Sums(), [x, y])
    for got, want in zip(made(y, x), Sums()(y, x)):
        assert got.dtype is want.dtype
        torch.testing.assert_close(got, want)


@torch.no_grad()
def test_layouts_and_offsets_of_inputs(module: Any, model: nn.Module) -> None:  # noqa: F811
    wide = torch.randn(64, 33, device="cuda")
    for x in (
        wide[:, 1:5].t(),
        wide.reshape(-1)[1 : 1 + 64 * 4].view(4, 64),
        rows(1).expand(4, 64),
        rows(8)[::2],
    ):
        same(module(x), model(x))


@torch.no_grad()
def test_a_number_an_empty_tensor_and_one_input_twice() -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
            return torch.cat([x * by, x + by])

    first = trtcore.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(8, 4), device="cuda")
    made = compiled(Scaled(), [first, torch.tensor(2.0, device="cuda")])
    x = torch.randn(3, 4, device="cuda")
    same(made(x, torch.tensor(3.0, device="cuda")), Scaled()(x, torch.tensor(3.0, device="cuda")))
    two = compiled(Scaled(), [x, x])
    same(two(x, x), Scaled()(x, x))


@torch.no_grad()
def test_sizes_that_the_engine_finds_out() -> None:
    class Chosen(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[x > 0] * 2

    made = compiled(Chosen(), [torch.randn(6, 7, device="cuda")])
    assert made.report.fully_converted, str(made.report)
    for x in (
        torch.randn(6, 7, device="cuda"),
        -torch.ones(6, 7, device="cuda"),
        torch.ones(6, 7, device="cuda"),
    ):
        same(made(x), Chosen()(x))


@torch.no_grad()
def test_copies_and_files(module: Any, model: nn.Module, tmp_path: Any) -> None:  # noqa: F811
    trtcore.save(module, tmp_path / "model.pt2")
    for other in (
        copy.deepcopy(module), pickle.loads(pickle.dumps(module)), trtcore.load(tmp_path / "model.pt2").to("cuda"),
    ):  # fmt: skip
        for count in (1, 16, 5):
            x = rows(count)
            same(other(x), model(x))


@torch.no_grad()
def test_weights_are_refitted(model: nn.Module) -> None:  # noqa: F811
    x = rows(4)
    made = compiled(model, [x], immutable_weights=False, torch_executed_ops={"aten.special_erfcx"})
    same(made(x), model(x))
    other = Model().eval().cuda()
    again = trtcore.dynamo.refit_module_weights(made, torch.export.export(other, (x,)))
    same(again(x), other(x))


@torch.no_grad()
def test_graphs_of_the_whole_module(module: Any, model: nn.Module) -> None:  # noqa: F811
    graphed = enable_cudagraphs(module, max_graphs=2)
    for index in range(12):
        x = rows((4, 2, 8)[index % 3])
        same(graphed(x), model(x))
    assert len(graphed) == 2


@torch.no_grad()
def test_eight_threads_and_mixed_shapes(module: Any, model: nn.Module) -> None:  # noqa: F811
    """No growth; the rates are printed."""
    given = [rows(count) for count in (1, 2, 5, 16)]
    want = [model(x) for x in given]
    wrong: list[int] = []

    def work(seed: int, calls: int) -> None:
        worst = torch.zeros((), device="cuda")
        with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
            for index in range(calls):
                place = (seed + index) % len(given)
                worst = torch.maximum(worst, (module(given[place]) - want[place]).abs().max())
            torch.cuda.current_stream().synchronize()
        if not worst.item() < 1e-4:
            wrong.append(seed)

    def rate(threads: int, calls: int = 500) -> float:
        running = [threading.Thread(target=work, args=(seed, calls)) for seed in range(threads)]
        began = time.perf_counter()
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return threads * calls / (time.perf_counter() - began)

    torch.cuda.synchronize()
    rate(8, 40)
    torch._C._cuda_clearCublasWorkspaces()
    before = torch.cuda.memory_allocated()
    print(f"\none thread {rate(1):.0f} calls a second, eight {rate(8):.0f}")
    torch._C._cuda_clearCublasWorkspaces()
    assert not wrong
    assert torch.cuda.memory_allocated() <= before + (1 << 20)

"""Whole modules as CUDA graphs: what is recorded, kept, left out, and written; `tests/gpu/test_cudagraphs.py` has CUDA.

The graphs here are recordings of Python: a capture runs the call and undoes what it wrote, a replay runs it again into
the memory of the recorded results.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import trtcore
from trtcore.errors import InputError
from trtcore.runtime.cudagraphs import GraphedModule, enable_cudagraphs


class Recording:
    def __init__(self, run, result, module):
        self.run, self.result, self.module = run, pytree.tree_leaves(result), module
        self.replays, self.gone = 0, False

    def replay(self):
        assert not self.gone
        self.replays += 1
        for old, new in zip(self.result, pytree.tree_leaves(self.run())):
            if isinstance(old, torch.Tensor) and old is not new:
                old.copy_(new)

    def reset(self):
        self.gone = True


class Recordings:
    """Stands for `TorchGraphs`."""

    def __init__(self, module):
        self.module, self.made, self.events, self.inside, self.fail = module, [], [], False, None

    def takes(self, device):
        return device.type == "cpu"

    def capturing(self):
        return self.inside

    def warm_up(self, run):
        self.events.append("warm up")
        run()
        run()

    def record(self, run):
        if self.fail:
            raise RuntimeError(self.fail)
        self.events.append("record")
        state = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        result = run()
        for name, buffer in self.module.named_buffers():
            buffer.copy_(state[name])
        self.made.append(Recording(run, result, self.module))
        return self.made[-1], result

    def join(self, device):
        self.events.append("join")

    def wait(self):
        self.events.append("wait")


def graphed(module, **options):
    recordings = Recordings(module)
    return GraphedModule(
        module, options.pop("max_graphs", 8), options.pop("copy_outputs", True), recordings
    ), recordings


class Hybrid(nn.Module):
    """Two engines around an op in torch."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, scale=1.0):
        return self.b(torch.erf(self.a(x).relu()) * scale).relu()


class Counting(nn.Module):
    """Writes to a buffer, and to an input."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(4))

    def forward(self, x, cache):
        self.total.add_(x.sum(0))
        cache.add_(1)
        return x * 2 + self.total, self.total, cache


ROWS = trtcore.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(8, 4))


@pytest.fixture(scope="module")
def hybrid():
    model = Hybrid().eval()
    made = trtcore.compile(
        model, [ROWS], runtime="reference", min_block_size=1, torch_executed_ops={"aten.erf.default"}
    )
    return model, made


@pytest.fixture
def counting():
    made = trtcore.compile(
        Counting(), [torch.ones(2, 4), torch.zeros(3)], runtime="reference", min_block_size=1
    )
    made.total.zero_()
    return made


def same(got, want):
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_one_graph_per_shape(hybrid):
    model, module = hybrid
    called, recordings = graphed(module)
    for rows in (2, 3, 2, 3, 2):
        x = torch.randn(rows, 4)
        same(called(x), model(x))
    assert [one.replays for one in recordings.made] == [3, 2]
    assert len(called) == 2
    assert recordings.events.count("join") == 5


@torch.no_grad()
def test_the_number_of_graphs_is_bounded(hybrid):
    model, module = hybrid
    called, recordings = graphed(module, max_graphs=2)
    for rows in (1, 2, 1, 3, 1, 2):
        x = torch.randn(rows, 4)
        same(called(x), model(x))
    assert len(called) == 2
    assert [one.gone for one in recordings.made] == [False, True, True, False]


@torch.no_grad()
def test_results_are_the_callers_own(hybrid):
    model, module = hybrid
    x, y = torch.randn(2, 4), torch.randn(2, 4)
    called, _ = graphed(module)
    first, second = called(x), called(y)
    same(first, model(x))
    same(second, model(y))
    called, _ = graphed(module, copy_outputs=False)
    first, second = called(x), called(y)
    assert first is second
    same(second, model(y))


@torch.no_grad()
def test_buffers_and_inputs_that_are_written(counting):
    called, recordings = graphed(counting)
    model, cache, want = Counting(), torch.zeros(3), torch.zeros(3)
    for index in range(1, 4):
        x = torch.randn(2, 4)
        result, total, returned = called(x, cache=cache)
        same(result, model(x, want)[0])
        same(counting.total, model.total)
        same(cache, torch.full((3,), float(index)))
        assert returned is cache
        assert total is counting.total
    assert recordings.made[0].replays == 3
    shared = torch.zeros(8)
    with pytest.raises(InputError, match="share memory"):
        called(shared.view(2, 4), shared[:3])


@torch.no_grad()
def test_what_moves_is_recorded_again(counting):
    called, recordings = graphed(counting)
    x = torch.ones(2, 4)
    called(x, torch.zeros(3))
    counting.total = torch.full((4,), 5.0)
    same(called(x, torch.zeros(3))[0], x * 2 + 7)
    same(counting.total, torch.full((4,), 7.0))
    assert [one.gone for one in recordings.made] == [True, False]


@torch.no_grad()
def test_what_no_graph_can_hold_runs_as_it_would(hybrid):
    model, module = hybrid
    called, recordings = graphed(module)
    recordings.fail = "operation not permitted when stream is capturing"
    x = torch.randn(2, 4)
    with pytest.warns(UserWarning, match="without a CUDA graph: operation not permitted"):
        same(called(x), model(x))
    same(called(x), model(x))  # not tried again
    assert recordings.events.count("warm up") == 1
    called, recordings = graphed(module)
    recordings.takes = lambda device: False
    same(called(x), model(x))
    assert not recordings.made


@torch.no_grad()
def test_within_somebody_elses_capture_or_trace(hybrid):
    model, module = hybrid
    called, recordings = graphed(module)
    recordings.inside = True
    x = torch.randn(2, 4)
    same(called(x), model(x))
    recordings.inside = False
    torch._dynamo.reset()
    same(torch.compile(lambda x: called(x) + 1, backend="eager")(x), model(x) + 1)
    assert not recordings.made


@torch.no_grad()
def test_wrong_calls_are_refused_and_leave_nothing(hybrid, counting):
    _, module = hybrid
    called, recordings = graphed(module)
    for wrong in (torch.randn(9, 4), torch.randn(2, 4).double()):
        with pytest.raises(InputError):
            called(wrong)
    assert not recordings.made
    called, _ = graphed(counting)
    with pytest.raises(InputError):
        called(torch.ones(2, 5), torch.zeros(3))
    same(counting.total, torch.zeros(4))


def test_sizes_that_depend_on_data_are_told():
    class Chosen(nn.Module):
        def forward(self, x):
            return (x * 2)[x[:, 0] > 0] + 1

    module = trtcore.compile(Chosen(), [torch.randn(4, 4)], runtime="reference", min_block_size=1)
    called, recordings = graphed(module)
    x = torch.randn(4, 4)
    with pytest.warns(UserWarning, match="without a CUDA graph"):
        same(called(x), Chosen()(x))
    assert not recordings.made


@torch.no_grad()
def test_as_a_context_manager(hybrid):
    _, module = hybrid
    called, recordings = graphed(module)
    with called as inside:
        inside(torch.randn(2, 4))
    assert recordings.made[0].gone
    assert not len(called)


def test_arguments(hybrid):
    assert isinstance(enable_cudagraphs(hybrid[1]), GraphedModule)
    same(enable_cudagraphs(hybrid[1])(torch.ones(2, 4)), hybrid[1](torch.ones(2, 4)))  # on the CPU: no graph
    with pytest.raises(InputError, match="make_graphed_callables"):
        enable_cudagraphs(hybrid[0])
    with pytest.raises(InputError, match="max_graphs"):
        enable_cudagraphs(hybrid[1], max_graphs=0)

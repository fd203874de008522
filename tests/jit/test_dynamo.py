"""The torch.compile backend, on whatever backend and runtime this machine has."""

import copy

import pytest
import torch
from torch import nn

from trtcore.jit import aliases


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 4)
        self.register_buffer("count", torch.zeros(4))
        self.register_buffer("shift", torch.ones(4))

    def forward(self, x):
        self.count.add_(1)
        return torch.relu(
            self.second(torch.sigmoid(self.first(x)) * 2 + 1)
        ) + self.shift + self.count, x.shape[0]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def programs(monkeypatch):
    """Every Program that is compiled."""
    from trtcore.jit import recompiles

    seen, original = [], recompiles.compile_program

    def spy(program, *args, **kwargs):
        seen.append((program, {n.target for n in program.graph_module.graph.find_nodes(op="get_attr")}))
        return original(program, *args, **kwargs)

    monkeypatch.setattr(recompiles, "compile_program", spy)
    return seen


def close(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-3, atol=1e-3)
    assert found[1:] == expected[1:]


def test_it_is_found_by_name():
    assert "trtcore" in torch.compiler.list_backends(exclude_tags=())


@torch.no_grad()
def test_parameters_are_weights_and_mutated_buffers_are_not(programs):
    model = Model().eval()
    eager = copy.deepcopy(model)
    fast = torch.compile(model, backend="trtcore", options={"min_block_size": 1})
    for _ in range(3):
        x = torch.randn(3, 4)
        close(fast(x), eager(x))
    torch.testing.assert_close(model.count, eager.count)
    ((program, weights),) = programs
    assert weights == {"first.weight", "first.bias", "second.weight", "second.bias", "shift"}
    assert sorted(spec.name for spec in program.inputs) == ["count", "x"]
    paths = {
        path
        for node in program.graph_module.graph.nodes
        for path, _ in (node.meta.get("nn_module_stack") or {}).values()
    }
    assert not any("L[" in path for path in paths)


@torch.no_grad()
def test_dynamic_sizes_use_one_compile_until_they_outgrow_it(programs):
    model = Model().eval()
    eager = copy.deepcopy(model)
    fast = torch.compile(model, backend="trtcore", options={"min_block_size": 1}, dynamic=True)
    for batch in (3, 5, 16, 2):
        x = torch.randn(batch, 4)
        close(fast(x), eager(x))
    assert len(programs) == 1
    x = torch.randn(40, 4)
    close(fast(x), eager(x))
    assert len(programs) == 2
    assert [(s.min, s.opt, s.max) for s in programs[1][0].symbols.values()] == [(2, 40, 256)]


@torch.no_grad()
def test_mark_dynamic_gives_the_bounds(programs):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    x = torch.randn(6, 4)
    torch._dynamo.mark_dynamic(x, 0, min=2, max=10)
    torch.compile(model, backend="trtcore")(x)
    assert [(s.min, s.opt, s.max) for s in programs[0][0].symbols.values()] == [(2, 6, 10)]


@torch.no_grad()
def test_a_changed_weight_is_not_stale(programs):
    model = Model().eval()
    eager = copy.deepcopy(model)
    fast = torch.compile(model, backend="trtcore", options={"min_block_size": 1})
    x = torch.randn(3, 4)
    close(fast(x), eager(x))
    state = Model().state_dict()
    state["count"] = model.count.clone()
    model.load_state_dict(state)
    eager.load_state_dict(state)
    close(fast(x), eager(x))
    assert len(programs) == 2


def test_gradients_are_refused():
    with pytest.raises(Exception, match=r"first\.weight requires them(.|\n)*torch\.no_grad\(\)"):
        torch.compile(Model(), backend="trtcore")(torch.randn(3, 4))


def test_frozen_and_inference_mode_work():
    model = nn.Linear(4, 4).requires_grad_(False)
    x = torch.randn(2, 4)
    torch.testing.assert_close(torch.compile(model, backend="trtcore")(x), model(x), rtol=1e-3, atol=1e-3)
    with torch.inference_mode():
        model = nn.Linear(4, 4)
        torch.testing.assert_close(torch.compile(model, backend="trtcore")(x), model(x), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_wrong_option_names_the_nearest():
    with pytest.raises(Exception, match="min_block_size"):
        torch.compile(nn.Linear(4, 4), backend="trtcore", options={"min_blok_size": 3})(torch.randn(2, 4))


def test_writes_through_views_count_as_mutation():
    def function(x, y, z):
        x.view(-1)[0:2].mul_(2)
        y.reshape(-1).add_(1)
        return x + y + z

    with torch._subclasses.FakeTensorMode():
        fakes = [torch.ones(2, 2) for _ in range(3)]
        traced = torch.fx.experimental.proxy_tensor.make_fx(function, pre_dispatch=True)(*fakes)
    placeholders = traced.graph.find_nodes(op="placeholder")
    assert aliases.mutated_placeholders(traced) == set(placeholders[:2])


@torch.no_grad()
@pytest.mark.parametrize("dynamic", [False, True])
def test_outputs_have_the_strides_that_were_traced(dynamic):
    """Dynamo answers stride() and lets view() pass by the traced strides; what the graph gives must have them."""
    conv = nn.Conv2d(3, 6, 3, padding=1).to(memory_format=torch.channels_last)

    def forward(x):
        y, turned = torch.relu(conv(x)), x.transpose(0, 3) + 1
        torch._dynamo.graph_break()
        return y, turned, y.permute(0, 2, 3, 1).view(x.shape[0], -1), y.stride()

    compiled = torch.compile(forward, backend="trtcore", dynamic=dynamic, options={"min_block_size": 1})
    for batch in (2, 3):
        x = torch.randn(batch, 3, 4, 5).to(memory_format=torch.channels_last)
        found, expected = compiled(x), forward(x)
        assert found[3] == expected[3]
        for a, b in zip(found[:3], expected[:3]):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
            assert a.stride() == b.stride()

"""The lowering passes of the built-in pack, one by one on small graphs."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch

from trtcore_converters import passes

aten = torch.ops.aten
CTX = SimpleNamespace(settings=SimpleNamespace(immutable_weights=True))


def lowered(run, graph_pass, *inputs, ctx=CTX):
    """Export `run`, apply the pass, check that the values stay, and return the ops left."""
    module = run if isinstance(run, torch.nn.Module) else _module(run)
    exported = torch.export.export(module, inputs)
    graph_module = _flat(exported)
    before = copy.deepcopy(graph_module)(*inputs)
    assert graph_pass(graph_module, ctx) is None
    graph_module.graph.lint()
    graph_module.recompile()
    for want, got in zip(before, copy.deepcopy(graph_module)(*inputs)):
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert all("val" in node.meta for node in graph_module.graph.nodes if node.op == "get_attr")
    return [str(node.target) for node in graph_module.graph.nodes if node.op == "call_function"]


def _module(run):
    module = torch.nn.Module()
    module.forward = run
    return module


def _flat(exported):
    from trtcore.frontend.export import program_from_exported

    return program_from_exported(exported).graph_module


def test_remove_assertions():
    def run(x):
        return (x.to(torch.float32) + 1,)

    module = _flat(torch.export.export(_module(run), (torch.randn(2),)))
    assert any("_assert_tensor_metadata" in str(node.target) for node in module.graph.nodes)
    assert not any("assert" in op for op in lowered(run, passes.remove_assertions, torch.randn(2)))


def test_remove_noops():
    def run(x):
        y = torch.dropout(x.clone().to(torch.float32).contiguous().view(2, 3), 0.5, False)
        return (y.expand(2, 3)[:, :].detach() + 1,)

    assert [op for op in lowered(run, passes.remove_noops, torch.randn(2, 3)) if "assert" not in op] == [
        "aten.add.Tensor"
    ]


def test_remove_noops_keeps_what_changes_something():
    def run(x):
        return x.t().contiguous() + 1, x.to(torch.float16) + 1, x.view(3, 2) + 1, x[:, 1:] + 1, x.clone()

    left = lowered(run, passes.remove_noops, torch.randn(2, 3))
    assert {
        "aten.contiguous.default",
        "aten.to.dtype",
        "aten.view.default",
        "aten.slice.Tensor",
        "aten.clone.default",
    } <= set(left)


def test_common_subexpressions():
    def run(x):
        return x.t() @ x + x.t() @ x, x * 0.0 - x * -0.0, x * 1, x * 1.0

    left = lowered(run, passes.common_subexpressions, torch.randn(3, 3))
    assert left.count("aten.t.default") == left.count("aten.matmul.default") == 1
    assert left.count("aten.mul.Tensor") == 4


def test_common_subexpressions_keeps_random_ops():
    module = _flat(
        torch.export.export(
            _module(lambda x: (torch.rand_like(x) - torch.rand_like(x) + x,)), (torch.randn(3),)
        )
    )
    passes.common_subexpressions(module, CTX)
    assert sum("rand" in str(node.target) for node in module.graph.nodes) == 2


def test_common_subexpressions_keeps_results_apart():
    module = _flat(torch.export.export(_module(lambda x: (x + 1, x + 1)), (torch.randn(3),)))
    passes.common_subexpressions(module, CTX)
    a, b = module(torch.randn(3))
    assert a.data_ptr() != b.data_ptr()


class Weighted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3, 3))
        self.register_buffer("state", torch.zeros(3))

    def forward(self, x):
        self.state.add_(1)
        scale = (self.weight.t() * 2).exp()
        return x @ scale + torch.arange(3) * 2 + self.state * 3, self.weight * 2


def test_constant_folding():
    left = lowered(Weighted(), passes.constant_folding, torch.randn(2, 3))
    assert "aten.exp.default" not in left
    assert "aten.arange.default" not in left
    assert left.count("aten.mul.Tensor") == 2, "the changing buffer's product and the result's stay"


def test_constant_folding_of_weights_that_must_stay_replaceable():
    ctx = SimpleNamespace(settings=SimpleNamespace(immutable_weights=False))
    left = lowered(Weighted(), passes.constant_folding, torch.randn(2, 3), ctx=ctx)
    assert "aten.exp.default" in left
    assert "aten.arange.default" not in left


def test_constant_folding_has_a_limit(monkeypatch):
    monkeypatch.setattr(passes.folding, "FOLDING_LIMIT", 100)
    left = lowered(lambda x: (x + torch.ones(5, 6) * 2,), passes.constant_folding, torch.randn(1))
    assert "aten.ones.default" in left
    left = lowered(lambda x: (x + torch.ones(5, 5) * 2,), passes.constant_folding, torch.randn(1))
    assert left == ["aten.add.Tensor"]


def test_constant_folding_keeps_random_ops():
    module = _flat(torch.export.export(_module(lambda x: (x + torch.rand(3),)), (torch.randn(3),)))
    passes.constant_folding(module, CTX)
    assert any("rand" in str(node.target) for node in module.graph.nodes)


def test_scalar_constants():
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.tensor(0.1, dtype=torch.float64))

        def forward(self, x, i):
            return x * self.scale, i * self.scale

    module = _flat(torch.export.export(Scaled(), (torch.randn(3), torch.tensor([1, 2]))))
    passes.scalar_constants(module, CTX)
    products = [node for node in module.graph.nodes if node.op == "call_function"]
    assert products[0].args[1] == pytest.approx(0.1)
    assert isinstance(products[1].args[1], torch.fx.Node), "an int tensor times float64 is float64"


def test_they_run_in_this_order():
    from trtcore.lowering import ordered_passes

    names = [item.name for item in ordered_passes(passes.PASSES)]
    ours = [item.name for item in passes.PASSES]
    assert [name for name in names if name in ours] == ours

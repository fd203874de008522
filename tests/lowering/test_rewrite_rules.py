"""Rewrite rules: what they find, what they leave alone, and what is told of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import trtcore
from trtcore.compiler import make_context
from trtcore.errors import PackError
from trtcore.frontend.export import program_from_exported
from trtcore.ir.facts import BOUNDARY, REASON, facts, rewrites_of, set_facts
from trtcore.lowering import lower
from trtcore.pack import RuleMatch, hookimpl, register_pack, rewrite, rules_pass, scoped_registry
from trtcore.packs.loading import PackWarning
from trtcore.settings import CompilationSettings

aten = torch.ops.aten
X, Y = torch.empty(2, 3), torch.empty(2, 3)


class Module(torch.nn.Module):
    def __init__(self, run: Any) -> None:
        super().__init__()
        self.run = run
        self.register_buffer("w", torch.randn(4))

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.run(self, *inputs)


def program(run: Any, *inputs: torch.Tensor, dynamic: Any = None) -> Any:
    exported = torch.export.export(Module(run).eval(), inputs, dynamic_shapes=dynamic, strict=False)
    return program_from_exported(exported)


def applied(rules: Any, run: Any, *inputs: torch.Tensor, **settings: Any) -> list[str]:
    """The ops that rules leave of a function, whose numbers stay; in order."""
    graph_module = program(run, *inputs).graph_module
    want = graph_module(*inputs)
    rules_pass("rules", rules).run(graph_module, make_context(CompilationSettings.from_kwargs(**settings)))
    graph_module.graph.lint()
    graph_module.recompile()
    torch.testing.assert_close(graph_module(*inputs), want)
    return [str(node.target) for node in graph_module.graph.nodes if node.op == "call_function"]


GATE = rewrite(lambda x: x * torch.sigmoid(x), torch.nn.functional.silu, (X,), name="silu")
SCALED = rewrite(
    lambda x, k: (x + x).sum(-1) * k, lambda x, k: x.sum(-1) * (k * 2), (X, 0.5), name="scaled_sum"
)


@pytest.mark.parametrize(
    "run",
    [lambda m, x: x * x.sigmoid(), lambda m, x: x.sigmoid() * x, lambda m, x: torch.mul(x, x.sigmoid())],
)
def test_operands_match_in_either_order(run):
    assert applied([GATE], run, torch.randn(3, 4)) == ["aten.silu.default"]


@pytest.mark.parametrize("dim", [-1, 1])
def test_dims_match_from_the_front_and_the_back(dim):
    left = applied([SCALED], lambda m, x: (x + x).sum(dim) * 3.0, torch.randn(3, 4))
    assert left == ["aten.sum.dim_IntList", "aten.mul.Tensor"]


def test_another_dim_is_not_the_same():
    left = applied([SCALED], lambda m, x: (x + x).sum(0) * 3.0, torch.randn(3, 4))
    assert left == ["aten.add.Tensor", "aten.sum.dim_IntList", "aten.mul.Tensor"]


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x, y: x * y.sigmoid(),
        lambda m, x, y: (x * (gate := x.sigmoid()), gate),
        lambda m, x, y: x * (x.sigmoid() + y),
    ],
)
def test_what_is_not_the_same_or_read_elsewhere_stays(run):
    assert "aten.silu.default" not in applied([GATE], run, torch.randn(3, 4), torch.randn(3, 4))


def test_ops_that_are_to_run_in_torch_stay():
    left = applied([GATE], lambda m, x: x * x.sigmoid(), torch.randn(3), torch_executed_ops={"aten.sigmoid"})
    assert left == ["aten.sigmoid.default", "aten.mul.Tensor"]


def test_a_check_decides_and_may_give_other_arguments():
    def constant(found: RuleMatch) -> Any:
        x, w = found.arguments
        return (x,) if w in found.constants and bool((found.constants[w] == 0).all()) else False

    rule = rewrite(lambda x, w: x + w, lambda x: x.clone(), (X, Y), constant, name="plus_nothing")

    def run(m, x):
        return x + torch.zeros_like(m.w), x + m.w

    assert applied([rule], run, torch.randn(4)).count("aten.add.Tensor") == 2, "zeros_like is no constant"
    module = Module(lambda m, x: (x + m.z, x + m.w))
    module.register_buffer("z", torch.zeros(4))
    graph_module = program_from_exported(
        torch.export.export(module, (torch.randn(4),), strict=False)
    ).graph_module
    rules_pass("rules", [rule]).run(graph_module, make_context(CompilationSettings()))
    assert [log.nodes for log in rewrites_of(graph_module)] == [("add",)]


def test_what_cannot_be_there_is_not_traced():
    traced = []

    def gate(x):
        traced.append(x)
        return x * torch.sigmoid(x)

    def beside_sigmoid(node):
        return any(str(source.target) == "aten.sigmoid.default" for source in node.all_input_nodes)

    def rule(**hints):
        return rewrite(gate, torch.nn.functional.silu, (X,), name="gate", **hints)

    product = {"ops": (torch.ops.aten.mul.Tensor,)}
    x = torch.randn(3, 4)
    assert applied([rule(**product)], lambda m, x: x + x.sigmoid(), x).count("aten.add.Tensor") == 1
    assert (
        applied([rule(**product, anchor=beside_sigmoid)], lambda m, x: x * x.tanh(), x)[1]
        == "aten.mul.Tensor"
    )
    assert not traced
    assert applied([rule(**product, anchor=beside_sigmoid)], lambda m, x: x * x.sigmoid(), x) == [
        "aten.silu.default"
    ]
    assert traced


def test_a_bias_behind_a_product_that_becomes_a_linear():
    def run(m, x):
        return x @ m.w.reshape(4, 1).expand(4, 4) @ m.product.t() + m.w

    module = Module(run).eval()
    module.register_buffer("product", torch.randn(4, 4))
    x = torch.randn(3, 4)
    report = trtcore.explain(module, inputs=[x], min_block_size=1)
    assert "aten.linear.default" in {node.op for node in report.nodes}
    assert "aten.add.Tensor" not in {node.op for node in report.nodes}


def test_sizes_that_vary():
    batch = {"inputs": ({0: torch.export.Dim("n", min=2, max=9)},)}
    graph_module = program(lambda m, x: x * x.sigmoid(), torch.randn(3, 4), dynamic=batch).graph_module
    rules_pass("rules", [GATE]).run(graph_module, make_context(CompilationSettings()))
    graph_module.recompile()
    for size in (2, 5):
        x = torch.randn(size, 4)
        torch.testing.assert_close(graph_module(x)[0], torch.nn.functional.silu(x))


class Pack:
    def __init__(self, *rules: Any) -> None:
        self.rules = rules

    @hookimpl
    def lowering_passes(self):
        return [rules_pass("mine", self.rules)]


def test_what_was_rewritten_is_told():
    with scoped_registry():
        register_pack(Pack(GATE), name="gates")
        made = program(lambda m, x: (x * x.sigmoid()) @ torch.eye(4), torch.randn(3, 4))
        lowered = lower(made, make_context(CompilationSettings()))
    (log,) = [one for one in lowered.rewrites if one.rule == "silu"]
    assert log.nodes == ("sigmoid", "mul")
    assert log.made == ("mul",), "the node by which people know the result"
    assert "test_rewrite_rules.py:" in log.where
    assert str(log).startswith("silu at ")


def test_shipped_procedures_are_told_too():
    made = program(lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6), torch.randn(3, 4))
    lowered = lower(made, make_context(CompilationSettings()))
    assert [one.rule for one in lowered.rewrites] == ["recover_rms_norm"]


@torch.no_grad()
def test_a_replacement_that_gives_something_else_is_undone():
    wrong = rewrite(lambda x: x * torch.sigmoid(x), lambda x: x.sum(), (X,), name="wrong")
    module, x = Module(lambda m, x: x * x.sigmoid()).eval(), torch.randn(3, 4)
    with scoped_registry():
        register_pack(Pack(wrong), name="wrong_gates")
        with pytest.warns(PackWarning, match="rule wrong: the replacement gives .* at mul"):
            compiled = trtcore.compile(module, inputs=[x], min_block_size=1)
    torch.testing.assert_close(compiled(x), module(x))


def test_a_search_of_two_results_is_refused():
    two = rewrite(lambda x: (x + 1, x - 1), lambda x: (x, x), (X,))
    with pytest.raises(PackError, match="must give one tensor"):
        two.shapes()


def test_facts_of_a_node():
    graph = torch.fx.Graph()
    node = graph.placeholder("x")
    assert facts(node).reason == ""
    set_facts(node, reason="because", boundary=True)
    assert (facts(node).reason, facts(node).boundary, facts(node).sources) == ("because", True, ())
    other = graph.placeholder("y")
    other.meta[REASON], other.meta[BOUNDARY] = "by its key", True  # as packs wrote before there were facts
    assert (facts(other).reason, facts(other).boundary) == ("by its key", True)

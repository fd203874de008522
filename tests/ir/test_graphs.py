"""What stages ask of graphs, and make of them."""

from __future__ import annotations

import operator

import pytest
import torch
from torch.fx import Graph, GraphModule

from trtcore.ir.graphs import attribute, module_of, remove_unread

aten = torch.ops.aten


def reading(*targets: str) -> Graph:
    """A graph that returns what stands at some targets."""
    graph = Graph()
    graph.output(tuple(graph.create_node("get_attr", target) for target in targets))
    return graph


def root() -> torch.nn.Module:
    module = torch.nn.Module()
    module.inner = torch.nn.Linear(2, 3)
    module.inner.register_buffer("mean", torch.zeros(3))
    module.scale = torch.nn.Parameter(torch.ones(1))
    module.plain = torch.tensor(2.0)  # neither a parameter nor a buffer
    module.number = 7
    module.unread = torch.nn.Linear(1, 1)
    return module


TARGETS = ("inner.weight", "inner.mean", "scale", "plain", "number")


def test_attributes_are_what_getattr_finds():
    module = root()
    for target in (*TARGETS, "inner"):
        assert attribute(module, target) is operator.attrgetter(target)(module)
    for target in ("missing", "inner.missing", "missing.weight", "scale.missing"):
        with pytest.raises(AttributeError, match="missing"):
            attribute(module, target)


def test_a_module_of_a_graph_has_what_torch_s_has():
    module = root()
    want = GraphModule(module, reading(*TARGETS), "Model")
    made = module_of(reading(*TARGETS), module, "Model")
    assert type(made).__name__ == type(want).__name__ == "Model"
    for kind in ("named_parameters", "named_buffers"):
        theirs, ours = dict(getattr(want, kind)()), dict(getattr(made, kind)())
        assert ours.keys() == theirs.keys()
        assert all(ours[name] is theirs[name] for name in theirs)
    assert [id(value) for value in made()] == [id(value) for value in want()]


def test_a_whole_submodule_is_the_same_object():
    module = root()
    made = module_of(reading("inner", "inner.weight", "inner.mean"), module)
    assert made.inner is module.inner
    assert set(dict(module.inner.named_buffers())) == {"mean"}


def test_what_nothing_reads_goes_and_writes_stay():
    graph = Graph()
    x = graph.placeholder("x")
    unread = graph.placeholder("unread")
    weight = graph.create_node("get_attr", "weight")
    graph.call_function(aten.add.Tensor, (graph.call_function(aten.mul.Tensor, (x, weight)), x))
    graph.call_function(aten.copy_.default, (unread, x))
    graph.call_function(aten.rand.default, ([2],))
    graph.output((x,))
    remove_unread(graph)
    left = [str(node.target) for node in graph.nodes if node.op in ("call_function", "get_attr")]
    assert left == ["aten.copy_.default", "aten.rand.default"]
    assert len(graph.find_nodes(op="placeholder")) == 2


def test_subgraphs_are_cleaned_too():
    inner = Graph()
    y = inner.placeholder("y")
    inner.call_function(aten.neg.default, (y,))
    inner.output((y,))
    graph = Graph()
    body = graph.create_node("get_attr", "body")
    graph.output(graph.call_function(torch.ops.higher_order.wrap, (body, graph.placeholder("x"))))
    root = torch.nn.Module()
    root.body = GraphModule({}, inner)
    remove_unread(module_of(graph, root).graph)
    assert [node.op for node in inner.nodes] == ["placeholder", "output"]

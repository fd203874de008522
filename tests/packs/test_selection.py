"""One memo for a whole compile: a node that survives lowering is selected once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

import trtcore
from trtcore.packs.registry import ConverterRegistry
from trtcore.packs.selection import SelectionMemo

pytestmark = pytest.mark.usefixtures("trt_backend")


@pytest.fixture
def selected(monkeypatch: pytest.MonkeyPatch) -> Counter[Any]:
    """How often each node was selected."""
    counts: Counter[Any] = Counter()
    real = ConverterRegistry.select

    def select(self: Any, node: Any, ctx: Any) -> Any:
        counts[node] += 1
        return real(self, node, ctx)

    monkeypatch.setattr(ConverterRegistry, "select", select)
    return counts


def test_a_node_that_survives_lowering_is_selected_once(selected):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5), nn.Softmax(-1)
    ).eval()
    trtcore.compile(model, [torch.randn(2, 3, 8, 8)], min_block_size=1)
    assert len(selected) >= 5
    assert set(selected.values()) == {1}


class Registry:
    def __init__(self):
        self.asked = []

    def select(self, node, ctx):
        self.asked.append(node.name)
        return object()


class Context:
    def __init__(self):
        self.registry = Registry()


def test_a_node_that_changed_is_selected_again():
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(2)
    node = graph.call_function(torch.relu, (x,))
    ctx = Context()
    memo = SelectionMemo(ctx)
    first = memo.select(node)
    assert memo.select(node) is first
    changes = [
        lambda: setattr(node, "target", torch.tanh),
        lambda: setattr(node, "kwargs", {"out": None}),
        lambda: graph.call_function(torch.relu, (node,)),
        lambda: x.meta.update(val=torch.empty(2)),
        lambda: node.meta.update(val=torch.empty(2)),
    ]
    for change in changes:
        before = memo.select(node)
        change()
        assert memo.select(node) is not before
    assert ctx.registry.asked == ["relu"] * 6

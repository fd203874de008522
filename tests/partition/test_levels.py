"""The core's partitioner on random graphs: convex groups, no cycles, few of them, linear."""

from __future__ import annotations

import operator

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx import Graph, Node

from trtcore.partition.levels import group_by_levels


def random_graph(edges: list[list[int]], taken: list[bool]) -> tuple[Graph, dict[Node, bool]]:
    """A graph whose node i reads the nodes `edges[i]` (all < i), and which of its nodes TensorRT takes."""
    graph = Graph()
    source = graph.placeholder("x")
    source.meta["val"] = torch.empty(2)
    made: list[Node] = []
    for reads in edges:
        arguments = [made[i] for i in sorted(set(reads))] or [source]
        node = graph.call_function(torch.stack, (arguments,))
        node.meta["val"] = torch.empty(2)
        made.append(node)
    graph.output(tuple(made[-2:]))
    return graph, dict(zip(made, taken))


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[list[int]], list[bool]]:
    size = draw(st.integers(1, 24))
    edges = [
        draw(st.lists(st.integers(0, max(i - 1, 0)), max_size=min(i, 3))) if i else [] for i in range(size)
    ]
    return edges, draw(st.lists(st.booleans(), min_size=size, max_size=size))


def condensed_order(graph: Graph, groups: list[list[Node]]) -> bool:
    """Whether groups, each run at once, and single other nodes can be run in some order."""
    unit = {node: ("group", i) for i, group in enumerate(groups) for node in group}
    for node in graph.nodes:
        unit.setdefault(node, ("node", node.name))
    waits = {u: set() for u in unit.values()}
    for node in graph.nodes:
        for read in node.all_input_nodes:
            if unit[read] != unit[node]:
                waits[unit[node]].add(unit[read])
    done: set = set()
    while len(done) < len(waits):
        ready = [u for u, before in waits.items() if u not in done and before <= done]
        if not ready:
            return False
        done.update(ready)
    return True


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_groups_hold_every_supported_node_once_and_have_no_cycles(
    case: tuple[list[list[int]], list[bool]],
) -> None:
    graph, supported = random_graph(*case)
    groups = group_by_levels(supported)
    assert sorted(n.name for group in groups for n in group) == sorted(
        n.name for n, t in supported.items() if t
    )
    assert condensed_order(graph, groups)


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_no_more_groups_than_changes_between_torch_and_tensorrt(
    case: tuple[list[list[int]], list[bool]],
) -> None:
    """The longest alternation on a path is a lower bound for any convex partition by levels; we meet it."""
    _, supported = random_graph(*case)
    changes: dict[Node, int] = {}
    for node, taken in supported.items():
        before = max((changes.get(read, 0) for read in node.all_input_nodes), default=0)
        changes[node] = before if (before % 2 == 1) == taken else before + 1
    bound = len({level for node, level in changes.items() if supported[node]})
    assert len(group_by_levels(supported)) <= bound


def test_what_only_a_later_segment_needs_is_computed_there() -> None:
    # 0 (trt) -> 2 (torch) -> 3 (trt) -> 4 (trt); 1 (trt) is only read by 4
    _, supported = random_graph([[], [], [0], [2], [1, 3]], [True, True, False, True, True])
    groups = group_by_levels(supported)
    assert [len(group) for group in groups] == [1, 3]


def test_getitem_stays_with_its_producer() -> None:
    graph = Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(2)
    split = graph.call_function(torch.split, (x, 1))
    split.meta["val"] = (torch.empty(1), torch.empty(1))
    item = graph.call_function(operator.getitem, (split, 0))
    item.meta["val"] = torch.empty(1)
    late = graph.call_function(torch.neg, (item,))
    late.meta["val"] = torch.empty(1)
    graph.output(late)
    groups = group_by_levels({split: True, item: True, late: False})
    assert groups == [[split, item]]

"""The global partitioner beside the fast one: on random graphs, on graphs made for it, and as a setting."""

from __future__ import annotations

import random
import time

import pytest
import torch
from test_levels import condensed_order, random_graph
from torch.fx import Graph, Node

import trtcore
from trtcore.errors import SettingsError
from trtcore.partition import count_ops
from trtcore.partition.fewest import WAYS, cost, fewest, regrouped
from trtcore.partition.levels import group_by_levels
from trtcore.settings import CompilationSettings


def a_graph(seed: int, size: int | None = None) -> tuple[Graph, dict[Node, bool]]:
    draw = random.Random(seed)
    size = size or draw.randint(5, 60)
    share = draw.choice([0.3, 0.6, 0.9])
    edges = [sorted({draw.randrange(i) for _ in range(draw.randint(0, 3))}) if i else [] for i in range(size)]
    near = draw.random() < 0.5  # long thin graphs too
    if near:
        edges = [[i - draw.randint(1, min(i, 6))] if i else [] for i in range(size)]
    return random_graph(edges, [draw.random() < share for _ in range(size)])


def longest_alternation(supported: dict[Node, bool]) -> int:
    """Segments that no convex partition of all supported nodes can do without."""
    changes: dict[Node, int] = {}
    for node, taken in supported.items():
        before = max((changes.get(read, 0) for read in node.all_input_nodes), default=0)
        changes[node] = before if (before % 2 == 1) == taken else before + 1
    return (max((changes[n] for n, taken in supported.items() if taken), default=0) + 1) // 2


RANDOM = [(seed, least) for seed in range(200) for least in (1, 2, 3, 5)]


@pytest.fixture(scope="module")
def compared():
    rows = []
    for seed, least in RANDOM:
        graph, supported = a_graph(seed)
        fast = regrouped(group_by_levels, supported, least, count_ops)
        rows.append((seed, least, graph, supported, fast, fewest(supported, least, count_ops)))
    return rows


def test_every_supported_node_is_in_one_segment_or_named_as_lost(compared) -> None:
    for _, least, graph, supported, _, best in compared:
        found = [node for group in best.groups for node in group] + best.small
        assert sorted(n.name for n in found) == sorted(n.name for n, taken in supported.items() if taken)
        assert all(count_ops(group) >= least for group in best.groups)
        assert condensed_order(graph, best.groups)


def test_never_more_segments_than_the_fast_one_and_as_few_as_there_can_be(compared) -> None:
    fewer = fuller = 0
    for _, least, _, supported, fast, best in compared:
        assert len(best.groups) <= len(fast.groups)
        assert cost(best, least, count_ops) <= cost(fast, least, count_ops)
        if least == 1:
            assert len(best.groups) == longest_alternation(supported)
        fewer += len(best.groups) < len(fast.groups)
        fuller += len(best.groups) == len(fast.groups) and len(best.small) < len(fast.small)
    assert fewer >= 40
    assert fuller >= 40


def test_every_way_gives_segments_that_can_run(compared) -> None:
    for seed, least in RANDOM[::7]:
        graph, supported = a_graph(seed)
        for way in WAYS:
            assert condensed_order(graph, way(least, count_ops, supported)), (seed, way)


def test_no_segment_for_an_op_that_can_do_without_the_others_company() -> None:
    """One op before a torch op, ten that are free, six behind: the ten go behind, and the one to torch."""
    edges = [[], [0], *([[1]] + [[i] for i in range(2, 7)]), *([[]] * 10)]
    taken = [True, False, *[True] * 6, *[True] * 10]
    graph, supported = random_graph(edges, taken)
    graph.erase_node(next(n for n in graph.nodes if n.op == "output"))
    graph.output(tuple(supported))
    fast = regrouped(group_by_levels, supported, 5, count_ops)
    best = fewest(supported, 5, count_ops)
    assert [len(group) for group in fast.groups] == [11, 6]
    assert [len(group) for group in best.groups] == [16]
    assert best.small == list(supported)[:1]


def test_linear() -> None:
    seconds = []
    for size in (4_000, 16_000):
        _, supported = a_graph(3, size)
        start = time.process_time()
        fewest(supported, 5, count_ops)
        seconds.append((time.process_time() - start) / size)
    assert seconds[1] < 3 * seconds[0], seconds


class Branches(torch.nn.Module):
    """As in the graph above, as a model."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        before = torch.special.bessel_j0(x + 1)
        for _ in range(6):
            before = before * 2
        for _ in range(10):
            y = y.sin()
        return before, y


@pytest.mark.parametrize("settings", [{"use_fast_partitioner": False}, {"partitioner": "global"}])
def test_as_a_setting(settings) -> None:
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    fast = trtcore.compile(Branches(), inputs=[x, y])
    best = trtcore.compile(Branches(), inputs=[x, y], **settings)
    assert (len(fast.report.engines), len(best.report.engines)) == (2, 1)
    torch.testing.assert_close(best(x, y), Branches()(x, y))
    reasons = {op.op: op.reason for op in best.report.in_torch}
    assert "min_block_size=5" in reasons["aten.add.Tensor"]


def test_the_global_one_beside_another_name() -> None:
    with pytest.raises(SettingsError, match="use_fast_partitioner=False") as caught:
        CompilationSettings(use_fast_partitioner=False, partitioner="fast")
    assert "leave one of them out" in str(caught.value)

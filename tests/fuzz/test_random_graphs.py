"""A slice of the random graphs, found by Hypothesis, and every graph that ever went wrong."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from check import check, wrong
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import RandomGraph, generate

from trtcore.pack import Converter

KEPT = [line for line in (Path(__file__).parent / "kept.jsonl").read_text().splitlines() if line.strip()]


def test_kept_graphs():
    """They were wrong, or refused late, once; as one program, and alone where that fails."""
    results = check([RandomGraph.from_json(line) for line in KEPT])
    assert len(results) == len(KEPT)
    assert not wrong(results), "\n".join(map(str, wrong(results)))


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.randoms(use_true_random=False), min_size=1, max_size=4))
def test_random_graphs(sources):
    results = check([generate(source) for source in sources])
    assert not wrong(results), "\n".join(map(str, wrong(results)))


def wrong_sub(ctx, x, y, *, alpha=1):
    """y - x."""
    x, y = ctx.broadcast(*ctx.promote(x, y))
    return ctx.elementwise(y, x, "SUB")


def wrong_sum(ctx, x, dim, keepdim=False, *, dtype=None):
    """The mean."""
    return ctx.reduce(x, "AVG", dim, keepdim=keepdim)


@pytest.mark.parametrize(
    ("op", "wrong_one"), [(torch.ops.aten.sub.Tensor, wrong_sub), (torch.ops.aten.sum.dim_IntList, wrong_sum)]
)
def test_wrong_converters_are_noticed(op, wrong_one):
    converter = Converter(op, wrong_one, supports_dynamic_shapes=True)
    graphs = [generate(random.Random(seed)) for seed in range(60)]
    assert wrong(check(graphs, {"converters": {op: converter}}))


@pytest.mark.parametrize("seed", range(20))
def test_graphs_survive_json(seed):
    graph = generate(random.Random(seed))
    again = RandomGraph.from_json(graph.to_json())
    assert again.to_json() == graph.to_json()
    assert all(map(torch.equal, again(*again.inputs()), graph(*graph.inputs())))

"""Compiled random graphs against eager: the same numbers, or an op that is refused with a reason; never anything else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from random_graphs import RandomGraph

from trtcore.testing.opinfo import OpSample, SampleResult
from trtcore.testing.opinfo import check as check_samples

RTOL = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""How far a result may be from float64, over its largest element, besides a few times what eager is off."""
MARGIN = 4.0


def check(graphs: Sequence[RandomGraph], settings: Mapping[str, Any] | None = None) -> list[SampleResult]:
    """What became of each graph; they are compiled as one program, and alone where that fails."""
    samples = [
        OpSample("random graph", "", _dtype(graph), number, graph, graph.inputs())
        for number, graph in enumerate(graphs)
    ]
    results = check_samples(samples, settings=settings, compare=_compare, batch=max(len(samples), 1))
    return [replace(r, outcome="quarantined") if _QUARANTINED.search(r.reason) else r for r in results]


_QUARANTINED = re.compile(r"^\S+: quarantined: ")
"""How the reason of a result begins that is right, though TensorRT refused an op only when the engine was built."""


def wrong(results: Sequence[SampleResult]) -> list[SampleResult]:
    """The results that no graph may have. Float16 sums beyond its range are eager's business, hence no "invalid"."""
    return [result for result in results if result.outcome == "failed"]


def _dtype(graph: RandomGraph) -> torch.dtype:
    floats = [s.dtype for s in graph.sources if "float" in s.dtype]
    return getattr(torch, floats[0] if floats else graph.sources[0].dtype)


def _compare(sample: OpSample, expected: Any, actual: Any) -> str:
    graph = sample.function
    assert isinstance(graph, RandomGraph)
    pairs = zip(graph.results, expected, actual, graph.wide())
    return "; ".join(filter(None, (_difference(f"value {i}", *rest) for i, *rest in pairs)))


def _difference(name: str, eager: torch.Tensor, ours: torch.Tensor, exact: torch.Tensor) -> str:
    if (ours.shape, ours.dtype) != (eager.shape, eager.dtype):
        return f"{name} is {ours.dtype}{list(ours.shape)}, eager's {eager.dtype}{list(eager.shape)}"
    if not eager.is_floating_point():
        return "" if torch.equal(eager, ours) else f"{name} differs from eager's"
    if not eager.numel():
        return ""
    off = float((eager.double() - exact).abs().max())
    found = float((ours.double() - exact).abs().max())
    allowed = RTOL[eager.dtype] * max(float(exact.abs().max()), 1e-2) + MARGIN * off
    return "" if found <= allowed else f"{name} is off by {found:.3g}, eager by {off:.3g}"

"""How long `ConverterRegistry.select` takes a node, with few converters and with thousands.

Run it: ``python tests/benchmarks/bench_selection.py``. It prints microseconds a node (best of several rounds), the
ratio between a registry of 5,000 converters in 50 packs and one of 50 in 5, and that between a graph of ten times as
many nodes and a smaller one; both should stay near 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import attrs
import torch
from packaging.version import Version
from torch import fx

from trtcore.context import CompileContext
from trtcore.packs.loading import LoadedPack
from trtcore.packs.model import Converter, PackInfo, Requires
from trtcore.packs.registry import ConverterRegistry
from trtcore.settings import CompilationSettings

SIZES = ((50, 5), (5000, 50))  # converters, packs


class _Block(torch.nn.Module):
    def __init__(self, blocks: int = 50) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(16, 16)
        self.blocks = blocks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(self.blocks):
            x = torch.relu(self.linear(x)) + x
        return x


def nodes(dynamic: bool, blocks: int = 50) -> list[fx.Node]:
    """The call_function nodes of so many small blocks."""
    shapes = ({0: torch.export.Dim("batch", min=2, max=64)},) if dynamic else None
    program = torch.export.export(_Block(blocks), (torch.zeros(4, 16),), dynamic_shapes=shapes)
    return [node for node in program.graph.nodes if node.op == "call_function"]


def packs(count: int, number_of_packs: int, targets: set[Any]) -> list[LoadedPack]:
    """`count` converters with validators, in so many packs: two for each of `targets`, else one an op."""
    others = [lambda x, i=i: (x, i) for i in range(count)]
    wanted = [*targets, *targets, *others][:count]
    return [
        _pack(PackInfo(f"pack-{number:02}", "1.0", "p"), wanted[number::number_of_packs])
        for number in range(number_of_packs)
    ]


def _pack(info: PackInfo, targets: list[Any]) -> LoadedPack:
    options: dict[str, Any] = {
        "capability_validator": lambda node, ctx: True,
        "supports_dynamic_shapes": True,
        "requires": Requires(layers=frozenset({"add_x"})),
    }
    converters = (
        Converter(target, print, name=f"c{i}", order=i, **options) for i, target in enumerate(targets)
    )
    return LoadedPack(info, tuple(attrs.evolve(one, pack=info, scope=info.scope) for one in converters))


def microseconds(work: Callable[[], object], units: int, rounds: int = 15) -> float:
    """The best round's CPU time for one of `units`: the machine may be doing other things."""
    best = float("inf")
    for _ in range(rounds):
        began = time.thread_time()
        work()
        best = min(best, time.thread_time() - began)
    return best / units * 1e6


def main() -> None:
    """Print the table."""
    backend: Any = SimpleNamespace(
        name="fake",
        version=Version("10.0"),
        has_plugins=False,
        supports_dtype=lambda dtype: dtype is torch.float32,
        can=lambda feature, target: SimpleNamespace(ok=True, message=""),
    )
    for dynamic in (False, True):
        graph = nodes(dynamic)
        times = [_select_time(graph, size, backend) for size in SIZES]
        told = ", ".join(
            f"{count} converters in {number} packs: {value:.1f} us a node"
            for (count, number), value in zip(SIZES, times)
        )
        kind = "dynamic" if dynamic else "static"
        print(f"select, {kind} shapes: {told}; ratio {times[1] / times[0]:.2f}")
        longer = _select_time(nodes(dynamic, 500), SIZES[1], backend)
        print(
            f"select, {kind} shapes, 1500 nodes for 150: {longer:.1f} us a node; ratio {longer / times[1]:.2f}"
        )
    found = packs(*SIZES[1], set())
    build = microseconds(lambda: ConverterRegistry.build(found), 1, rounds=5)
    print(f"build a registry of {SIZES[1][0]} converters in {SIZES[1][1]} packs: {build / 1e3:.0f} ms")


def _select_time(graph: list[fx.Node], size: tuple[int, int], backend: Any) -> float:
    registry = ConverterRegistry.build(packs(*size, {node.target for node in graph}))
    ctx = CompileContext(CompilationSettings(), registry, backend=backend)
    assert all(registry.select(node, ctx).chosen for node in graph)
    return microseconds(lambda: [registry.select(node, ctx) for node in graph], len(graph))


if __name__ == "__main__":
    main()

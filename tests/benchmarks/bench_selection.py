"""How long `ConverterRegistry.select` takes a node, with few converters and with thousands.

Run it: ``python tests/benchmarks/bench_selection.py``. It prints microseconds a node (best of several rounds)
and the ratio between a registry of 5,000 converters and one of 50, which should stay near 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from packaging.version import Version
from torch import fx

from trtcore.context import CompileContext
from trtcore.packs import LoadedPack
from trtcore.registry import Converter, ConverterRegistry, PackInfo, Requires
from trtcore.settings import CompilationSettings

COUNTS = (50, 5000)


class _Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(50):
            x = torch.relu(self.linear(x)) + x
        return x


def nodes(dynamic: bool) -> list[fx.Node]:
    """The call_function nodes of 50 small blocks."""
    shapes = ({0: torch.export.Dim("batch", min=2, max=64)},) if dynamic else None
    program = torch.export.export(_Block(), (torch.zeros(4, 16),), dynamic_shapes=shapes)
    return [node for node in program.graph.nodes if node.op == "call_function"]


def packs(count: int, targets: set[Any]) -> list[LoadedPack]:
    """`count` converters with validators, in five packs: two for each of `targets`, else one an op."""
    others = [lambda x, i=i: (x, i) for i in range(count)]
    wanted = [*targets, *targets, *others][:count]
    return [_pack(PackInfo(f"pack-{number}", "1.0", "p"), wanted[number::5]) for number in range(5)]


def _pack(info: PackInfo, targets: list[Any]) -> LoadedPack:
    options: dict[str, Any] = {
        "capability_validator": lambda node, ctx: True,
        "supports_dynamic_shapes": True,
        "requires": Requires(layers=frozenset({"add_x"})),
    }
    converters = (
        Converter(target, print, name=f"c{i}", order=i, **options) for i, target in enumerate(targets)
    )
    return LoadedPack(info, tuple(replace(one, pack=info, scope=info.scope) for one in converters))


def microseconds(work: Callable[[], object], units: int, rounds: int = 15) -> float:
    """The best round's time for one of `units`."""
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
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
        times = [_select_time(graph, count, backend) for count in COUNTS]
        told = ", ".join(f"{count} converters: {value:.1f} us a node" for count, value in zip(COUNTS, times))
        kind = "dynamic" if dynamic else "static"
        print(f"select, {kind} shapes: {told}; ratio {times[1] / times[0]:.2f}")
    found = packs(COUNTS[1], set())
    build = microseconds(lambda: ConverterRegistry.build(found), 1, rounds=5)
    print(f"build a registry of {COUNTS[1]} converters: {build / 1e3:.0f} ms")


def _select_time(graph: list[fx.Node], count: int, backend: Any) -> float:
    registry = ConverterRegistry.build(packs(count, {node.target for node in graph}))
    ctx = CompileContext(CompilationSettings(), registry, backend=backend)
    assert all(registry.select(node, ctx).chosen for node in graph)
    return microseconds(lambda: [registry.select(node, ctx) for node in graph], len(graph))


if __name__ == "__main__":
    main()

"""The fast partitioner beside the global one: segments, ops lost to min_block_size, tensors between units, time.

Run it: ``python tests/benchmarks/bench_partition.py [--gallery NAME ...]``. Without names the gallery's models that
have more than one segment. Both partitioners get the same lowered graphs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE.parent / "partition"), str(HERE.parent / "models")]

import gallery  # noqa: E402
from test_fewest import a_graph  # noqa: E402
from torch.fx import Node  # noqa: E402

import trtcore  # noqa: E402
from trtcore import partition as rooms  # noqa: E402
from trtcore.partition import count_ops  # noqa: E402
from trtcore.partition.fewest import Count, Grouping, cost, fewest, regrouped  # noqa: E402
from trtcore.partition.levels import group_by_levels  # noqa: E402

LEAST = (1, 2, 5)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gallery", nargs="*", default=None)
    names = parser.parse_args().gallery
    print("graphs | min_block_size | segments | lost ops | tensors between | us a node   (fast, global)")
    graphs = [a_graph(seed)[1] for seed in range(200)]
    for least in LEAST:
        print(row("200 random", least, graphs))
    for size in (10_000, 100_000):
        print(row(f"1 random of {size:,} nodes", 5, [a_graph(3, size)[1]]))
    for entry in gallery.GALLERY.values():
        if entry.name in (names if names is not None else several()):
            graph = supported_of(entry)
            for least in LEAST:
                print(row(entry.name, least, [graph]), flush=True)


def several() -> set[str]:
    """The gallery's models that have more than one segment."""
    rows = json.loads((HERE.parent.parent / "docs/models/gallery.json").read_text())["rows"]
    return {one["name"] for one in rows if one["segments"] > 1}


def supported_of(entry: gallery.Entry) -> dict[Node, bool]:
    """What the partitioners are asked about a model of the gallery."""
    asked: list[dict[Node, bool]] = []
    original = rooms.fewest

    def spy(supported: dict[Node, bool], least: int, count: Count) -> Grouping:
        asked.append(dict(supported))
        return original(supported, least, count)

    rooms.fewest = spy
    model = gallery.build(entry)
    trtcore.explain(model, kwarg_inputs=entry.feed(gallery.BATCH[1]), use_fast_partitioner=False)
    return asked[-1]


def row(name: str, least: int, graphs: Iterable[dict[Node, bool]]) -> str:
    """One line of the table."""
    ways = {
        "fast": lambda graph: regrouped(group_by_levels, graph, least, count_ops),
        "global": lambda graph: fewest(graph, least, count_ops),
    }
    sums: dict[str, Counter[str]] = {way: Counter() for way in ways}
    for graph in graphs:
        for way, run in ways.items():
            start = time.process_time()
            found = run(graph)
            sums[way]["ns"] += int((time.process_time() - start) * 1e9)
            sums[way]["nodes"] += len(graph)
            sums[way]["segments"] += len(found.groups)
            sums[way]["lost"] += len(found.small)
            sums[way]["border"] += cost(found, least, count_ops)[1]
    cells = [", ".join(str(sums[way][key]) for way in ways) for key in ("segments", "lost", "border")]
    cells.append(", ".join(f"{sums[way]['ns'] / 1e3 / sums[way]['nodes']:.1f}" for way in ways))
    return " | ".join([name, str(least), *cells])


if __name__ == "__main__":
    main()

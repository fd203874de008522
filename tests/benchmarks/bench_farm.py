"""Eight segments built by executors, against one after another.

``python tests/benchmarks/bench_farm.py [EXECUTOR ...]``; Dask and Ray are in the extra ``services``. The time is of
`trtcore.dynamo.compile` without export. Workers are started and have built the same before; processes are spawned. Executors are measured in turn, and the best of six rounds counts. The last row is the
time of 100 workers by the parts of the first row: its longest segment, and what is not the workers' (lowering, partition, the
weights' file, opening the engines).
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

import torch

import trtcore

SEGMENTS = 8
ROUNDS = 6


class Segments(torch.nn.Module):
    """Encoder-like blocks with an op between them that no converter takes."""

    def __init__(self, width: int = 256, layers: int = 12) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(
            torch.nn.Sequential(
                *(
                    torch.nn.Sequential(
                        torch.nn.Linear(width, width), torch.nn.GELU(), torch.nn.LayerNorm(width)
                    )
                    for _ in range(layers)
                )
            )
            for _ in range(SEGMENTS)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = torch.special.bessel_j0(block(x))
        return x


def seconds(exported: Any, x: torch.Tensor, executor: Executor | None) -> tuple[float, Any]:
    began = time.perf_counter()
    with torch.no_grad():
        compiled = trtcore.dynamo.compile(exported, inputs=[x], min_block_size=1, build_executor=executor)
    assert len(compiled.report.engines) == SEGMENTS
    return time.perf_counter() - began, compiled.report


@contextlib.contextmanager
def executors(address: str) -> Iterator[Executor | None]:
    if not address:
        yield None
    elif address == "dask":
        from distributed import LocalCluster

        with contextlib.ExitStack() as stack:
            cluster = stack.enter_context(
                LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
            )
            address = cluster.scheduler_address.replace("tcp", "dask")
            yield stack.enter_context(trtcore.executors.connect(address))
    else:
        with trtcore.executors.connect(address) as executor:
            yield executor


def main() -> None:
    model, x = Segments().eval(), torch.randn(4, 64, 256)
    exported = trtcore.dynamo.trace(model, inputs=[x])
    names = sys.argv[1:] or ["", "threads:2", "processes:2", "dask", "ray://local"]
    print(f"{SEGMENTS} segments, {os.cpu_count()} CPUs", file=sys.stderr)
    best: dict[str, tuple[float, Any]] = {}
    with contextlib.ExitStack() as stack:
        opened = {name: stack.enter_context(executors(name)) for name in names}
        for _ in range(1 + ROUNDS):
            for name, executor in opened.items():  # in turn: other jobs come and go
                found = seconds(exported, x, executor)
                print(f"{name or 'one after another'}: {found[0]:.2f} s", file=sys.stderr, flush=True)
                if name not in best or found[0] < best[name][0]:
                    best[name] = found
    serial, report = best[names[0]]
    stages = {stage.name: stage.seconds for stage in report.stages}
    longest = max(engine.build_seconds or 0.0 for engine in report.engines)
    own = serial - stages["conversion"] - stages["build"]
    farm = own + longest + stages["conversion"] / SEGMENTS
    print("| executor | s | speed-up |")
    print("|---|---|---|")
    for name, (found, _) in best.items():
        print(f"| {name or 'one after another'} | {found:.2f} | {serial / found:.2f} |")
    print(f"| 100 workers, computed | {farm:.2f} | {serial / farm:.2f} |")


if __name__ == "__main__":
    main()

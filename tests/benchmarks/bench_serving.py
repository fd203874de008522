"""Calls a second of one compiled module from one thread, and from eight with streams of their own.

``python tests/benchmarks/bench_serving.py [--calls 100000] [--tiny]`` on an NVIDIA GPU, in the reference runtime; batches vary from
call to call. Eager does the same, in turn: what eight threads of it reach is what the GPU and Python's lock give. Every result is
compared with eager's on the GPU. ``--tiny`` is a small model that the CPU limits.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from typing import Any

import torch
from torch import nn

import trtcore

THREADS = 8


class Served:
    """A compiled module, inputs of several batches, and eager's results."""

    def __init__(self, width: int, layers: int, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        parts = [part for _ in range(layers) for part in (nn.Linear(width, width), nn.GELU())]
        model = nn.Sequential(*parts, nn.LayerNorm(width)).eval().cuda().to(dtype)
        rows = trtcore.Input(
            min_shape=(1, width),
            opt_shape=(sizes[0], width),
            max_shape=(max(sizes), width),
            dtype=dtype,
            device="cuda",
        )
        self.module = trtcore.compile(model, [rows], runtime="reference", min_block_size=1)
        self.called = {"compiled": self.module, "eager": model}
        self.given = [torch.randn(size, width, device="cuda", dtype=dtype) for size in sizes]
        self.want = [model(x) for x in self.given]
        self.bound = 1e-4 if dtype is torch.float32 else 2e-2
        self.wrong: list[str] = []

    def work(self, what: str, seed: int, calls: int, checked: bool) -> None:
        call = self.called[what]
        worst = torch.zeros((), device="cuda")
        with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
            for index in range(calls):
                place = (seed + index) % len(self.given)
                result = call(self.given[place])
                if checked:
                    worst = torch.maximum(worst, (result - self.want[place]).abs().max())
                if index % 64 == 63:
                    torch.cuda.current_stream().synchronize()  # as a server that hands out results does
            torch.cuda.current_stream().synchronize()
        if not worst.item() <= self.bound:
            self.wrong.append(f"thread {seed}: {worst.item()}")

    def rate(self, threads: int, calls: int, *, what: str = "compiled", checked: bool = False) -> float:
        """Calls a second of so many threads that make `calls` together, of the compiled module or of eager."""
        running = [
            threading.Thread(target=self.work, args=(what, seed, calls // threads, checked))
            for seed in range(threads)
        ]
        torch.cuda.synchronize()
        began = time.perf_counter()
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        torch.cuda.synchronize()
        return calls / (time.perf_counter() - began)


ROUNDS = 4


@torch.no_grad()
def measured(calls: int, tiny: bool) -> dict[str, Any]:
    served = (
        Served(256, 2, (8, 1, 3, 64, 17), torch.float32)
        if tiny
        else Served(4096, 8, (512, 384, 256, 500), torch.float16)
    )
    served.rate(THREADS, 4000, checked=True)
    if served.wrong:
        raise SystemExit("; ".join(served.wrong))
    served.rate(THREADS, 400, what="eager")
    torch._C._cuda_clearCublasWorkspaces()  # torch keeps one for each thread and stream
    before = torch.cuda.memory_allocated()
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for what, share in (("compiled", 1.0), ("eager", 0.2)):
            for threads, part in ((1, 0.2), (THREADS, 1.0)):
                made = int(calls / ROUNDS * share * part)
                rates.setdefault((what, threads), []).append(served.rate(threads, made, what=what))
    torch._C._cuda_clearCublasWorkspaces()
    return {
        **{key: statistics.median(found) for key, found in rates.items()},
        "growth": torch.cuda.memory_allocated() - before,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    found = measured(options.calls, options.tiny)
    print(f"| calls a second | one thread | {THREADS} threads | of one |\n{'|---' * 4}|")
    for what in ("compiled", "eager"):
        one, together = found[what, 1], found[what, THREADS]
        print(f"| {what} | {one:.0f} | {together:.0f} | {together / one:.2f} |")
    gave = found["eager", THREADS] / found["eager", 1]
    kept = found["compiled", THREADS] / found["compiled", 1] / gave
    print(
        f"\n{options.calls} calls of eight threads: {kept:.2f} of one thread's rate times what the GPU gives eager; "
        f"{found['growth'] / 2**20:.1f} MiB more on the GPU"
    )


if __name__ == "__main__":
    main()

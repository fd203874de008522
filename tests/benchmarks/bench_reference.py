"""Time of a call in the reference runtime against eager, for the models that must compile whole.

``python tests/benchmarks/bench_reference.py [--tiny] [--device cpu|cuda] [--dtype fp32|fp16|bf16] [name ...]``.
Every round calls eager, the compiled module, and ``torch.compile`` of it, one after the other in an order that turns;
a ratio is the median over the rounds of the ratio within a round, so that load from elsewhere hits both sides.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "models"))

import torch
import zoo

import trtcore

WARM_UP = 3


def rounds(
    calls: Sequence[Callable[[], Any]], device: str, seconds: float, at_least: int
) -> list[list[float]]:
    """Seconds of every call in every round, rounds until `seconds` have passed and `at_least` are done."""

    def timed(call: Callable[[], Any]) -> float:
        began = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    for call in calls:
        for _ in range(WARM_UP):
            timed(call)
    found: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(found) < at_least or time.perf_counter() < end:
        row = [0.0] * len(calls)
        for place in range(len(calls)):
            index = (place + len(found)) % len(calls)
            row[index] = timed(calls[index])
        found.append(row)
    return found


@torch.no_grad()
def measure(name: str, tiny: bool, device: str, precision: str, seconds: float) -> dict[str, float]:
    """Median seconds of eager, and the ratios of the compiled module and of torch.compile of it."""
    arch = zoo.ARCHITECTURES[name]
    dtype = zoo.DTYPES[precision]
    model = arch.build(tiny).to(device=device, dtype=dtype)
    fed = {k: v.to(device) for k, v in arch.feed(arch.static, dtype, tiny).items()}
    compiled = trtcore.compile(model, kwarg_inputs=fed, runtime="reference")
    assert compiled.report.fully_converted
    twice = torch.compile(compiled)
    calls = (lambda: model(**fed), lambda: compiled(**fed), lambda: twice(**fed))
    found = rounds(calls, device, seconds, 11)
    return {
        "eager": statistics.median(row[0] for row in found),
        "compiled": statistics.median(row[1] / row[0] for row in found),
        "twice": statistics.median(row[2] / row[0] for row in found),
        "rounds": len(found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="fp32", choices=tuple(zoo.DTYPES))
    parser.add_argument("--seconds", type=float, default=6.0, help="time to measure each model for")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    size = "tiny" if given.tiny else "base"
    print(f"| {size}, static, {given.dtype}, {given.device} | eager | reference runtime / eager "
          "| torch.compile of it / eager | rounds |", flush=True)  # fmt: skip
    print("|---|---|---|---|---|")
    for name in given.names or list(zoo.ARCHITECTURES):
        row = measure(name, given.tiny, given.device, given.dtype, given.seconds)
        print(f"| {name} | {row['eager'] * 1e3:.2f} ms | **{row['compiled']:.2f}x** | **{row['twice']:.2f}x** "
              f"| {row['rounds']} |", flush=True)  # fmt: skip
        torch.compiler.reset()


if __name__ == "__main__":
    main()

"""What calling a hybrid module costs over calling its engines directly, in the reference runtime on the CPU.

``python tests/benchmarks/bench_overhead.py``. Modules of 1, 5 and 20 segments with one op kept in torch between
neighbours. "Directly" is a Python loop over `Engine.run` and those ops. What is left is the module's call: the
input check, the graph's code, and the dispatch of `trtcore::execute_engine`. Both are called in turn; the times are
those that a tenth of the calls stay under, which load from elsewhere moves least. A call has a fixed part (input
check, pytrees, `torch.nn.Module`); the last column leaves it out: overhead added per segment added.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

import trtcore
from trtcore.runtime.engine import plans_of, resolve
from trtcore.runtime.op import execute_engine

SEGMENTS = (1, 5, 20)
ROUNDS = 1500
BETWEEN = torch.ops.aten.erf.default


class Chain(torch.nn.Module):
    def __init__(self, segments: int) -> None:
        super().__init__()
        self.segments = segments

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index in range(self.segments):
            x = torch.relu(x * 0.5) + 0.25
            if index < self.segments - 1:
                x = torch.erf(x)
        return x


def engines_of(compiled: Any) -> list[Any]:
    """The engines in the order of their calls."""
    plans = plans_of(compiled)
    return [
        resolve(node.args[3], plans[node.args[2].target])
        for node in compiled.graph.nodes
        if node.op == "call_function" and node.target is execute_engine
    ]


@torch.inference_mode()
def measure(segments: int) -> tuple[float, float]:
    """Microseconds of a call of the module, and of calling its engines directly."""
    x = torch.rand(4, 8)
    with torch.inference_mode(False):
        compiled = trtcore.compile(
            Chain(segments),
            (torch.rand(4, 8),),
            runtime="reference",
            torch_executed_ops={BETWEEN},
            min_block_size=1,
        )
    engines = engines_of(compiled)
    assert len(engines) == segments, (len(engines), str(compiled.report))

    def directly() -> torch.Tensor:
        y = x
        for index, engine in enumerate(engines):
            (y,) = engine.run([y], [])
            if index < segments - 1:
                y = BETWEEN(y)
        return y

    assert torch.equal(directly(), compiled(x))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        start = time.perf_counter()
        compiled(x)
        middle = time.perf_counter()
        directly()
        end = time.perf_counter()
        times[0].append(middle - start)
        times[1].append(end - middle)
    module, direct = (statistics.quantiles(found, n=10)[0] * 1e6 for found in times)
    return module, direct


def main() -> None:
    torch.set_num_threads(2)
    print("| segments | module | engines directly | overhead | **per segment** | per further segment |")
    print("|---|---|---|---|---|---|")
    before = None
    for segments in SEGMENTS:
        module, direct = measure(segments)
        over = module - direct
        further = "" if before is None else f"{(over - before[1]) / (segments - before[0]):.1f} us"
        print(f"| {segments} | {module:.0f} us | {direct:.0f} us | {over:.0f} us | **{over / segments:.1f} us** "
              f"| {further} |", flush=True)  # fmt: skip
        before = segments, over


if __name__ == "__main__":
    main()

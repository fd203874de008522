"""What calling a hybrid module costs over calling its engines directly, in the reference runtime on the CPU.

``python tests/benchmarks/bench_overhead.py``. Modules of 1, 5 and 20 segments with one op kept in torch between
neighbours. "Directly" is a Python loop over `Engine.run` and those ops. What is left is the module's call: the
input check and the graph's code. `forward` has no input check, and goes by way of the op `trtcore::execute_engine`, as
calls under a mode or a profiler do, and graphs that came through torch.export. All are called in turn; the times are
those that a tenth of the calls stay under, which load from elsewhere moves least. A call has a fixed part; "per
further segment" leaves it out: overhead added per segment added.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import trtcore
from trtcore.runtime.engine import resolve
from trtcore.runtime.op import execute_engine
from trtcore.runtime.plans import plans_of

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


def chain(segments: int) -> Any:
    with torch.inference_mode(False):
        return trtcore.compile(
            Chain(segments),
            (torch.rand(4, 8),),
            runtime="reference",
            torch_executed_ops={BETWEEN},
            min_block_size=1,
        )


@torch.inference_mode()
def measure(segments: int) -> list[float]:
    """Microseconds of a call of the module, of its `forward`, and of calling its engines directly."""
    x = torch.rand(4, 8)
    compiled = chain(segments)
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
    return fastest(lambda: compiled(x), lambda: compiled.forward(x), directly)


def fastest(*calls: Callable[[], Any]) -> list[float]:
    """Microseconds that a tenth of the calls of each stay under, called in turn."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, found in zip(calls, times):
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    return [statistics.quantiles(found, n=10)[0] * 1e6 for found in times]


@torch.inference_mode()
def yardsticks() -> list[float]:
    """Microseconds of an op like `execute_engine` that does nothing, of a small torch op, and of 100 additions."""
    library = torch.library.Library("overhead", "DEF")
    library.define("nothing(Tensor[] inputs, SymInt[] sizes, Tensor plan, str manifest) -> Tensor[]")
    library.impl("nothing", lambda inputs, sizes, plan, manifest: inputs, "CompositeExplicitAutograd")
    nothing = torch.ops.overhead.nothing.default
    x, plan, manifest = torch.rand(4, 8), torch.zeros(9, dtype=torch.uint8), "m" * 450
    return fastest(lambda: nothing([x], [], plan, manifest), lambda: BETWEEN(x), lambda: sum(range(100)))


def main() -> None:
    torch.set_num_threads(2)
    print(f"| segments | module | its forward | engines directly | overhead | **per segment** "
          f"| per further segment | per segment, forward |\n{'|---' * 8}|")  # fmt: skip
    before = None
    for segments in SEGMENTS:
        module, forward, direct = measure(segments)
        over = module - direct
        further = "" if before is None else f"{(over - before[1]) / (segments - before[0]):.1f} us"
        print(f"| {segments} | {module:.0f} us | {forward:.0f} us | {direct:.0f} us | {over:.0f} us "
              f"| **{over / segments:.1f} us** | {further} | {(forward - direct) / segments:.1f} us |",
              flush=True)  # fmt: skip
        before = segments, over
    op, small, additions = yardsticks()
    print(f"\nThis machine, in the same run: an op of `execute_engine`'s signature that does nothing {op:.1f} us, "
          f"`erf` of 32 numbers {small:.1f} us, `sum(range(100))` {additions:.2f} us.")  # fmt: skip


if __name__ == "__main__":
    main()

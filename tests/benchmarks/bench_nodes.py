"""Time per node on synthetic lowered graphs of 1,000 to 100,000 nodes: lowering, partition and conversion.

``python tests/benchmarks/bench_nodes.py``. The graph is a chain of adds, multiplies and activations with a skip
connection every tenth node. Nothing is built; segments are cut at the default maximal size, as in a real compile.
"""

from __future__ import annotations

import gc
import time

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule

from trtcore.compiler import make_context
from trtcore.conversion.interpreter import convert_segment
from trtcore.ir.program import InputSpec, Program
from trtcore.lowering import lower
from trtcore.partition import partition
from trtcore.settings import CompilationSettings

aten = torch.ops.aten
SIZES = (1_000, 10_000, 100_000)


def program(count: int) -> Program:
    """A lowered graph of `count` nodes on a float32 tensor of shape (4, 8)."""
    graph = Graph()
    value = FakeTensorMode().from_tensor(torch.empty(4, 8))
    x = graph.placeholder("x")
    x.meta["val"] = value
    node = skip = x
    for index in range(count):
        if index % 10 == 9:
            node = skip = graph.call_function(aten.add.Tensor, (node, skip))
        else:
            op = (aten.relu.default, aten.tanh.default, aten.sigmoid.default)[index % 3]
            node = graph.call_function(op, (node,))
        node.meta["val"] = value
    graph.output((node,))
    spec = InputSpec("x", "x", "tensor", torch.float32, (4, 8), torch.device("cpu"))
    return Program(GraphModule(torch.nn.Module(), graph), (spec,), None, None)


def measure(count: int) -> dict[str, float]:
    """Microseconds per node and stage."""
    ctx = make_context(CompilationSettings.from_kwargs())
    source = program(count)
    gc.collect()
    times = [time.perf_counter()]
    lowered = lower(source, ctx)
    times.append(time.perf_counter())
    found = partition(lowered, ctx)
    times.append(time.perf_counter())
    for segment in found.segments:
        convert_segment(segment, ctx, found.selections, lowered.symbols)
    times.append(time.perf_counter())
    stages = {name: b - a for name, a, b in zip(("lowering", "partition", "conversion"), times, times[1:])}
    stages["total"] = times[-1] - times[0]
    return {name: seconds / count * 1e6 for name, seconds in stages.items()}


def main() -> None:
    measure(200)  # fills caches
    print("| nodes | lowering | partition | conversion | **total per node** | against 10,000 |")
    print("|---|---|---|---|---|---|")
    rows = {count: measure(count) for count in SIZES}
    for count, row in rows.items():
        ratio = row["total"] / rows[10_000]["total"]
        stages = " | ".join(f"{row[name]:.0f} us" for name in ("lowering", "partition", "conversion"))
        print(f"| {count:,} | {stages} | **{row['total']:.0f} us** | {ratio:.2f}x |")


if __name__ == "__main__":
    main()

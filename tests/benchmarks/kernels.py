"""Generated and hand-written kernels on a GPU, against torch eager, torch.compile and the copy bandwidth.

``python tests/benchmarks/kernels.py [--out FILE.json] [--only "NAME; NAME"] [--variants] [--seconds N]`` measures on the
current GPU; `--variants` also the tiles that the planner did not choose, `--seconds` ends it early.
``--table FILE.json`` prints the table for docs/performance.md instead.

How: calls are captured in a CUDA graph, over input sets that together exceed the L2 cache several times, with all
outputs kept, so that nothing is found in the cache. The graph is replayed; the time is the median replay between
CUDA events, per call. All contenders of a row are measured in turn, in one run. "of copy" is the bytes that a
kernel must move (every input read once, every output written once) over its time, over the same of a copy: the faster
of the driver's copy and of an elementwise kernel that reads and writes as many bytes.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

MIB = 1 << 20
SIZES = (64 * MIB, 512 * MIB)
"""Bytes of the largest input."""


@dataclass(frozen=True)
class Row:
    """A function to measure.

    Attributes:
        inputs: "x", "y", "z" whole tensors, "w" one row, "c" a column; or a function (bytes, dtype) -> inputs.
        width: of the last dim; None puts all elements into one dim.
        handwritten: name in trtcore_plugins.kernels.declarations.
        generated: whether the generator can express it.
    """

    function: Callable[..., Any]
    inputs: Any = "x"
    width: int | None = 4096
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16,)
    handwritten: str = ""
    generated: bool = True


def rms_norm_residual(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> Any:
    total = x + y
    return F.rms_norm(total, (total.shape[-1],), w, 1e-6), total


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def rotary_inputs(size: int, dtype: torch.dtype) -> list[torch.Tensor]:
    heads, length, dim = 32, 2048, 128
    batch = max(1, size // (heads * length * dim * dtype.itemsize))
    x = torch.randn(batch, heads, length, dim, device="cuda", dtype=dtype)
    angle = torch.randn(length, dim // 2, device="cuda").repeat(1, 2)
    return [x, angle.cos().to(dtype), angle.sin().to(dtype)]


def transposed(size: int, dtype: torch.dtype) -> list[torch.Tensor]:
    side = int((size // dtype.itemsize) ** 0.5)
    return [
        torch.randn(side, side, device="cuda", dtype=dtype).t(),
        torch.randn(side, side, device="cuda", dtype=dtype),
    ]


BOTH = (torch.bfloat16, torch.float32)
ROWS: dict[str, Row] = {
    "gelu(x + bias)": Row(lambda x, w: F.gelu(x + w), "xw", dtypes=BOTH),
    "swiglu": Row(lambda x, y: F.silu(x) * y, "xy", None, BOTH),
    "geglu": Row(lambda x, y: F.gelu(x, approximate="tanh") * y, "xy", None),
    "chain of 8": Row(
        lambda x, y: (torch.tanh(x * 2 + y) - y.abs()).clamp(-1, 1) * torch.sigmoid(x), "xy", None
    ),
    "where": Row(lambda x, y: torch.where(x > y, x, y * 0.5), "xy", None),
    "odd rows: x * w + c": Row(lambda x, w, c: x * w + c, "xwc", 1023),
    "x.t() + y": Row(lambda x, y: x + y, transposed, None),
    "sum of rows": Row(lambda x: x.sum(-1), dtypes=BOTH),
    "sum of columns": Row(lambda x: x.sum(0), dtypes=BOTH),
    "sum of everything": Row(lambda x: x.sum(), width=None, dtypes=BOTH),
    "argmax of rows": Row(lambda x: x.argmax(-1), width=32000),
    "var_mean of rows": Row(lambda x: torch.var_mean(x, -1)),
    "softmax, 128 wide": Row(lambda x: torch.softmax(x, -1), width=128),
    "softmax, 1000 wide": Row(lambda x: torch.softmax(x, -1), width=1000),
    "softmax, 4096 wide": Row(lambda x: torch.softmax(x, -1), dtypes=BOTH),
    "softmax, 32000 wide": Row(lambda x: torch.softmax(x, -1), width=32000),
    "log_softmax, 131072 wide": Row(lambda x: torch.log_softmax(x, -1), width=131072),
    "layer_norm": Row(lambda x, w: F.layer_norm(x, (x.shape[-1],), w, w), "xw", dtypes=BOTH),
    "rms_norm": Row(lambda x, w: F.rms_norm(x, (x.shape[-1],), w, 1e-6), "xw", dtypes=BOTH),
    "layer_norm, 8192 wide": Row(lambda x, w: F.layer_norm(x, (x.shape[-1],), w, w), "xw", 8192),
    "rms_norm, 8192 wide": Row(lambda x, w: F.rms_norm(x, (x.shape[-1],), w, 1e-6), "xw", 8192),
    "rms_norm + residual": Row(rms_norm_residual, "xyw", 4096, BOTH),
    "rotary embedding": Row(rotate, rotary_inputs, None, BOTH, "rotary_embedding", generated=False),
}


def make_inputs(row: Row, size: int, dtype: torch.dtype) -> list[torch.Tensor]:
    if callable(row.inputs):
        return list(row.inputs(size, dtype))
    count = size // dtype.itemsize
    shape = (count,) if row.width is None else (count // row.width, row.width)
    shapes = {"x": shape, "y": shape, "z": shape, "w": shape[-1:], "c": (*shape[:-1], 1)}
    return [torch.randn(shapes[kind], device="cuda", dtype=dtype) for kind in row.inputs]


def moved(inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in (*inputs, *outputs))


class Graph:
    """Calls of a function over several input sets, captured."""

    def __init__(self, function: Callable[..., Any], sets: Sequence[Sequence[torch.Tensor]]) -> None:
        self.calls = len(sets)
        for inputs in sets[:2]:
            function(*inputs)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.kept = [function(*inputs) for inputs in sets]

    def seconds(self) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        self.graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / self.calls


def in_turn(graphs: dict[str, Graph], rounds: int) -> dict[str, float]:
    """Median seconds per call of each, measured round by round."""
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for round_ in range(rounds + 3):
        for name, graph in graphs.items():
            seconds = graph.seconds()
            if round_ >= 3:
                times[name].append(seconds)
    return {name: statistics.median(found) for name, found in times.items()}


def contenders(row: Row, inputs: Sequence[torch.Tensor]) -> dict[str, Callable[..., Any]]:
    from trtcore_plugins.codegen import generate_kernel

    torch._dynamo.reset()
    found: dict[str, Callable[..., Any]] = {"eager": row.function, "compile": torch.compile(row.function)}
    if row.generated:
        found["generated"] = generate_kernel(row.function, *inputs)
    if row.handwritten:
        from trtcore_plugins.kernels import declarations

        found["handwritten"] = getattr(declarations, row.handwritten)
    return found


def measure(
    name: str, row: Row, size: int, dtype: torch.dtype, rounds: int, variants: bool
) -> dict[str, Any]:
    inputs = make_inputs(row, size, dtype)
    outputs = _flat(row.function(*inputs))
    traffic = moved(inputs, outputs)
    count = max(2, -(-512 * MIB // traffic))
    sets = [inputs] + [make_inputs(row, size, dtype) for _ in range(count - 1)]
    functions = contenders(row, inputs)
    graphs = {which: Graph(function, sets) for which, function in functions.items()}
    if variants and row.generated:
        graphs.update(variant_graphs(name, functions["generated"], sets))
    half = torch.randint(-9, 9, (traffic // 16,), device="cuda")
    copies = [(torch.empty_like(half), half.clone()) for _ in range(count)]
    graphs["copy"] = Graph(lambda to, source: to.copy_(source), copies)
    graphs["copy kernel"] = Graph(lambda to, source: torch.bitwise_not(source, out=to), copies)
    times = in_turn(graphs, rounds)
    times["copy"] = min(times["copy"], times.pop("copy kernel"))
    return {
        "name": name, "dtype": str(dtype).removeprefix("torch."), "bytes": size, "traffic": traffic,
        "shape": [list(one.shape) for one in inputs], "seconds": times,
    }  # fmt: skip


def _flat(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)


VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "sum of columns": (
        {"column_blocks": (64, 64, 8)},
        {"column_blocks": (64, 128, 8)},
        {"column_blocks": (128, 64, 8), "PIECES": 8},
        {"column_blocks": (128, 64, 8), "PIECES": 16},
        {"column_blocks": (128, 128, 8)},
        {"column_blocks": (128, 128, 16)},
        {"column_blocks": (256, 32, 8)},
        {"column_blocks": (256, 64, 8)},
        {"column_blocks": (256, 64, 16)},
        {"column_blocks": (512, 16, 8)},
        {"column_blocks": (512, 32, 8)},
        {"column_blocks": (512, 32, 8), "PIECES": 8},
        {"column_blocks": (512, 16, 4), "PIECES": 8},
    ),
    **dict.fromkeys(
        ("layer_norm, 8192 wide", "rms_norm, 8192 wide"),
        (
            {"row_blocks": (1, 8192, 4)},
            {"row_blocks": (1, 8192, 16)},
            {"row_blocks": (1, 8192, 32)},
            {"row_blocks": (2, 8192, 16)},
            {"LARGEST_TILE": 4096, "loop_blocks": (1, 2048, 8)},
            {"LARGEST_TILE": 4096, "loop_blocks": (1, 4096, 8)},
            {"LARGEST_TILE": 4096, "loop_blocks": (1, 4096, 16)},
        ),
    ),
    **dict.fromkeys(
        ("geglu", "gelu(x + bias)", "chain of 8", "swiglu"),
        (
            {"pointwise_blocks": (1, 512, 4)},
            {"pointwise_blocks": (1, 1024, 4)},
            {"pointwise_blocks": (1, 1024, 8)},
            {"pointwise_blocks": (1, 2048, 8)},
            {"pointwise_blocks": (1, 4096, 8)},
            {"pointwise_blocks": (1, 4096, 4)},
        ),
    ),
    "sum of everything": (
        {"piece_blocks": (1, 4096, 8)},
        {"piece_blocks": (1, 8192, 16)},
        {"piece_blocks": (1, 4096, 8), "PIECES": 8},
        {"piece_blocks": (1, 2048, 4), "PIECES": 16},
        {"piece_blocks": (1, 4096, 4), "PIECES": 8},
        {"piece_blocks": (1, 8192, 4), "PIECES": 8},
        {"piece_blocks": (1, 16384, 16)},
        {"PIECES": 2},
        {"PIECES": 3},
    ),
    "argmax of rows": (
        {"loop_blocks": (1, 4096, 16)},
        {"loop_blocks": (1, 8192, 16)},
        {"loop_blocks": (1, 2048, 4)},
        {"LARGEST_TILE": 1 << 16},
    ),
    "softmax, 32000 wide": (
        {"loop_blocks": (1, 4096, 8)},
        {"loop_blocks": (1, 8192, 16)},
        {"LARGEST_TILE": 32768},
    ),
    "log_softmax, 131072 wide": (
        {"loop_blocks": (1, 4096, 8)},
        {"loop_blocks": (1, 8192, 16)},
        {"loop_blocks": (1, 8192, 32)},
        {"loop_blocks": (1, 32768, 32)},
    ),
}
"""Other choices than the planner's (`trtcore_plugins.codegen.plan`) for the rows that decide its rules."""


@contextmanager
def planned(variant: dict[str, Any]) -> Iterator[None]:
    """The planner with other tiles: (rows, columns, warps), or a number."""
    from trtcore_plugins.codegen import plan

    before = {name: getattr(plan, name) for name in variant}
    for name, choice in variant.items():
        blocks = plan.Blocks(*choice) if isinstance(choice, tuple) else None
        setattr(plan, name, choice if blocks is None else lambda *_, blocks=blocks: blocks)
    plan._plans.clear()
    try:
        yield
    finally:
        for name, choice in before.items():
            setattr(plan, name, choice)
        plan._plans.clear()


def variant_graphs(name: str, kernel: Any, sets: Sequence[Sequence[torch.Tensor]]) -> dict[str, Graph]:
    """The generated kernel of a row with each of its `VARIANTS`."""
    found = {}
    for variant in VARIANTS.get(name, ()):
        text = ", ".join(f"{key}={value}" for key, value in variant.items())
        try:
            with planned(variant):
                found[f"variant {text}"] = Graph(kernel, sets)
        except Exception as error:
            print(f"{name} with {text}: {type(error).__name__}: {error}"[:300], file=sys.stderr, flush=True)
    return found


def summary(row: dict[str, Any]) -> str:
    """One row in a line: microseconds of every contender, the fastest first."""
    times = sorted(row["seconds"].items(), key=lambda one: one[1])
    return f"{row['name']} {row['dtype']} {row['bytes'] // MIB} MiB: " + ", ".join(
        f"{which} {seconds * 1e6:.1f} us" for which, seconds in times
    )


def table(data: dict[str, Any]) -> str:
    """The Markdown table."""
    lines = [
        f"Measured on an {data['device']}, torch {data['torch']}, Triton {data['triton']}, commit {data['commit']}.",
        "",
        "| kernel | dtype | MiB moved | copy | eager | torch.compile | generated | of copy | of the faster | hand-written |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        seconds, traffic = row["seconds"], row["traffic"]
        ours = seconds.get("generated", seconds.get("handwritten"))
        faster = min(seconds["eager"], seconds["compile"])
        cells = [
            row["name"] + (" *" if "commit" in row else ""), row["dtype"], f"{traffic / MIB:.0f}", f"{traffic / seconds['copy'] / 1e12:.2f} TB/s",
            *(f"{seconds[k] * 1e6:.0f} us" if k in seconds else "" for k in ("eager", "compile", "generated")),
            f"**{seconds['copy'] / ours:.2f}**", f"**{faster / ours:.2f}**",
            f"{seconds['handwritten'] * 1e6:.0f} us" if "handwritten" in seconds else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    later = sorted({row["commit"] for row in data["rows"] if "commit" in row})
    if later:
        lines += ["", f"\\* measured again in a later run, at commit {', '.join(later)}."]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out")
    parser.add_argument("--table")
    parser.add_argument("--only", help="names of rows, separated by '; '")
    parser.add_argument("--commit", default="")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--variants", action="store_true", help="other tiles too, where the planner's were chosen so"
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no row is begun after this time")
    chosen = parser.parse_args()
    began = time.monotonic()
    if chosen.table:
        with open(chosen.table, encoding="utf-8") as file:
            print(table(json.load(file)))
        return 0
    import triton

    data: dict[str, Any] = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__,
        "python": platform.python_version(), "commit": chosen.commit, "rows": [],
    }  # fmt: skip
    names = chosen.only.split("; ") if chosen.only else list(ROWS)
    left_out = []
    for name, dtype, size in [(n, dtype, size) for n in names for dtype in ROWS[n].dtypes for size in SIZES]:
        if time.monotonic() - began > chosen.seconds:
            left_out.append(f"{name} {dtype} {size}")
            continue
        try:
            found = measure(name, ROWS[name], size, dtype, chosen.rounds, chosen.variants)
        except Exception as error:
            print(f"{name} {dtype} {size}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            continue
        data["rows"].append(found)
        print(summary(found), flush=True)
        if chosen.out:
            with open(chosen.out, "w", encoding="utf-8") as file:
                json.dump(data, file, indent=1)
    if left_out:
        print(f"not measured, for want of time: {', '.join(left_out)}", file=sys.stderr)
    print(table(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())

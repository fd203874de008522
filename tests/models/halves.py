"""The gallery in float16 and bfloat16: how far from float32 eager, beside how far eager itself is in that precision.

``python tests/models/halves.py [names] --write`` (`make halves`) updates ``docs/models/halves.json`` and the table in
``docs/models-in-half-precision.md``; rows of models that were not run stay.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

sys.path.insert(0, str(Path(__file__).parent))

import gallery
import zoo

import trtcore

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "docs" / "models" / "halves.json"
PAGE = ROOT / "docs" / "models-in-half-precision.md"
BEGIN, END = "<!-- halves: begin -->", "<!-- halves: end -->"
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
BOUND = 1.25
PAIRS = 16
"""The batch of models that compare texts and images: their results of two inputs are four numbers, whose error says
nothing."""


@dataclass(frozen=True)
class Half:
    """What became of one architecture in one precision.

    Attributes:
        precision: fp16 or bf16: ``model.half()`` or ``model.bfloat16()``, and inputs to match.
        engines, converted, ops: as in the gallery.
        error: ``|got - want| / |want|`` against float32 eager, the largest over the outputs.
        eager_error: the same of eager in this precision.
        failed: the error that kept it from compiling or running; "" when there was none.
    """

    name: str
    precision: str
    engines: int = 0
    converted: int = 0
    ops: int = 0
    error: float = 0.0
    eager_error: float = 0.0
    failed: str = ""

    @property
    def holds(self) -> bool:
        """Whether the engine is as near to float32 as eager is in this precision."""
        return not self.failed and self.error <= BOUND * self.eager_error


@torch.no_grad()
def run(name: str, precision: str, model: torch.nn.Module | None = None) -> Half:
    """Compile an architecture of the gallery in a precision, static shapes, and measure both errors."""
    entry, dtype = gallery.GALLERY[name], DTYPES[precision]
    model = model or gallery.build(entry)
    example = entry.feed(PAIRS if entry.kind == "multimodal" else gallery.BATCH[1])
    lowered = {key: value.to(dtype) if value.is_floating_point() else value for key, value in example.items()}
    want = model(**example)
    half = copy.deepcopy(model).to(dtype)
    try:
        eager = half(**lowered)
        compiled = trtcore.compile(half, kwarg_inputs=lowered, min_block_size=1)
        got = compiled(**lowered)
    except Exception as problem:
        lines = [line for line in str(problem).splitlines() if line.strip()] or [""]
        return Half(name, precision, failed=f"{type(problem).__name__}: {lines[0][:200]}")
    report = compiled.report
    return Half(
        name,
        precision,
        len(report.engines),
        len(report.converted),
        len(report.converted) + len(report.in_torch),
        _error(want, got),
        _error(want, eager),
    )


def _error(want: Any, got: Any) -> float:
    """The largest relative difference over the floating-point outputs; infinite where one is not finite."""
    pairs = [
        (a.double(), b.double())
        for a, b in zip(pytree.tree_leaves(want), pytree.tree_leaves(got), strict=True)
        if isinstance(a, torch.Tensor) and a.is_floating_point() and a.numel()
    ]
    errors = [float((a - b).norm() / a.norm()) for a, b in pairs if float(a.norm()) > 0]
    return float(f"{max(float('inf') if error != error else error for error in errors):.3e}")


def record() -> dict[tuple[str, str], Half]:
    """The rows checked in, by (name, precision)."""
    if not RECORD.exists():
        return {}
    rows = [Half(**row) for row in json.loads(RECORD.read_text())["rows"]]
    return {(row.name, row.precision): row for row in rows}


def write(rows: Iterable[Half]) -> None:
    """Put rows into the record, and the record into the page."""
    merged = {**record(), **{(row.name, row.precision): row for row in rows}}
    ordered = [merged[name, one] for name in gallery.GALLERY for one in DTYPES if (name, one) in merged]
    RECORD.write_text(json.dumps({"rows": [asdict(row) for row in ordered]}, indent=1) + "\n")
    zoo.put_between(PAGE, BEGIN, table(ordered), END)


def table(rows: Iterable[Half]) -> str:
    """The page's table, with a line above it that counts."""
    rows = list(rows)
    counts = "; ".join(
        f"{one}: {sum(row.holds for row in rows if row.precision == one)} of "
        f"{sum(row.precision == one for row in rows)} hold"
        for one in DTYPES
    )
    lines = [
        f"{counts}.",
        "",
        "| model | precision | holds | engines | ops in engines | of | error | eager's error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            f"failed: {gallery._cell(row.failed)} | | | | | "
            if row.failed
            else f"{'yes' if row.holds else '**no**'} | {row.engines} | {row.converted} | {row.ops} | "
            f"{row.error:.2e} | {row.eager_error:.2e}"
        )
        lines.append(f"| {row.name} | {row.precision} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="architectures (default: all)")
    parser.add_argument("--precision", choices=DTYPES, action="append")
    parser.add_argument(
        "--write", action="store_true", help="update the record and the page after each model"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.names or gallery.GALLERY:
        model = gallery.build(gallery.GALLERY[name])
        for precision in given.precision or DTYPES:
            began = time.perf_counter()
            row = run(name, precision, model)
            print(
                f"{name:16} {precision} {'holds' if row.holds else 'NO   '} {row.converted}/{row.ops} error {row.error:.2e} "
                f"eager {row.eager_error:.2e} {row.failed} ({time.perf_counter() - began:.1f} s)",
                flush=True,
            )
            if given.write:
                write([row])


if __name__ == "__main__":
    main()

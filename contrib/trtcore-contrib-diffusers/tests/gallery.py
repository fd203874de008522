"""The table of pipelines in docs/diffusers.md.

python contrib/trtcore-contrib-diffusers/tests/gallery.py [--write] [name ...]
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from conftest import CALLS, make_pipeline, make_tokenizer
from trtcore_contrib_diffusers import compile_pipeline, reports

PAGE = Path(__file__).parents[3] / "docs" / "diffusers.md"
BEGIN, END = "<!-- pipelines: begin -->", "<!-- pipelines: end -->"


def rows(name: str, folder: Path) -> list[str]:
    """A line of the table for each component of a pipeline."""
    pipe = make_pipeline(name, make_tokenizer(folder))
    sizes, further = CALLS[name]
    compiled = compile_pipeline(pipe, **sizes, arguments=further)
    ours, theirs = (result(one, {**sizes, **further}) for one in (compiled, pipe))
    error = f"{abs(ours - theirs).max():.1e}"
    found = []
    for place, report in reports(compiled).items():
        ops = f"{len(report.converted)} of {len(report.nodes)}"
        found.append(f"| {type(pipe).__name__} | {place} | {len(report.engines)} | {ops} | {error} |")
    return found


def result(pipe: Any, call: dict[str, Any]) -> Any:
    """Images or a video."""
    generator = torch.Generator().manual_seed(0)
    return pipe(
        "a cat", num_inference_steps=2, output_type="np", generator=generator, return_dict=False, **call
    )[0]


def main(arguments: list[str]) -> None:
    names = [one for one in arguments if one != "--write"] or list(CALLS)
    table = [
        "| pipeline | component | engines | ops in engines | difference of the result |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            table += rows(name, Path(folder))
    print("\n".join(table))
    if "--write" in arguments:
        text = PAGE.read_text()
        made = "\n".join((BEGIN, *table, END))
        PAGE.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: made, text, flags=re.DOTALL))


if __name__ == "__main__":
    main(sys.argv[1:])

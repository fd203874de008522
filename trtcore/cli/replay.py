"""`trtcore replay`: the engine of a request, built again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtcore.errors import printable

if TYPE_CHECKING:
    from trtcore.debug.replay import Replay


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--import",
    "imports",
    multiple=True,
    metavar="MODULE",
    help="Import a module or a file.py first: what defines converters outside of packs.",
)
@click.option("--seed", default=0, show_default=True, help="Of the weights, where the file has none.")
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Write TensorRT's plan."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def replay(
    ctx: click.Context, file: Path, imports: tuple[str, ...], seed: int, output: Path | None, as_json: bool
) -> None:
    """Build the engine of the request in FILE, which trtcore.Debugger wrote.

    Exits with 1 when there is no engine, and prints why.
    """
    from trtcore.cli.loading import import_modules
    from trtcore.debug import replay as build

    import_modules(imports)
    result = build(file, seed=seed)
    if output is not None and result.artifact is not None:
        output.write_bytes(result.artifact.plan.numpy().tobytes())
    click.echo(json.dumps(_plain(result), indent=2) if as_json else printable(_text(result)))
    if result.artifact is None:
        ctx.exit(1)


def _plain(result: Replay) -> dict[str, Any]:
    return {
        "schema": 1,
        "name": result.name,
        "built": result.artifact is not None,
        "plan_bytes": None if result.artifact is None else result.artifact.plan.numel(),
        "kind": result.kind,
        "error": None if result.error is None else str(result.error),
        "named": list(result.named),
    }


def _text(result: Replay) -> str:
    from trtcore.report.text import format_bytes

    if result.artifact is not None:
        return f"{result.name} was built: {format_bytes(result.artifact.plan.numel())}"
    lines = [f"{result.name} was not built ({result.kind}): {result.error}"]
    if result.named:
        lines.append(f"TensorRT names layers of: {', '.join(result.named)}")
    return "\n".join(lines)

"""`trtcore ops`: which converter an op takes, and every other candidate with the reason why it comes later."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from trtcore.testing.tables import OpRow


@click.command()
@click.argument("op", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--core", is_flag=True, help="Core ATen ops alone.")
@click.option("--samples", is_flag=True, help="How many of PyTorch's own sample inputs pass, per operator.")
def ops(op: str | None, as_json: bool, core: bool, samples: bool) -> None:
    """Show every candidate for OP in order, and why; without OP, all ops with converter, pack or decomposition.

    OP is aten.gelu, aten.gelu.default or torchvision::nms. Whether a candidate takes a node of a model is also up to
    its validator: see `trtcore explain`.
    """
    from trtcore.packs.coverage import describe_op, describe_ops

    if samples:
        _samples(op, as_json)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `trtcore packs` says what is wrong with packs
        described = describe_ops() if op is None else describe_op(op)
    if core:
        described = [row for row in described if row.get("core", True)]
    if as_json:
        click.echo(json.dumps({"schema": 1, "ops": described}, indent=2))
    elif op is None:
        _print_table(described)
    else:
        for row in described:
            _print_op(row)


_MARK = {True: "yes", False: ""}


def _print_table(described: Sequence[Mapping[str, Any]]) -> None:
    from trtcore.report.text import format_table

    columns = ("op", "by", "pack", "converters", "dynamic", "core ATen")
    rows = [
        (
            row["op"],
            row["by"],
            row["pack"],
            str(row["converters"] or ""),
            _MARK[row["dynamic"]],
            _MARK[row["core"]],
        )
        for row in described
    ]
    for line in format_table(columns, rows, numeric=("converters",)):
        click.echo(line)
    core = [row for row in described if row["core"]]
    refused = sum(row["by"] == "refused" for row in core)
    done = len(core) - refused - sum(row["by"] == "torch" for row in core)
    click.echo(
        f"{len(described)} ops; {done} of {len(core)} core ATen ops have a converter or a decomposition, "
        f"{refused} are refused with a reason"
    )


def _print_op(row: Mapping[str, Any]) -> None:
    word = "by" if row["by"] == "refused" else "of"
    by = f"{row['by']} {word} {row['pack']}" if row["pack"] else row["by"]
    click.echo(click.style(row["op"], bold=True) + f": {by}")
    if row["note"]:
        click.echo(f"  {row['note']}")
    if row["by"] == "decomposition":
        click.echo("  taken apart where every piece is converted, else in torch")
        if row["defined"]:
            click.echo(f"  {row['defined']}")
    for number, one in enumerate(row["candidates"], 1):
        version = f" {one['version']}" if one["version"] else ""
        whose = f"{one['converter']} of {one['source']}{version}"
        click.echo(f"  {number}. {whose} ({one['scope']}, priority {one['priority']})")
        for line in _facts(one):
            click.echo(f"       {line}")


def _facts(one: Mapping[str, Any]) -> list[str]:
    shapes = "static and dynamic shapes" if one["dynamic"] else "static shapes only"
    lines = [f"{shapes}{', if its validator agrees' if one['validator'] else ''}"]
    if one["place"]:
        lines.append(one["place"])
    if one["requires"]:
        lines.append(f"needs {one['requires']}")
    if one["unmet"]:
        lines.append(f"cannot be used here: {one['unmet']}")
    if one["defined"]:
        lines.append(one["defined"])
    return lines


def _samples(op: str | None, as_json: bool) -> None:
    """The conformance tables that come with the ATen pack; with `op` (an operator or an overload) its rows alone."""
    from trtcore.report.text import format_table
    from trtcore.testing.tables import load_tables

    tables = load_tables()
    chosen = [
        (table.family, row) for table in tables for row in table.rows if op is None or _is_about(row, op)
    ]
    if op is not None and not chosen:
        raise click.ClickException(f"no sample of PyTorch's is traced to {op!r}")
    if as_json:
        rows = [{"family": family, **asdict(row)} for family, row in chosen]
        click.echo(json.dumps({"schema": 1, "samples": rows}, indent=2))
        return
    columns = ("operator", "family", "passed", "refused", "failed", "why refused")
    cells = [
        (
            row.op,
            family,
            str(row.passed),
            str(row.refused),
            str(row.failed),
            row.refusals[0].reason if row.refusals else "",
        )
        for family, row in chosen
    ]
    for line in format_table(columns, cells, numeric=("passed", "refused", "failed")):
        click.echo(line)
    for about in dict.fromkeys(
        (table.about["date"], table.about["torch"], table.about["backend"]) for table in tables
    ):
        click.echo(f"run on {about[0]} with torch {about[1]} and {about[2]}")


def _is_about(row: OpRow, op: str) -> bool:
    """Whether a row is of the operator, or of one that is traced to the overload."""
    return op == row.op or any(name == op or name.rpartition(".")[0] == op for name in row.overloads)

"""`trtcore ops`: which converter an op takes, and every other candidate with the reason why it comes later."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import click


@click.command()
@click.argument("op", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--core", is_flag=True, help="Core ATen ops alone.")
def ops(op: str | None, as_json: bool, core: bool) -> None:
    """Show every candidate for OP in order, and why; without OP, all ops with converter, pack or decomposition.

    OP is aten.gelu, aten.gelu.default or torchvision::nms. Whether a candidate takes a node of a model is also up to
    its validator: see `trtcore explain`.
    """
    from trtcore.coverage import describe_op, describe_ops

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
    from trtcore.report import format_table

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
    left = [row for row in core if row["by"] == "torch"]
    done = len(core) - len(left)
    click.echo(
        f"{len(described)} ops; {done} of {len(core)} core ATen ops have a converter or a decomposition"
    )


def _print_op(row: Mapping[str, Any]) -> None:
    by = f"{row['by']} of {row['pack']}" if row["pack"] else row["by"]
    click.echo(click.style(row["op"], bold=True) + f": {by}")
    if row["note"]:
        click.echo(f"  {row['note']}")
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

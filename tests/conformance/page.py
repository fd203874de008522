"""From results to the tables that come with the pack, and to docs/ops.md."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import families

from trtcore.testing.tables import FamilyTable, OpRow, Refusal, load_tables, write_table

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "converters" / "trtcore_converters" / "conformance"
PAGE = ROOT / "docs" / "ops.md"
COUNTED = ("passed", "refused", "failed")

HEAD = """\
# Operators

What the ATen pack does with PyTorch's own sample inputs (`op_db`), forward, in float32, float16, bfloat16, int32, int64 and
bool. This page is made by `python tests/conformance/run.py --publish` from the tables that come with the pack
(`trtcore_converters/conformance/*.json`, read by `trtcore.testing.tables.load_tables`).

- **passed**: every op of the traced call is in an engine that TensorRT built (L1: the network was accepted, L3: the engine was
  built), and the reference runtime's numbers are eager's within the operator's own tolerance (L2).
- **refused**: an op stays in torch, for the reason given; the result is right all the same.
- **failed**: a wrong number, shape or dtype; a crash; or something that TensorRT refused and no validator foresaw.

Samples of which an argument or the result has a dtype that TensorRT has not (float64, complex numbers, int16, ...) stay in torch
and are on no account; they are counted as *foreign*. Where the result is not defined by the inputs alone, what counts is what is
defined: dtype and shape of `empty`, any of several equal elements for the index of `sort`, `topk`, `median`, `mode`, and everything
but NaN where NaN meets MAX or MIN ([semantics](semantics.md)).
"""


def publish(results: Sequence[dict[str, Any]]) -> None:
    """Write the tables of the families that there are results for, and the page of all tables.

    Rows of operators without results stay as they are where they were run with the same versions.
    """
    by_family: dict[str, list[dict[str, Any]]] = {}
    for row in results:
        if row["op"] in families.family_of():
            by_family.setdefault(families.family_of()[row["op"]], []).append(row)
    known = {table.family: table for table in load_tables()}
    for family, rows in by_family.items():
        write_table(merged(table_of(family, rows), known.get(family)), FOLDER)
    PAGE.write_text(render(load_tables()))


def merged(fresh: FamilyTable, known: FamilyTable | None) -> FamilyTable:
    """A family's new table, with the rows of a known one for the operators that were not run again; its date is that of
    the oldest row.

    Raises:
        ValueError: the known rows are of other versions; a table is of one run.
    """
    order = families.FAMILIES[fresh.family].split()
    ran = {row.op for row in fresh.rows}
    kept = [row for row in known.rows if row.op in order and row.op not in ran] if known is not None else []
    if known is None or not kept:
        return fresh
    for version in ("torch", "backend"):
        if fresh.about[version] != known.about[version]:
            raise ValueError(
                f"the table of {fresh.family} is of {version} {known.about[version]}, and the results are of "
                f"{fresh.about[version]}: run the whole family (--family {fresh.family!r}) before --publish"
            )
    rows = sorted((*fresh.rows, *kept), key=lambda row: order.index(row.op))
    oldest = min(fresh.about["date"], known.about["date"])
    most = max(fresh.about["at_most"], known.about["at_most"])
    return FamilyTable(fresh.family, tuple(rows), {**fresh.about, "date": oldest, "at_most": most})


def table_of(family: str, results: Sequence[dict[str, Any]]) -> FamilyTable:
    """A family's table, its operators in the order of families.py."""
    by_op: dict[str, list[dict[str, Any]]] = {}
    for row in results:
        by_op.setdefault(row["op"], []).append(row)
    operators = [op for op in families.FAMILIES[family].split() if op in by_op]
    return FamilyTable(family, tuple(_row(op, by_op[op]) for op in operators), _about(results))


def _about(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    import torch

    from trtcore.testing import usable_backend

    backend = usable_backend()
    each = Counter((row["op"], row["variant"], row["dtype"]) for row in results)
    newest = max(row["time"] for row in results)
    return {
        "date": datetime.datetime.fromtimestamp(newest, datetime.timezone.utc).date().isoformat(),
        "at_most": max(each.values()),
        "torch": torch.__version__,
        "backend": f"{backend.name} {backend.version}",
    }


def _row(op: str, results: Sequence[dict[str, Any]]) -> OpRow:
    outcomes = Counter(row["outcome"] for row in results)
    dtypes: dict[str, tuple[int, int, int]] = {}
    for dtype in dict.fromkeys(row["dtype"] for row in results):
        own = Counter(row["outcome"] for row in results if row["dtype"] == dtype)
        if any(own[outcome] for outcome in COUNTED):
            dtypes[dtype] = (own["passed"], own["refused"], own["failed"])
    overloads = sorted(
        {name for row in results if row["outcome"] != "invalid" for name in row.get("traced", ())}
    )
    return OpRow(
        op, outcomes["passed"], outcomes["refused"], outcomes["failed"], outcomes["foreign"], dtypes,
        _refusals([row for row in results if row["outcome"] == "refused"]), tuple(overloads),
    )  # fmt: skip


def _refusals(results: Sequence[dict[str, Any]]) -> tuple[Refusal, ...]:
    """Reasons that differ in nothing but numbers are one; the pieces of a decomposition are left out."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in results:
        groups.setdefault(re.sub(r"\d+", "N", short(row["reason"])), []).append(row)
    found = [Refusal(short(rows[0]["reason"]), len(rows), rows[0]["call"]) for rows in groups.values()]
    return tuple(sorted(found, key=lambda refusal: -refusal.samples))


def short(reason: str) -> str:
    """The reason without those of the pieces of a decomposition."""
    return reason.partition("; its decomposition does not help")[0]


# ---- the page ----------------------------------------------------------------------------------------------


def render(tables: Sequence[FamilyTable]) -> str:
    """The text of docs/ops.md."""
    order = list(families.FAMILIES)
    tables = sorted(tables, key=lambda table: order.index(table.family))
    parts = [HEAD, _what_ran(tables), _summary(tables)]
    parts += [_family(table) for table in tables]
    parts.append(_left_out())
    return "\n".join(parts)


def _what_ran(tables: Sequence[FamilyTable]) -> str:
    samples = sum(table.total(outcome) for table in tables for outcome in COUNTED)
    operators = sum(len(table.rows) for table in tables)
    runs = sorted({(table.about["date"], table.about["torch"], table.about["backend"]) for table in tables})
    text = "; ".join(f"{date} with torch {torch} and {backend}" for date, torch, backend in runs)
    return (
        f"Run: {text}. {samples} samples of {operators} operators, evenly spread over each operator's samples; the "
        "numbers below say how many of each. `make conformance` runs all of them.\n"
    )


def _summary(tables: Sequence[FamilyTable]) -> str:
    lines = [
        "| family | operators | samples of each and dtype, at most | passed | refused | failed | refused share |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for table in tables:
        numbers = " | ".join(str(table.total(outcome)) for outcome in COUNTED)
        most = table.about["at_most"]
        lines.append(
            f"| {table.family} | {len(table.rows)} | {most} | {numbers} | {table.refused_share:.1%} |"
        )
    return "\n".join(lines) + "\n"


def _family(table: FamilyTable) -> str:
    lines = [f"## {table.family.capitalize()}", ""]
    lines += ["| operator | passed | refused | failed | foreign | why refused |", "|---|--:|--:|--:|--:|---|"]
    for row in table.rows:
        why = "; ".join(f"{refusal.samples} x {escaped(refusal.reason)}" for refusal in row.refusals[:4])
        lines.append(f"| `{row.op}` | {row.passed} | {row.refused} | {row.failed} | {row.foreign} | {why} |")
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """The text for a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _left_out() -> str:
    lines = ["## Left out", "", "No converter is meant for these; they run in torch.", ""]
    lines += ["| why | operators |", "|---|---|"]
    for why, names in families.LEFT_OUT.items():
        lines.append(f"| {why} | {', '.join(f'`{name}`' for name in names.split())} |")
    return "\n".join(lines) + "\n"

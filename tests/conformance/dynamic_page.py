"""From the dynamic-shape sweep's results to docs/dynamic.md."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import families
import page

sys.path.insert(0, str(page.ROOT / "tests" / "converters"))

import test_dynamic_overloads

PATH = page.ROOT / "docs" / "dynamic.md"
COUNTED = ("passed", "refused", "failed", "specialised", "foreign")

_REACHED = "## Converters that no form reaches"

HEAD = """\
# Dynamic shapes

What becomes of operators whose sizes vary. This page is made by `python tests/conformance/dynamic.py --publish` (`make dynamic`
runs the sweep). A *form* is one of PyTorch's sample inputs (`op_db`) of which a size, or all of them, are dynamic: it is exported
and compiled once, and compared with eager at the smallest, the usual and the largest size of its profile and at one between. The
smallest is 1 wherever the operator and torch.export allow it.

- **passed**: everything is in engines that TensorRT built, and the numbers are eager's at all four sizes.
- **refused**: an op stays in torch, for the reason given, and the numbers are right all the same. *Static too* says how many of
  them stay in torch with fixed sizes as well.
- **failed**: a wrong number, shape or dtype, a crash, or something that TensorRT refused and no validator foresaw.
- **specialised**: torch.export fixes the size, or its graph holds for some sizes alone: no form to compile.
- **foreign**: a dtype that TensorRT has not, or random numbers.
- **fixed** are operators whose samples eager itself takes at no other size, since the call has numbers that are sizes.
"""


def publish(results: Sequence[dict[str, Any]]) -> None:
    """Write the page. Operators without results keep their rows; what no form reaches is that of the last whole run."""
    whole = {row["op"] for row in results} >= families.family_of().keys()
    PATH.write_text(render(results, registered(), "" if whole else PATH.read_text()))


def registered() -> set[str]:
    """Every converter of the ATen pack that can take part, as ``target name``; those of refused ops do not count."""
    from trtcore.ir.ops import target_name
    from trtcore.packs.loading import build_registry
    from trtcore.settings import CompilationSettings

    registry = build_registry(CompilationSettings())
    return {
        f"{target_name(target)} {one.name}"
        for target in registry.targets
        for one in registry.candidates(target)
        if one.pack is not None and one.pack.id == "trtcore:aten" and not one.name.endswith("_refused")
    }


class Row(NamedTuple):
    """An operator's line, and its forms by outcome."""

    counts: Counter[str]
    line: str


def render(results: Sequence[dict[str, Any]], converters: set[str], known: str = "") -> str:
    """The text of docs/dynamic.md.

    Args:
        known: the page before, of which operators without results keep their rows; "" where there is none.
    """
    by_op: dict[str, list[dict[str, Any]]] = {}
    for row in results:
        by_op.setdefault(row["op"], []).append(row)
    rows = rows_of(known) | {op: _row(op, own) for op, own in by_op.items()}
    by_family: dict[str, list[Row]] = {}
    for op, family in families.family_of().items():
        if op in rows:
            by_family.setdefault(family, []).append(rows[op])
    parts = [HEAD, _summary(by_family), *(_family(family, own) for family, own in by_family.items())]
    start = known.find(_REACHED)
    parts.append(_reached(results, converters) if start < 0 else known[start:])
    return "\n".join(parts)


def rows_of(text: str) -> dict[str, Row]:
    """The operators' rows of a page."""
    found = re.finditer(r"^\| `(\S+)` \|((?: \d+ \|){5}) \d+ \|.*\|$", text, re.MULTILINE)
    return {
        one[1]: Row(Counter(dict(zip(COUNTED, map(int, one[2].strip(" |").split("|"))))), one[0])
        for one in found
    }


def _row(op: str, results: Sequence[dict[str, Any]]) -> Row:
    counts = Counter(row["outcome"] for row in results)
    also = sum(row["outcome"] == "refused" and row["static"] == "refused" for row in results)
    return Row(counts, f"| `{op}` | {_numbers(counts)} | {also} | {page.escaped(_why(results))} |")


def _summary(by_family: Mapping[str, Sequence[Row]]) -> str:
    lines = ["| family | operators | " + " | ".join(COUNTED) + " |", "|---|--:|" + "--:|" * len(COUNTED)]
    for family, rows in {**by_family, "all": [row for own in by_family.values() for row in own]}.items():
        counts = sum((row.counts for row in rows), Counter[str]())
        lines.append(f"| {family} | {len(rows)} | {_numbers(counts)} |")
    return "\n".join(lines) + "\n"


def _numbers(counts: Counter[str]) -> str:
    return " | ".join(str(counts[outcome]) for outcome in COUNTED)


def _family(family: str, rows: Sequence[Row]) -> str:
    lines = [f"## {family.capitalize()}", "", "| operator | " + " | ".join(COUNTED) + " | static too | why |"]
    lines.append("|---|" + "--:|" * (len(COUNTED) + 1) + "---|")
    return "\n".join([*lines, *(row.line for row in rows)]) + "\n"


def _why(rows: Iterable[dict[str, Any]]) -> str:
    """The reasons of what did not pass; such as differ in numbers alone are one."""
    found = {}
    for row in rows:
        if row["outcome"] not in ("passed", "foreign"):
            text = page.short(row["reason"]).partition(" what to do:")[0]
            found.setdefault(re.sub(r"\d+", "N", text), f"{row['outcome']}: {text[:200]}")
    return "; ".join(list(found.values())[:3])


def _reached(results: Iterable[dict[str, Any]], converters: set[str]) -> str:
    reached = {
        name for row in results if row["outcome"] in ("passed", "refused") for name in row["converters"]
    }
    called = {str(op) for _, calls, _, _ in test_dynamic_overloads.GROUPS for op in calls}
    missing = {name.partition(" ")[0] for name in converters - reached}
    lines = [
        _REACHED, "",
        f"In the last run over all operators {len(converters & reached)} of the pack's {len(converters)} converters (one for each overload) took part in a form that "
        f"passed, or was refused for another op. The others are for overloads that torch.export makes of no sample (scalar "
        f"overloads, ops of quantised models, patterns). {len(missing & called)} of them are called on sizes that vary by "
        f"`tests/converters/test_dynamic_overloads.py`; these {len(missing - called)} have their tests elsewhere in "
        "`tests/converters`, some on fixed sizes alone:", "",
        ", ".join(f"`{name}`" for name in sorted(missing - called)),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"

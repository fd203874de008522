"""From the dynamic-shape sweep's results to docs/dynamic.md."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import families
import page

sys.path.insert(0, str(page.ROOT / "tests" / "converters"))

import test_dynamic_overloads

PATH = page.ROOT / "docs" / "dynamic.md"
COUNTED = ("passed", "refused", "failed", "specialised", "foreign")

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
    """Write the page."""
    PATH.write_text(render(results, registered()))


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


def render(results: Sequence[dict[str, Any]], converters: set[str]) -> str:
    """The text of docs/dynamic.md."""
    by_op: dict[str, list[dict[str, Any]]] = {}
    for row in results:
        by_op.setdefault(row["op"], []).append(row)
    rows = [(family, op, by_op[op]) for op, family in families.family_of().items() if op in by_op]
    parts = [HEAD, _summary(rows)]
    for family in dict.fromkeys(family for family, _, _ in rows):
        parts.append(_family(family, [(op, own) for name, op, own in rows if name == family]))
    parts.append(_reached(results, converters))
    return "\n".join(parts)


def _summary(rows: Sequence[tuple[str, str, list[dict[str, Any]]]]) -> str:
    lines = ["| family | operators | " + " | ".join(COUNTED) + " |", "|---|--:|" + "--:|" * len(COUNTED)]
    groups: dict[str, list[dict[str, Any]]] = {}
    for family, _, own in rows:
        groups.setdefault(family, []).extend(own)
    for family, own in [*groups.items(), ("all", [row for _, _, some in rows for row in some])]:
        counts = Counter(row["outcome"] for row in own)
        operators = len({row["op"] for row in own})
        lines.append(f"| {family} | {operators} | {_numbers(counts)} |")
    return "\n".join(lines) + "\n"


def _numbers(counts: Counter[str]) -> str:
    return " | ".join(str(counts[outcome]) for outcome in COUNTED)


def _family(family: str, operators: Sequence[tuple[str, list[dict[str, Any]]]]) -> str:
    lines = [f"## {family.capitalize()}", "", "| operator | " + " | ".join(COUNTED) + " | static too | why |"]
    lines.append("|---|" + "--:|" * (len(COUNTED) + 1) + "---|")
    for op, own in operators:
        counts = Counter(row["outcome"] for row in own)
        also = sum(row["outcome"] == "refused" and row["static"] == "refused" for row in own)
        lines.append(f"| `{op}` | {_numbers(counts)} | {also} | {page.escaped(_why(own))} |")
    return "\n".join(lines) + "\n"


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
        "## Converters that no form reaches", "",
        f"{len(converters & reached)} of the pack's {len(converters)} converters (one for each overload) took part in a form that "
        f"passed, or was refused for another op. The others are for overloads that torch.export makes of no sample (scalar "
        f"overloads, ops of quantised models, patterns). {len(missing & called)} of them are called on sizes that vary by "
        f"`tests/converters/test_dynamic_overloads.py`; these {len(missing - called)} have their tests elsewhere in "
        "`tests/converters`, some on fixed sizes alone:", "",
        ", ".join(f"`{name}`" for name in sorted(missing - called)),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"

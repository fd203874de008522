"""Which names of Torch-TensorRT's are here: works, or tells. A test walks them; the documentation's table is made
of them.

A row's name is the old one without "torch_tensorrt."; the same path under this package is the new one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from importlib import resources
from typing import NamedTuple

__all__ = ["BY_NAME", "HELPERS", "NAMES", "TELLS", "TOLD", "WORKS", "Name", "near"]

WORKS, TELLS, TOLD = "works", "tells", "told"


class Name(NamedTuple):
    """One row.

    Attributes:
        name: the old name, without "torch_tensorrt.".
        status: "works"; "tells": it is there, and its use is an error that says what to use; "told": the same, of what
            has no code here at all.
        new: trtcore's own name for it, or what to use.
        why: what is different; for what is not here, why.
    """

    name: str
    status: str
    new: str
    why: str = ""


def _read() -> Iterator[Name]:
    """The rows of ``names.txt``; several names of one home may stand in braces."""
    status = ""
    for line in (resources.files(__package__) / "names.txt").read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if line.startswith("["):
            status = line.strip("[]")
        elif line and not line.startswith("#"):
            name, new, *why = (part.strip() for part in line.split("|"))
            home, brace, several = name.partition("{")
            for one in several.rstrip("}").split(",") if brace else [""]:
                yield Name(home + one.strip(), status, new, why[0] if why else "")


def _read_helpers() -> Iterator[tuple[str, tuple[str, ...]]]:
    """``helpers.txt``: a helper's path below this package, and its parameters."""
    home = ""
    for line in (resources.files(__package__) / "helpers.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            home = line.strip("[]")
        elif line and not line.startswith("#"):
            name, _, parameters = line.partition(" | ")
            given = tuple(filter(None, parameters.split(", ")))
            usual = home == "impl" and given[:1] != ("!",)
            yield f"{home}.{name}", (*_FIRST, *given) if usual else given[given[:1] == ("!",) :]


_FIRST = ("ctx", "target", "source_ir", "name")
NAMES: tuple[Name, ...] = tuple(_read())
HELPERS = dict(_read_helpers())
"""Helpers of converter files, and their parameters in order."""
BY_NAME = {row.name: row for row in NAMES}


def near(name: str) -> str:
    """The nearest names, as the end of a sentence."""
    found: Iterable[str] = difflib.get_close_matches(name, BY_NAME, n=3, cutoff=0.75)
    return f"; did you mean {' or '.join(found)}?" if found else ""

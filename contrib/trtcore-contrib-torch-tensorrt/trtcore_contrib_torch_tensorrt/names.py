"""Which names of Torch-TensorRT's are here: works, or tells. A test walks them; the documentation's table is made
of them.

A row's name is the old one without "torch_tensorrt."; the same path under this package is the new one.
"""

from __future__ import annotations

import difflib
import enum
import tempfile
from collections.abc import Iterable, Iterator
from importlib import resources
from typing import NamedTuple

__all__ = ["BY_NAME", "HELPERS", "NAMES", "TELLS", "TOLD", "WORKS", "Name", "fill", "near", "tables"]

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


# The page -----------------------------------------------------------------------------------------------


def tables() -> dict[str, str]:
    """The tables of the documentation's page, by the name of their place in it."""
    return {
        "works": _works_table(),
        "settings": _settings_table(),
        "helpers": _helpers_table(),
        "tells": _tells_table(),
    }


def fill(page: str) -> str:
    """`page` with `tables` between its marks, ``<!-- table: works -->`` and ``<!-- end -->``."""
    for name, table in tables().items():
        before, mark, rest = page.partition(f"<!-- table: {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not (mark and end):
            raise ValueError(f"the page has no place for the table {name}")
        page = f"{before}{mark}\n{table}\n{end}{after}"
    return page


def _rows(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return (
        "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines)
        + "\n"
    )


def _code(text: str) -> str:
    """Names as code, words as they are."""
    plain = " " in text and not text.startswith(("trtcore.", "torch."))
    return text if plain or not text or text == "nothing" else f"`{text}`"


def _works_table() -> str:
    rows = [(f"`{row.name}`", _code(row.new), row.why) for row in NAMES if row.status == WORKS]
    return _rows(("`torch_tensorrt.`", "in new code", "what is different"), rows)


def _tells_table() -> str:
    groups: dict[tuple[str, str], list[str]] = {}
    for row in NAMES:
        if row.status != WORKS:
            groups.setdefault((row.why, row.new), []).append(row.name)
    rows = [(", ".join(f"`{name}`" for name in names), why, new) for (why, new), names in groups.items()]
    return _rows(("`torch_tensorrt.`", "why it is not here", "what to use"), rows)


def _settings_table() -> str:
    from trtcore_contrib_torch_tensorrt._defaults import DEFAULTS

    different = {
        "enabled_precisions": "float16 or bfloat16 in it means autocast, unless use_explicit_typing=True is given",
        "device": "a `Device`, a `torch.device`, or a compute capability; without a GPU the first two warn",
        "use_python_runtime": "no difference: engines run by trtcore's own runtime",
        "attn_bias_is_causal": "no difference: a mask is kept as it is, which is right for every mask",
        "timing_cache_path": "TensorRT for RTX has no timing cache, and refuses the setting: `runtime.runtime_cache`",
        "immutable_weights": "False without a GPU warns: the reference runtime gives weights to any engine",
        "enable_cross_compile_for_windows": "given by `cross_compile_for_windows`, which TensorRT for RTX refuses",
        "dryrun": "the report is `trtcore.explain`'s",
    }
    temporary = tempfile.gettempdir()
    rows = [
        (f"`{name}`", f"`{_shown(value).replace(temporary, '<tmp>')}`", different.get(name, ""))
        for name, value in DEFAULTS.items()
    ]
    return _rows(("setting", "default", "what is different"), rows)


def _shown(value: object) -> str:
    if isinstance(value, frozenset):
        return "{" + ", ".join(sorted(map(str, value))) + "}"
    return str(value) if isinstance(value, enum.Enum) else repr(value)


def _helpers_table() -> str:
    families: dict[str, list[str]] = {}
    for name in HELPERS:
        home, _, helper = name.rpartition(".")
        families.setdefault(home, []).append(helper)
    rows = [(f"`{home}`", ", ".join(f"`{name}`" for name in names)) for home, names in families.items()]
    return _rows(("in `dynamo.conversion.`", "helpers"), rows)


if __name__ == "__main__":
    import sys
    from pathlib import Path

    place = Path(sys.argv[1])
    place.write_text(fill(place.read_text(encoding="utf-8")), encoding="utf-8")

"""`trtcore new-pack`: a project for a pack of one's own, with tests and CI, that works as it is."""

from __future__ import annotations

import importlib.util
import json
import keyword
import re
import sys
import tempfile
from datetime import date
from pathlib import Path
from string import Template

import click

from trtcore._version import __version__
from trtcore.cli.pack_files import COMMON, KINDS
from trtcore.errors import InputError, PackError

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_RESERVED = ("trtcore", "trtcore-converters", "trtcore-plugins", "torch", "tests")


@click.command("new-pack")
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(list(KINDS)),
    default="converter",
    show_default=True,
    help="What it shows: " + "; ".join(f"{name}: {kind.about}" for name, kind in KINDS.items()) + ".",
)
@click.option(
    "--url", help="Where the project will be, for its metadata.  [default: https://github.com/OWNER/NAME]"
)
@click.option(
    "--in",
    "parent",
    type=click.Path(path_type=Path),
    default=Path("."),
    help="The folder to make the project's folder in; the current one by default.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: the folder, and the commands to go on with."
)
def new_pack(name: str, kind: str, url: str | None, parent: Path, as_json: bool) -> None:
    """Make a project for a pack named NAME: code, tests, CI, licence and README, ready to install."""
    project = create(name, parent, kind=kind, url=url)
    commands = (f"pip install -e '{project}[test]'", f"pytest {project}", "trtcore packs")
    if as_json:
        made = {"schema": 1, "project": str(project), "kind": kind, "next": commands}
        click.echo(json.dumps(made, indent=2))
        return
    click.echo(f"made {project}; next:")
    for line in commands:
        click.echo(f"  {line}")


def create(name: str, parent: Path, *, kind: str = "converter", url: str | None = None) -> Path:
    """Write the project; its folder comes back.

    Args:
        name: of the distribution and the pack: lower case, words joined by hyphens.
        parent: an existing folder.
        kind: one of `KINDS`.
        url: where the project will be.

    Raises:
        PackError: a name that no distribution, module or pack can have, or that is taken.
        InputError: the folder exists, or cannot be written.
    """
    if not parent.is_dir():
        raise InputError(f"there is no folder {str(parent)!r}", advice="make it, or give another with --in")
    _check_name(name)
    project = parent / name
    if project.exists() or project.is_symlink():
        raise InputError(
            f"{str(project)!r} exists; nothing was written",
            advice="choose another name, or another folder with --in",
        )
    chosen = KINDS[kind]
    values = {"name": name, "module": _module(name), "versions": _versions(), "year": str(date.today().year)}
    values["url"] = (url or f"https://github.com/OWNER/{name}").rstrip("/")
    values |= {"extras": chosen.extras, "next": chosen.next}
    values |= {key: Template(getattr(chosen, key)).substitute(values) for key in ("what", "table")}
    try:
        # Whole or not at all: a half-written project would be in the way of the next try.
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{name}-") as folder:
            draft = Path(folder) / name
            for path, text in {**COMMON, **chosen.files}.items():
                target = draft / Template(path).substitute(values)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(Template(text.lstrip("\n")).substitute(values), encoding="utf-8")
            draft.rename(project)
    except OSError as error:
        raise InputError(f"{str(project)!r} cannot be written: {error}") from error
    return project


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > 60:
        near = "-".join(re.findall(r"[a-z0-9]+", name.lower())).lstrip("-0123456789")[:60].strip("-")
        raise PackError(
            f"{name!r} is no name for a pack",
            advice="use lower-case letters and digits, words joined by hyphens, a letter first: "
            + (near or "acme-ops"),
        )


def _module(name: str) -> str:
    """The import name of a distribution's name, both checked."""
    module = name.replace("-", "_")
    if name in _RESERVED:
        raise PackError(f"{name!r} is taken", advice="choose a name of your own, such as acme-ops")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names:
        raise PackError(f"{module!r} is a word of Python", advice="choose another name, such as acme-ops")
    if importlib.util.find_spec(module) is not None:
        raise PackError(
            f"a module {module!r} is installed already: yours would hide it, or be hidden",
            advice="choose another name",
        )
    return module


def _versions() -> str:
    """The range of trtcore versions that a pack written today fits: those of this minor version."""
    major, minor = __version__.split(".")[:2]
    after = f"{major}.{int(minor) + 1}" if major == "0" else f"{int(major) + 1}"
    return f">={major}.{minor},<{after}"

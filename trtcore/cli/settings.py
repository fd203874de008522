"""`trtcore settings`: every compilation setting with its type, default and effect, and whether it is built."""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from trtcore.settings import SettingDoc


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def settings(name: str | None, as_json: bool) -> None:
    """List the compilation settings, or say what NAME is: type, default, effect, and whether it is built.

    They are keyword arguments of trtcore.compile and of every other entry point; on the command line: --set NAME=VALUE.
    """
    from trtcore.settings import CompilationSettings

    rows = CompilationSettings.describe()
    if name is not None:
        rows = (_find(name, rows),)
    if as_json:
        click.echo(json.dumps({"schema": 1, "settings": [_plain(row) for row in rows]}, indent=2))
    elif name is not None:
        _print_one(rows[0])
    else:
        _print_all(rows)


def _find(name: str, rows: tuple[SettingDoc, ...]) -> SettingDoc:
    """The row of a name, or of what an old name has become.

    Raises:
        SettingsError: there is none; the nearest names are offered.
    """
    from trtcore.settings import DEPRECATED
    from trtcore.settings.names import refuse_unknown

    by_name = {row.name: row for row in rows}
    if name in DEPRECATED:
        click.echo(f"{name} is deprecated: use {DEPRECATED[name].text}", err=True)
        if not DEPRECATED[name].new:
            raise click.exceptions.Exit(0)
        name = DEPRECATED[name].new
    refuse_unknown([name], by_name)
    return by_name[name]


def default_text(value: Any) -> str:
    """A default as a person writes it: ``{}`` for an empty set or mapping, ``[]`` for an empty sequence."""
    if isinstance(value, frozenset):
        return "{" + ", ".join(sorted(map(str, value))) + "}"
    if isinstance(value, tuple):
        return str(list(value))
    return repr(value)


def _plain(row: SettingDoc) -> dict[str, Any]:
    from trtcore.settings.proofs import PROOFS

    default = row.default
    simple = default is None or isinstance(default, bool | int | float | str)
    return {
        "name": row.name,
        "type": row.type,
        "default": default if simple else default_text(default),
        "effect": row.doc,
        "category": row.category,
        "built": row.not_built is None,
        "missing": row.not_built or "",
        "proved_by": PROOFS[row.name].effect,
        "test": f"tests/{PROOFS[row.name].test}",
    }


def _support(name: str) -> dict[str, str]:
    """Of every backend that can be used here, whether it can do what a setting asks of it; {} where it is not asked."""
    from trtcore.engine.config import FEATURES, support
    from trtcore.packs.loading import build_registry
    from trtcore.settings import CompilationSettings

    if name not in FEATURES:
        return {}
    chosen = CompilationSettings()
    return {
        f"{backend.name} {backend.version}": support(backend, backend.default_target(chosen), name)
        for backend in build_registry(chosen).backends
        if backend.availability()
    }


def _print_one(row: SettingDoc) -> None:
    from trtcore.settings.proofs import EFFECTS, PROOFS

    click.echo(click.style(row.name, bold=True) + f" ({row.category})")
    for title, text in (("type", row.type), ("default", default_text(row.default)), ("effect", row.doc)):
        click.echo(click.wrap_text(f"{title:<8} {text}", 110, "  ", " " * 11))
    proof = PROOFS[row.name]
    click.echo(click.wrap_text(f"proved   {EFFECTS[proof.effect]} (tests/{proof.test})", 110, "  ", " " * 11))
    for backend, answer in _support(row.name).items():
        click.echo(click.wrap_text(f"{backend}: {answer}", 110, "  backend  ", " " * 11))
    state = "yes" if row.not_built is None else f"no: {row.not_built}; any other value is an error"
    click.echo(f"  built    {state}")


def _print_all(rows: tuple[SettingDoc, ...]) -> None:
    for category, group in groupby(rows, key=lambda row: row.category):
        click.echo(click.style(category, bold=True))
        for row in group:
            missing = "" if row.not_built is None else " (not built in this version)"
            click.echo(f"  {row.name} = {default_text(row.default)}{missing}")
            click.echo(click.wrap_text(row.doc, 110, "      ", "      "))
        click.echo()

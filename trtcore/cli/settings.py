"""`trtcore settings`: every compilation setting with its type, default and effect, and whether it is built."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
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


def places(name: str) -> list[str]:
    """Where the core and the packs read a setting, as ``trtcore/context.py:69 CompileContext.weights_limit``.

    Each function is named once. Where none reads it but the rules of settings: those; where none at all: the tables
    that name it, and are walked through by name.
    """
    found: dict[str, dict[tuple[str, str], int]] = {"read": {}, "rule": {}, "text": {}}
    for home in _homes():
        for file in sorted(home.rglob("*.py")):
            shown = file.relative_to(home.parent).as_posix()
            text = file.read_text(encoding="utf-8")
            rules = shown == "trtcore/settings/rules.py"
            if name not in text or (shown.startswith(_ONLY_NAMES) and not rules):
                continue
            for kind, line, where in _mentions(ast.parse(text), name):
                found["rule" if rules else kind].setdefault((shown, where), line)
    best = found["read"] or found["rule"] or found["text"]
    return [f"{file}:{line} {where}".rstrip() for (file, where), line in best.items()]


# They have every setting's name, and no effect.
_ONLY_NAMES = ("trtcore/settings/", "trtcore/engine/key.py", "trtcore/cli/")


def _homes() -> list[Path]:
    """The folders of the core's package and of the packages of loaded packs."""
    from trtcore.packs.loading import build_registry
    from trtcore.settings import CompilationSettings

    packs = [one.module for one in build_registry(CompilationSettings()).packs if one.status == "loaded"]
    specs = [
        find_spec(name)
        for name in dict.fromkeys(one.partition(".")[0] for one in ("trtcore", *packs))
        if name
    ]
    return [
        Path(folder) for one in specs if one is not None for folder in one.submodule_search_locations or ()
    ]


def _mentions(
    tree: ast.AST, name: str, where: str = "", in_table: bool = False
) -> Iterator[tuple[str, int, str]]:
    """("read", line, enclosing function or table) of every ``settings.name``, ("text", ...) of every ``"name"``."""
    for node in ast.iter_child_nodes(tree):
        inner = where
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inner = f"{where}.{node.name}".lstrip(".")
        elif isinstance(node, ast.Assign | ast.AnnAssign) and not where:
            inner = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
        elif isinstance(node, ast.Attribute) and node.attr == name:
            base = ast.unparse(node.value).rpartition(".")[2]
            if base in ("settings", "chosen") or (in_table and base == "s"):
                yield "read", node.lineno, where
        elif isinstance(node, ast.Constant) and node.value == name:
            yield "text", node.lineno, where
        yield from _mentions(node, name, inner, in_table or isinstance(node, ast.Lambda))


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
    for number, place in enumerate(places(row.name)):
        click.echo(f"  {'' if number else 'read at':<8} {place}")
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

"""`trtcore cache`: what the engine cache holds, how large it is, where it is, and emptying it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from trtcore.errors import SettingsError, printable, shown

if TYPE_CHECKING:
    from trtcore.engine.cache.stores import Store, Stored


def _options(command: Any) -> Any:
    directory = click.option(
        "--dir", "place", metavar="FOLDER|URL", help="As engine_cache_dir; left out: the user's cache folder."
    )
    return directory(click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command))


@click.group(invoke_without_command=True)
@_options
@click.pass_context
def cache(context: click.Context, place: str | None, as_json: bool) -> None:
    """Look at the engine cache, or empty it; without a command: list it.

    Engines get there with the settings cache_built_engines and reuse_cached_engines.
    """
    given = {"place": place, "as_json": as_json}
    if context.invoked_subcommand is None:
        context.invoke(list_, **given)
    context.default_map = dict.fromkeys(cache.commands, given)


@cache.command("list")
@_options
def list_(place: str | None = None, as_json: bool = False) -> None:
    """List the engines, the last used first.

    With TRTCORE_ENGINE_CACHE_KEY set, what its entries are is shown too; of entries sealed with another key it is not.
    """
    store = _store(place)
    entries = sorted(_entries(store), key=lambda one: -one.used)
    rows = [_row(store, one) for one in entries]
    if as_json:
        click.echo(json.dumps({"schema": 1, "place": store.place, "engines": rows}, indent=2))
    else:
        _print(store, rows, entries)


@cache.command()
@_options
def size(place: str | None, as_json: bool) -> None:
    """Say how many engines there are, and how many bytes they take."""
    from trtcore.report.text import format_bytes

    store = _store(place)
    entries = _entries(store)
    total = sum(one.size for one in entries)
    if as_json:
        click.echo(json.dumps({"schema": 1, "place": store.place, "engines": len(entries), "bytes": total}))
    else:
        click.echo(f"{_counted(len(entries))}, {format_bytes(total)} in {store.place}")


@cache.command()
@_options
@click.option("--yes", is_flag=True, help="Do not ask.")
def clear(place: str | None, as_json: bool, yes: bool) -> None:
    """Remove all engines from the cache. Compiled modules keep theirs."""
    store = _store(place)
    entries = _entries(store)
    if entries and not yes and not as_json:
        click.confirm(f"remove {_counted(len(entries))} from {store.place}?", abort=True)
    try:
        removed = store.shrink(-1)
    except Exception as error:
        raise _unreachable(store, "emptied", error) from error
    if as_json:
        click.echo(json.dumps({"schema": 1, "place": store.place, "removed": len(removed)}))
    else:
        click.echo(f"removed {_counted(len(removed))} from {store.place}")


@cache.command()
@_options
def path(place: str | None, as_json: bool) -> None:
    """Print where the cache is; without --dir that of compiles whose engine_cache_dir says nothing else."""
    place = _store(place).place
    click.echo(json.dumps({"schema": 1, "place": place}) if as_json else place)


def _store(place: str | None) -> Store:
    from trtcore.engine.cache.stores import store_at

    return store_at(place)


def _entries(store: Store) -> list[Stored]:
    try:
        return store.entries()
    except Exception as error:
        raise _unreachable(store, "read", error) from error


def _unreachable(store: Store, what: str, error: Exception) -> SettingsError:
    """What a place raises is its own: a file system's errors, or those of a client of some service."""
    return SettingsError(
        f"the engine cache {store.place} cannot be {what}: {shown(error)}",
        advice="see whether it is there and may be used; --dir takes another folder or URL",
    )


def _row(store: Store, one: Stored) -> dict[str, Any]:
    row: dict[str, Any] = {"hash": one.name, "bytes": one.size, "used": one.used}
    return row | _facts(store, one)


def _facts(store: Store, one: Stored) -> dict[str, Any]:
    """What an entry says of itself; of a damaged or foreign one, what is wrong."""
    from trtcore.engine.cache.entry import FOOT_BYTES, DamagedEntryError, facts_bytes, read_facts

    secret = os.environ.get("TRTCORE_ENGINE_CACHE_KEY", "").encode() or None
    try:
        end = store.end(one.name, FOOT_BYTES)
        facts = read_facts(store.end(one.name, facts_bytes(end)), secret)
    except DamagedEntryError as error:
        return {"problem": str(error)}
    except Exception as error:  # as `_unreachable`
        return {"problem": shown(error)}
    return {
        "name": facts.name,
        "layers": facts.layers,
        "backend": f"{facts.backend} {facts.backend_version}",
        "target": facts.target,
        "built": facts.built,
    }


def _print(store: Store, rows: Sequence[dict[str, Any]], entries: Sequence[Stored]) -> None:
    from trtcore.report.text import format_bytes, format_table

    if not rows:
        click.echo(f"the engine cache {store.place} is empty")
        return
    table = [
        (
            row["hash"][:12],
            row.get("name", "?"),
            str(row.get("layers", "")),
            format_bytes(row["bytes"]),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(row["used"])),
            row.get("problem") or f"{row['backend']}, {row['target']}",
        )
        for row in rows
    ]
    columns = ("hash", "name", "layers", "size", "last used", "built by, for")
    for line in format_table(columns, table, {"layers", "size"}):
        click.echo(printable(line))
    total = format_bytes(sum(one.size for one in entries))
    click.echo(f"{_counted(len(rows))}, {total} in {store.place}")


def _counted(count: int) -> str:
    return f"{count} engine{'' if count == 1 else 's'}"

"""`trtcore packs`: the installed packs and what each of them gives."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON; it names every op.")
@click.option("--no-import", is_flag=True, help="Metadata only: import no pack.")
def packs(as_json: bool, no_import: bool) -> None:
    """List the installed packs: status, version, what each gives, and what of it another shadows."""
    from trtcore.packs.listing import describe_packs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a failed pack's warning says what its row says
        described = describe_packs(no_import=no_import)
    if as_json:
        click.echo(json.dumps({"schema": 1, "packs": described}, indent=2))
    else:
        _print(described)


def _print(described: Sequence[Mapping[str, Any]]) -> None:
    from trtcore.report.data import format_table

    if not described:
        click.echo("no pack is installed: pip install trtcore brings the built-in ones")
        return
    rows = []
    for pack in described:
        gives = ", ".join(_counted(kind, len(names)) for kind, names in pack["gives"].items())
        rows.append((pack_id(pack), pack["version"], pack["scope"].replace("_", "-"), pack["status"], gives))
    for line in format_table(("pack", "version", "scope", "status", "gives"), rows):
        click.echo(line)
    for pack in described:
        if pack["error"]:
            click.echo(f"{pack_id(pack)}: {pack['error']}")
    for pack in described:
        for item in pack["shadowed"]:
            kind = item["kind"].replace("_", " ").removesuffix("s")
            click.echo(f"{pack_id(pack)}: {kind} {item['subject']} is shadowed by {item['by']}")
    for pack in described:
        for item in pack["waiting"]:
            click.echo(f"{pack_id(pack)}: converter {item['converter']} waits: {item['reason']}")


def _counted(kind: str, count: int) -> str:
    text = kind.replace("_", " ")
    return f"{count} {text.removesuffix('s') if count == 1 else text}"


def pack_id(pack: Mapping[str, Any]) -> str:
    """``distribution:name`` of a described pack."""
    return f"{pack['distribution']}:{pack['name']}"

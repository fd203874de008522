"""`trtcore packs`: the installed packs and what each of them gives."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--no-import", is_flag=True, help="Metadata only: import no pack.")
def packs(as_json: bool, no_import: bool) -> None:
    """List the installed packs: status, version, what each gives, and what of it another shadows."""
    from trtcore.packs import describe_packs

    described = describe_packs(import_packs=not no_import)
    if as_json:
        click.echo(json.dumps({"schema": 1, "packs": described}, indent=2, default=str))
        return
    click.echo(described)

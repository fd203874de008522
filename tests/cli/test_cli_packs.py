"""`trtcore packs`."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from trtcore.cli.app import main


def test_json_lists_the_built_in_packs() -> None:
    result = CliRunner().invoke(main, ["packs", "--json"])
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["schema"] == 1
    packs = {f"{pack['distribution']}:{pack['name']}": pack for pack in data["packs"]}
    assert packs["trtcore:backends"]["status"] == "loaded"
    assert packs["trtcore:backends"]["gives"]["backends"] == ["tensorrt", "tensorrt_rtx"]
    assert packs["trtcore:aten"]["status"] == "loaded"
    assert "aten.relu.default" in packs["trtcore:aten"]["gives"]["converters"]


def test_no_import_imports_nothing() -> None:
    result = CliRunner().invoke(main, ["packs", "--no-import", "--json"])
    packs = json.loads(result.stdout)["packs"]
    assert packs
    assert {pack["status"] for pack in packs} == {"not imported"}


def test_text_counts_what_a_pack_gives() -> None:
    result = CliRunner().invoke(main, ["packs"])
    assert "trtcore:backends" in result.stdout
    assert "2 backends" in result.stdout


def test_disabled_packs_say_by_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTCORE_DISABLE_PACKS", "trtcore:aten")
    result = CliRunner().invoke(main, ["packs"])
    assert result.exit_code == 0
    assert "disabled" in result.stdout
    assert "trtcore:aten: switched off by TRTCORE_DISABLE_PACKS" in result.stdout

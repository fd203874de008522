"""`trtcore cache`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import trtcore
from trtcore.cli.app import main


def run(*arguments: Any, **options: Any) -> Any:
    result = CliRunner().invoke(main, ["cache", *map(str, arguments)], **options)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def folder(tmp_path: Path, trt_backend: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two engines, of which a key has sealed one."""
    monkeypatch.setenv("TRTCORE_CACHE_DIR", str(tmp_path))
    for bias, key in ((0.0, None), (1.0, "ours")):
        layer = torch.nn.Linear(4, 4).eval()
        torch.nn.init.constant_(layer.bias, bias)
        trtcore.compile(
            layer, [torch.ones(2, 4)], min_block_size=1, cache_built_engines=True, engine_cache_key=key
        )
    return tmp_path / "engines"


def test_list_size_clear_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("path").stdout.strip() == str(folder)
    assert "2 engines" in run("size").stdout
    listed = run().stdout
    assert listed == run("list", "--dir", folder).stdout
    assert "engine_0" in listed
    assert "tensorrt_rtx" in listed
    assert "another key has sealed it" in listed
    monkeypatch.setenv("TRTCORE_ENGINE_CACHE_KEY", "ours")
    rows = json.loads(run("list", "--json").stdout)["engines"]
    assert [row.get("layers") for row in rows if "problem" not in row] == [rows[0]["layers"]]
    assert all(len(row["hash"]) == 64 and row["bytes"] > 1000 for row in rows)
    assert CliRunner().invoke(main, ["cache", "clear"], input="n\n").exit_code != 0
    assert json.loads(run("size", "--json").stdout)["engines"] == 2
    assert "removed 2 engines" in run("clear", "--yes").stdout
    assert "is empty" in run().stdout
    assert json.loads(run("--json").stdout)["engines"] == []
    assert json.loads(run("--dir", folder, "--json", "path").stdout)["place"] == str(folder)
    assert "removed 0 engines" in run("clear").stdout


def test_any_url_and_an_unknown_one(tmp_path: Path) -> None:
    assert "0 engines" in run("size", "--dir", "memory://nothing/here").stdout
    result = CliRunner().invoke(main, ["cache", "size", "--dir", "nosuch://x"])
    assert result.exit_code == 1
    assert "fsspec" in result.stderr


@pytest.mark.parametrize("command", [(), ("list",), ("size",), ("clear", "--yes")])
def test_a_place_that_is_no_folder_is_told(tmp_path: Path, command: tuple[str, ...]) -> None:
    file = tmp_path / "file"
    file.write_text("")
    result = CliRunner().invoke(main, ["cache", *command, "--dir", str(file)])
    assert result.exit_code == 1
    assert f"the engine cache {file} cannot be read: NotADirectoryError" in result.stderr
    assert "--dir takes another folder or URL" in result.stderr


def test_what_is_no_entry_is_listed_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / f"{1:064x}.engine").write_bytes(b"hello")
    (tmp_path / f"{2:064x}.engine").mkdir()
    listed = run("list", "--dir", tmp_path).stdout
    assert "it has 5 bytes" in listed
    assert "it has 0 bytes" in listed

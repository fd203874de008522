"""`trtcore settings`."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from click.testing import CliRunner

from trtcore.cli.app import main
from trtcore.cli.settings import places
from trtcore.settings import NOT_BUILT, CompilationSettings


def test_the_list_has_every_setting_with_its_default_and_effect() -> None:
    result = CliRunner().invoke(main, ["settings"])
    assert result.exit_code == 0, result.output
    words = " ".join(result.stdout.split())
    for row in CompilationSettings.describe():
        assert f"{row.name} = " in words
        assert " ".join(row.doc.split()) in words
    assert words.count("not built in this version") == len(NOT_BUILT)
    assert "torch_executed_ops = {}" in words


def test_json() -> None:
    result = CliRunner().invoke(main, ["settings", "--json"])
    rows = {row["name"]: row for row in json.loads(result.stdout)["settings"]}
    assert list(rows) == [row.name for row in CompilationSettings.describe()]
    assert {name for name, row in rows.items() if not row["built"]} == set(NOT_BUILT)
    assert rows["min_block_size"]["default"] == 5
    assert rows["enabled_precisions"]["default"] == "{torch.float32}"


def test_one_setting() -> None:
    result = CliRunner().invoke(main, ["settings", "min_block_size"])
    assert result.exit_code == 0
    for part in ("partitioning", "int", "5", "fewer converted ops", "built    yes"):
        assert part in result.stdout


def test_where_a_setting_is_read() -> None:
    """In the core, in a pack, in a table of lambdas, in a table of names, in what other settings follow from."""
    for name, where in {
        "min_block_size": "trtcore/partition/__init__.py: _group",
        "truncate_double": "trtcore_converters/passes/precision.py: truncate_double",
        "optimization_level": "trtcore/engine/config.py: _APPLY",
        "fallback_data_dependent_ops": "trtcore/packs/registry.py: ConverterRegistry._objection",
        "dla_sram_size": "trtcore/engine/config.py: _DLA_POOLS",
        "enable_autocast": "trtcore/settings/rules.py: autocast_dtype",
    }.items():
        assert where in [re.sub(r":\d+", ":", place) for place in places(name)]
    text = CliRunner().invoke(main, ["settings", "min_block_size"]).stdout
    assert f"read at  {places('min_block_size')[0]}" in text
    assert places("use_python_runtime") == []  # True is the one value that it takes


def test_one_setting_says_how_it_is_proved_and_which_backend_can(trt_backend: Any) -> None:
    result = CliRunner().invoke(main, ["settings", "timing_cache_path"])
    assert result.exit_code == 0, result.output
    words = " ".join(result.stdout.split())
    assert "proved the calls, in their order" in words
    assert "tests/engine/test_timing.py" in words
    assert "backend tensorrt_rtx" in words
    assert "no: timing_cache" in words
    rows = json.loads(CliRunner().invoke(main, ["settings", "min_block_size", "--json"]).stdout)["settings"]
    assert rows[0]["proved_by"] == "graph"
    assert rows[0]["test"].startswith("tests/test_api.py::")


def test_an_old_name_leads_to_the_new_one() -> None:
    result = CliRunner().invoke(main, ["settings", "truncate_long_and_double"])
    assert result.exit_code == 0
    assert "truncate_double (precision)" in result.stdout
    assert "deprecated" in result.stderr


@pytest.mark.parametrize(
    ("name", "text"), [("min_blok", "min_block_size"), ("qqqqqqqq", "`trtcore settings`")]
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, text: str) -> None:
    result = CliRunner().invoke(main, ["settings", name])
    assert result.exit_code == 1
    assert text in result.stderr

"""docs/gpu-coverage.md says what the recorded runs say, and nothing else."""

from __future__ import annotations

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import table

RUN = {
    "device": "NVIDIA X",
    "versions": {"torch": "2.11.0"},
    "commit": "abc",
    "models": [
        {"model": "bert", "shapes": "static", "precision": "fp32", "calls": 1, "error": 1e-6,
         "allowed": 1e-5, "syncs": 0, "outcome": "passed"},
        {"model": "vit", "shapes": "dynamic", "precision": "fp16", "outcome": "failed"},
    ],
    "tests": [
        {"id": "t.py::a[x|y]", "outcome": "passed", "seconds": 1.0},
        {"id": "t.py::b", "outcome": "failed", "seconds": 2.0, "reason": "assert 1 == 2"},
        {"id": "t.py::c", "outcome": "skipped", "seconds": 0.0, "reason": "needs the tensorrt wheel"},
    ],
    "native": {"TensorRT.execute": False, "connect": True},
}  # fmt: skip


def test_the_page_is_what_the_recorded_runs_give() -> None:
    assert table.PAGE.read_text() == table.page(table.recorded()), "run python tests/gpu/table.py"


def test_no_runs() -> None:
    assert "No runs recorded" in table.page({})


def test_failures_and_skips_show() -> None:
    text = table.page({"x": RUN})
    assert "1 failed, 1 passed, 1 skipped" in text
    assert "| bert | static | fp32 | 1 | 1.00e-06 | - | 1.00e-05 | 0 | passed |" in text
    assert "| vit | dynamic | fp16 | - | - | - | - | - | **FAILED** |" in text
    assert "`t.py::a[x\\|y]` | passed | 1.0 |" in text
    assert "| `t.py::b` | **FAILED**: assert 1 == 2 | 2.0 |" in text
    assert "**SKIPPED**: needs the tensorrt wheel" in text
    assert "| `TensorRT.execute` | no |" in text
    assert "| `connect` | yes |" in text

"""The pytest plugin: cheap to load, skips with the reason, fails on request."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TEST = """
def test_needs_a_backend(trt_backend):
    assert trt_backend.name
"""


def _pytest(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(TEST)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", *args, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, **env},
    )


def test_importing_the_plugin_imports_no_tensorrt() -> None:
    code = (
        "import sys, trtcore.testing.pytest_plugin\n"
        "heavy = ('tensorrt', 'tensorrt_rtx_bindings', 'rich', 'click')\n"
        "bad = [name for name in heavy if name in sys.modules]\n"
        "sys.exit(f'loaded: {bad}' if bad else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_a_backend_tests_skip_with_the_reason(tmp_path: Path) -> None:
    done = _pytest(tmp_path, TRTCORE_DISABLE_PACKS="trtcore:backends")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 skipped" in done.stdout
    assert "no TensorRT backend can be used here" in done.stdout


@pytest.mark.slow
def test_in_ci_they_fail_instead(tmp_path: Path) -> None:
    done = _pytest(tmp_path, "--trtcore-require-backend", TRTCORE_DISABLE_PACKS="trtcore:backends")
    assert done.returncode == 1
    assert "no TensorRT backend can be used here" in done.stdout


def test_with_a_backend_they_run(tmp_path: Path, trt_backend: object) -> None:
    done = _pytest(tmp_path)
    assert "1 passed" in done.stdout, done.stdout + done.stderr

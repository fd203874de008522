"""The tests marked ``interpreter``, a process per file with Triton's interpreter on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = sorted(
    str(path.relative_to(HERE))
    for path in HERE.rglob("test_*.py")
    if path != Path(__file__) and "mark.interpreter" in path.read_text()
)


def run(file: str, expression: str) -> str:
    """What pytest prints for one file in an interpreting process; AssertionError where a test fails."""
    arguments = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", expression, str(HERE / file)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
    return done.stdout


@pytest.mark.parametrize("file", FILES)
def test_file(file: str) -> None:
    pytest.importorskip("triton")
    assert re.search(r"[1-9]\d* passed", run(file, "interpreter and not slow and not gpu"))


@pytest.mark.slow
@pytest.mark.parametrize("file", [file for file in FILES if "mark.slow" in (HERE / file).read_text()])
def test_slow_tests_of_file(file: str) -> None:
    pytest.importorskip("triton")
    assert re.search(r"[1-9]\d* passed", run(file, "interpreter and slow and not gpu"))

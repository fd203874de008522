"""The tests marked ``interpreter``, in a process with Triton's interpreter on."""

from __future__ import annotations

import os
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


def run(files: list[str], expression: str) -> None:
    """Run files in one interpreting process; AssertionError where a test fails, or a file has none that passes."""
    arguments = ["-v", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", expression]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, *(str(HERE / file) for file in files)],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
    passed = {line.partition("::")[0] for line in done.stdout.splitlines() if " PASSED" in line}
    missing = [file for file in files if not any(path.endswith(file) for path in passed)]
    assert not missing, f"no test passed in {missing}\n{done.stdout[-20000:]}"


def test_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    assert len(FILES) > 3
    run(FILES, "interpreter and not gpu")

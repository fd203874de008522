"""The default tests under several versions of Python and torch, each pair in an environment of its own.

    python tests/matrix.py                                  # every pair that can be had here
    python tests/matrix.py --pair 3.13 2.13.0 --pair 3.11 2.14.1
    python tests/matrix.py --list                           # the pairs, and what ran

Environments are made in ``build/matrix`` as `make setup` makes its own; what a run printed lies beside them. A pair
whose last run was at this commit, without failure, is left alone (`--again` runs it). An interpreter that is not
installed, or a torch without a wheel for it, is told and does not count as passed. Exits with 1 unless every pair passed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "build" / "matrix"
NEWEST = "2.13.0"
#: Every Python with the torch that `make setup` takes, and the other torch versions with the Python that it takes.
PAIRS = [
    *[(python, NEWEST) for python in ("3.10", "3.11", "3.12", "3.13", "3.14")],
    *[("3.11", torch) for torch in ("2.11.0", "2.12.0", "2.14.1")],
]
MARKERS = "not gpu and not models and not slow and not benchmark and not browser"


@dataclass
class Row:
    """What one pair gave."""

    python: str
    torch: str
    commit: str
    outcome: str
    """``passed``, ``failed``, or ``not to be had`` with the reason in `summary`."""
    summary: str

    def __str__(self) -> str:
        return f"Python {self.python}, torch {self.torch}: {self.outcome} ({self.summary})"


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", nargs=2, action="append", metavar=("PYTHON", "TORCH"), help="only these")
    parser.add_argument("--workers", type=int, default=2, help="of pytest-xdist")
    parser.add_argument("--again", action="store_true", help="also what passed at this commit")
    parser.add_argument("--keep", action="store_true", help="do not remove an environment whose tests passed")
    parser.add_argument("--list", action="store_true", help="only print the pairs and what ran")
    parser.add_argument("tests", nargs="*", help="arguments for pytest in place of the whole default run")
    given = parser.parse_args()
    HOME.mkdir(parents=True, exist_ok=True)
    commit = _commit()
    rows = []
    for python, torch in given.pair or PAIRS:
        earlier = _earlier(python, torch)
        if given.list:
            print(earlier or f"Python {python}, torch {torch}: never ran here", flush=True)
            continue
        if (
            earlier
            and not given.again
            and not given.tests
            and (earlier.outcome, earlier.commit) == ("passed", commit)
        ):
            row = earlier
        else:
            row = run(python, torch, commit, given.workers, given.tests)
            if not given.tests:
                _record(python, torch).write_text(json.dumps(asdict(row), indent=1) + "\n")
            if row.outcome == "passed" and not given.keep:
                shutil.rmtree(_environment(python, torch))
        print(row, flush=True)
        rows.append(row)
    return 0 if all(row.outcome == "passed" for row in rows) else 1


def run(python: str, torch: str, commit: str, workers: int, tests: Sequence[str]) -> Row:
    """The row of one pair; its output is in a file beside the environment."""
    interpreter = _interpreter(python)
    if interpreter is None:
        return Row(python, torch, commit, "not to be had", f"no python{python} is installed")
    log = _environment(python, torch).with_suffix(".log")
    with log.open("w") as file:
        made = subprocess.run(
            [str(ROOT / ".ci" / "setup"), str(_environment(python, torch)), "test"],
            cwd=ROOT, env={**os.environ, "PYTHON": interpreter, "TORCH": torch}, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if made.returncode:
            return Row(python, torch, commit, "not to be had", f"its environment cannot be made: {log}")
        has = subprocess.run(
            [str(_environment(python, torch) / "bin" / "python"), "-c", "import torch; print(torch.__version__)"],
            capture_output=True, text=True,
        ).stdout.strip().partition("+")[0]  # fmt: skip
        if has != torch:
            return Row(python, torch, commit, "not to be had", f"pyproject.toml made it torch {has}")
        command = [
            str(_environment(python, torch) / "bin" / "python"),
            "-m",
            "pytest",
            "-n",
            str(workers),
            "--tb=short",
        ]
        ran = subprocess.run(
            [*command, "-m", MARKERS, "-p", "no:cacheprovider", *tests],
            cwd=ROOT, env=os.environ, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    ends = re.findall(r"^=+ (.* in .*) =+$", log.read_text(errors="replace"), re.MULTILINE)
    outcome = "passed" if ran.returncode == 0 else "failed"
    return Row(
        python, torch, commit, outcome, ends[-1] if ends else f"pytest ended with {ran.returncode}: {log}"
    )


def _interpreter(python: str) -> str | None:
    """The path of an interpreter of this version: on the PATH, or one of pyenv's."""
    candidates = [
        shutil.which(f"python{python}"),
        *map(str, Path.home().glob(f".pyenv/versions/{python}.*/bin/python")),
    ]
    for candidate in filter(None, candidates):
        asked = subprocess.run(
            [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
        )
        if asked.returncode == 0 and asked.stdout.strip() == python:
            return candidate
    return None


def _environment(python: str, torch: str) -> Path:
    return HOME / f"python{python}-torch{torch}"


def _record(python: str, torch: str) -> Path:
    return HOME / f"python{python}-torch{torch}.json"


def _earlier(python: str, torch: str) -> Row | None:
    path = _record(python, torch)
    return Row(**json.loads(path.read_text())) if path.exists() else None


def _commit() -> str:
    """The commit of the tree, with a `+` if something is changed: then nothing counts as run."""
    asked = ["git", "-C", str(ROOT)]
    name = subprocess.run(
        [*asked, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    changed = subprocess.run(
        [*asked, "status", "--porcelain"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return name + ("+" if changed else "")


if __name__ == "__main__":
    sys.exit(main())

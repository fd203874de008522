"""5,000 random in-place programs against eager; goes on where it stopped.

    python tests/fuzz/run_in_place.py                # on to 5,000
    python tests/fuzz/run_in_place.py --count 200 --seconds 600
    python tests/fuzz/run_in_place.py --again        # from the first

Results are lines of JSON in ``--log``; a program that takes its process down is one that failed. Exits with 1 if any did.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
BATCH = 40
"""Programs per process: torch.compile keeps some of each."""
PATIENCE = 120.0
"""Seconds per program before its process is ended."""


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start nothing new after so long")
    parser.add_argument("--log", type=Path, default=HERE.parents[1] / ".fuzz" / "in_place.jsonl")
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        return work(*given.worker)
    given.log.parent.mkdir(parents=True, exist_ok=True)
    if given.again:
        given.log.unlink(missing_ok=True)
    rows = {row["seed"]: row for row in map(json.loads, _lines(given.log))}
    until = time.monotonic() + given.seconds
    while (todo := [seed for seed in range(given.count) if seed not in rows]) and time.monotonic() < until:
        first = todo[0]
        batch = [seed for seed in todo[:BATCH] if seed < first + BATCH]
        for row in run(first, batch[-1] + 1):
            if row["seed"] not in rows:
                rows[row["seed"]] = row
                with given.log.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                if row["outcome"] == "failed":
                    print(f"seed {row['seed']}: {row['reason']}\n{row.get('program', '')}", flush=True)
    counts = Counter(row["outcome"] for row in rows.values())
    print(f"{len(rows)} programs: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    for reason, count in Counter(
        r["reason"][:110] for r in rows.values() if r["outcome"] == "refused"
    ).most_common(15):
        print(f"  {count:5} {' '.join(reason.split())}")
    return 1 if counts["failed"] else 0


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def run(first: int, end: int) -> list[dict[str, object]]:
    """The rows of some seeds from a process of their own; the one that it died of comes last."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__, "--worker", str(first), str(end)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        text, _ = process.communicate(timeout=PATIENCE * (end - first) / 4 + PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        text, _ = process.communicate()
    rows = [json.loads(line) for line in text.splitlines() if line.startswith('{"seed"')]
    done = {row["seed"] for row in rows}
    if (missing := [seed for seed in range(first, end) if seed not in done]) and process.returncode:
        rows.append({"seed": missing[0], "outcome": "failed", "reason": "the process died or hung"})
    return rows


def work(first: int, end: int) -> int:
    """Write a row per seed to standard output."""
    sys.path.insert(0, str(HERE))
    import in_place
    import torch

    torch.set_num_threads(1)
    for seed in range(first, end):
        print(json.dumps(in_place.check(seed)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

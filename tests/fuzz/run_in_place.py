"""5,000 random in-place programs against eager; goes on where it stopped.

    python tests/fuzz/run_in_place.py --workers 16              # on to 5,000, in 16 processes
    python tests/fuzz/run_in_place.py --first 200 --count 100 --seconds 600
    python tests/fuzz/run_in_place.py --again                   # from the first

Results are lines of JSON in ``--log``; a program that takes its process down is one that failed. Exits with 1 if any did.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BATCH = 20
"""Programs per process: torch.compile keeps some of each."""
PATIENCE = 120.0
"""Seconds per program before its process is ended."""


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=0, help="seed of the first program")
    parser.add_argument("--count", type=int, default=5_000)
    parser.add_argument("--workers", type=int, default=1, help="processes at a time")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start nothing new after so long")
    parser.add_argument("--log", type=Path, default=HERE.parents[1] / ".fuzz" / "in_place.jsonl")
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    parser.add_argument("--worker", type=int, nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        return work(given.worker)
    given.log.parent.mkdir(parents=True, exist_ok=True)
    if given.again:
        given.log.unlink(missing_ok=True)
    rows = {row["seed"]: row for row in map(json.loads, _lines(given.log))}
    until = time.monotonic() + given.seconds
    wanted = range(given.first, given.first + given.count)
    todo = [seed for seed in wanted if seed not in rows]
    batches = [todo[start : start + BATCH] for start in range(0, len(todo), BATCH)]
    lock = threading.Lock()

    def keep(row: dict[str, Any]) -> None:
        with lock, given.log.open("a") as file:
            rows[row["seed"]] = row
            file.write(json.dumps(row) + "\n")
        if row["outcome"] == "failed":
            print(f"seed {row['seed']}: {row['reason']}\n{row.get('program', '')}", flush=True)

    with ThreadPoolExecutor(given.workers) as pool:
        for made in [pool.submit(run_batch, batch, until, keep) for batch in batches]:
            made.result()
    rows = {seed: row for seed, row in rows.items() if seed in wanted}
    counts = Counter(row["outcome"] for row in rows.values())
    print(f"{len(rows)} programs: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    for reason, count in Counter(
        r["reason"][:110] for r in rows.values() if r["outcome"] == "refused"
    ).most_common(15):
        print(f"  {count:5} {' '.join(reason.split())}")
    return 1 if counts["failed"] else 0


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def run_batch(seeds: list[int], until: float, keep: Callable[[dict[str, Any]], None]) -> None:
    """Give `keep` the row of every seed; another process takes over behind a program of which one died."""
    while seeds and time.monotonic() < until:
        done = set()
        for row in run(seeds, until):
            done.add(row["seed"])
            keep(row)
        seeds = [seed for seed in seeds if seed not in done] if done else []


def run(seeds: list[int], until: float) -> Iterator[dict[str, Any]]:
    """The rows of some seeds from a process of their own; the one that it died of comes last."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__, "--worker", *map(str, seeds)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    patience = min(PATIENCE * len(seeds) / 4 + PATIENCE, max(until - time.monotonic(), 1.0))
    watch = threading.Timer(patience, process.kill)
    watch.start()
    left = list(seeds)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith('{"seed"'):
            row: dict[str, Any] = json.loads(line)
            left.remove(row["seed"])
            yield row
    process.wait()
    watch.cancel()
    if left and time.monotonic() < until:
        yield {"seed": left[0], "outcome": "failed", "reason": "the process died or hung"}


def work(seeds: list[int]) -> int:
    """Write a row per seed to standard output."""
    sys.path.insert(0, str(HERE))
    import in_place
    import torch

    torch.set_num_threads(1)
    for seed in seeds:
        print(json.dumps(in_place.check(seed)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Random graphs by the thousand, each seed a graph; a crash of TensorRT is one more failure.

    python tests/fuzz/run.py --count 10000                 seeds 0 to 9,999
    python tests/fuzz/run.py --first 500 --count 100       some of them
    python tests/fuzz/run.py --processes 2 --batch 16      so many processes, so many graphs in one program

Failures are printed with their graph as JSON; a line of `kept.jsonl` keeps one as a test. Exits with 1 if there were any.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

PATIENCE = 300.0
"""Seconds for one batch."""


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=20, help="graphs compiled as one program")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, help="start nothing new after so long")
    parser.add_argument("--log", type=Path, help="append every result, a line of JSON each")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        return work()
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    began = time.monotonic()
    for done, row in enumerate(results(given), 1):
        outcomes[row["outcome"]] += 1
        if row["outcome"] in ("refused", "quarantined"):
            reasons[row["reason"].split(";")[0][:150]] += 1
        if row["outcome"] == "failed":
            print(f"seed {row['seed']}: {row['reason']}\n  {row['graph']}", flush=True)
        if given.log:
            with given.log.open("a") as file:
                file.write(json.dumps(row) + "\n")
        if done % 500 == 0:
            print(f"{done} graphs, {dict(outcomes)}, {time.monotonic() - began:.0f} s", flush=True)
    print(
        f"{sum(outcomes.values())} graphs: "
        + ", ".join(f"{n} {name}" for name, n in sorted(outcomes.items()))
    )
    for reason, count in reasons.most_common(20):
        print(f"  {count:5} {reason}")
    return 1 if outcomes["failed"] else 0


def results(given: Any) -> Iterator[dict[str, Any]]:
    """The rows of all seeds, as they come."""
    seeds = range(given.first, given.first + given.count)
    batches = [list(seeds[i : i + given.batch]) for i in range(0, len(seeds), given.batch)]
    until = time.monotonic() + given.seconds if given.seconds else float("inf")
    workers = [Worker() for _ in range(given.processes)]

    def run(batch: list[int]) -> list[dict[str, Any]]:
        if time.monotonic() > until:
            return []
        worker = workers.pop()
        try:
            return worker.run(batch)
        finally:
            workers.append(worker)

    with ThreadPoolExecutor(given.processes) as pool:
        for future in as_completed([pool.submit(run, batch) for batch in batches]):
            yield from future.result()
    for worker in workers:
        worker.stop()


class Worker:
    """A process that checks batches, and is started anew when it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(self, seeds: list[int]) -> list[dict[str, Any]]:
        """The rows of some seeds; if they take the process down, each alone."""
        answer = self._ask(seeds)
        if answer is not None:
            return answer
        if len(seeds) > 1:
            return [row for seed in seeds for row in self.run([seed])]
        graph = make(seeds[0]).to_json()
        return [{"seed": seeds[0], "outcome": "failed", "reason": "the process died or hung", "graph": graph}]

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _ask(self, seeds: list[int]) -> list[dict[str, Any]] | None:
        import select

        if self._process is None:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                [sys.executable, __file__, "--worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(seeds) + "\n")
            self._process.stdin.flush()
            ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
            line = self._process.stdout.readline() if ready else ""
        except OSError:
            line = ""
        if not line.startswith("["):
            self.stop()
            return None
        rows: list[dict[str, Any]] = json.loads(line)
        return rows


def make(seed: int) -> Any:
    """The graph of a seed."""
    from random_graphs import generate

    return generate(random.Random(seed))


def work() -> int:
    """Read lists of seeds from standard input, write rows to standard output."""
    import check
    import torch

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else may write among the answers
    for line in sys.stdin:
        seeds = json.loads(line)
        graphs = [make(seed) for seed in seeds]
        rows = [
            {"seed": seed, "outcome": result.outcome, "reason": result.reason}
            | ({"graph": graph.to_json()} if result.outcome == "failed" else {})
            for seed, graph, result in zip(seeds, graphs, check.check(graphs))
        ]
        answers.write(json.dumps(rows) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())

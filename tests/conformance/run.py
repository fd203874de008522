"""OpInfo conformance: every sample of every operator, resumable, a crash of TensorRT being one more result.

    python tests/conformance/run.py                            everything (hours)
    python tests/conformance/run.py --family softmax,linear    some families (see families.py); --op cumsum,sort: some operators
    python tests/conformance/run.py --dtype float32 --limit 8  one dtype, at most 8 samples of each operator (evenly spread)
    python tests/conformance/run.py --shard 1/4                a quarter of the operators
    python tests/conformance/run.py --again failed,refused     forget such results, and make them anew
    python tests/conformance/run.py --summary                  what is known, run nothing; --show failed lists samples
    python tests/conformance/run.py --publish                  the pack's conformance/*.json and docs/ops.md from what is known

Results go, one line of JSON each, to FOLDER/results-SHARD.jsonl (--results FOLDER, by default build/conformance);
what is there already is not run again. Samples are compiled in a process of their own, in groups; when that crashes
or takes too long, the samples of the group are run one by one, and the culprit is a failed sample.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import families  # noqa: E402

DTYPES = ("float32", "float16", "bfloat16", "int32", "int64", "bool")
GROUP = 32
PATIENCE = 240.0
"""Seconds of wall clock for a group of samples, and for one."""


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line says. 1 if a sample failed."""
    options = _options(arguments)
    if options.worker:
        return work(lambda job: _listed(job) if "check" not in job else _checked(job))
    store = Store(options.results)
    if options.publish:
        import page

        page.publish(store.all())
        return 0
    wanted = wanted_operators(options)
    if not options.summary:
        _run(options, store, wanted)
    return finish(options, store, wanted)


def finish(options: argparse.Namespace, store: Store, wanted: Iterable[str]) -> int:
    """Print what is known of the operators. 1 if a sample failed."""
    names = set(wanted)
    known = [row for row in store.all() if row["op"] in names]
    summarise(known)
    for row in known:
        if row["outcome"] in options.show.split(","):
            print(
                f"{row['op']}.{row['variant']} {row['dtype']} #{row['index']} ({row['call']}): {row['reason']}"
            )
    return int(any(row["outcome"] == "failed" for row in known))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = parser_for(__doc__, "build/conformance")
    parser.add_argument("--dtype", default=",".join(DTYPES))
    parser.add_argument("--limit", type=int, help="at most so many samples of each operator and dtype")
    return parser.parse_args(arguments)


def parser_for(description: str | None, results: str) -> argparse.ArgumentParser:
    """The options of every sweep over operators."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", default="", help="families, by comma; the beginning of a name will do")
    parser.add_argument("--op", default="", help="operators, by comma")
    parser.add_argument("--shard", default="1/1")
    parser.add_argument("--results", type=Path, default=Path(results))
    parser.add_argument("--again", default="", help="outcomes to be run again: failed,refused,...")
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--show", default="", help="outcomes to be listed")
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


def wanted_operators(options: argparse.Namespace) -> list[str]:
    """The operators that the command line asks for, in order of family."""
    operators = list(families.family_of())
    if options.op:
        operators = options.op.split(",")
        if unknown := [op for op in operators if op not in families.family_of()]:
            left = families.left_out()
            raise SystemExit("\n".join(
                f"{op}: left out in families.py ({left[op]}); move it to its family there" if op in left
                else f"{op}: no family in families.py has it; the names are op_db's (special.erfcx, nn.functional.gelu)"
                for op in unknown
            ))  # fmt: skip
    if options.family:
        asked = options.family.split(",")
        operators = [
            op for op in operators if any(families.family_of()[op].startswith(name) for name in asked)
        ]
        if not operators:
            raise SystemExit(f"no such family; there are: {', '.join(families.FAMILIES)}")
    which, of = map(int, options.shard.split("/"))
    return [op for number, op in enumerate(operators) if number % of == which - 1]


# ---- results -----------------------------------------------------------------------------------------------


class Store:
    """Results in files of JSON lines; the last line on a sample counts. `key`: the fields that tell samples apart."""

    def __init__(self, folder: Path, key: Sequence[str] = ("op", "variant", "dtype", "index")) -> None:
        self.folder, self.key = folder, key
        folder.mkdir(parents=True, exist_ok=True)

    def key_of(self, row: dict[str, Any]) -> tuple[Any, ...]:
        """What tells the row's sample from others."""
        return tuple(row[name] for name in self.key)

    def known(self, again: str) -> set[Any]:
        """Keys of the samples that need not be run; `again`: outcomes, by comma, that do not count."""
        return {self.key_of(row) for row in self.all() if row["outcome"] not in again.split(",")}

    def all(self) -> list[dict[str, Any]]:
        """Every sample's latest result."""
        rows: dict[Any, dict[str, Any]] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            for line in path.read_text().splitlines():
                try:
                    row = json.loads(line)
                except ValueError:  # the last line of a run that was killed
                    continue
                key = self.key_of(row)
                if key not in rows or row["time"] >= rows[key]["time"]:
                    rows[key] = row
        return list(rows.values())

    def add(self, shard: str, rows: Iterable[dict[str, Any]]) -> None:
        """Append results."""
        with open(self.folder / f"results-{shard.replace('/', '-of-')}.jsonl", "a") as file:
            for row in rows:
                file.write(json.dumps({**row, "time": time.time()}) + "\n")


def summarise(rows: list[dict[str, Any]]) -> None:
    """Print samples per family and outcome."""
    table: dict[str, Counter[str]] = {}
    for row in rows:
        table.setdefault(families.family_of()[row["op"]], Counter())[row["outcome"]] += 1
    print(f"{'family':26}{'passed':>8}{'refused':>9}{'failed':>8}{'refused share':>15}")
    for family, counts in table.items():
        total = counts["passed"] + counts["refused"] + counts["failed"]
        share = counts["refused"] / total if total else 0.0
        print(f"{family:26}{counts['passed']:8}{counts['refused']:9}{counts['failed']:8}{share:15.1%}")


# ---- the driver --------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace, store: Store, wanted: list[str]) -> None:
    done = store.known(options.again)
    worker = Worker(HERE / "run.py")
    drive(
        worker, store, options.shard, wanted,
        lambda op: _of_operator(worker, op, options.dtype.split(","), options.limit, done),
    )  # fmt: skip


def drive(
    worker: Worker,
    store: Store,
    shard: str,
    wanted: Iterable[str],
    results_of: Callable[[str], Iterable[list[dict[str, Any]]]],
) -> None:
    """Keep the results of every operator as they come, a line of progress for each; end the worker."""
    try:
        for op in wanted:
            began = time.monotonic()
            counts: Counter[str] = Counter()
            for rows in results_of(op):
                store.add(shard, rows)
                counts.update(row["outcome"] for row in rows)
            if counts:
                text = ", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.items()))
                print(f"{op}: {text} ({time.monotonic() - began:.1f} s)", flush=True)
    finally:
        worker.stop()


def _of_operator(
    worker: Worker, op: str, dtypes: list[str], limit: int | None, done: set[Any]
) -> Iterator[list[dict[str, Any]]]:
    """Results of an operator's samples, group by group; a group holds samples of several dtypes."""
    todo: list[tuple[str, str, int]] = []
    for dtype in dtypes:
        listed = worker.ask({"op": op, "dtype": dtype, "limit": limit})
        if isinstance(listed, list):
            found = [(variant, dtype, index) for variant, index in listed]
            todo += [one for one in found if (op, *one) not in done]
        else:
            yield [_failed(op, "", dtype, -1, f"its samples cannot be made: {listed}")]
    yield from in_groups(worker, op, todo, GROUP, lambda one, problem: _failed(op, *one, problem))


def in_groups(
    worker: Worker, op: str, todo: Sequence[Any], group: int, failed: Callable[[Any, str], dict[str, Any]]
) -> Iterator[list[dict[str, Any]]]:
    """Results group by group; where a group has no answer, its samples are run one by one."""
    for start in range(0, len(todo), group):
        some = todo[start : start + group]
        rows = worker.ask({"op": op, "check": some})
        if isinstance(rows, list):
            yield rows
            continue
        for one in some:
            alone = worker.ask({"op": op, "check": [one]})
            yield alone if isinstance(alone, list) else [failed(one, alone)]


def _failed(op: str, variant: str, dtype: str, index: int, reason: str) -> dict[str, Any]:
    return {
        "op": op, "variant": variant, "dtype": dtype, "index": index, "outcome": "failed", "reason": reason,
        "call": "", "ops": 0, "in_torch": [],
    }  # fmt: skip


class Worker:
    """A child process that checks samples (`script` --worker, see `work`); started again after it died."""

    def __init__(self, script: Path) -> None:
        self.script = script
        self.child: subprocess.Popen[str] | None = None
        self.answers: queue.Queue[str | None] = queue.Queue()

    def ask(self, job: dict[str, Any]) -> Any:
        """The answer to a job (a list); a text that says what happened to the child, if there is none."""
        if self.child is None:
            self._start()
        assert self.child is not None
        assert self.child.stdin is not None
        try:
            self.child.stdin.write(json.dumps(job) + "\n")
            self.child.stdin.flush()
            line = self.answers.get(timeout=PATIENCE)
        except queue.Empty:
            self.stop()
            return f"took more than {PATIENCE:.0f} s"
        except BrokenPipeError:
            line = None
        if line is None:
            code = self.child.wait()
            self.child = None
            return f"crashed the process (exit status {code})"
        return json.loads(line)

    def _start(self) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.child = subprocess.Popen(
            [sys.executable, str(self.script), "--worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip
        self.answers = queue.Queue()
        threading.Thread(target=_read, args=(self.child, self.answers), daemon=True).start()

    def stop(self) -> None:
        """End the child."""
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            self.child = None


def _read(child: subprocess.Popen[str], answers: queue.Queue[str | None]) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("answer "):
            answers.put(line.removeprefix("answer "))
    answers.put(None)


# ---- the worker --------------------------------------------------------------------------------------------


def work(answer_to: Callable[[dict[str, Any]], Any]) -> int:
    """Answer jobs from stdin, one line of JSON each, in lines that begin with ``answer``."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer = answer_to(job)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        out.write(f"answer {json.dumps(answer)}\n")
        out.flush()
    return 0


def _samples(op: str, dtype: str, limit: int | None = None, device: str = "cpu") -> list[Any]:
    """The samples of an operator; none where this torch has none for it, as an older one may."""
    import torch

    from trtcore.testing.opinfo import operators, samples

    if not any(name == op for name, _ in operators()):
        return []
    return list(samples(op, getattr(torch, dtype), limit=limit, device=device))


def _listed(job: dict[str, Any]) -> list[tuple[str, int]]:
    return [(sample.variant, sample.index) for sample in _samples(job["op"], job["dtype"], job["limit"])]


def _checked(job: dict[str, Any]) -> list[dict[str, Any]]:
    from dataclasses import asdict

    import policy

    from trtcore.testing.opinfo import check

    asked = {tuple(one) for one in job["check"]}
    dtypes = dict.fromkeys(dtype for _, dtype, _ in job["check"])
    chosen = [
        sample
        for dtype in dtypes
        for sample in _samples(job["op"], dtype)
        if (sample.variant, dtype, sample.index) in asked
    ]
    return [asdict(result) for result in check(chosen, compare=policy.compare, batch=GROUP)]


if __name__ == "__main__":
    sys.exit(main())

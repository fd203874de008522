"""The dynamic-shape sweep: operators at the smallest, the usual and the largest sizes of a profile, and between.

    python tests/conformance/dynamic.py                            every operator (an hour; goes on where it stopped)
    python tests/conformance/dynamic.py --family softmax           some families; --op cumsum,sort: some operators
    python tests/conformance/dynamic.py --limit 5                  five samples of each operator instead of two
    python tests/conformance/dynamic.py --again failed             forget such results, and make them anew
    python tests/conformance/dynamic.py --summary --show failed    what is known, run nothing
    python tests/conformance/dynamic.py --publish                  docs/dynamic.md from what is known

A *form* of a sample of `op_db` names some of the sizes that its tensors have: every dimension of such a size varies, those
of one size together. A form is exported and compiled once, and run at four sizes; what is asked of it is the widest of
RANGES that eager and torch.export take. Each is judged as `run.py` judges samples; besides there is

- specialised: torch.export fixes the size, or its graph is the operator at some sizes alone (the reason is torch's), and
- foreign: a dtype that TensorRT has not, or random numbers; and
- fixed: eager takes the sample at no other size, as the call itself has numbers that are sizes.

One form of each operator is also lowered to Core ATen before it is compiled (graph "core"), which reaches the converters of
the ops that the others are decomposed to.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import policy  # noqa: E402
import run  # noqa: E402
import torch  # noqa: E402
from torch.utils import _pytree as pytree  # noqa: E402

import trtcore  # noqa: E402
from trtcore.dynamo import trace  # noqa: E402
from trtcore.errors import ExportError, InputError  # noqa: E402
from trtcore.ir.graphs import is_random  # noqa: E402
from trtcore.testing.conformance import resampled, usable_backend  # noqa: E402
from trtcore.testing.opinfo import DTYPES, OpSample, check, chosen, difference, operators, samples  # noqa: E402

GROUP = 6
KEY = ("op", "variant", "dtype", "index", "sizes", "graph")
PREFERRED = (torch.float32, torch.int64, torch.int32, torch.bool)
"""The first dtype that an operator has is the one it is swept in."""

RANGES = ((-1, 0, 4), (2, 0, 4), (0, 1, 4))
"""(min, opt, max) of a size: added to it, but for a min of -1, which is 1, and of 2, which is 2."""

LABELS = ("min", "opt", "max", "between")
_SEED = 0
_NUDGE = 0.5
"""Values are drawn with repetitions, and where they are nearly equal, variances are cancellation."""


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line says. 1 if a form failed."""
    parser = run.parser_for(__doc__, "build/dynamic")
    parser.add_argument("--limit", type=int, default=2, help="samples of each operator")
    options = parser.parse_args(arguments)
    if options.worker:
        return run.work(lambda job: _checked(job) if "check" in job else _listed(job))
    store = run.Store(options.results, KEY)
    if options.publish:
        import dynamic_page

        dynamic_page.publish(store.all())
        return 0
    wanted = run.wanted_operators(options)
    if not options.summary:
        worker = run.Worker(HERE / "dynamic.py")
        done = store.known(options.again)
        run.drive(
            worker, store, options.shard, wanted, lambda op: _of_operator(worker, op, options.limit, done)
        )
    return run.finish(options, store, wanted)


def _of_operator(worker: run.Worker, op: str, limit: int, done: set[Any]) -> Iterator[list[dict[str, Any]]]:
    listed = worker.ask({"op": op, "limit": limit})
    if not isinstance(listed, list):
        yield [_row((op, "", "", -1, "", ""), "failed", f"its samples cannot be made: {listed}")]
        return
    todo = [one for one in listed if (op, *one) not in done]
    if not listed and (op, "", "", -1, "", "") not in done:
        yield [_row((op, "", "", -1, "", ""), "fixed", "eager takes no sample of it at another size")]
    yield from run.in_groups(
        worker, op, todo, GROUP, lambda one, problem: _row((op, *one), "failed", problem)
    )


def _row(key: tuple[Any, ...], outcome: str, reason: str = "", **more: Any) -> dict[str, Any]:
    empty = {"call": "", "range": "", "converters": [], "static": ""}
    return {**dict(zip(KEY, key)), "outcome": outcome, "reason": reason, **empty, **more}


# ---- forms -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """A sample of which some sizes vary.

    Attributes:
        sample: the call; its tensors have the sizes that are varied.
        sizes: which: all dims of a size vary together.
        ranges: for each of the widest ranges that eager takes, size -> (min, opt, max); the widest first.
    """

    sample: OpSample
    sizes: tuple[int, ...]
    ranges: tuple[Mapping[int, tuple[int, int, int]], ...] = field(compare=False)

    @property
    def name(self) -> str:
        """The sizes as text, by which a form of a sample is found again."""
        return ",".join(map(str, self.sizes))

    def inputs(self, ranges: Mapping[int, tuple[int, int, int]]) -> tuple[Any, ...]:
        """What to compile for: the sample's tensors, as `Input` where a dim varies."""
        return tuple(_input(tensor, ranges) for tensor in self.sample.tensors)


BATCH = 11
"""A first dim of 1 is no example for a batch that varies; it becomes one of this size, which no sample has."""


def forms_of(sample: OpSample) -> list[Form]:
    """Every size varied together with the others, if there are several, and up to four of them alone."""
    first = next(iter(sample.tensors), torch.empty(()))
    if first.shape[:1] == (1,):
        batch = resampled(first, {0: BATCH}, torch.Generator().manual_seed(_SEED), _NUDGE)
        sample = sample.with_tensors([batch, *sample.tensors[1:]])
    sizes = list(dict.fromkeys(s for t in sample.tensors for s in t.shape if s > 1))
    alone = [(size,) for size in sizes[:4]]
    found = []
    for varied in ([tuple(sizes)] if len(sizes) > 1 else []) + alone:
        given = [{size: _range(size, how) for size in varied} for how in RANGES]
        ranges = tuple(each for each in given if _eager_takes(sample, each))
        if ranges:
            found.append(Form(sample, varied, ranges))
    return found


def _range(size: int, how: tuple[int, int, int]) -> tuple[int, int, int]:
    low = {-1: 1, 2: 2}.get(how[0], size)
    return low, size + how[1], size + how[2]


def at(label: str, sample: OpSample, ranges: Mapping[int, tuple[int, int, int]]) -> OpSample:
    """The sample with other sizes; its values are drawn from those that it has, and sorted where they were."""
    generator = torch.Generator().manual_seed(_SEED)
    sizes = {
        size: size + 2 if label == "between" else each[LABELS.index(label)] for size, each in ranges.items()
    }
    tensors = []
    for tensor in sample.tensors:
        wanted = {dim: sizes[size] for dim, size in enumerate(tensor.shape) if size in sizes}
        drawn = resampled(tensor, wanted, generator, _NUDGE) if wanted else tensor.clone()
        rising = tensor.dim() and tensor.dtype != torch.bool and not bool((tensor.diff() < 0).any())
        tensors.append(drawn.sort().values if wanted and rising else drawn)
    return sample.with_tensors(tensors)


def _eager_takes(sample: OpSample, ranges: Mapping[int, tuple[int, int, int]]) -> bool:
    try:
        for label in LABELS:
            _eager(at(label, sample, ranges))
    except Exception:
        return False
    return True


def _eager(sample: OpSample) -> Any:
    torch.manual_seed(_SEED)
    with torch.no_grad():
        return sample.with_tensors([tensor.clone() for tensor in sample.tensors]).run()


def _input(tensor: torch.Tensor, ranges: Mapping[int, tuple[int, int, int]]) -> Any:
    if not any(size in ranges for size in tensor.shape):
        return tensor
    low, opt, high = (
        [ranges[size][which] if size in ranges else size for size in tensor.shape] for which in range(3)
    )
    return trtcore.Input(min_shape=low, opt_shape=opt, max_shape=high, example=tensor)


# ---- the worker --------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _samples(op: str) -> tuple[OpSample, ...]:
    if not any(name == op for name, _ in operators()):
        return ()  # another torch has it
    for dtype in PREFERRED:
        if found := tuple(samples(op, dtype)):
            return found
    return ()


def forms(op: str, limit: int) -> list[tuple[Form, str]]:
    """Forms of up to `limit` samples of each variant, evenly spread over those that have any; (form, graph)."""
    found: list[tuple[Form, str]] = []
    for variant in dict.fromkeys(sample.variant for sample in _samples(op)):
        own = [sample for sample in _samples(op) if sample.variant == variant]
        some = [own[i] for i in chosen(len(own), 6 * limit)]
        having = [each for each in map(forms_of, some) if each]
        for number in chosen(len(having), limit):
            found += [(form, "captured") for form in having[number]]
            if not number:
                found.append((having[0][0], "core"))
    return found


def _listed(job: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(*form.sample.key[1:], form.name, graph) for form, graph in forms(job["op"], job["limit"])]


def _checked(job: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for variant, dtype, index, sizes, graph in job["check"]:
        (sample,) = (s for s in _samples(job["op"]) if s.key[1:] == (variant, dtype, index))
        (form,) = (form for form in forms_of(sample) if form.name == sizes)
        rows.append(check_form(form, graph))
    return rows


class _Call(torch.nn.Module):
    def __init__(self, sample: OpSample) -> None:
        super().__init__()
        self.sample = sample

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.sample.with_tensors(tensors).run()


def check_form(form: Form, graph: str = "captured") -> dict[str, Any]:
    """Compile a form and compare it with eager at all LABELS; what became of it."""
    sample = form.sample
    key = (*sample.key, form.name, graph)
    row = functools.partial(_row, key, call=sample.call_text())
    for ranges in form.ranges:
        try:
            exported = trace(_Call(sample), arg_inputs=form.inputs(ranges))
            break
        except ExportError as error:
            reason = _first_lines(error)
    else:
        return row("specialised", reason)
    text = "; ".join(f"{size}: {low}..{high} (opt {opt})" for size, (low, opt, high) in ranges.items())
    row = functools.partial(row, range=text)
    try:
        draws = any(map(is_random, exported.graph.nodes))
        if graph == "core":
            exported = exported.run_decompositions()
        compiled = trtcore.compile(
            exported, min_block_size=1, runtime="reference", backend=usable_backend().name
        )
        calls = [(label, at(label, sample, ranges)) for label in LABELS]
        results = [(label, given, _eager(given), _compiled(compiled, given)) for label, given in calls]
    except InputError as error:  # a condition that the captured graph holds under, and the program asks for
        outcome = "specialised" if "captured under the condition" in str(error) else "failed"
        return row(outcome, _first_lines(error))
    except Exception as error:
        return row("failed", f"raised {type(error).__name__}: {_first_lines(error)}")
    report = compiled.report
    if draws:
        return row("foreign", "it draws random numbers, and in another order than eager")
    row = functools.partial(row, converters=sorted({f"{n.op} {n.converter}" for n in report.converted}))
    for label, given, expected, actual in results:
        verdict = policy.compare(given, expected, actual)
        if problem := difference(given, expected, actual) if verdict is None else verdict:
            return row("failed", f"at {label}: {problem}")
    left = [node for node in report.in_torch if node.lost_to != "write_back"]
    if report.quarantined:  # though the next candidate may have taken the node
        return row("failed", "; ".join(f"{one.op}: {one.reason}" for one in report.quarantined))
    if left:
        if _is_foreign(sample, results[0][2]):
            return row("foreign", _reasons(left))
        (static,) = check([sample], compare=policy.compare)
        return row("refused", _reasons(left), static=static.outcome)
    return row("passed")


def _compiled(compiled: Any, given: OpSample) -> Any:
    torch.manual_seed(_SEED)
    with torch.no_grad():
        return compiled(*(tensor.clone() for tensor in given.tensors))


def _reasons(left: list[Any]) -> str:
    return "; ".join(dict.fromkeys(f"{node.op}: {node.reason}" for node in left))


def _is_foreign(sample: OpSample, result: Any) -> bool:
    leaves = (*sample.tensors, *pytree.tree_leaves(result))
    return any(isinstance(leaf, torch.Tensor) and leaf.dtype not in DTYPES for leaf in leaves)


def _first_lines(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]


if __name__ == "__main__":
    sys.exit(main())

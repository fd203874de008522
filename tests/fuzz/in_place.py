"""Random programs that write in place, called with memory that is shared at random, while weights change; against eager.

A program is Python: statements over inputs ``x0, x1, ...``, the weight ``self.w``, the buffers ``self.b`` and ``self.c``,
which are made at random, each only kept if eager runs it. `Machine` holds one program in all its compiled forms and does to
them what is done to the model: calls, changes of weights, saving and loading, pickling. `generate` and `drive` take a
`random.Random`, so a seed is a test; ``run_in_place.py`` goes through many.
"""

from __future__ import annotations

import copy
import json
import pickle
import random
import re
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import trtcore
from trtcore.errors import ExportError, InputError, TrtcoreError
from trtcore.runtime.sharing import overlap

SHAPES = ((4, 4), (4,), (2, 4), (3, 4))
MEMORY = 64
"""Elements of the memory that the inputs of one call are taken from."""


@dataclass(frozen=True)
class InPlace:
    """A program.

    Attributes:
        shapes: of the inputs.
        lines: the statements of ``forward``.
        results: the names that it returns.
        dynamic: whether torch.compile is asked for dynamic sizes.
        varying: inputs whose first dim is to vary, in calls and ahead of time.
    """

    shapes: tuple[tuple[int, ...], ...]
    lines: tuple[str, ...]
    results: tuple[str, ...]
    dynamic: bool = False
    varying: tuple[int, ...] = ()

    @property
    def source(self) -> str:
        """``forward`` as Python."""
        names = "".join(f", x{i}" for i in range(len(self.shapes)))
        body = "".join(f"    {line}\n" for line in self.lines)
        return f"def forward(self{names}):\n{body}    return ({', '.join(self.results)},)\n"

    def model(self) -> nn.Module:
        """A model with this forward; its weight and buffers are the same every time."""
        names: dict[str, Any] = {"torch": torch, "F": F}
        exec(compile(self.source, f"<program {abs(hash(self.source))}>", "exec"), names)
        kind = type("Program", (_State,), {"forward": names["forward"]})
        made: nn.Module = kind().eval()
        return made

    def to_json(self) -> str:
        return json.dumps([self.shapes, self.lines, self.results, self.dynamic, self.varying])

    @classmethod
    def from_json(cls, text: str) -> InPlace:
        shapes, lines, results, dynamic, varying = json.loads(text)
        return cls(tuple(map(tuple, shapes)), tuple(lines), tuple(results), dynamic, tuple(varying))

    def shapes_with(self, size: int) -> tuple[tuple[int, ...], ...]:
        """The inputs' shapes where what varies has this size."""
        return tuple(
            (size, *shape[1:]) if index in self.varying else shape for index, shape in enumerate(self.shapes)
        )


class _State(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.arange(16.0).view(4, 4) % 3 - 1, requires_grad=False)
        self.register_buffer("b", torch.arange(4.0) - 1)
        self.register_buffer("c", torch.ones(4, 4))


# ---- statements --------------------------------------------------------------------------------------------

# Without contiguous(): of a contiguous tensor a capture does not see it, and eager copies another one.
VIEWS = (
    "{v}[{i}]", "{v}[..., {i}]", "{v}[{i}:]", "{v}[:, {i}:]", "{v}[::2]", "{v}.t()", "{v}.mT", "{v}.view(-1)",
    "{v}.reshape(-1)", "{v}.flatten()", "{v}.unsqueeze(0)", "{v}.unsqueeze(-1)", "{v}.squeeze()", "{v}.diagonal()",
    "{v}.chunk(2)[1]", "{v}.split(1)[0]", "{v}.unbind(0)[{i}]", "{v}.narrow(-1, {i}, 2)", "{v}.detach()",
    "{v}.expand(2, *{v}.shape)", "{v}.view_as({v})", "{v}.adjoint()", "{v}.unfold(0, 2, 1)",
    "{v}.movedim(0, -1)", "{v}.select(-1, {i})", "{v}.to(torch.float32)", "{v}[None]", "{v}.swapaxes(0, -1)", "{v}.real",
    "{v}.as_strided((2, 2), (2, 1))", "{v}.view(2, -1)", "{v}.tensor_split(2)[0]", "{v}.alias()" ,
)  # fmt: skip
PURE = (
    "{v} + {u}", "{v} * {u}", "{v} - {u}", "{v} * {k}", "torch.relu({v})", "{v}.clone()", "{v} @ self.w", "{v}.sum(0)",
    "torch.cat(({v}, {u}))", "torch.where({v} > 0, {v}, {u})", "{v}.clamp(-{p}, {p})", "torch.maximum({v}, {u})",
    "torch.stack(({v}, {v}))", "{v}.flip(0)", "{v}.mean(-1, keepdim=True)", "F.linear({v}, self.w, self.b)", "torch.zeros_like({v})",
    "torch.tril({v})", "{v}.masked_fill({v} > 0, {k})", "F.dropout({v}, training=False)", "{v}.new_ones({v}.shape)",
)  # fmt: skip
WRITES = (
    "{v}.add_({k})", "{v}.add_({u})", "{v}.mul_({k})", "{v}.mul_({u})", "{v}.sub_({u}, alpha=2)", "{v}.copy_({u})",
    "{v}.zero_()", "{v}.fill_({k})", "{v}.relu_()", "{v}.clamp_(-{p}, {p})", "{v}.neg_()", "{v}.abs_()",
    "{v}.masked_fill_({v} > 0, {k})", "{v}.masked_fill_({u} > 0, {k})", "{v}[{i}] = {k}", "{v}[{i}] = {u}", "{v}[:, {i}] = {k}",
    "{v}[..., {i}] = {u}", "{v}[{i}:] += {k}", "{v}[{v} > 1] = {k}", "{v}[{v} < 0] *= 2", "{v}.index_fill_(0, torch.tensor([0, {i}]), {k})",
    "{v}.index_add_(0, torch.tensor([{i}, 0]), {v}[:2].clone())", "{v}.index_copy_(0, torch.tensor([{i}]), {u}[:1])",
    "{v}.scatter_(0, torch.zeros_like({v}, dtype=torch.int64), {u})", "{v}[torch.tensor([{i}, 0])] = {k}",
    "{v}.index_put_((torch.tensor([{i}, {i}]),), {u}[0], accumulate=True)", "torch.add({v}, {u}, out={v})",
    "torch._foreach_add_([{v}, {u}], 1)", "{v}.addcmul_({u}, {u})", "{v}.lerp_({u}, 0.5)", "{v}.tril_()", "{v}.triu_()",
    "{v}.fill_diagonal_({k})", "{v}.cumsum_(0)", "{v}.floor_()", "{v}.clamp_min_({k})", "F.relu({v}, inplace=True)",
    "{v}.t_()", "{v}.unsqueeze_(0)", "{v}.squeeze_()", "{v}.transpose_(0, -1)", "{v} += {u}", "{v} *= {k}", "{v} -= {v}",
    "{v}[{i}], {v}[0] = {v}[0].clone(), {v}[{i}].clone()", "{v}[0] = torch.tensor({k}.)", "F.hardtanh({v}, -{p}, {p}, inplace=True)",
    "{v}.view(-1)[{i}] = {k}", "{v}[:, 0].zero_()", "{v}.diagonal().add_({u}.flatten()[0])", "{v}.swapaxes_(0, 1)",
)  # fmt: skip


_RESHAPES = re.compile(r"[^.]+\.(t|unsqueeze|squeeze|transpose|swapaxes)_\(")


def generate(rng: random.Random) -> InPlace:
    """A program that eager runs with inputs that share no memory."""
    shapes = tuple(rng.choice(SHAPES) for _ in range(rng.randint(1, 3)))
    state = _State()
    names: dict[str, Any] = {"torch": torch, "F": F, "self": state}
    for index, shape in enumerate(shapes):
        names[f"x{index}"] = torch.randint(-2, 3, shape, generator=_generator(rng)).float()
    values = [*(f"x{index}" for index in range(len(shapes))), "self.b", "self.c"]
    lines: list[str] = []
    wanted, writes = rng.randint(3, 10), 0
    for _ in range(80):
        if len(lines) >= wanted and writes:
            break
        kind = rng.choice((VIEWS, PURE, WRITES, WRITES))
        v, u = rng.choice(values[-4:] if rng.random() < 0.5 else values), rng.choice(values)
        template = rng.choice(kind)
        if kind is WRITES and not _defined(template, names, v, u):
            continue
        text = template.format(v=v, u=u, i=rng.randint(0, 2), k=rng.choice((-1, 2, 3)), p=rng.randint(1, 4))
        name = f"v{len(lines)}"
        line = text if kind is WRITES else f"{name} = {text}"
        if v[0] in "xs" and _RESHAPES.search(text):
            continue  # what the caller has cannot change its shape: refused, and said so
        if kind is WRITES and "self." in v and " += " in text + " " and not text.startswith(f"{v}["):
            continue  # assigns an attribute anew
        if not _runs(line, names):
            continue
        lines.append(line)
        if kind is WRITES:
            writes += 1
        else:
            values.append(name)
    results = rng.sample(values, min(len(values), rng.randint(1, 3)))
    dynamic = rng.random() < 0.4
    varying = rng.sample(range(len(shapes)), rng.randint(1, len(shapes))) if dynamic else []
    return InPlace(shapes, tuple(lines), tuple(results), dynamic, tuple(sorted(varying)))


def _defined(template: str, names: dict[str, Any], v: str, u: str) -> bool:
    """Whether eager promises what a write does: nothing that it reads is written on the way, no element twice."""
    written, read = eval(v, names), eval(u, names)
    if _overlaps_itself(written):
        return False
    if "_foreach" in template or "flatten()[0]" in template or v != u:
        return "{u}" not in template or not overlap(written, read)
    return True


def _generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.randrange(2**31))


def _runs(line: str, names: dict[str, Any]) -> bool:
    """Run a statement, if eager can and every value stays finite and small; else leave all as it was."""
    memo: dict[int, Any] = {}
    trial = {
        name: value if name in ("torch", "F") else copy.deepcopy(value, memo) for name, value in names.items()
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(line, trial)
    except Exception:
        return False
    tensors = [value for value in trial.values() if isinstance(value, torch.Tensor)]
    tensors += [trial["self"].b, trial["self"].c]
    shapes = (tuple(trial["self"].b.shape), tuple(trial["self"].c.shape))
    if shapes != ((4,), (4, 4)) or any(value.numel() > 256 or value.dim() > 5 for value in tensors):
        return False
    if any(trial[name].shape != names[name].shape for name in names if name.startswith("x")):
        return False  # the shape of an input: refused, and said so
    if not all(
        bool(value.isfinite().all()) and float(value.abs().max()) < 1e4 for value in tensors if value.numel()
    ):
        return False
    exec(line, names)
    return True


# ---- memory ------------------------------------------------------------------------------------------------

Pattern = Callable[[torch.Tensor, Sequence[tuple[int, ...]]], list[torch.Tensor]]


def _contiguous(memory: torch.Tensor, shape: tuple[int, ...], start: int) -> torch.Tensor:
    count = torch.Size(shape).numel()
    return memory[start : start + count].view(shape)


def apart(memory: torch.Tensor, shapes: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
    """Parts of one storage without a common element."""
    return [_contiguous(memory, shape, 16 * index) for index, shape in enumerate(shapes)]


def alone(memory: torch.Tensor, shapes: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
    """Storages of their own. Writes are seen in the tensors."""
    return [value.clone() for value in apart(memory, shapes)]


def overlapping(memory: torch.Tensor, shapes: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
    """The same place, shifted by an element each."""
    return [_contiguous(memory, shape, index) for index, shape in enumerate(shapes)]


def same(memory: torch.Tensor, shapes: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
    """The same place; one object where the shapes are equal."""
    made: dict[tuple[int, ...], torch.Tensor] = {}
    return [made.setdefault(shape, _contiguous(memory, shape, 0)) for shape in shapes]


def turned(memory: torch.Tensor, shapes: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
    """The same place, every second tensor transposed where its shape is square."""
    values = [_contiguous(memory, shape, 0) for shape in shapes]
    return [
        value.t() if index % 2 and value.dim() == 2 and value.shape[0] == value.shape[1] else value
        for index, value in enumerate(values)
    ]


def interleaved(memory: torch.Tensor, shapes: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
    """Every n-th element."""
    count = len(shapes)
    return [
        memory[index::count][: torch.Size(shape).numel()].view(shape) for index, shape in enumerate(shapes)
    ]


PATTERNS: dict[str, Pattern] = {
    pattern.__name__: pattern for pattern in (alone, apart, overlapping, same, turned, interleaved)
}
UPDATES: dict[str, Callable[[nn.Module], Any]] = {
    "in place": lambda m: m.w.add_(1),
    "a row": lambda m: m.w[1].zero_(),
    "another parameter": lambda m: setattr(m, "w", nn.Parameter(m.w.flip(0) + 2, requires_grad=False)),
    "load_state_dict": lambda m: m.load_state_dict({**m.state_dict(), "w": m.w.t() - 1}),
    "data": lambda m: setattr(m.w, "data", m.w.data * 2 - 1),
    "into data": lambda m: m.w.data.mul_(-1),
}
BUFFER_UPDATES: dict[str, Callable[[nn.Module], Any]] = {
    "a buffer": lambda m: m.b.add_(1),
    "another buffer": lambda m: setattr(m, "c", m.c * 2 - 1),
}
"""Under torch.compile alone: a compiled module has the buffers of its compile, or shares them."""
SIZES = (2, 4)
"""What varies is between."""


# ---- the machine -------------------------------------------------------------------------------------------


class Wrong(AssertionError):
    """What was compiled does something else than eager."""


class Machine:
    """One program: eager, ahead of time, and under torch.compile. Every step compares, and raises `Wrong`.

    Attributes:
        refused: why the program cannot be compiled ahead of time, "" where it can.
        varies: whether it was, for sizes that vary.
    """

    def __init__(self, program: InPlace) -> None:
        self.program = program
        self.eager, self.fixed = program.model(), program.model()
        self.live, self.source = program.model(), program.model()
        torch._dynamo.reset()
        options = {"min_block_size": 1}
        self.fast = torch.compile(
            self.live, backend="trtcore", options=options, dynamic=program.dynamic or None
        )
        self.refused, self.jit_refused = "", ""
        self.aot: Any = None
        self.varies = bool(program.varying)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self.aot = trtcore.compile(self.source, inputs=self._ranges(), min_block_size=1)
            except (ExportError, InputError):  # a model for one size alone
                self.varies = False
            except TrtcoreError as error:
                self.refused = f"{type(error).__name__}: {error.message}"
            if self.aot is None and not self.refused:
                try:
                    self.aot = trtcore.compile(
                        self.source, inputs=alone(_memory(0), program.shapes), min_block_size=1
                    )
                except TrtcoreError as error:
                    self.refused = f"{type(error).__name__}: {error.message}"

    def _ranges(self) -> list[Any]:
        low, high = map(self.program.shapes_with, SIZES)
        return [
            trtcore.Input(min_shape=low[index], opt_shape=shape, max_shape=high[index])
            if index in self.program.varying
            else trtcore.Input(shape)
            for index, shape in enumerate(self.program.shapes)
        ]

    def call(self, pattern: str, seed: int) -> None:
        """Call all with the same numbers in memory that is shared in the same way; two calls of three have other sizes
        than the first, where sizes vary."""
        asked = self.program.shapes
        other = self.program.shapes_with(SIZES[0] + seed % (SIZES[1] - SIZES[0] + 1)) if seed % 3 else asked
        if self.aot is not None:
            shapes = other if self.varies else asked
            self._compare(self.fixed, self.aot, pattern, seed, "ahead of time", shapes)
        if not self.jit_refused:
            self._compare(self.eager, self.fast, pattern, seed, "torch.compile", other)

    def update(self, kind: str) -> None:
        """Change the weight of the models. What was compiled ahead of time has its own."""
        with torch.no_grad():
            for model in (self.eager, self.live):
                (UPDATES | BUFFER_UPDATES)[kind](model)
            if self.aot is not None and kind in UPDATES:
                UPDATES[kind](self.source)

    def again(self, how: str) -> None:
        """Go on with a saved and loaded, pickled or copied module."""
        if self.aot is None:
            return
        if how == "save":
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trtcore.save(self.aot, Path(folder) / "m.pt2")
                self.aot = trtcore.load(Path(folder) / "m.pt2")
        elif how == "pickle":
            self.aot = pickle.loads(pickle.dumps(self.aot))
        else:
            self.aot = copy.deepcopy(self.aot)

    def _compare(
        self,
        eager: Any,
        ours: Any,
        pattern: str,
        seed: int,
        route: str,
        shapes: Sequence[tuple[int, ...]],
    ) -> None:
        before = {name: value.clone() for name, value in eager.named_buffers()}
        memory, own = _memory(seed), _memory(seed)
        inputs, given = (PATTERNS[pattern](one, shapes) for one in (memory, own))
        where = f"{route}, {pattern}, seed {seed}, shapes {list(shapes)}"
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                expected = eager(*inputs)
            except (
                RuntimeError,
                IndexError,
                ValueError,
                TypeError,
            ):  # sizes, or memory, that eager itself refuses
                for name, value in eager.named_buffers():
                    value.copy_(before[name])
                return
            try:
                found = ours(*given)
            except InputError as error:
                for name, value in eager.named_buffers():
                    value.copy_(before[name])
                if "must have the strides" in str(error) or "that the model takes them of has" in str(error):
                    return  # what is read or written depends on the layout, or lies behind an input: refused
                shares = pattern not in ("alone", "apart", "interleaved")
                if not (route == "ahead of time" and shares and "share memory" in str(error)):
                    raise Wrong(f"{where}: {error}") from error
                if not torch.equal(own, _memory(seed)):
                    raise Wrong(f"{where}: refused, and yet written") from error
                return
            except Exception as error:
                inner = getattr(error, "inner_exception", error)
                if route == "torch.compile" and isinstance(
                    inner, (TrtcoreError, torch._dynamo.exc.TorchDynamoException)
                ):
                    self.jit_refused = f"{type(inner).__name__}: {inner}"
                    return
                raise Wrong(f"{where}: {type(error).__name__}: {error}") from error
            self._same(where, eager, ours, expected, found, (memory, *inputs), (own, *given))
            self._written_results(where, eager, ours, expected, found, (memory, *inputs), (own, *given))

    def _same(
        self, where: str, eager: Any, ours: Any, expected: Any, found: Any, kept: Any, own: Any
    ) -> None:
        for index, (a, b) in enumerate(zip(expected, found)):
            _equal(f"{where}: result {self.program.results[index]}", a, b)
        for index, (a, b) in enumerate(zip(kept, own)):
            _equal(f"{where}: {'memory' if index == 0 else f'input {index - 1}'}", a, b)
        for name, a in eager.named_buffers():
            b = _buffer(self.live if ours is self.fast else ours, name)
            if b is not None:
                _equal(f"{where}: buffer {name}", a, b)

    def _written_results(
        self, where: str, eager: Any, ours: Any, expected: Any, found: Any, kept: Any, own: Any
    ) -> None:
        """Write to the results: what shares their memory in eager does so here, and nothing else.

        Ahead of time, results that are views in eager are left out: they may be copies.
        """
        held = [*kept, *eager.buffers(), *eager.parameters()]
        for index, (a, b) in enumerate(zip(expected, found)):
            others = [one for place, one in enumerate(expected) if place != index]
            view = any(_storage(a) == _storage(one) for one in (*held, *others))
            if ours is not self.fast and view:
                continue
            if _overlaps_itself(a):
                continue
            a.add_(1)
            b.add_(1)
        if ours is self.fast:
            self._same(f"{where}, results written", eager, ours, expected, found, kept, own)
        else:
            for index, (a, b) in enumerate(zip(kept, own)):
                _equal(f"{where}, results written: {index}", a, b)


def _memory(seed: int) -> torch.Tensor:
    return torch.randint(-2, 3, (MEMORY,), generator=torch.Generator().manual_seed(seed)).float()


def _buffer(module: Any, name: str) -> torch.Tensor | None:
    """A module's buffer; None for one that a compiled graph does not use."""
    value = getattr(module, name, None)
    return value if isinstance(value, torch.Tensor) else None


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _overlaps_itself(tensor: torch.Tensor) -> bool:
    taken = torch.zeros(tensor.untyped_storage().nbytes() // tensor.itemsize, dtype=torch.int32)
    places = torch.arange(taken.numel()).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    return bool((torch.bincount(places.flatten(), minlength=1) > 1).any()) if tensor.numel() else False


def _equal(what: str, expected: Any, found: Any) -> None:
    if not isinstance(expected, torch.Tensor):
        if expected != found:
            raise Wrong(f"{what} is {found}, eager's {expected}")
        return
    if (expected.shape, expected.dtype) != (found.shape, found.dtype):
        raise Wrong(
            f"{what} is {found.dtype}{list(found.shape)}, eager's {expected.dtype}{list(expected.shape)}"
        )
    if not torch.allclose(expected, found, rtol=1e-4, atol=1e-3, equal_nan=True):
        raise Wrong(f"{what} is {found.flatten()[:8].tolist()}, eager's {expected.flatten()[:8].tolist()}")


def drive(rng: random.Random, machine: Machine, steps: int = 8) -> None:
    """Some random steps."""
    machine.call("alone", rng.randrange(1000))
    for _ in range(steps):
        kind = rng.random()
        if kind < 0.6:
            machine.call(rng.choice(list(PATTERNS)), rng.randrange(1000))
        elif kind < 0.8:
            machine.update(rng.choice(list(UPDATES | BUFFER_UPDATES)))
        else:
            machine.again(rng.choice(("save", "pickle", "copy")))
    machine.call("apart", rng.randrange(1000))


def check(seed: int) -> dict[str, Any]:
    """One program of a seed: what became of it."""
    rng = random.Random(seed)
    program = generate(rng)
    row: dict[str, Any] = {"seed": seed}
    try:
        machine = Machine(program)
        drive(rng, machine)
    except Wrong as error:
        return row | {"outcome": "failed", "reason": str(error)[:1500], "program": program.source}
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        return row | {"outcome": "failed", "reason": text[:1500], "program": program.source}
    if machine.refused or machine.jit_refused:
        reason = f"aot: {machine.refused} | jit: {machine.jit_refused}"
        return row | {"outcome": "refused", "reason": reason[:600], "program": program.source}
    return row | {"outcome": "right", "reason": ""}


if __name__ == "__main__":
    import sys

    for number in map(int, sys.argv[1:]):
        print(generate(random.Random(number)).source)
        print(check(number))

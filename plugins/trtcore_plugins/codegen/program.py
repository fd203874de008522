"""Programs: what one generated kernel computes, as plain data.

A program is a list of ATen calls on tensors that share one iteration space, its *domain*: every dim of every
tensor is one axis of the domain, or has size 1. Which axes are reduced is the same for every reduction in it.
So a program can be evaluated in two ways that must agree: call by call in torch (`evaluate`), and as one
Triton kernel (`trtcore_plugins.codegen.plan`).

A program is stored as JSON: it holds no code, and reading one back accepts only ops that the tables in
`trtcore_plugins.codegen.rules` know.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch

from trtcore_plugins.codegen.calls import OMITTED, Call, HomeDevice, Ref, Size, Spec, references
from trtcore_plugins.codegen.rules import VIEWS, known_ops

FORMAT = 1

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    )
}  # fmt: skip
_MEMORY_FORMATS = {
    str(one).removeprefix("torch."): one
    for one in (torch.preserve_format, torch.contiguous_format, torch.channels_last, torch.channels_last_3d)
}


class ProgramError(ValueError):
    """A text that is no program, or one that this version cannot run."""


@dataclass(frozen=True)
class Program:
    """What one kernel computes.

    Attributes:
        inputs: the tensors that come in.
        calls: in an order in which they can run.
        outputs: numbers of the tensors that go out.
        rank: how many axes the domain has.
        reduced: the axes that reductions run over; () for a pointwise program.
        sizes: how many symbolic ints come in.
    """

    inputs: tuple[Spec, ...]
    calls: tuple[Call, ...]
    outputs: tuple[int, ...]
    rank: int
    reduced: tuple[int, ...]
    sizes: int = 0

    @cached_property
    def specs(self) -> tuple[Spec, ...]:
        """Every tensor of the program, by number."""
        return (*self.inputs, *(spec for call in self.calls for spec in call.results))

    @cached_property
    def text(self) -> str:
        """The program as canonical JSON."""
        return json.dumps(_to_plain(self), separators=(",", ":"), allow_nan=False)

    @cached_property
    def name(self) -> str:
        """``fused_mul_tanh_add_1f2e3d4c5b6a``: the ops, and a hash of the program. The same in every process."""
        ops = [_short(call.op) for call in self.calls if not _is_view(call.op)]
        shown = list(dict.fromkeys(ops))[:4]
        return "_".join(("fused", *shown, hashlib.sha256(self.text.encode()).hexdigest()[:12]))

    @property
    def ops(self) -> tuple[str, ...]:
        """The names of the ops it computes, without repeats."""
        return tuple(dict.fromkeys(call.op for call in self.calls))

    @staticmethod
    @lru_cache(maxsize=1024)
    def from_text(text: str) -> Program:
        """Read `text` back.

        Raises:
            ProgramError: it is no program, of another format, or names an op that is not in the tables.
        """
        try:
            program = _from_plain(json.loads(text))
        except ProgramError:
            raise
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ProgramError(f"this is no program of a generated kernel: {error!r}") from error
        _check(program)
        return program


def evaluate(
    program: Program, inputs: Sequence[torch.Tensor], sizes: Sequence[Any] = ()
) -> list[torch.Tensor]:
    """Compute a program call by call in torch, on any device, FakeTensors too."""
    return [trace[index] for trace in (evaluate_all(program, inputs, sizes),) for index in program.outputs]


def evaluate_all(
    program: Program, inputs: Sequence[torch.Tensor], sizes: Sequence[Any] = ()
) -> list[torch.Tensor]:
    """`evaluate`, with every tensor of the program by number."""
    values: list[Any] = list(inputs)
    device = inputs[0].device

    def given(argument: Any) -> Any:
        if isinstance(argument, Ref):
            return values[argument.index]
        if isinstance(argument, Size):
            return sizes[argument.index]
        if isinstance(argument, HomeDevice):
            return device
        if isinstance(argument, tuple):
            return [given(item) for item in argument]
        return argument

    for call in program.calls:
        result = resolve(call.op)(
            *(given(argument) for argument in call.args),
            **{name: given(value) for name, value in call.kwargs},
        )
        values.extend(result if isinstance(result, (tuple, list)) else (result,))
    return values


@lru_cache(maxsize=1024)
def resolve(name: str) -> Any:
    """The OpOverload of a name that a program may use.

    Raises:
        ProgramError: it is not in the tables.
    """
    try:
        return known_ops()[name]
    except KeyError:
        raise ProgramError(f"generated kernels do not know the op {name!r}") from None


# ---- JSON ------------------------------------------------------------------------------------------------


def _to_plain(program: Program) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "rank": program.rank,
        "reduced": list(program.reduced),
        "sizes": program.sizes,
        "inputs": [_spec_to_plain(spec) for spec in program.inputs],
        "calls": [
            {
                "op": call.op,
                "args": [encode(argument) for argument in call.args],
                "kwargs": {name: encode(value) for name, value in call.kwargs},
                "results": [_spec_to_plain(spec) for spec in call.results],
            }
            for call in program.calls
        ],
        "outputs": list(program.outputs),
    }


def _from_plain(plain: Any) -> Program:
    if plain["format"] != FORMAT:
        raise ProgramError(f"a program of format {plain['format']!r}; this version reads format {FORMAT}")
    calls = tuple(
        Call(
            str(call["op"]),
            tuple(decode(argument) for argument in call["args"]),
            tuple((str(name), decode(value)) for name, value in call["kwargs"].items()),
            tuple(_spec_from_plain(spec) for spec in call["results"]),
        )
        for call in plain["calls"]
    )
    inputs = tuple(_spec_from_plain(spec) for spec in plain["inputs"])
    return Program(
        inputs, calls, tuple(plain["outputs"]), plain["rank"], tuple(plain["reduced"]), plain["sizes"]
    )


def _spec_to_plain(spec: Spec) -> list[Any]:
    return [str(spec.dtype).removeprefix("torch."), list(spec.axes)]


def _spec_from_plain(plain: Any) -> Spec:
    return Spec(_DTYPES[plain[0]], tuple(int(axis) for axis in plain[1]))


def encode(value: Any) -> Any:
    """An argument as plain JSON values.

    Raises:
        ProgramError: a value that programs cannot hold.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    for kind, key in ((Ref, "tensor"), (Size, "size")):
        if isinstance(value, kind):
            return {key: value.index}
    if isinstance(value, HomeDevice):
        return {"device": "home"}
    for key, table in (("dtype", _DTYPES), ("memory_format", _MEMORY_FORMATS)):
        for name, one in table.items():
            if value is one:
                return {key: name}
    raise ProgramError(f"generated kernels cannot hold the argument {value!r}")


def decode(plain: Any) -> Any:
    """The inverse of `encode`; lists become tuples."""
    if isinstance(plain, list):
        return tuple(decode(item) for item in plain)
    if not isinstance(plain, dict):
        return plain
    ((key, value),) = plain.items()
    readers: dict[str, Callable[[Any], Any]] = {
        "tensor": lambda v: Ref(int(v)),
        "size": lambda v: Size(int(v)),
        "float": float,
        "device": lambda v: HomeDevice(),
        "dtype": _DTYPES.__getitem__,
        "memory_format": _MEMORY_FORMATS.__getitem__,
    }
    return readers[key](value)


def _check(program: Program) -> None:
    """What a damaged or foreign program would break on later."""
    count = len(program.inputs)
    if not program.inputs or not program.outputs:
        raise ProgramError("a program needs inputs and outputs")
    for call in program.calls:
        resolve(call.op)
        if any(not 0 <= index < count for index in references((call.args, *(v for _, v in call.kwargs)))):
            raise ProgramError(f"{call.op} uses a tensor that is not there yet")
        count += len(call.results)
    axes = range(OMITTED, program.rank)
    if any(axis not in axes for spec in program.specs for axis in spec.axes):
        raise ProgramError("a tensor of the program has an axis that the domain has not")
    if any(not 0 <= index < count for index in program.outputs):
        raise ProgramError("an output of the program is not there")
    if any(axis not in range(program.rank) for axis in program.reduced):
        raise ProgramError("a reduced axis of the program is not there")


def _short(op: str) -> str:
    return op.split(".")[1].strip("_")


def _is_view(op: str) -> bool:
    return resolve(op) in VIEWS

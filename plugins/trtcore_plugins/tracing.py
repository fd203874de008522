"""What a function computes of tensor sizes, for all sizes: by tracing it on FakeTensors with symbolic ones.

A trace follows one path: where the function (or torch inside it) branches on a size, it records the condition
as a guard. So the function is first run on many fixed sizes (ones, zeros and equal ones among them), and traced
wherever the expressions found so far do not give what it returned; the guards of such a trace, as many as are
needed, become the condition of a `Choice`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch

from trtcore.pack import ConversionError
from trtcore_plugins.expressions import INTEGERS, Choice, lower
from trtcore_plugins.torch_private import fake_tensors, python_dispatcher, symbolic_size

MAX_PATHS = 24
_PRIMES = (37, 41, 43, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131)
_EVEN = 48
_RANDOM_POINTS = 48

Place = tuple[int, int]
"""A dim: (tensor, dim)."""

Function = Callable[[list[torch.Tensor]], tuple[Sequence[Any], Any]]


@dataclass(frozen=True)
class TensorSpec:
    """A tensor input as tracing sees it.

    Attributes:
        dtype: its dtype.
        shape: an int per fixed dim, None per dynamic one.
    """

    dtype: torch.dtype
    shape: tuple[int | None, ...]


def symbol_name(tensor: int, dim: int) -> str:
    """The name of the symbol that stands for a dim of a traced tensor."""
    return f"d{tensor}_{dim}"


@dataclass(frozen=True)
class Traced:
    """What a function computes for all sizes.

    Attributes:
        sizes: per number that it returned, an int, a sympy expression or a `Choice`, over `symbol_name` symbols.
        rest: what it returned beside the numbers, the same on every path.
    """

    sizes: tuple[Any, ...]
    rest: Any

    def evaluate(self, shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """The numbers for tensors of these shapes."""
        values = {
            symbol_name(tensor, dim): size
            for tensor, shape in enumerate(shapes)
            for dim, size in enumerate(shape)
        }
        return tuple(lower(size, values, INTEGERS) for size in self.sizes)


def trace_sizes(function: Function, specs: Sequence[TensorSpec], what: str) -> Traced:
    """Trace `function` on tensors of all sizes.

    Args:
        function: takes FakeTensors, one per spec, and returns numbers (ints or SymInts) and anything else that
            does not depend on sizes.
        specs: the tensors.
        what: whose function it is, for errors.

    Raises:
        ConversionError: it raises on every size tried, returns something else on some of them, depends on data,
            or branches in more than `MAX_PATHS` ways.
    """
    points = _points(function, specs, what)
    rest = points[0].rest
    for point in points:
        if point.rest != rest or len(point.sizes) != len(points[0].sizes):
            raise ConversionError(f"{what} gives {rest} for some sizes and {point.rest} for others")
    paths: list[_Path] = []
    while True:
        sizes = [_learn(paths, points, i) for i in range(len(points[0].sizes))] if paths else None
        unexplained = next((p for p in points if sizes is None or not p.agrees(sizes)), None)
        if unexplained is None:
            assert sizes is not None
            return Traced(tuple(sizes), rest)
        if len(paths) >= MAX_PATHS or any(path.hints == unexplained.hints for path in paths):
            raise ConversionError(f"{what} branches on sizes in more ways than can be followed")
        paths.append(_trace(function, specs, unexplained.hints, what))


@dataclass(frozen=True)
class _Path:
    """One way through the function: what it returned, and the conditions (guards) under which it does."""

    hints: Mapping[Place, int]
    guards: tuple[Any, ...]
    sizes: tuple[Any, ...]


@dataclass(frozen=True)
class _Point:
    """What the function returned for one choice of sizes."""

    hints: Mapping[Place, int]
    sizes: tuple[int, ...]
    rest: Any
    known: dict[Any, int | None] = field(default_factory=dict, compare=False, repr=False)

    def value(self, expression: Any) -> int | None:
        """The value of an expression at these sizes; None where there is none (a division by zero)."""
        if expression not in self.known:
            try:
                symbols = {symbol_name(*place): size for place, size in self.hints.items()}
                self.known[expression] = int(lower(expression, symbols, INTEGERS))
            except ZeroDivisionError:
                self.known[expression] = None
        return self.known[expression]

    def agrees(self, sizes: Sequence[Any]) -> bool:
        return all(self.value(size) == expected for size, expected in zip(sizes, self.sizes))


def _learn(paths: Sequence[_Path], points: Sequence[_Point], index: int) -> Any:
    """Number `index`: the expression that is right at most points, and a case for each other one that is needed.

    A case's condition is its path's guards without those that the points show to be of no account.
    """
    right = {
        path.sizes[index]: {id(p) for p in points if p.value(path.sizes[index]) == p.sizes[index]}
        for path in paths
    }
    otherwise = max(right, key=lambda expression: (len(right[expression]), -len(str(expression))))
    wrong = [point for point in points if id(point) not in right[otherwise]]
    cases: list[tuple[Any, Any]] = []
    for path in paths:
        expression = path.sizes[index]
        if any(id(point) in right[expression] and _all_hold(path.guards, point) for point in wrong):
            condition = _needed(path.guards, points, right[expression])
            cases.append((sympy.And(*condition), expression))
            wrong = [point for point in wrong if not _all_hold(condition, point)]
    return Choice(cases, otherwise) if cases else otherwise


def _needed(guards: Sequence[Any], points: Sequence[_Point], right: set[int]) -> list[Any]:
    """The guards without which some point would get a wrong value."""
    outside = {guard: {id(p) for p in points if not p.value(guard)} for guard in guards}
    must_be_outside = {id(point) for point in points if id(point) not in right}
    kept = list(guards)
    # Equalities are what shapes truly depend on: inequalities are tried first, long ones before short ones.
    for guard in sorted(guards, key=lambda g: (isinstance(g, sympy.Eq), -len(str(g)))):
        others = [one for one in kept if one is not guard]
        if must_be_outside <= set().union(*(outside[one] for one in others)):
            kept = others
    return kept


def _all_hold(guards: Sequence[Any], point: _Point) -> bool:
    return all(point.value(guard) for guard in guards)


def _points(function: Function, specs: Sequence[TensorSpec], what: str) -> list[_Point]:
    """What the function returns for many sizes; those that it refuses are left out."""
    points: list[_Point] = []
    failure: Exception | None = None
    for hints in _hints(specs):
        tensors = [
            torch.empty(
                [hints[i, d] if size is None else size for d, size in enumerate(spec.shape)],
                dtype=spec.dtype,
                device="meta",
            )
            for i, spec in enumerate(specs)
        ]
        try:
            sizes, rest = function(tensors)
            points.append(_Point(hints, tuple(int(size) for size in sizes), rest))
        except Exception as error:  # these sizes do not fit each other, or the function cannot do it at all
            failure = failure or error
    if not points:
        raise ConversionError(f"{what} raises on tensors without data: {failure!r}") from failure
    return points


def _hints(specs: Sequence[TensorSpec]) -> list[dict[Place, int]]:
    """Sizes to try: all different; equal where dims line up; with ones and zeros among them; random mixtures."""
    dynamic = [(i, d) for i, spec in enumerate(specs) for d, size in enumerate(spec.shape) if size is None]
    own = {place: _PRIMES[i % len(_PRIMES)] for i, place in enumerate(dynamic)}
    from_right = {place: place[1] - len(specs[place[0]].shape) for place in dynamic}
    fixed = {
        d - len(spec.shape): size
        for spec in specs
        for d, size in enumerate(spec.shape)
        if size is not None and size != 1
    }
    aligned = {place: fixed.get(position, _PRIMES[position]) for place, position in from_right.items()}
    from_left = {place: _PRIMES[place[1]] for place in dynamic}
    even = dict.fromkeys(dynamic, _EVEN)
    found = [own, aligned, from_left, even]
    for base in (own, aligned, from_left, even):
        for special in (1, 0, 2):
            found += [{**base, **dict.fromkeys(places, special)} for places in _some_subsets(dynamic)]
    randoms = random.Random(0)
    for _ in range(_RANDOM_POINTS):
        choices = {place: (1, 1, 2, 3, 8, 4096, aligned[place], aligned[place]) for place in dynamic}
        found.append({place: randoms.choice(choices[place]) for place in dynamic})
    return list({tuple(hints.items()): hints for hints in found}.values())


def _some_subsets(places: Sequence[Place]) -> Iterator[tuple[Place, ...]]:
    every = (c for n in range(1, len(places) + 1) for c in itertools.combinations(places, n))
    return itertools.islice(every, 24)


def _trace(function: Function, specs: Sequence[TensorSpec], hints: Mapping[Place, int], what: str) -> _Path:
    """Run the function once on FakeTensors whose dynamic dims are symbols that know these sizes."""
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    environment = ShapeEnv(specialize_zero_one=False, duck_shape=False)
    names: dict[Any, Any] = {}
    with fake_tensors(environment) as mode:
        tensors = [
            _fake_tensor(mode, environment, index, spec, hints, names) for index, spec in enumerate(specs)
        ]
        before = len(environment.guards)
        with python_dispatcher():  # without it some of torch's C++ asks for sizes as numbers
            try:
                sizes, _ = function(tensors)
            except ConversionError:
                raise
            except Exception as error:
                raise ConversionError(f"{what} cannot be traced with symbolic sizes: {error!r}") from error

    def named(expression: Any) -> Any:
        return (
            environment.replace(expression).xreplace(names)
            if isinstance(expression, sympy.Basic)
            else expression
        )

    def number(size: Any) -> Any:
        if not isinstance(size, torch.SymInt):
            return int(size)
        return named(size.node.expr)

    # A guard as it was evaluated, before what it taught the environment was put in place of its symbols.
    guards = [guard.expr.xreplace(names) for guard in environment.guards[before:]]
    path = _Path(hints, tuple(dict.fromkeys(guards)), tuple(number(size) for size in sizes))
    _check_symbols(path, names)
    allowed = {0, 1, *(size for spec in specs for size in spec.shape if size is not None)}
    fixed = [guard for guard in path.guards if _fixes_a_size(guard, allowed)]
    if fixed:
        raise ConversionError(f"{what} works with a dynamic size as if it were a fixed one: {fixed[0]}")
    return path


def _fake_tensor(
    mode: Any,
    environment: Any,
    index: int,
    spec: TensorSpec,
    hints: Mapping[Place, int],
    names: dict[Any, Any],
) -> torch.Tensor:
    """A contiguous FakeTensor whose dynamic dims are fresh symbols; `names` learns what each is called here."""
    shape: list[Any] = []
    for dim, size in enumerate(spec.shape):
        if size is not None:
            shape.append(size)
            continue
        symbol, dynamic = symbolic_size(environment, symbol_name(index, dim), hints[index, dim])
        names[symbol] = sympy.Symbol(symbol_name(index, dim), integer=True, nonnegative=True)
        shape.append(dynamic)
    with mode:
        return torch.empty(shape, dtype=spec.dtype)


def _fixes_a_size(guard: Any, allowed: set[int]) -> bool:
    """Whether a guard says that a dim has one size, other than those that it may be compared with."""
    if not isinstance(guard, sympy.Eq):
        return False
    numbers = [int(side) for side in guard.args if side.is_Integer]
    return bool(numbers) and numbers[0] not in allowed and any(side.is_Symbol for side in guard.args)


def _check_symbols(path: _Path, names: Mapping[Any, Any]) -> None:
    known = set(names.values())
    for expression in (*path.sizes, *path.guards):
        strange: set[Any] = getattr(expression, "free_symbols", set()) - known
        if strange:
            raise ConversionError(f"the size {expression} depends on data: no input's shape gives it")

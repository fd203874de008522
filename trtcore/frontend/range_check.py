"""Holding an exported program to the sizes that were asked for.

torch.export traces with sizes of at least 2 and takes every branch as for the sizes that it was given. Three things can
make the captured graph another function than the model inside of the range:

- symbols in the place of sizes: ``isinstance(n, int)``, ``type(n)`` and ``str(n)`` say something else of them. The
  model and the graph are run at the smallest usual sizes;
- sizes of 0 and 1, about which it assumes without saying so. There both are run (or, where that is impossible, the
  model is exported again with these sizes and the graphs are compared);
- its guards. Each is looked at over the whole range. Where some do not hold everywhere, the model is captured again at
  sizes that they exclude, which shows what it does there, and the capture that is the model everywhere is taken.

The range is promised only if one capture is the model in all of it. A guard that leaves out nothing but sizes at which
the model itself fails stays, and refuses them at the call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch.export import ExportedProgram

from trtcore.errors import ExportError
from trtcore.frontend.comparing import Verdict, compare, differs_when_run, number
from trtcore.ir.exclusions import describe_exclusion, exclusion
from trtcore.ir.exported import guards_of, user_placeholders
from trtcore.ir.guards import Guard
from trtcore.ir.inputs import Input, InputTree, profile_count, profile_dims_at
from trtcore.ir.program import SymbolRange
from trtcore.ir.ranges import exported_ranges
from trtcore.ir.symbols import solve_linear
from trtcore.ir.torch_private import guards_code, hint, range_constraints, set_guards_code, size_interval

_MOST_CAPTURES = 4
_TRIED_PER_REGION = 4

Shapes = tuple[tuple[int, ...] | None, ...]
"""The shape of every flattened input; None for what is no tensor."""

Point = tuple[int, ...]
"""A value per symbol of a capture, in the order of its `ranges`."""


def capture_for_all_sizes(
    model: torch.nn.Module,
    ep: ExportedProgram,
    tree: InputTree,
    examples: Sequence[Any],
    capture: Callable[[Sequence[Any]], ExportedProgram],
) -> ExportedProgram:
    """An exported program that is the model for exactly the sizes that `tree` asks for.

    Args:
        ep: the capture with `examples`. It comes back, with ``range_constraints`` widened to minima of 0 and 1 and
            without the guards that were seen not to matter; or another capture, where it is not the model everywhere.
        capture: exports the model with other examples.

    Raises:
        ExportError: the model works only for a smaller range, or no capture is the model in all of it.
    """
    first = _Capture(model, ep, tree, examples)
    if not first.ranges:
        return ep
    first.check_exported_ranges()
    captures = [first]
    for point in _to_look_at(first, captures):
        leaves = first.examples_at(first.shapes_at(first.sizes(point)))
        with suppress(Exception):  # the model may not work there; then trying it says so
            captures.append(_Capture(model, capture(leaves), tree, examples))
    problems = []
    for candidate in captures:
        problem = candidate.find_problem(captures)
        if problem is None:
            candidate.promise()
            return candidate.ep
        problems.append(problem)
    raise problems[0]


def _to_look_at(first: _Capture, captures: Sequence[_Capture]) -> Iterator[Point]:
    """Sizes, one after the other, at which none of the captures (which grow meanwhile) says what the model does."""
    left = [point for point in first.excluded if min(point) >= 2]
    for _ in range(1, _MOST_CAPTURES):
        left = [point for point in left if not captures[-1].covers(first, point)]
        if not left:
            return
        yield left.pop(len(left) // 2)


class _Capture:
    """One exported program, its guards, and the ranges that were asked for of its symbols."""

    def __init__(
        self, model: torch.nn.Module, ep: ExportedProgram, tree: InputTree, examples: Sequence[Any]
    ) -> None:
        self.model, self.ep, self.tree, self.examples = model, ep, tree, examples
        self.placeholders = user_placeholders(ep)
        self.places: dict[
            str, tuple[str, int, int]
        ] = {}  # symbol -> where it is seen, as scale * symbol + offset
        self.ranges = self._asked_ranges()
        self.guards = guards_of(ep) if self.ranges else ()
        self._dims = [str(getattr(node.meta.get("val"), "shape", None)) for node in self.placeholders]
        self._dropped: set[Guard] = set()

    def _asked_ranges(self, profile: int | None = None) -> dict[str, SymbolRange]:
        """What was asked for per symbol, in one profile or over all: the intersection over the places it occurs."""
        ranges: dict[str, SymbolRange] = {}
        for name, leaf, node in zip(self.tree.names, self.tree.leaves, self.placeholders):
            if not isinstance(leaf, Input):
                continue
            dims = leaf.dims if profile is None else profile_dims_at(leaf, profile)
            for index, (overall, asked, dim) in enumerate(zip(leaf.dims, dims, node.meta["val"].shape)):
                if not overall.dynamic:
                    continue
                where = f"{name}: dimension {index}"
                if not isinstance(dim, torch.SymInt):
                    raise ExportError(
                        f"input {where} was asked for as {asked}, but the model fixes it to {int(dim)}",
                        advice="give this size as min, opt and max, or change the model to take others",
                    )
                solved = solve_linear(dim)
                if solved is None:
                    continue
                symbol, scale, offset = solved
                low, high = -(-(asked.min - offset) // scale), (asked.max - offset) // scale
                opt = (asked.opt - offset) // scale
                known = ranges.get(symbol)
                if known is not None:
                    low, high = max(low, known.min), min(high, known.max)
                if known is None or scale == 1:
                    self.places[symbol] = where, scale, offset
                ranges[symbol] = SymbolRange(symbol, low, min(max(opt, low), high), high)
        return ranges

    def check_exported_ranges(self) -> None:
        """torch.export narrows a range without a word where the model needs it (kernel > input)."""
        exported = exported_ranges(self.ep.range_constraints)
        for symbol, asked in self.ranges.items():
            low, high = exported.get(symbol, (0, None))
            # A minimum of 2 is torch's own habit, not the model's need; find_problem() looks at 0 and 1.
            low = 0 if low <= 2 else low
            high = asked.max if high is None else high
            if asked.min < low or asked.max > high:
                raise ExportError(
                    f"input {self.places[symbol][0]} was asked for as {asked.min}..{asked.max}, but the model "
                    f"works only for {max(low, asked.min)}..{min(high, asked.max)}",
                    advice="ask for this range",
                )

    def _profiles(self) -> list[Mapping[str, SymbolRange]]:
        count = profile_count(self.tree.leaves, self.tree.names)
        return [self.ranges] if count == 1 else [self._asked_ranges(index) for index in range(count)]

    def _usual(self, ranges: Mapping[str, SymbolRange]) -> dict[str, int]:
        return {name: min(max(size.opt, size.min, 2), size.max) for name, size in ranges.items()}

    # --- sizes ---

    def shapes_at(self, sizes: Mapping[str, int]) -> Shapes:
        """The shapes of the inputs for values of the symbols; those that are not given are as while tracing."""
        shapes: list[tuple[int, ...] | None] = []
        for node in self.placeholders:
            value = node.meta.get("val")
            if not isinstance(value, torch.Tensor):
                shapes.append(None)
                continue
            found = [(dim, number(dim, sizes)) for dim in value.shape]
            shapes.append(tuple(n if isinstance(n, int) else _known(dim) for dim, n in found))
        return tuple(shapes)

    def sizes_at(self, shapes: Shapes) -> dict[str, int] | None:
        """The values of the symbols for shapes of the inputs; None if there are none, or not of every symbol."""
        sizes: dict[str, int] = {}
        for node, shape in zip(self.placeholders, shapes):
            if shape is None:
                continue
            for dim, size in zip(node.meta["val"].shape, shape):
                solved = solve_linear(dim)
                if solved is None:
                    continue
                name, scale, offset = solved
                value, rest = divmod(size - offset, scale)
                if rest or sizes.setdefault(name, value) != value:
                    return None
        return sizes if self.shapes_at(sizes) == shapes and self.ranges.keys() <= sizes.keys() else None

    def sizes(self, point: Point) -> dict[str, int]:
        """The values of the symbols, by name."""
        return dict(zip(self.ranges, point))

    def covers(self, other: _Capture, point: Point) -> bool:
        """Whether this capture says what the model does at a point of another: there its guards hold, and no size is
        one that torch.export makes silent assumptions about."""
        same = self._dims == other._dims and self.ranges.keys() == other.ranges.keys()
        sizes = other.sizes(point) if same else self.sizes_at(other.shapes_at(other.sizes(point)))
        return (
            sizes is not None
            and all(sizes[name] >= 2 for name in self.ranges)
            and all(guard.holds(sizes) for guard in self.guards)
        )

    @functools.cached_property
    def excluded(self) -> dict[Point, list[Guard]]:
        """The points in the range at which guards do not hold, with these guards."""
        found: dict[Point, list[Guard]] = {}
        for ranges in self._profiles():
            usual = self._usual(ranges)
            for guard in self.guards:
                for sizes in exclusion(guard, ranges).points:
                    found.setdefault(tuple({**usual, **sizes}.values()), []).append(guard)
        return found

    def examples_at(self, shapes: Shapes) -> list[Any]:
        """The inputs, the dynamic ones with these shapes."""
        return [
            leaf.example_tensor(shape, device=example.device, seed=index)
            if isinstance(leaf, Input) and leaf.is_dynamic
            else example
            for index, (leaf, example, shape) in enumerate(zip(self.tree.leaves, self.examples, shapes))
        ]

    # --- the verdict ---

    def find_problem(self, captures: Sequence[_Capture]) -> ExportError | None:
        """What stands against promising the range; None if this capture was the model wherever that was in doubt."""
        if (problem := self._usual_problem()) is not None:
            return problem
        found: dict[Point, Verdict] = {}
        for point in self._ends_in_doubt():
            found[point] = self._verdict(point)
            if found[point].problem is not None:
                return self._error(point, found[point])
        for point in self._excluded_in_doubt(captures):
            if point not in found:
                found[point] = self._verdict(point)
            for beside in self._beside(point) if found[point].model_fails else ():
                found[beside] = found.get(beside) or self._verdict(beside)
                if not found[beside].model_fails:
                    point = beside
                    break
            if found[point].problem is not None and not found[point].model_fails:
                return self._error(point, found[point])
        right = (point for point, verdict in found.items() if verdict.problem is None)
        self._dropped = {
            guard for point in right for guard in self.guards if not guard.holds(self.sizes(point))
        }
        for point, verdict in found.items():
            kept = (guard for guard in self.guards if guard not in self._dropped)
            if verdict.model_fails and all(guard.holds(self.sizes(point)) for guard in kept):
                return self._error(point, verdict)
        return None

    def _usual_problem(self) -> ExportError | None:
        """What stands against the capture at sizes of which nothing is assumed."""
        sizes = _smallest(self.ranges)
        if min(sizes.values()) < 2 or not all(guard.holds(sizes) for guard in self.guards):
            sizes = self._usual(self.ranges)
        if min(sizes.values()) < 2 or not all(guard.holds(sizes) for guard in self.guards):
            return None
        args, kwargs = self.tree.unflatten(self.examples_at(self.shapes_at(sizes)))
        problem = differs_when_run(self.model, self.ep, args, kwargs, sizes)
        if problem is None:
            return None
        return ExportError(
            f"{type(self.model).__name__} can't be captured with sizes that vary. At {self._at(sizes)}: {problem}",
            advice="torch.export gives the model symbols for sizes, of which isinstance(n, int), type(n) and str(n) "
            "say something else than of ints; it records what a try statement catches, and once what Python makes anew "
            "in every call. Take that out of forward, or give the Inputs one size as min, opt and max",
        )

    def _verdict(self, point: Point) -> Verdict:
        sizes = self.sizes(point)
        args, kwargs = self.tree.unflatten(self.examples_at(self.shapes_at(sizes)))
        return compare(self.model, self.ep, args, kwargs, sizes)

    def _ends_in_doubt(self) -> Iterator[Point]:
        """The ends of the ranges where something is assumed silently, or a guard is false."""
        for corner in self._corners():
            if min(corner.values()) < 2 or not all(guard.holds(corner) for guard in self.guards):
                yield tuple(corner.values())

    def _excluded_in_doubt(self, captures: Sequence[_Capture]) -> Iterator[Point]:
        """Some of the excluded points of every kind: that one capture covers, and for which the same guards fail."""
        regions: dict[Any, list[Point]] = {}
        for point, guards in self.excluded.items():
            covering = (index for index, capture in enumerate(captures) if capture.covers(self, point))
            regions.setdefault((next(covering, None), tuple(guards)), []).append(point)
        for (covered, _), region in regions.items():
            count = _TRIED_PER_REGION * (3 if covered is None else 1)
            step = max((len(region) - 1) / (count - 1), 1)
            yield from (region[round(index * step)] for index in range(min(count, len(region))))

    def _beside(self, point: Point) -> Iterator[Point]:
        """Points at which one of the same guards fails, and the sizes that it does not mention are others: a model that
        fails at one may want these to be equal, or smaller."""
        sizes = self.sizes(point)
        failing = (frozenset(guard.symbols) for guard in self.guards if not guard.holds(sizes))
        for told in sorted({*failing}, key=sorted):
            others = {name: size for name, size in self.ranges.items() if name not in told}
            if not others or not told <= sizes.keys():
                continue
            most = max(sizes[name] for name in told)
            for beside in (
                {name: min(max(most, size.min), size.max) for name, size in others.items()},
                {name: size.min for name, size in others.items()},
                {name: size.max for name, size in others.items()},
            ):
                yield tuple({**sizes, **beside}.values())

    def _corners(self) -> Iterator[dict[str, int]]:
        """Per profile all minima, all maxima, and each symbol that may be 0 or 1 at its minimum beside usual sizes."""
        for ranges in self._profiles():
            usual = _smallest(ranges)
            yield {n: size.min for n, size in ranges.items()}
            yield {n: size.max for n, size in ranges.items()}
            yield from ({**usual, name: size.min} for name, size in ranges.items() if size.min < 2)

    def _error(self, point: Point, verdict: Verdict) -> ExportError:
        name, sizes = type(self.model).__name__, self.sizes(point)
        failing = [guard for guard in self.guards if not guard.holds(sizes)]
        if not failing:
            special = {symbol: value for symbol, value in sizes.items() if value < 2} or sizes
            return ExportError(
                f"{name} can't be captured for all the sizes asked for, because of {self._at(special)}: "
                f"{verdict.problem}",
                advice="ask for a range without this size (a min of 2, usually), and compile this one on its own",
            )
        guard = min(failing, key=lambda one: len(one.text))
        outside = [self.sizes(one) for one, guards in self.excluded.items() if guard in guards]
        return ExportError(
            f"{name} can't be captured for all the sizes asked for: torch.export assumed "
            f"{describe_exclusion(guard, outside, self.places)}. "
            f"At {self._at(sizes, guard.symbols)}: {verdict.problem}",
            advice="ask for sizes that the condition allows: a smaller range, or Input(profiles=[shape, ...]) with "
            "the shapes that are needed; or write the model without a branch on the size",
        )

    def _at(self, sizes: Mapping[str, int], symbols: Iterable[str] | None = None) -> str:
        texts = []
        for name in sizes if symbols is None else symbols:
            if name in self.places:
                where, scale, offset = self.places[name]
                texts.append(f"{where} = {scale * sizes[name] + offset}")
        return ", ".join(texts)

    def promise(self) -> None:
        """Put what was checked into the exported program."""
        constraints = range_constraints(self.ep)
        for expression in list(constraints):
            solved = solve_linear(expression)
            if solved is None or solved[0] not in self.ranges:
                continue
            symbol, scale, offset = solved
            asked = self.ranges[symbol]
            constraints[expression] = size_interval(scale * asked.min + offset, scale * asked.max + offset)
        if self._dropped:
            code = guards_code(self.ep)
            kept = [one for one in code if self._dropped.isdisjoint(guards_of(self.ep, [one]))]
            set_guards_code(self.ep, kept)


def _smallest(ranges: Mapping[str, SymbolRange]) -> dict[str, int]:
    """The smallest sizes of which torch.export assumes nothing, where the ranges have such."""
    return {name: min(max(size.min, 2), size.max) for name, size in ranges.items()}


def _known(dim: Any) -> int:
    """The size while tracing, of a dimension that nothing was asked for about."""
    size = hint(dim)
    assert size is not None
    return size

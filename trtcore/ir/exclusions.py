"""Which sizes of a promised range a guard excludes: by enumeration, or for wide ranges by interval arithmetic."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trtcore.ir.expressions import parse_condition
from trtcore.ir.guards import Guard
from trtcore.ir.program import SymbolRange, profile_ranges

MOST_POINTS = 20_000
_GRID = 4096

Point = Mapping[str, int]
"""A value per symbol."""


@dataclass(frozen=True)
class Exclusion:
    """The sizes in a range for which a guard does not hold.

    Attributes:
        points: values of the guard's symbols, in rising order.
        exact: whether these are all. If not, the range was too wide to try every size.
    """

    guard: Guard
    points: tuple[Point, ...]
    exact: bool


Places = Mapping[str, tuple[str, int, int]]
"""Where each symbol is seen: a name of the place, which has the size scale * symbol + offset, scale, offset."""


def describe_exclusion(guard: Guard, points: Sequence[Point], places: Places) -> str:
    """``x.size()[1] % 2 == 0, which leaves out x: dimension 1 = 9, 11, 13``."""
    texts = []
    for symbol in guard.symbols:
        if symbol in places:
            where, scale, offset = places[symbol]
            texts.append(f"{where} = {_some(sorted({scale * point[symbol] + offset for point in points}))}")
    return f"{guard.text}, which leaves out {'; '.join(texts)}"


def _some(values: Sequence[int]) -> str:
    """Numbers for a message: all of a few, else the first ones and how many there are."""
    listed = ", ".join(map(str, values[:6]))
    return listed if len(values) <= 6 else f"{listed}, ... ({len(values)} sizes)"


def exclusion(guard: Guard, ranges: Mapping[str, SymbolRange]) -> Exclusion:
    """What `guard` excludes of `ranges` (of each optimisation profile, where there are several)."""
    found: dict[tuple[int, ...], Point] = {}
    exact = True
    condition = parse_condition(guard.expression)
    for profile in profile_ranges({name: ranges[name] for name in guard.symbols}):
        if not _always(guard, profile):
            points, complete = points_of(profile, MOST_POINTS, _GRID)
            exact = exact and complete
            failing = (point for point in points if not condition.holds(point))
            found.update((tuple(point.values()), point) for point in failing)
    return Exclusion(guard, tuple(found[key] for key in sorted(found)), exact)


def holds_everywhere(guard: Guard, ranges: Mapping[str, SymbolRange]) -> bool:
    """Whether a guard was proved for all sizes of the ranges."""
    excluded = exclusion(guard, ranges)
    return excluded.exact and not excluded.points


def points_of(ranges: Mapping[str, SymbolRange], most: int, grid: int) -> tuple[Iterator[Point], bool]:
    """Sizes within ranges, and whether these are all: so where there are at most `most`, else about `grid`."""
    count = 1
    for size in ranges.values():
        count *= size.max - size.min + 1
    complete = count <= most
    each = grid if complete or not ranges else int(grid ** (1 / len(ranges)))
    values = [
        range(size.min, size.max + 1) if complete else _spread(size.min, size.max, each)
        for size in ranges.values()
    ]
    return (dict(zip(ranges, point)) for point in itertools.product(*values)), complete


def _spread(low: int, high: int, count: int) -> list[int]:
    """`count` numbers or fewer from `low` to `high`, both included, of every remainder: runs at even distances."""
    if high - low < count:
        return list(range(low, high + 1))
    run = min(16, max(1, count // 2))
    starts = max(count // run, 2)
    found = {
        min(low + index * (high - low) // (starts - 1) + step, high)
        for index in range(starts)
        for step in range(run)
    }
    return sorted(found | set(range(max(low, high - run + 1), high + 1)))


def _always(guard: Guard, ranges: Mapping[str, SymbolRange]) -> bool:
    """Whether interval arithmetic proves the guard."""
    try:
        return guard.holds({name: _Interval(size.min, size.max) for name, size in ranges.items()})
    except (_Undecided, TypeError, ValueError, AttributeError, AssertionError):
        return False


class _Undecided(Exception):
    """The intervals do not decide a comparison."""


class _Interval:
    """Whole numbers from `low` to `high`, with the arithmetic that conditions use."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def _with(self, other: Any, function: Callable[[int, int], int], swapped: bool = False) -> _Interval:
        if isinstance(other, float):
            raise _Undecided
        low, high = (other.low, other.high) if isinstance(other, _Interval) else (other, other)
        pairs = itertools.product((self.low, self.high), (low, high))
        ends = [function(b, a) if swapped else function(a, b) for a, b in pairs]
        return _Interval(min(ends), max(ends))

    def __add__(self, other: Any) -> _Interval:
        return self._with(other, lambda a, b: a + b)

    def __sub__(self, other: Any) -> _Interval:
        return self._with(other, lambda a, b: a - b)

    def __rsub__(self, other: Any) -> _Interval:
        return self._with(other, lambda a, b: a - b, swapped=True)

    def __mul__(self, other: Any) -> _Interval:
        return self._with(other, lambda a, b: a * b)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> _Interval:
        return _Interval(-self.high, -self.low)

    def __floordiv__(self, other: Any) -> _Interval:
        return self._with(_positive(other), lambda a, b: a // b)

    def __mod__(self, other: Any) -> _Interval:
        divisor = _positive(other)
        if self.low >= 0 and self.high < divisor.low:
            return self
        return _Interval(0, divisor.high - 1)

    def __lt__(self, other: Any) -> bool:
        return _decided(self - other, lambda low, high: (high < 0, low >= 0))

    def __le__(self, other: Any) -> bool:
        return _decided(self - other, lambda low, high: (high <= 0, low > 0))

    def __gt__(self, other: Any) -> bool:
        return _decided(self - other, lambda low, high: (low > 0, high <= 0))

    def __ge__(self, other: Any) -> bool:
        return _decided(self - other, lambda low, high: (low >= 0, high < 0))

    def __eq__(self, other: object) -> bool:
        return _decided(self - other, lambda low, high: (low == high == 0, high < 0 or low > 0))

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]


def _positive(divisor: Any) -> _Interval:
    found = divisor if isinstance(divisor, _Interval) else _Interval(divisor, divisor)
    if found.low < 1:
        raise _Undecided
    return found


def _decided(difference: _Interval, verdicts: Callable[[int, int], tuple[bool, bool]]) -> bool:
    true, false = verdicts(difference.low, difference.high)
    if not (true or false):
        raise _Undecided
    return true

"""Finite ranges for the size symbols of a program: what was exported, cut by what the user asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch

from trtcore.errors import InputError
from trtcore.ir.program import InputSpec, SymbolRange, profile_ranges
from trtcore.ir.symbols import bounds, free_symbols, solve_linear
from trtcore.ir.torch_private import expression, hint, interval_bounds, is_data_symbol

Asked = tuple[int | None, int, int | None]


@dataclass(frozen=True)
class InputRange:
    """The ``(min, opt, max)`` that were asked for per dimension; None where only a size is known.

    `profiles` has them per optimisation profile, for an input that asks for several.
    """

    dims: tuple[Asked, ...]
    profiles: tuple[tuple[Asked, ...], ...] = ()

    def in_profile(self, index: int) -> InputRange:
        """What is asked for in one profile; the same in all, for an input that does not ask for several."""
        return InputRange(self.profiles[index]) if self.profiles else self


@dataclass(frozen=True)
class _Occurrence:
    """One place among the inputs whose size is ``scale * symbol + offset``."""

    where: str
    scale: int
    offset: int
    asked: Asked | None
    hint: int | None

    def to_symbol(self, size: int, up: bool) -> int:
        """The symbol's value for a size, rounded up or down into the range."""
        number = size - self.offset
        return -(-number // self.scale) if up else number // self.scale


def symbol_ranges(
    specs: Sequence[InputSpec],
    placeholders: Sequence[torch.fx.Node],
    constraints: Mapping[sympy.Expr, Any],
    asked: Sequence[InputRange | None],
) -> dict[str, SymbolRange]:
    """The range of every symbol in the inputs' shapes.

    Args:
        specs, placeholders: of the program, in the same order.
        constraints: the exported program's ``range_constraints``.
        asked: what the user gave per input; None for nothing. Those with several profiles have equally many.

    Raises:
        InputError: nothing bounds a size from above; what was asked for leaves the exported range, or
            contradicts another input that has the same symbol.
    """
    exported = exported_ranges(constraints)

    def ranges(asked: Sequence[InputRange | None]) -> dict[str, SymbolRange]:
        return {
            name: _symbol_range(name, found, *exported.get(name, (0, None)))
            for name, found in _occurrences(specs, placeholders, asked).items()
        }

    count = max((len(one.profiles) for one in asked if one is not None), default=0)
    if count == 0:
        return ranges(asked)
    return _span_of([ranges([one and one.in_profile(index) for one in asked]) for index in range(count)])


LARGEST_SIZE = torch.iinfo(torch.int32).max
"""A larger bound than this is none: torch has it for sizes of which nothing is known."""


@dataclass(frozen=True)
class SizeBound:
    """``size <= limit`` (or ``>=``) of a size that data decide.

    Attributes:
        name: of its symbol.
        limit: an int or an expression of other sizes.
        upper: whether it is at most the limit, and not at least.
    """

    name: str
    limit: sympy.Expr | int
    upper: bool = True


def asserted_bounds(conditions: Iterable[sympy.Expr]) -> list[SizeBound]:
    """What conditions as ``u0 <= s77`` say of sizes that data decide; others say nothing."""
    found = []
    for condition in conditions:
        if not isinstance(condition, (sympy.Le, sympy.Lt, sympy.Ge, sympy.Gt)):
            continue
        strict = 1 if isinstance(condition, (sympy.Lt, sympy.Gt)) else 0
        below = condition.lts - condition.gts + strict  # at most 0
        for symbol in below.free_symbols:
            scale = below.coeff(symbol, 1)
            rest = sympy.expand(below - scale * symbol)
            if is_data_symbol(symbol.name) and scale in (1, -1) and symbol not in rest.free_symbols:
                found.append(SizeBound(symbol.name, -scale * rest, upper=bool(scale == 1)))
    return found


def data_ranges(
    constraints: Mapping[sympy.Expr, Any],
    symbols: Mapping[str, SymbolRange],
    size_bounds: Iterable[SizeBound] = (),
) -> dict[str, SymbolRange]:
    """The range of every size that data decide and something bounds from above: ``torch._check``, or what makes it.

    Tuned for is the middle of a range, with other sizes as they are tuned for.

    Args:
        constraints: intervals of symbols, as an exported program's ``range_constraints``.
        symbols: of the sizes of inputs, and others that are known; with several optimisation profiles, these have them.
        size_bounds: by other sizes; those by unknown ones say nothing.
    """
    known = {name: span for name, span in exported_ranges(constraints).items() if is_data_symbol(name)}
    limits = [one for one in size_bounds if all(name in symbols for name in free_symbols([one.limit]))]
    names = [name for name in dict.fromkeys([*known, *(one.name for one in limits)]) if name not in symbols]
    several = profile_ranges(symbols)
    found: list[dict[str, SymbolRange]] = [{} for _ in several]
    for name in names:
        own = [one for one in limits if one.name == name]
        spans = [_data_range(name, known.get(name, (0, None)), own, ranges) for ranges in several]
        for index, span in enumerate(spans):
            if span is not None and None not in spans:
                found[index][name] = span
    return found[0] if len(found) == 1 else _span_of(found)


def _data_range(
    name: str, span: tuple[int, int | None], limits: Sequence[SizeBound], ranges: Mapping[str, SymbolRange]
) -> SymbolRange | None:
    """The range in one profile; None where nothing bounds it from above."""
    above = [bounds(one.limit, ranges) for one in limits if one.upper]
    low = max(span[0], 0, *(bounds(one.limit, ranges)[0] for one in limits if not one.upper))
    most = [high for high in (span[1], *(high for _, _, high in above)) if high is not None]
    if not most or min(most) > LARGEST_SIZE:
        return None
    high = max(min(most), low)
    opt = (low + min([high, *(opt for _, opt, _ in above)])) // 2
    return SymbolRange(name, low, min(max(opt, low), high), high)


def _span_of(profiles: Sequence[Mapping[str, SymbolRange]]) -> dict[str, SymbolRange]:
    """Ranges that span those of the profiles, and keep them."""
    first, *_ = profiles
    return {
        name: SymbolRange(
            name,
            min(profile[name].min for profile in profiles),
            first[name].opt,
            max(profile[name].max for profile in profiles),
            tuple((profile[name].min, profile[name].opt, profile[name].max) for profile in profiles),
        )
        for name in first
    }


def _occurrences(
    specs: Sequence[InputSpec], placeholders: Sequence[torch.fx.Node], asked: Sequence[InputRange | None]
) -> dict[str, list[_Occurrence]]:
    found: dict[str, list[_Occurrence]] = {}
    unsolved: dict[str, str] = {}
    for spec, node, wanted in zip(specs, placeholders, asked):
        value = node.meta.get("val")
        dims = value.shape if isinstance(value, torch.Tensor) else (value,) if spec.kind == "symint" else ()
        for index, dim in enumerate(dims):
            if not isinstance(dim, torch.SymInt):
                continue
            where = spec.name if spec.kind == "symint" else f"{spec.name}: dimension {index}"
            solved = solve_linear(dim)
            if solved is None:
                unsolved.update((symbol.name, where) for symbol in expression(dim).free_symbols)
                continue
            name, scale, offset = solved
            request = wanted.dims[index] if wanted is not None else None
            found.setdefault(name, []).append(_Occurrence(where, scale, offset, request, hint(dim)))
    for name, where in unsolved.items():
        if name not in found:
            raise InputError(
                f"input {where} has a size that is no linear expression of one symbol, and {name} occurs "
                "nowhere else",
                advice="export with one Dim per independent size",
            )
    return found


def exported_ranges(
    constraints: Mapping[sympy.Expr, Any],
) -> dict[str, tuple[int, int | None]]:
    """``(min, max or None)`` of each symbol, from constraints on it and on linear expressions of it."""
    ranges: dict[str, tuple[int, int | None]] = {}
    for size, interval in constraints.items():
        solved = solve_linear(size)
        if solved is None:
            continue
        name, scale, offset = solved
        low, high = ranges.get(name, (0, None))
        bottom, top = interval_bounds(interval)
        if bottom is not None:
            low = max(low, -(-(bottom - offset) // scale))
        if top is not None:
            upper = (top - offset) // scale
            high = upper if high is None else min(high, upper)
        ranges[name] = (low, high)
    return ranges


def _symbol_range(
    name: str, occurrences: Sequence[_Occurrence], exported_low: int, exported_high: int | None
) -> SymbolRange:
    low, high = _asked_range(occurrences)
    first = occurrences[0]
    # torch's own default for Dim(min=) is 0, although it traces with at least 2; nobody means empty tensors.
    floor = exported_low if low is not None else max(exported_low, 1)
    if (
        low is not None
        and high is not None
        and (low < exported_low or (exported_high is not None and high > exported_high))
    ):
        allowed = _span(first, exported_low, exported_high)
        raise InputError(
            f"input {first.where} is asked for as {_span(first, low, high)}, but the program was exported "
            f"for {allowed}",
            advice="ask for a range inside it, or export again with a wider torch.export.Dim(min=, max=); sizes of 0 "
            "and 1, which torch.export leaves out, are looked at where the model itself is given: "
            "trtcore.compile(model, inputs)",
        )
    low = floor if low is None else low
    high = exported_high if high is None else high
    if high is None:
        raise InputError(
            f"input {first.where} has no upper bound, and an engine needs one",
            advice=f"export with torch.export.Dim(..., max=...), or give trtcore.Input(max_shape=...) for "
            f"{first.where.partition(':')[0]}",
        )
    if low > high:
        raise InputError(f"input {first.where}: no size fits the exported range {_span(first, low, high)}")
    return SymbolRange(name, low, _opt(occurrences, low, high), high)


def _asked_range(occurrences: Sequence[_Occurrence]) -> tuple[int | None, int | None]:
    """The intersection of what was asked for at all places that share the symbol."""
    low: int | None = None
    high: int | None = None
    for place in occurrences:
        if place.asked is None or place.asked[0] is None or place.asked[2] is None:
            continue
        bottom, top = place.to_symbol(place.asked[0], True), place.to_symbol(place.asked[2], False)
        low = bottom if low is None else max(low, bottom)
        high = top if high is None else min(high, top)
        if low > high:
            raise InputError(
                "these inputs always have the same size in the model, but no size fits all that was asked "
                "for: " + _list_asked(occurrences)
            )
    return low, high


def _opt(occurrences: Sequence[_Occurrence], low: int, high: int) -> int:
    """The tuned value: what was asked for, else the size it was exported with, within the range."""
    wanted = {place.to_symbol(place.asked[1], False) for place in occurrences if place.asked is not None}
    if len(wanted) > 1:
        raise InputError(
            "these inputs always have the same size in the model, but different opt sizes were given: "
            + _list_asked(occurrences),
            advice="give them the same opt_shape there",
        )
    if wanted:
        (value,) = wanted
        if not low <= value <= high:
            place = occurrences[0]
            raise InputError(
                f"input {place.where} has size {place.scale * value + place.offset}, "
                f"allowed is {_span(place, low, high)}"
            )
        return value
    hints = [place.to_symbol(place.hint, False) for place in occurrences if place.hint is not None]
    return min(max(hints[0] if hints else high, low), high)


def _list_asked(occurrences: Sequence[_Occurrence]) -> str:
    parts = []
    for place in occurrences:
        if place.asked is not None:
            low, opt, high = place.asked
            parts.append(f"{place.where} {opt if low is None else f'{low}..{high} (opt {opt})'}")
    return "; ".join(parts)


def _span(place: _Occurrence, low: int, high: int | None) -> str:
    """A symbol's range as sizes at this place."""
    top = "unbounded" if high is None else place.scale * high + place.offset
    return f"{place.scale * low + place.offset}..{top}"

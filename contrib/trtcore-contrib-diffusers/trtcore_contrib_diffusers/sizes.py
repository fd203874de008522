"""The sizes that a pipeline is compiled for: numbers, ranges, and lists of them, as optimisation profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trtcore.errors import InputError

Range = tuple[int, int, int]
"""(min, opt, max)."""

_MEANING = "a number, (min, opt, max), or a list of these with one for each profile"


@dataclass(frozen=True)
class Sizes:
    """What a pipeline serves.

    Attributes:
        profiles: for each optimisation profile the range of each size, by the name of the pipeline's argument;
            ``batch`` is the number of prompts.
    """

    profiles: tuple[Mapping[str, Range], ...]

    @classmethod
    def of(cls, **given: Any) -> Sizes:
        """From the arguments of `compile_pipeline`; None leaves a size to the pipeline.

        Raises:
            InputError: a size is none; lists differ in their lengths.
        """
        rows = {name: _ranges(name, value) for name, value in given.items() if value is not None}
        counts = {name: len(found) for name, found in rows.items() if len(found) > 1}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise InputError(
                f"lists of sizes give one for each profile, and differ in length: {told}",
                advice="give lists of one length, and one number where a size is the same in all profiles",
            )
        count = max(counts.values(), default=1)
        return cls(
            tuple(
                {name: found[index if len(found) > 1 else 0] for name, found in rows.items()}
                for index in range(count)
            )
        )

    def corners(self, profile: int) -> list[dict[str, int]]:
        """The sizes of the runs that show a profile's shapes: usual, smallest, largest; each once."""
        row = self.profiles[profile]
        found = [{name: sizes[place] for name, sizes in row.items()} for place in (1, 0, 2)]
        return [sizes for index, sizes in enumerate(found) if sizes not in found[:index]]

    def __str__(self) -> str:
        return "; or ".join(
            ", ".join(f"{name} {_told(sizes)}" for name, sizes in row.items()) for row in self.profiles
        )


def _told(sizes: Range) -> str:
    low, _, high = sizes
    return str(low) if low == high else f"{low} to {high}"


def _ranges(name: str, value: Any) -> list[Range]:
    if isinstance(value, list):
        if not value:
            raise InputError(f"{name}=[] has no size", advice=f"{name} is {_MEANING}")
        return [_range(name, one) for one in value]
    return [_range(name, value)]


def _range(name: str, value: Any) -> Range:
    sizes = (value,) * 3 if isinstance(value, int) else value
    whole = (
        isinstance(sizes, Sequence)
        and len(sizes) == 3
        and all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
    )
    if not whole or not 0 < sizes[0] <= sizes[1] <= sizes[2]:
        raise InputError(
            f"{name}={value!r} is no size", advice=f"{name} is {_MEANING}; with 0 < min <= opt <= max"
        )
    return tuple(sizes)

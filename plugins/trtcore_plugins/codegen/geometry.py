"""From shapes and strides to what a kernel sees: axes in memory order, merged, split into rows and columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trtcore_plugins.codegen.source import FLAT_GIVEN, FLAT_ONE, GIVEN, GIVEN_TIMES, ONE, ZERO, Pattern


@dataclass(frozen=True)
class Axis:
    """One axis: its size, and the stride of each operand along it (0 where the operand does not move)."""

    size: int
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Side:
    """The rows' or the columns' axes, outermost first."""

    axes: tuple[Axis, ...]

    @property
    def size(self) -> int:
        return math.prod(axis.size for axis in self.axes)

    def strides(self, operand: int) -> tuple[int, ...]:
        return tuple(axis.strides[operand] for axis in self.axes)

    def pattern(self, operand: int) -> Pattern:
        """How the operand moves along this side."""
        strides = self.strides(operand)
        if len(strides) > 1 and strides[-1] and self._contiguous(strides):
            return (FLAT_ONE if strides[-1] == 1 else FLAT_GIVEN,)
        return tuple(_kind(stride) for stride in strides)

    def _contiguous(self, strides: Sequence[int]) -> bool:
        return all(strides[at] == strides[at + 1] * self.axes[at + 1].size for at in range(len(strides) - 1))

    def last_stride(self, operand: int) -> int:
        """The stride of a flat pattern."""
        return self.axes[-1].strides[operand] if self.axes else 0


def _kind(stride: int) -> str:
    if stride in (0, 1):
        return ONE if stride else ZERO
    return GIVEN_TIMES.get(multiple(stride), GIVEN)


def multiple(number: int) -> int:
    """What a kernel is told that a number is a multiple of: 8, 4, or nothing (1). Of 16 Triton takes note itself."""
    return 1 if number % 16 == 0 else next((one for one in (8, 4) if number % one == 0), 1)


def merged(axes: Sequence[Axis]) -> Side:
    """Neighbours that every operand walks through as if they were one become one; axes of size 1 go."""
    found: list[Axis] = []
    for axis in axes:
        if axis.size == 1:
            continue
        outer = found[-1] if found else None
        if outer and all(o == i * axis.size for o, i in zip(outer.strides, axis.strides)):
            found[-1] = Axis(outer.size * axis.size, axis.strides)
        else:
            found.append(axis)
    return Side(tuple(found))


def in_memory_order(axes: Sequence[Axis], leading: Sequence[int]) -> list[Axis]:
    """Axes with the largest strides of the `leading` operands first."""
    return sorted(axes, key=lambda axis: [-axis.strides[operand] for operand in leading])


def split_pointwise(axes: Sequence[Axis], outputs: Sequence[int], operands: int) -> tuple[Side, Side, bool]:
    """Rows and columns of a pointwise program, and whether an operand is transposed against the outputs."""
    leading = [*outputs, *(one for one in range(operands) if one not in outputs)]
    whole = merged(in_memory_order(axes, leading)).axes
    if len(whole) <= 1:
        return Side(()), Side(whole), False
    *outer, inner = whole
    for operand in range(operands):
        across = [axis for axis in outer if axis.strides[operand] == 1]
        if across and inner.strides[operand] > 1:
            rest = [axis for axis in outer if axis is not across[0]]
            return merged([*rest, across[0]]), Side((inner,)), True
    if (inner.size >= 512 and inner.size % 8 == 0) or (inner.size >= 128 and inner.size % 16 == 0):
        return merged(outer), Side((inner,)), False
    return Side(()), Side(whole), False


def largest_offset(sides: Sequence[Side], operands: int) -> int:
    """The furthest element, of any operand or of the domain."""
    offsets = [
        sum((axis.size - 1) * axis.strides[operand] for side in sides for axis in side.axes)
        for operand in range(operands)
    ]
    return max([math.prod(side.size for side in sides), *offsets])

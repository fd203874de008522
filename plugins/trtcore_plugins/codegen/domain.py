"""Finding the domain of a group of calls: which dim of which tensor is which axis.

Dims that an op lines up are one axis. A group is one program if every tensor has an axis at most once, some
tensor has all of them, and all reductions run over the same axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trtcore_plugins.codegen.calls import OMITTED, Ref, references
from trtcore_plugins.codegen.rules import (
    CREATIONS,
    POINTWISE,
    REDUCTIONS,
    ROW_NORMS,
    Unsupported,
    aten,
    bound,
)

Dim = tuple[int, int]


@dataclass(frozen=True)
class Step:
    """A call before its domain is known: op, arguments (with Refs), numbers of its results."""

    op: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[int, ...]


@dataclass(frozen=True)
class Domain:
    """rank: how many axes; reduced: which are reduced; axes: per tensor, the axis of each dim."""

    rank: int
    reduced: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]


def find_domain(shapes: Sequence[Sequence[Any]], steps: Sequence[Step], outputs: Sequence[int]) -> Domain:
    """The domain of a group of calls.

    Args:
        shapes: of every tensor by number; dims are ints or, where symbolic, sympy expressions.

    Raises:
        Unsupported: the group is not one kernel; says why.
    """
    finder = _Finder(shapes)
    for step in steps:
        finder.visit(step)
    return finder.domain(outputs)


class _Finder:
    def __init__(self, shapes: Sequence[Sequence[Any]]) -> None:
        self.shapes = shapes
        self.parent: dict[Dim, Dim] = {}
        self.used: set[int] = set()
        self.reductions: list[
            tuple[int, tuple[int, ...], bool]
        ] = []  # (what is reduced, its dims, in order?)

    # -- lining dims up -------------------------------------------------------------------------------------

    def visit(self, step: Step) -> None:
        arguments = bound(step.op, step.args, step.kwargs)
        self.used.update(step.results, references(tuple(arguments.values())))
        if step.op in CREATIONS:
            return
        if step.op in POINTWISE:
            for source in references(tuple(arguments.values())):
                self.broadcast(source, step.results[0])
        elif step.op in REDUCTIONS:
            self._reduction(step, arguments)
        elif step.op in ROW_NORMS:
            self._row_norm(step, arguments)
        else:
            self._view(step, arguments)

    def broadcast(self, source: int, result: int) -> None:
        shift = len(self.shapes[result]) - len(self.shapes[source])
        for dim in range(len(self.shapes[source])):
            self._unite((source, dim), (result, dim + shift))

    def _reduction(self, step: Step, arguments: Mapping[str, Any]) -> None:
        source = next(iter(arguments.values())).index
        rank = len(self.shapes[source])
        given = arguments.get("dim")
        dims = (
            range(rank) if given is None or given == () else given if isinstance(given, tuple) else (given,)
        )
        reduced = sorted({dim % rank for dim in dims}) if rank else []
        self._reduces(source, reduced, ordered="arg" in str(step.op) or len(step.results) == 2)
        kept = [dim for dim in range(rank) if dim not in reduced]
        for result in step.results:
            positions = kept if arguments.get("keepdim") else range(len(kept))
            for dim, position in zip(kept, positions):
                self._unite((source, dim), (result, position))

    def _row_norm(self, step: Step, arguments: Mapping[str, Any]) -> None:
        sources = [value for value in arguments.values() if isinstance(value, Ref)]
        row, rank = sources[0].index, len(self.shapes[sources[0].index])
        if "dim" in arguments:
            reduced = [arguments["dim"] % rank] if rank else []
        else:
            reduced = list(range(rank - len(arguments["normalized_shape"]), rank))
        self._reduces(row, reduced, ordered=False)
        for source in sources:
            self.broadcast(source.index, step.results[0])
        for result in step.results[1:]:
            for dim in range(rank):
                if dim not in reduced:
                    self._unite((row, dim), (result, dim))

    def _reduces(self, source: int, dims: Sequence[int], *, ordered: bool) -> None:
        wide = tuple(dim for dim in dims if not self._unit((source, dim)))
        if not wide:
            raise Unsupported("a reduction over dims of size 1")
        self.reductions.append((source, wide, ordered and len(wide) > 1))

    def _view(self, step: Step, arguments: Mapping[str, Any]) -> None:
        source, result = next(iter(arguments.values())).index, step.results[0]
        rank = len(self.shapes[source])
        if step.op is aten.expand.default:
            self.broadcast(source, result)
            return
        if step.op in (aten.permute.default, aten.transpose.int, aten.t.default):
            order = list(range(rank))
            if step.op is aten.permute.default:
                order = [dim % rank for dim in arguments["dims"]]
            elif rank > 1 or step.op is aten.transpose.int:
                one, two = (
                    (arguments.get("dim0", 0) % rank, arguments.get("dim1", 1) % rank) if rank else (0, 0)
                )
                if rank:
                    order[one], order[two] = order[two], order[one]
            for position, dim in enumerate(order):
                self._unite((source, dim), (result, position))
            return
        before = [dim for dim in range(rank) if not self._unit((source, dim))]
        after = [dim for dim in range(len(self.shapes[result])) if not self._unit((result, dim))]
        sizes = [self.shapes[source][dim] for dim in before], [self.shapes[result][dim] for dim in after]
        if sizes[0] != sizes[1]:
            raise Unsupported("a view that splits or merges dims")
        for one, two in zip(before, after):
            self._unite((source, one), (result, two))

    def _unit(self, dim: Dim) -> bool:
        return bool(self.shapes[dim[0]][dim[1]] == 1)

    def _unite(self, one: Dim, two: Dim) -> None:
        if not self._unit(one) and not self._unit(two):
            self.parent[self._root(one)] = self._root(two)

    def _root(self, dim: Dim) -> Dim:
        path = []
        while (up := self.parent.get(dim, dim)) != dim:
            path.append(dim)
            dim = up
        for one in path:
            self.parent[one] = dim
        return dim

    # -- the domain -----------------------------------------------------------------------------------------

    def domain(self, outputs: Sequence[int]) -> Domain:
        used = {*outputs, *self.used}
        kinds = [
            self._classes(tensor) if tensor in used else [None] * len(shape)
            for tensor, shape in enumerate(self.shapes)
        ]
        everything = {one for classes in kinds for one in classes if one is not None}
        order = self._order(kinds, everything, outputs)
        number = {root: axis for axis, root in enumerate(order)}
        axes = tuple(
            tuple(OMITTED if root is None else number[root] for root in classes) for classes in kinds
        )
        reduced = self._reduced(axes, len(order))
        for output in outputs:
            have = {axis for axis in axes[output] if axis != OMITTED}
            if have not in ({*range(len(order))}, {*range(len(order))} - {*reduced}):
                raise Unsupported("a result that is smaller than what the kernel computes")
        return Domain(len(order), reduced, axes)

    def _classes(self, tensor: int) -> list[Dim | None]:
        classes = [
            None if self._unit((tensor, dim)) else self._root((tensor, dim))
            for dim in range(len(self.shapes[tensor]))
        ]
        wide = [one for one in classes if one is not None]
        if len(set(wide)) < len(wide):
            raise Unsupported("a tensor that is combined with its own transpose")
        return classes

    @staticmethod
    def _order(
        kinds: Sequence[Sequence[Dim | None]], everything: set[Dim], outputs: Sequence[int]
    ) -> list[Dim]:
        for tensor in (*outputs, *range(len(kinds))):
            wide = [one for one in kinds[tensor] if one is not None]
            if set(wide) == everything:
                if not wide:
                    raise Unsupported("tensors of one element")
                return wide
        raise Unsupported("no tensor has all the dims: the calls share no loop")

    def _reduced(self, axes: Sequence[tuple[int, ...]], rank: int) -> tuple[int, ...]:
        found: set[tuple[int, ...]] = set()
        for source, dims, ordered in self.reductions:
            if {axis for axis in axes[source] if axis != OMITTED} != {*range(rank)}:
                raise Unsupported("a reduction of a smaller tensor than the kernel loops over")
            over = tuple(axes[source][dim] for dim in dims)
            if ordered and list(over) != sorted(over):
                raise Unsupported("an index into dims that the kernel sees in another order")
            found.add(tuple(sorted(over)))
        if len(found) > 1:
            raise Unsupported("reductions over different dims")
        return found.pop() if found else ()

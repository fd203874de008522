"""What a snapshot says before any of it runs: the order of layers, their loops, and where tensors live.

Shapes are computed on the CPU, everything else on the device of the inputs. A tensor is on the host if it
depends only on shapes, constants and integer inputs of rank 0 or 1, and something needs it there (the target
of a reshape, the size of a slice ...).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import torch

from trtcore.pack import ConversionError, LayerSnapshot, NetworkSnapshot

#: Inputs that a layer reads as integers while it runs; they are wanted on the CPU.
HOST_INPUTS: Mapping[str, frozenset[int]] = {
    "SHUFFLE": frozenset({1}),
    "SLICE": frozenset({1, 2, 3, 5}),
    "FILL": frozenset({0}),
    "RESIZE": frozenset({1}),
    "TOPK": frozenset({1}),
    "ONE_HOT": frozenset({2}),
    "SQUEEZE": frozenset({1}),
    "UNSQUEEZE": frozenset({1}),
    "CUMULATIVE": frozenset({1}),
    "TRIP_LIMIT": frozenset({0}),
    "LOOP_OUTPUT": frozenset({1}),
    "NMS": frozenset({2, 3, 4}),
    "CONDITION": frozenset({0}),
    "ASSERTION": frozenset({0}),
}

_LOOP_TYPES = ("RECURRENCE", "ITERATOR", "TRIP_LIMIT", "LOOP_OUTPUT")


def count_uses(snapshot: NetworkSnapshot) -> dict[int, int]:
    """How often each tensor is read, network outputs included."""
    uses: dict[int, int] = dict.fromkeys(range(len(snapshot.tensors)), 0)
    for layer in snapshot.layers:
        for tensor in layer.inputs:
            if tensor is not None:
                uses[tensor] += 1
    for tensor in snapshot.outputs:
        uses[tensor] += 1
    return uses


def host_tensors(snapshot: NetworkSnapshot) -> frozenset[int]:
    """The tensors that are computed on the CPU (see the module)."""
    shapes: set[int] = {
        tensor
        for tensor in snapshot.inputs
        if len(snapshot.tensors[tensor].shape) <= 1
        and snapshot.tensors[tensor].dtype in (torch.int32, torch.int64, torch.bool)
    }
    changed = True
    while changed:  # layers are nearly always in order, so this is two passes
        changed = False
        for layer in snapshot.layers:
            if layer.type in ("RECURRENCE", "ITERATOR", "LOOP_OUTPUT", "NON_ZERO", "NMS"):
                continue
            known = layer.type == "SHAPE" or all(t is None or t in shapes for t in layer.inputs)
            if known and not shapes.issuperset(layer.outputs):
                shapes.update(layer.outputs)
                changed = True
    wanted: set[int] = set()
    for layer in snapshot.layers:
        for index in HOST_INPUTS.get(layer.type, ()):
            if index < len(layer.inputs):
                tensor = layer.inputs[index]
                if tensor is not None:
                    wanted.add(tensor)
    changed = True
    while changed:
        changed = False
        for layer in reversed(snapshot.layers):
            if layer.type == "SHAPE" or not any(t in wanted and t in shapes for t in layer.outputs):
                continue
            needed = {t for t in layer.inputs if t is not None}
            if not needed <= wanted:
                wanted |= needed
                changed = True
    return frozenset(wanted & shapes)


class Loop:
    """The layers of one loop: its boundary, and everything between.

    Between is what depends on the loop's state or on what it iterates over. A loop inside of it comes whole,
    with all of its boundary and all that depends on that: its trip limit, a counter of its own or the start
    of its states may not depend on the outer state.
    """

    def __init__(
        self, layers: Sequence[LayerSnapshot], number: int, conditions: Mapping[int, LayerSnapshot]
    ) -> None:
        def own(kind: str) -> list[LayerSnapshot]:
            return [x for x in layers if x.type == kind and x.attributes["loop"] == number]

        self.recurrences, self.iterators = own("RECURRENCE"), own("ITERATOR")
        self.limits, self.outputs = own("TRIP_LIMIT"), own("LOOP_OUTPUT")
        self.boundary = [*self.recurrences, *self.iterators, *self.limits, *self.outputs]
        boundary = {x.index for x in self.boundary}
        reached = {t for x in (*self.recurrences, *self.iterators) for t in x.outputs}
        inner: set[int] = set()
        body: dict[int, LayerSnapshot] = {}
        changed = True
        while changed:
            changed = False
            for layer in layers:
                if layer.index in boundary or layer.index in body:
                    continue
                loop = layer.attributes["loop"] if layer.type in _LOOP_TYPES else None
                if loop not in inner and reached.isdisjoint(_reads(layer, conditions)):
                    continue
                body[layer.index] = layer
                reached.update(layer.outputs)
                if loop is not None:
                    inner.add(loop)
                changed = True
        self.body = [body[index] for index in sorted(body)]

    @property
    def layers(self) -> list[LayerSnapshot]:
        return [*self.boundary, *self.body]


def _reads(layer: LayerSnapshot, conditions: Mapping[int, LayerSnapshot]) -> set[int]:
    """The tensors that a layer reads; an output of a conditional reads the condition, too."""
    found = {tensor for tensor in layer.inputs if tensor is not None}
    if layer.type == "CONDITIONAL_OUTPUT":
        condition = conditions.get(layer.attributes["conditional"])
        found.update(tensor for tensor in (condition.inputs if condition else ()) if tensor is not None)
    return found


def schedule(
    layers: Sequence[LayerSnapshot], conditions: Mapping[int, LayerSnapshot]
) -> list[LayerSnapshot | Loop]:
    """Layers and whole loops, each after what it reads."""
    loops = []
    for number in sorted({x.attributes["loop"] for x in layers if x.type in _LOOP_TYPES}):
        loops.append(Loop(layers, number, conditions))
    inner = {x.index for loop in loops for x in loop.body}
    loops = [loop for loop in loops if not any(x.index in inner for x in loop.boundary)]
    grouped = {x.index for loop in loops for x in loop.layers}
    items: list[LayerSnapshot | Loop] = [x for x in layers if x.index not in grouped]
    items += loops

    makes: dict[int, int] = {}
    for position, item in enumerate(items):
        for layer in item.layers if isinstance(item, Loop) else (item,):
            for tensor in layer.outputs:
                makes[tensor] = position
    waits: list[set[int]] = []
    for position, item in enumerate(items):
        needs = set()
        for layer in item.layers if isinstance(item, Loop) else (item,):
            needs |= {makes[t] for t in _reads(layer, conditions) if t in makes}
        waits.append(needs - {position})
    followers: list[list[int]] = [[] for _ in items]
    for position, needs in enumerate(waits):
        for need in needs:
            followers[need].append(position)
    first = [item.boundary[0].index if isinstance(item, Loop) else item.index for item in items]
    ready = [(first[position], position) for position in range(len(items)) if not waits[position]]
    heapq.heapify(ready)
    order: list[LayerSnapshot | Loop] = []
    while ready:  # the network's own order where dependencies leave a choice
        _, position = heapq.heappop(ready)
        order.append(items[position])
        for follower in followers[position]:
            waits[follower].discard(position)
            if not waits[follower]:
                heapq.heappush(ready, (first[follower], follower))
    if len(order) != len(items):
        stuck = next(x for p, x in enumerate(items) if waits[p])
        name = stuck.boundary[0].name if isinstance(stuck, Loop) else stuck.name
        raise ConversionError(f"layer {name!r} depends on itself")
    return order

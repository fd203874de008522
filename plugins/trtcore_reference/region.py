"""From layers to an fx graph.

A region is a set of layers that run together: the network itself, or the body of a loop. `Region.build`
orders its layers, asks the table for each one's evaluator, and writes one fx graph. Loops become one call of
`control.run_loop` with the body's own graph module as an operand.

Where tensors live: shapes are computed on the CPU, everything else on the device of the inputs. A tensor is
on the host if it depends only on shapes, constants and integer inputs of rank 0 or 1, and something needs it
there (the target of a reshape, the size of a slice ...). Values cross over where a layer needs them on the
other side. When all inputs are on the CPU, crossing costs nothing.
"""

from __future__ import annotations

import heapq
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from trtcore.pack import ConversionError, LayerSnapshot, NetworkSnapshot
from trtcore_reference.emit import ADVICE, Const, Emitter, Evaluator, Value
from trtcore_reference.staging import Constants, finish, stage, to_device, to_host

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


class Engine:
    """What all regions of one compiled snapshot share."""

    def __init__(self, snapshot: NetworkSnapshot, table: Mapping[str, Evaluator]) -> None:
        self.snapshot = snapshot
        self.table = table
        self.constants = Constants()
        self.host = _host_tensors(snapshot)
        self.uses = _uses(snapshot)
        self.conditions = {
            layer.attributes["conditional"]: layer for layer in snapshot.layers if layer.type == "CONDITION"
        }


class Region:
    """The graph of a set of layers under construction."""

    def __init__(self, engine: Engine, parent: Region | None = None) -> None:
        self.engine = engine
        self.snapshot = engine.snapshot
        self.parent = parent
        self.graph = fx.Graph()
        self.root = torch.nn.Module()
        self.captured: list[fx.Node] = []  # what the parent passes for this region's extra placeholders
        self.linears: dict[
            fx.Node, tuple[Value, Value]
        ] = {}  # matmul by a constant -> (x, weight), see linear.py
        self.dead_rows: dict[fx.Node, fx.Node] = {}  # attention mask -> its dead rows, see linear.py
        self._values: dict[tuple[int, bool], Value] = {}
        self._items: dict[int, fx.Node] = {}
        self._stage: fx.Node | None = None
        self._device: fx.Node | None = None

    # -- values

    def define(self, tensor: int, value: Value, *, host: bool) -> None:
        """Say what `tensor` is, on the host or on the device."""
        self._values[tensor, host] = value

    def value(self, tensor: int, host: bool) -> Value:
        found = self._values.get((tensor, host))
        if found is None:
            found = self._values[tensor, host] = self._cross(tensor, host)
        return found

    def _cross(self, tensor: int, host: bool) -> Value:
        other = self._values.get((tensor, not host))
        if isinstance(other, Const):
            return other
        if other is not None:
            function = to_host if host else to_device
            args = (other,) if host else (other, self.device())
            return self.add(function, args, {}, None)
        if self.parent is None:
            name = self.snapshot.tensors[tensor].name
            raise ConversionError(f"the network snapshot has no layer that makes tensor {name!r}")
        outer = self.parent.value(tensor, host)
        if isinstance(outer, Const):
            return outer
        self.captured.append(outer)
        return self.graph.placeholder(f"captured_{len(self.captured)}")

    def staged(self, const: Const, host: bool) -> fx.Node:
        """The node that gives a constant when the engine runs."""
        slot = const.slots.get(host)
        if slot is None:
            slot = const.slots[host] = self.engine.constants.add(const.tensor, host=host)
        return self._staged_item(slot)

    def device(self) -> fx.Node:
        """The node that gives the device of this call."""
        return self._staged_item(0)

    def _staged_item(self, slot: int) -> fx.Node:
        node = self._items.get(slot)
        if node is None:
            assert self._stage is not None
            with self.graph.inserting_after(self._stage):
                node = self._items[slot] = self.graph.call_function(operator.getitem, (self._stage, slot))
        return node

    def add(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        layer: LayerSnapshot | None,
    ) -> fx.Node:
        node = self.graph.call_function(function, args, kwargs)
        if layer is not None:
            node.meta["layer"] = layer.name
        return node

    def submodule(self, module: fx.GraphModule) -> fx.Node:
        """A graph module as an operand."""
        name = f"body_{len(list(self.root.children()))}"
        self.root.add_module(name, module)
        return self.graph.get_attr(name)

    # -- building

    def open(self, tensors: Iterable[int]) -> None:
        """Make placeholders for the network's inputs, and stage the constants."""
        nodes = []
        for position, tensor in enumerate(tensors):
            node = self.graph.placeholder(f"input_{position}")
            node.meta["tensor"] = self.snapshot.tensors[tensor].name
            self.define(tensor, node, host=False)
            nodes.append(node)
        holder = self.graph.create_node("get_attr", "constants")
        self._stage = self.graph.call_function(stage, (holder, *nodes))

    def open_body(self, tensors: Iterable[int]) -> None:
        """Make placeholders for the staged constants and for what changes with each iteration."""
        self._stage = self.graph.placeholder("staged")
        for position, tensor in enumerate(tensors):
            self.define(tensor, self.graph.placeholder(f"state_{position}"), host=False)

    @property
    def stage_node(self) -> fx.Node:
        assert self._stage is not None
        return self._stage

    def build(self, layers: Sequence[LayerSnapshot]) -> None:
        """Emit `layers`, in the order of their data dependencies."""
        for item in _schedule(layers, self.engine.conditions):
            if isinstance(item, LayerSnapshot):
                self._emit(item)
            else:
                from trtcore_reference.control import emit_loop

                emit_loop(self, item)

    def _emit(self, layer: LayerSnapshot) -> None:
        evaluator = self.engine.table.get(layer.type)
        if evaluator is None:
            raise ConversionError(
                f"the reference runtime has no evaluator for layer {layer.name!r} of type {layer.type}",
                advice=ADVICE,
            )
        host = any(tensor in self.engine.host for tensor in layer.outputs)
        emitter = Emitter(self, layer, host)
        results = evaluator(emitter)
        if isinstance(results, (fx.Node, Const)):
            results = (results,)
        for tensor, value in zip(layer.outputs, results):
            self.define(tensor, value, host=host)

    def close(self, outputs: Sequence[Value], inputs: Sequence[Any] | None = None) -> None:
        """Return `outputs`; given the network's inputs, as memory of their own."""
        nodes: Any = tuple(self.staged(v, False) if isinstance(v, Const) else v for v in outputs)
        if inputs is not None:
            nodes = self.graph.call_function(finish, (self._stage, list(inputs), nodes))
        self.graph.output(nodes)
        self.graph.eliminate_dead_code()


# -- analysis -------------------------------------------------------------------------------------


def _uses(snapshot: NetworkSnapshot) -> dict[int, int]:
    """How often each tensor is read, network outputs included."""
    uses: dict[int, int] = dict.fromkeys(range(len(snapshot.tensors)), 0)
    for layer in snapshot.layers:
        for tensor in layer.inputs:
            if tensor is not None:
                uses[tensor] += 1
    for tensor in snapshot.outputs:
        uses[tensor] += 1
    return uses


def _host_tensors(snapshot: NetworkSnapshot) -> frozenset[int]:
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
    """The layers of one loop: its boundary, and everything between."""

    def __init__(self, layers: Sequence[LayerSnapshot], number: int) -> None:
        def own(kind: str) -> list[LayerSnapshot]:
            return [x for x in layers if x.type == kind and x.attributes["loop"] == number]

        self.recurrences, self.iterators = own("RECURRENCE"), own("ITERATOR")
        self.limits, self.outputs = own("TRIP_LIMIT"), own("LOOP_OUTPUT")
        self.boundary = [*self.recurrences, *self.iterators, *self.limits, *self.outputs]
        boundary = {id(x) for x in self.boundary}
        reached = {t for x in (*self.recurrences, *self.iterators) for t in x.outputs}
        body: dict[int, LayerSnapshot] = {}
        changed = True
        while changed:
            changed = False
            for layer in layers:
                if id(layer) in boundary or layer.index in body or reached.isdisjoint(layer.inputs):
                    continue
                body[layer.index] = layer
                reached.update(layer.outputs)
                changed = True
        # a loop inside this one brings its whole boundary along (its trip limit may not depend on our state)
        inner = {x.attributes["loop"] for x in body.values() if x.type in _LOOP_TYPES}
        for layer in layers:
            if layer.type in _LOOP_TYPES and layer.attributes["loop"] in inner:
                body[layer.index] = layer
        self.body = [body[index] for index in sorted(body)]

    @property
    def layers(self) -> list[LayerSnapshot]:
        return [*self.boundary, *self.body]


def _schedule(
    layers: Sequence[LayerSnapshot], conditions: Mapping[int, LayerSnapshot]
) -> list[LayerSnapshot | Loop]:
    """Layers and whole loops, each after what it reads."""
    loops = []
    for number in sorted({x.attributes["loop"] for x in layers if x.type in _LOOP_TYPES}):
        loops.append(Loop(layers, number))
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
            needs |= {makes[t] for t in layer.inputs if t is not None and t in makes}
            if layer.type == "CONDITIONAL_OUTPUT":
                condition = conditions[layer.attributes["conditional"]]
                needs |= {makes[t] for t in condition.inputs if t is not None and t in makes}
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

"""The fx graph of a region, under construction.

A region is a set of layers that run together: the network itself, or the body of a loop. It has one fx graph,
and knows which value stands for which tensor. Values cross between the CPU and the device of the inputs where
a layer needs them on the other side (`schedule` says who lives where). When all inputs are on the CPU,
crossing costs nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import fx

from trtcore.pack import ConversionError, LayerSnapshot, NetworkSnapshot
from trtcore_reference.schedule import count_uses, host_tensors
from trtcore_reference.staging import Constants, finish, stage, to_device, to_host
from trtcore_reference.values import Const, Value


class Engine:
    """What all regions of one compiled snapshot share."""

    def __init__(self, snapshot: NetworkSnapshot) -> None:
        self.snapshot = snapshot
        self.constants = Constants()
        self.host = host_tensors(snapshot)
        self.uses = count_uses(snapshot)
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
        self._calls: dict[Any, fx.Node] = {}
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
        return self.staged_item(slot)

    def device(self) -> fx.Node:
        """The node that gives the device of this call."""
        return self.staged_item(0)

    def staged_item(self, slot: int) -> fx.Node:
        """The node that gives what is staged at a position."""
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
        """A call of `function`; one that is there with the same operands is taken again, unless results are random."""
        key = (function, _as_key(args), _as_key(kwargs))
        known = self._calls.get(key)
        if known is not None:
            return known
        node = self.graph.call_function(function, args, kwargs)
        if layer is not None:
            node.meta["layer"] = layer.name
        if not (layer is not None and str(layer.attributes.get("operation", "")).startswith("RANDOM")):
            self._calls[key] = node
        return node

    def submodule(self, module: fx.GraphModule) -> fx.Node:
        """A graph module as an operand."""
        name = f"body_{len(list(self.root.children()))}"
        self.root.add_module(name, module)
        return self.graph.get_attr(name)

    # -- the ends

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

    def close(self, outputs: Sequence[Value], inputs: Sequence[Any] | None = None) -> None:
        """Return `outputs`; given the network's inputs, as memory of their own."""
        nodes: Any = tuple(self.staged(v, False) if isinstance(v, Const) else v for v in outputs)
        if inputs is not None:
            nodes = self.graph.call_function(finish, (self._stage, list(inputs), nodes))
        self.graph.output(nodes)
        self.graph.eliminate_dead_code()


def _as_key(tree: Any) -> Any:
    """Operands as a key: ``1``, ``1.0`` and ``True`` are three, and what cannot be compared is like itself alone."""
    if isinstance(tree, (list, tuple)):
        return type(tree), tuple(map(_as_key, tree))
    if isinstance(tree, dict):
        return dict, tuple((name, _as_key(value)) for name, value in sorted(tree.items()))
    if isinstance(tree, (bool, int, str, fx.Node, torch.dtype, torch.device, type(None))) or callable(tree):
        return type(tree), tree
    return type(tree), repr(tree) if isinstance(tree, float) else id(tree)

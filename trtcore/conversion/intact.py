"""What a converter leaves as it is: the graph that is converted, and what others made of the network.

Converters see the real graph and the real network, so each can change what the others rely on. Both are compared once,
at the end of a conversion, with what they were; only where they differ is the conversion done again, on a graph that is
made anew, and compared after every converter, so that the error names the one at fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from trtcore.ir.torch_private import version

_GONE = object()


class _NodeRecord:
    """A node's fields, and which FakeTensors it has: those are shared with the lowered graph."""

    __slots__ = ("args", "kwargs", "meta", "name", "node", "op", "target", "users", "values")

    def __init__(self, node: Node) -> None:
        self.node, self.name, self.op, self.target = node, node.name, node.op, node.target
        self.args, self.kwargs, self.users = node.args, node.kwargs, tuple(node.users)
        self.meta: dict[str, Any] = dict(node.meta)
        value = self.meta.get("val")
        self.values = tuple((one, version(one), one.shape, one.stride()) for one in _tensors(value))

    def difference(self) -> str:
        """What is not as it was, or "". Keys that were added to ``meta`` are nobody's business."""
        node = self.node
        if node.args is not self.args or node.kwargs is not self.kwargs:
            return "the arguments"
        for field in ("name", "op", "target"):
            if getattr(node, field) is not getattr(self, field):
                return f"the {field}"
        if tuple(node.users) != self.users:
            return "the users"
        meta: Any = node.meta
        if not isinstance(meta, dict):
            return "the meta"
        for key, value in self.meta.items():
            if meta.get(key, _GONE) is not value:
                return f"the meta[{key!r}]"
        return 'the tensor in meta["val"]' if any(version(one) != was for one, was, *_ in self.values) else ""

    def restore(self) -> None:
        """The fields again. Arguments and users are those of a graph that is made anew."""
        node = self.node
        node.name, node.op, node.target, node.meta = self.name, self.op, self.target, dict(self.meta)
        for tensor, was, shape, stride in self.values:
            if version(tensor) != was:
                with suppress(Exception), torch.no_grad():
                    tensor.as_strided_(shape, stride)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


class GraphRecord:
    """A graph as it was when this was made.

    Attributes:
        nodes: in order.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._records = [_NodeRecord(node) for node in graph.nodes]
        self.nodes = [record.node for record in self._records]

    def difference(self) -> str:
        """What is not as it was, or ""."""
        if list(self._graph.nodes) != self.nodes:
            return "the nodes of the graph that is being converted"
        for record in self._records:
            if changed := record.difference():
                return f"{changed} of the graph's node {record.name}"
        return ""

    def restore(self) -> None:
        """Give every node its own fields again, as far as that is possible; `rebuilt` has the graph itself."""
        for record in self._records:
            record.restore()

    def rebuilt(self) -> Graph:
        """The graph again, of new nodes."""
        graph, made = Graph(), dict[Node, Node]()
        for record in self._records:
            args, kwargs = map_arg((record.args, record.kwargs), made.__getitem__)
            node = graph.create_node(record.op, record.target, args, kwargs, record.name)
            node.meta = dict(record.meta)
            made[record.node] = node
        return graph


@dataclass(frozen=True)
class _Input:
    tensor: Any
    name: str
    shape: tuple[int, ...]
    formats: int

    @classmethod
    def of(cls, tensor: Any) -> _Input:
        return cls(tensor, tensor.name, tuple(tensor.shape), int(tensor.allowed_formats))


class NetworkRecord:
    """A network under construction as its converters left it, each in its turn."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self._inputs: list[_Input] = []
        self._layers: list[list[Any]] = []

    def settle(self) -> None:
        """What has been added since the last call is as it should be."""
        network = self._network
        for index in range(len(self._inputs), network.num_inputs):
            self._inputs.append(_Input.of(network.get_input(index)))
        for index in range(len(self._layers), network.num_layers):
            self._layers.append(_tensors_of(network.get_layer(index)))

    def difference(self) -> str:
        """What is not as it was, or ""."""
        network = self._network
        if network.num_inputs < len(self._inputs):
            return "the network's inputs"
        for index, known in enumerate(self._inputs):
            tensor = network.get_input(index)
            if tensor is not known.tensor:
                return "the network's inputs"
            now = _Input.of(tensor)
            if (now.name, now.shape) != (known.name, known.shape):
                return f"the name or the shape of the network's input {known.name}"
            if now != known and not tensor.is_shape_tensor:  # TensorRT sets those of a shape tensor itself
                return f"the formats of the network's input {known.name}"
        if network.num_layers < len(self._layers):
            return "the network's layers"
        for index, layer in enumerate(self._layers):
            if _tensors_of(network.get_layer(index)) != layer:
                return f"what the layer {network.get_layer(index).name!r} of another converter reads or makes"
        return ""


def _tensors_of(layer: Any) -> list[Any]:
    """What a layer reads, and what it makes."""
    found = [layer.get_input(index) for index in range(layer.num_inputs)]
    return found + [layer.get_output(index) for index in range(layer.num_outputs)]

"""What a converter leaves as it is: the graph that is converted, and what others made of the network.

Converters see the real graph and the real network, so each can change what the others rely on. Both are compared once,
at the end of a conversion, with what they were; only where they differ is the conversion done again, on a graph that is
made anew, and compared after every converter, so that the error names the one at fault.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from trtcore.ir.tensor_bytes import bytes_of
from trtcore.ir.torch_private import version

if TYPE_CHECKING:
    from trtcore.conversion.readback import LayerReader

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
    """A network under construction as its converters left it, each in its turn.

    Args:
        reader: reads the layers' own parameters and weights, where converters of others are at work; it costs each
            layer a second reading. Without one, what layers read and make is compared.
    """

    def __init__(self, network: Any, reader: LayerReader | None = None) -> None:
        self._network = network
        self._reader = reader
        self._inputs: list[_Input] = []
        self._layers: list[list[Any]] = []
        self._parameters: list[_Parameters | None] = []

    def settle(self) -> None:
        """What has been added since the last call is as it should be."""
        network = self._network
        for index in range(len(self._inputs), network.num_inputs):
            self._inputs.append(_Input.of(network.get_input(index)))
        for index in range(len(self._layers), network.num_layers):
            self._layers.append(_tensors_of(network.get_layer(index)))
            if self._reader is not None:
                self._parameters.append(_Parameters.of(self._reader, index))

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
        for index, parameters in enumerate(self._parameters):
            assert self._reader is not None
            found = _Parameters.of(self._reader, index)
            if parameters is not None and found != parameters:
                name = network.get_layer(index).name
                return f"the {parameters.other(found)} of the layer {name!r} of another converter"
        return ""


@dataclass(frozen=True)
class _Parameters:
    """What can be set of a layer, and a checksum of each of its weights."""

    attributes: Mapping[str, Any]
    weights: Mapping[str, Any]

    @classmethod
    def of(cls, reader: LayerReader, index: int) -> _Parameters | None:
        layer = reader.read(index)
        if layer is None:
            return None
        sums = {role: checksum(tensor) for role, tensor in layer.constants.items()}
        return cls(
            layer.attributes, {role: (sums.get(role), at) for role, at in reader.addresses(layer).items()}
        )

    def other(self, now: _Parameters | None) -> str:
        """The name of what is another now."""
        was = {**self.attributes, **self.weights}
        found = {} if now is None else {**now.attributes, **now.weights}
        return next((name for name in was if found.get(name, _GONE) != was[name]), "parameters")


class WeightsRecord:
    """The model's own weights as they were when this was made: converters are given them, and they are nobody's copy.

    Args:
        weights: by name.
        bytewise: look at the bytes as well; else at torch's count of writes alone, which knows nothing of numpy's.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], *, bytewise: bool) -> None:
        self._seen = [
            (name, one, version(one), checksum(one) if bytewise else None) for name, one in weights.items()
        ]

    def difference(self) -> str:
        """The name of a weight that is not as it was, or ""."""
        for name, tensor, was, bytes_were in self._seen:
            if version(tensor) != was or (bytes_were is not None and checksum(tensor) != bytes_were):
                return name
        return ""


def checksum(tensor: torch.Tensor) -> int:
    """Of a tensor's bytes on the host; 0 for one that has none there (on a GPU, a FakeTensor), where numpy has none to
    write to either."""
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
    if not plain or tensor.device.type != "cpu" or not tensor.numel():
        return 0
    return zlib.crc32(bytes_of(tensor.detach().contiguous()))


def _tensors_of(layer: Any) -> list[Any]:
    """What a layer reads, and what it makes."""
    found = [layer.get_input(index) for index in range(layer.num_inputs)]
    return found + [layer.get_output(index) for index in range(layer.num_outputs)]

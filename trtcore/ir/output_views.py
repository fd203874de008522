"""Outputs of a graph that are views of what its caller has, or of each other, by its FakeTensors.

An engine's outputs are memory of their own. Where eager returns a view (of an input, or two views of one result), the
caller may write to one and read the other; under torch.compile that happens in the code after a graph break. So outputs
that are views are left out of what is compiled, and taken again afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from trtcore.ir.aliases import storage
from trtcore.ir.graphs import attribute, mutates, reads_strides, remove_unread, written_by, written_memory
from trtcore.ir.strided import disjoint
from trtcore.ir.torch_private import is_inplace_view

_computed: ContextVar[bool] = ContextVar("_computed", default=False)


@contextmanager
def views_are_computed() -> Iterator[None]:
    """Outputs that are views of inputs come out of engines, as memory of their own: what a converter's test wants."""
    token = _computed.set(True)
    try:
        yield
    finally:
        _computed.reset(token)


def are_views_computed() -> bool:
    """Whether `views_are_computed` is on."""
    return _computed.get()


class Outputs:
    """How the outputs of a graph are had from fewer results, none of which shares memory with another.

    Args:
        gm: the graph.
        apart: whether outputs that are parts of one result, which is none itself, and have surely no element in common,
            may become memory of their own.

    Attributes:
        results: what has to be computed, nodes and plain values.
        replayed: whether there are outputs that are parts of others, or of what is there before a call.
        need_strides: whether the results must be laid out as they are traced: an output is a look into their memory.
    """

    def __init__(self, gm: GraphModule, *, apart: bool = False) -> None:
        (returned,) = gm.graph.output_node().args
        outputs: Sequence[Any] = returned if isinstance(returned, (list, tuple)) else (returned,)
        self._placeholders = gm.graph.find_nodes(op="placeholder")
        self._state = _written_attributes(gm)
        self._firsts = _first_values(gm)
        bases = self._bases(gm, outputs, {*self._placeholders, *self._state}, apart)
        replayed: dict[int, list[Node]] = {}
        for index, output in enumerate(outputs):
            base = bases.get(storage(output)) if isinstance(output, Node) else None
            chain = self._view_chain(output, base) if base is not None else None
            if chain is not None:
                replayed[index] = chain
        self.results: list[Any] = list(outputs)
        if replayed:
            needed = [
                bases[storage(output)] if index in replayed else output
                for index, output in enumerate(outputs)
                if isinstance(output, Node)
            ]
            given = {*self._placeholders, *self._state}
            self.results = [node for node in dict.fromkeys(needed) if node not in given]
        self._views = self._make_views(gm, outputs, replayed) if replayed else None
        self.replayed = self._views is not None and any(
            node.op == "call_function" for node in self._views.graph.nodes
        )
        self.need_strides = self._views is not None and any(map(reads_strides, self._views.graph.nodes))

    def _make_views(
        self, gm: GraphModule, outputs: Sequence[Any], replayed: dict[int, list[Node]]
    ) -> GraphModule:
        """A graph from all placeholders, the attributes that are written, and the results to the outputs."""
        graph = Graph()
        made = {node: graph.placeholder(node.name) for node in (*self._placeholders, *self._state)}
        for index, result in enumerate(self.results):
            placeholder = graph.placeholder(f"result_{index}")
            if isinstance(result, Node):
                for node in (result, self._first(result)):
                    made.setdefault(node, placeholder)
        wanted = {node for chain in replayed.values() for node in chain}
        for node in gm.graph.nodes:
            if node not in wanted or node in made:
                continue
            first = self._first(node)
            made[node] = made[first] if first is not node else graph.node_copy(node, made.__getitem__)
        graph.output(tuple(made[item] if isinstance(item, Node) else item for item in outputs))
        graph.eliminate_dead_code()
        return GraphModule(torch.nn.Module(), graph)

    def _first(self, node: Node) -> Node:
        """The tensor itself, of which a node may be the result of a write in place."""
        return self._firsts.get(node, node)

    def _bases(
        self, gm: GraphModule, outputs: Sequence[Any], given: set[Node], apart: bool
    ) -> dict[int | None, Node]:
        """Memory -> the tensor to take views of: one that is `given`, or what makes several outputs' common memory.
        Where they may be `apart` that is an output itself: the whole if there is one, else the first part."""
        found: dict[int | None, Node] = {}
        shared: dict[int, set[Node]] = {}
        wholes: set[int] = set()
        for output in outputs:
            if (memory := storage(output)) is not None:
                shared.setdefault(memory, set()).add(output)
        parts = {
            memory: apart and len(nodes) > 1 and disjoint([node.meta["val"] for node in nodes])
            for memory, nodes in shared.items()
        }
        for node in gm.graph.nodes:
            memory = storage(node)
            if memory not in shared or not isinstance(node.meta.get("val"), torch.Tensor):
                continue
            if node in given or (len(shared[memory]) > 1 and (not parts[memory] or node in shared[memory])):
                found.setdefault(memory, node)
                if node in given:
                    wholes.add(memory)
                elif memory not in wholes and _makes_memory(self._first(node)):
                    wholes.add(memory)
                    found[memory] = node
        return found

    def _view_chain(self, node: Node, base: Node) -> list[Node] | None:
        """The nodes that make `node` from `base` without computing anything; None if there is no such way."""
        chain: dict[Node, None] = {}
        waiting, start = [node], self._first(base)
        while waiting:
            current = waiting.pop()
            if current is base or current is start or current.op == "placeholder" or current in chain:
                continue
            if current.op != "call_function":
                return None
            chain[current] = None
            first = self._first(current)
            if first is not current:
                waiting.append(first)
            elif written_by(current):
                return None
            elif isinstance(current.meta.get("val"), (torch.Tensor, list, tuple)):
                if storage(current) != storage(base) or _makes_memory(current):
                    return None
                waiting.extend(current.all_input_nodes)
            else:
                waiting.extend(current.all_input_nodes)  # a size
        return list(chain)

    def restore(self, args: Sequence[Any], results: Sequence[Any]) -> Sequence[Any]:
        """The graph's outputs, from its arguments (after the call) and the results. For graphs without attributes."""
        return results if self._views is None else self._views(*args, *results)

    def without(self, gm: GraphModule) -> None:
        """Let a graph give the results alone."""
        output = gm.graph.output_node()
        output.args = (tuple(self.results),)
        remove_unread(gm.graph)

    def append(self, gm: GraphModule) -> None:
        """Let a graph that gives the results give the outputs.

        Args:
            gm: what the graph has become, with the same placeholders and names of attributes.
        """
        if self._views is None:
            return
        graph, output = gm.graph, gm.graph.output_node()
        state = {str(node.target): node for node in graph.find_nodes(op="get_attr")}
        results: Any = output.args[0]
        given = [
            *graph.find_nodes(op="placeholder"),
            *(state[str(node.target)] for node in self._state),
            *results,
        ]
        made = dict(zip(self._views.graph.find_nodes(op="placeholder"), given, strict=True))
        with graph.inserting_before(output):
            for node in self._views.graph.nodes:
                if node.op == "output":
                    output.args = torch.fx.map_arg(node.args, made.__getitem__)
                elif node.op != "placeholder":
                    made[node] = graph.node_copy(node, made.__getitem__)
        gm.recompile()


def _written_attributes(gm: GraphModule) -> list[Node]:
    """Buffers that the graph writes to: the model's state, which it shares. Not those in one memory with others.

    A view in place (`transpose_`) leaves the values alone: a buffer that is only seen so is a weight.
    """
    written = written_memory(node for node in gm.graph.nodes if not is_inplace_view(node.target))
    nodes = gm.graph.find_nodes(op="get_attr")
    memory = {str(node.target): _memory(attribute(gm, str(node.target))) for node in nodes}
    counts = Counter(memory.values())
    return [node for node in nodes if node in written and counts[memory[str(node.target)]] == 1]


def _memory(value: Any) -> int | None:
    return value.untyped_storage().data_ptr() if isinstance(value, torch.Tensor) else None


def _makes_memory(node: Node) -> bool:
    """Whether the memory of a node's value is that of none of its arguments."""
    memory = storage(node)
    return all(storage(source) != memory for source in node.all_input_nodes)


def _first_values(gm: GraphModule) -> dict[Node, Node]:
    """The results of in-place ops that leave shape and strides alone -> the tensor that they wrote to first."""
    found: dict[Node, Node] = {}
    for node in gm.graph.nodes:
        if mutates(node) and (source := _written_value(node)) is not None:
            found[node] = found.get(source, source)
    return found


def _written_value(node: Node) -> Node | None:
    """For an in-place op that leaves shape and strides alone: the tensor it wrote to, and returns."""
    written = written_by(node)
    if len(written) != 1 or storage(node) != storage(written[0]):
        return None
    after, before = node.meta["val"], written[0].meta["val"]
    if not (isinstance(after, torch.Tensor) and isinstance(before, torch.Tensor)):
        return None
    same = (
        after.dtype == before.dtype
        and after.dim() == before.dim()
        and all(a is b or str(a) == str(b) for a, b in zip(after.shape, before.shape))
        and all(a is b or str(a) == str(b) for a, b in zip(after.stride(), before.stride()))
        and str(after.storage_offset()) == str(before.storage_offset())
    )
    return written[0] if same else None

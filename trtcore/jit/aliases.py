"""Which tensors of a traced graph share memory, read off its FakeTensors.

An engine's outputs are memory of their own. Where eager returns a view (of an input, or two views of one
result), the caller may write to one and read the other; under torch.compile that happens in the code after
a graph break. So outputs that are views are left out of what is compiled, and taken again afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from trtcore.ir.aliases import storage
from trtcore.ir.graphs import written_by


def mutated_placeholders(gm: GraphModule) -> set[Node]:
    """Placeholders that are written, themselves or through a view."""
    written = {
        memory
        for node in gm.graph.nodes
        for source in written_by(node)
        if (memory := storage(source)) is not None
    }
    return {node for node in gm.graph.find_nodes(op="placeholder") if storage(node) in written}


class Outputs:
    """How the outputs of a graph are had from fewer results, none of which shares memory with another.

    Attributes:
        results: what has to be computed, nodes and plain values.
    """

    def __init__(self, gm: GraphModule) -> None:
        (returned,) = gm.graph.output_node().args
        outputs: Sequence[Any] = returned if isinstance(returned, (list, tuple)) else (returned,)
        self._placeholders = gm.graph.find_nodes(op="placeholder")
        bases = _bases(gm, outputs)
        replayed: dict[int, list[Node]] = {}
        for index, output in enumerate(outputs):
            base = bases.get(storage(output)) if isinstance(output, Node) else None
            chain = _view_chain(output, base) if base is not None else None
            if chain is not None:
                replayed[index] = chain
        self.results: list[Any] = list(outputs)
        if replayed:
            needed = [
                bases[storage(output)] if index in replayed else output
                for index, output in enumerate(outputs)
                if isinstance(output, Node)
            ]
            self.results = [node for node in dict.fromkeys(needed) if node.op != "placeholder"]
        self._views = self._make_views(gm, outputs, replayed) if replayed else None

    def _make_views(
        self, gm: GraphModule, outputs: Sequence[Any], replayed: dict[int, list[Node]]
    ) -> GraphModule:
        """A graph from all placeholders and the results to the outputs."""
        graph = Graph()
        made = {node: graph.placeholder(node.name) for node in self._placeholders}
        for index, result in enumerate(self.results):
            placeholder = graph.placeholder(f"result_{index}")
            if isinstance(result, Node):
                made.setdefault(result, placeholder)
        wanted = {node for chain in replayed.values() for node in chain}
        for node in gm.graph.nodes:
            if node not in wanted or node in made:
                continue
            source = _written_value(node)
            made[node] = made[source] if source is not None else graph.node_copy(node, made.__getitem__)
        graph.output(tuple(made[item] if isinstance(item, Node) else item for item in outputs))
        graph.eliminate_dead_code()
        return GraphModule(torch.nn.Module(), graph)

    def restore(self, args: Sequence[Any], results: Sequence[Any]) -> Sequence[Any]:
        """The graph's outputs, from its arguments (after the call) and the results."""
        return results if self._views is None else self._views(*args, *results)


def _bases(gm: GraphModule, outputs: Sequence[Any]) -> dict[int | None, Node]:
    """Memory -> the tensor to take views of: an input, or the first of several outputs' common memory."""
    found: dict[int | None, Node] = {}
    shared: dict[int, set[Node]] = {}
    for output in outputs:
        if (memory := storage(output)) is not None:
            shared.setdefault(memory, set()).add(output)
    for node in gm.graph.nodes:
        memory = storage(node)
        if memory not in shared or not isinstance(node.meta.get("val"), torch.Tensor):
            continue
        if node.op == "placeholder" or len(shared[memory]) > 1:
            found.setdefault(memory, node)
    return found


def _view_chain(node: Node, base: Node) -> list[Node] | None:
    """The nodes that make `node` from `base` without computing anything; None if there is no such way."""
    chain: dict[Node, None] = {}
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current is base or current.op == "placeholder" or current in chain:
            continue
        if current.op != "call_function":
            return None
        chain[current] = None
        source = _written_value(current)
        if source is not None:
            waiting.append(source)
        elif written_by(current):
            return None
        elif isinstance(current.meta.get("val"), (torch.Tensor, list, tuple)):
            if storage(current) != storage(base):
                return None
            waiting.extend(current.all_input_nodes)
        else:
            waiting.extend(current.all_input_nodes)  # a size
    return list(chain)


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

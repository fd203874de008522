"""Segments: the parts of a lowered graph that become engines, each a graph of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from trtcore.ir.graphs import is_size, module_of
from trtcore.ir.symbols import is_decided_by_data


@dataclass(frozen=True)
class Segment:
    """One TensorRT segment.

    Attributes:
        name: "engine_0", ...
        nodes: the lowered graph's nodes that it computes, in order (copies of shared cheap nodes included).
        inputs: nodes of the lowered graph whose tensors it takes, in the order of its placeholders.
        sizes: nodes of the lowered graph whose numbers it takes, and which data decide; others are made from shapes.
        outputs: nodes of the lowered graph that others need from it.
        graph_module: the segment alone: a placeholder per input, then one per SymInt that its nodes use;
            constants as get_attr; returns a tuple of the outputs.
    """

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    graph_module: GraphModule
    sizes: tuple[Node, ...] = ()

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for segments of one lowered graph that compute the same from the same."""
        return tuple(n.name for n in self.nodes), tuple(n.name for n in self.outputs)


def extract(
    owner: GraphModule,
    name: str,
    nodes: Sequence[Node],
    outputs: Sequence[Node],
    is_constant: Callable[[Node], bool],
) -> Segment:
    """Cut `nodes` (in graph order) out of `owner` as a Segment. Nothing is copied but fx nodes.

    Args:
        is_constant: whether a get_attr node is a constant of the engine (and not a buffer that the model
            changes, which is an input).
    """
    graph = torch.fx.Graph()
    inside = set(nodes)
    tensors: dict[Node, None] = {}
    sizes: dict[Node, None] = {}
    for node in nodes:
        for source in node.all_input_nodes:
            if source in inside or is_constant(source):
                continue
            (sizes if is_size(source) else tensors)[source] = None
    made: dict[Node, Node] = {}
    for source in (*tensors, *sizes):
        placeholder = graph.placeholder(source.name)
        placeholder.meta = dict(source.meta)
        made[source] = placeholder

    def lookup(source: Node) -> Node:
        if source not in made:  # a constant: get_attr, the tensor shared with the owner
            made[source] = graph.node_copy(source, lookup)
        return made[source]

    for node in nodes:
        made[node] = graph.node_copy(node, lookup)
    graph.output(tuple(made[node] for node in outputs))
    module = module_of(graph, owner, name)
    decided = tuple(node for node in sizes if is_decided_by_data(node.meta.get("val")))
    return Segment(name, tuple(nodes), tuple(tensors), tuple(outputs), module, decided)

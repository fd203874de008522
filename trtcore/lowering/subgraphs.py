"""The graphs that higher-order ops run (branches, bodies of loops), lowered like the graph that they are in.

Only where that makes every op of theirs one that a converter takes: otherwise the higher-order op runs in torch as it
was captured, and its reason names the op that stands in the way.
"""

from __future__ import annotations

from collections.abc import Callable

from torch.fx import Graph, GraphModule, Node

from trtcore.context import CompileContext
from trtcore.ir.facts import set_facts
from trtcore.ir.graphs import set_attribute, subgraphs
from trtcore.packs.subgraphs import unconverted

Lower = Callable[[GraphModule], GraphModule]


def lower_subgraphs(graph_module: GraphModule, ctx: CompileContext, lower: Lower) -> None:
    """Lower the graphs of every node that has a converter, in place.

    Args:
        lower: the passes before this one and this one, on a graph that is nobody else's.
    """
    if ctx.backend is None:
        return
    for node in list(graph_module.graph.nodes):
        if node.op != "call_function" or not ctx.registry.candidates(node.target):
            continue
        found = subgraphs(graph_module, node)
        if not found:
            continue
        lowered = {source: lower(_copy(body)) for source, body in found.items()}
        reason = unconverted(lowered.values(), ctx)
        if reason:
            set_facts(node, reason=reason)
            continue
        for source, body in lowered.items():
            _give(graph_module, node, source, body)


def _copy(body: GraphModule) -> GraphModule:
    """The same graph in other nodes; tensors and graphs inside are shared."""
    graph = Graph()
    made: dict[Node, Node] = {}
    graph.output(graph.graph_copy(body.graph, made)).meta = dict(body.graph.output_node().meta)
    return GraphModule(body, graph)


def _give(graph_module: GraphModule, node: Node, source: Node, body: GraphModule) -> None:
    """Let a node run another graph: as an attribute of its own, as the old one may be others' too."""
    name = f"{str(source.target).replace('.', '_')}_lowered"
    while hasattr(graph_module, name):
        name += "_"
    set_attribute(graph_module, name, body)
    with graph_module.graph.inserting_before(node):
        new = graph_module.graph.get_attr(name)
    new.meta = dict(source.meta)
    node.replace_input_with(source, new)
    if not source.users:
        graph_module.graph.erase_node(source)

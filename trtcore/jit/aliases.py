"""Which placeholders of a traced graph are written to, read off its FakeTensors."""

from __future__ import annotations

from torch.fx import GraphModule, Node

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

"""What one stage tells the later ones about a node of the graph, in typed fields."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch.fx import GraphModule, Node

from trtcore.ir.provenance import Source

__all__ = ["BOUNDARY", "REASON", "NodeFacts", "Rewrite", "facts", "rewrites_of", "set_facts"]

_KEY = "trtcore_facts"

REASON = "trtcore_reason"
"""Key in node.meta by which a pack may say why a node runs in torch; `set_facts(node, reason=...)` says the same."""

BOUNDARY = "trtcore_boundary"
"""Key in node.meta by which a pack may mark a cast at an input or a result; `set_facts(node, boundary=True)` does the
same."""


@dataclass(frozen=True)
class NodeFacts:
    """Facts about one node.

    Attributes:
        reason: why it runs in torch, in the words that the report shows: its decomposition could not be used, or what
            a pass says of a node of its own. "" where nothing is to be said.
        boundary: it changes the dtype of an input or a result, and runs in torch on purpose.
        objections: candidates for patterns that end in this node and did not take it (`trtcore.pack` calls them
            candidates of a selection).
        sources: the ops of the captured graph that this node, a pattern, stands for.
        precision: why it computes in the model's dtype where lower precisions are allowed, in the words that the report
            shows; "" where nothing is to be said.
        kept_in_torch: why a pass wants it in torch although it has a converter, in the words that the report shows.
        at_most: no size of its result that data decide is larger than this: an int, a size, or an expression of sizes.
            None where nothing bounds them.
    """

    reason: str = ""
    boundary: bool = False
    objections: tuple[Any, ...] = ()
    sources: tuple[Source, ...] = ()
    precision: str = ""
    kept_in_torch: str = ""
    at_most: Any = None


_NONE = NodeFacts()


def facts(node: Node) -> NodeFacts:
    """What is known of a node."""
    known: NodeFacts = node.meta.get(_KEY, _NONE)
    reason, boundary = node.meta.get(REASON), node.meta.get(BOUNDARY)
    if reason or boundary:  # the words of a pack that knows the keys
        return replace(
            known, reason=known.reason or str(reason or ""), boundary=known.boundary or bool(boundary)
        )
    return known


def set_facts(node: Node, **changes: Any) -> None:
    """Set fields of a node's facts.

    Args:
        changes: fields of `NodeFacts`.
    """
    node.meta[_KEY] = replace(node.meta.get(_KEY, _NONE), **changes)


@dataclass(frozen=True)
class Rewrite:
    """A place where a rule of a lowering pass has put other nodes.

    Attributes:
        rule: its name.
        where: place in the user's model: module path and ``file:line``, as far as they are known.
        nodes: names of the nodes that were replaced, in graph order.
        made: names of the nodes in their place.
    """

    rule: str
    where: str
    nodes: tuple[str, ...]
    made: tuple[str, ...] = ()

    def __str__(self) -> str:
        place = f" at {self.where}" if self.where else ""
        return f"{self.rule}{place}: {', '.join(self.nodes)} -> {', '.join(self.made) or 'nothing'}"


_LOG = "trtcore_rewrites"


def rewrites_of(graph_module: GraphModule) -> list[Rewrite]:
    """The log of a graph: what was rewritten in it, in order. Passes add to it."""
    log: list[Rewrite] = graph_module.meta.setdefault(_LOG, [])
    return log

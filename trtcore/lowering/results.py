"""Results with memory of their own: what the model makes anew is new still, though passes have taken copies out.

Without ``clone()`` a view of it is a view of an input or a constant, and without the second of two equal ops two
results are one tensor: who writes to a result would write there, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.fx import Graph, Node, map_arg

from trtcore.ir.aliases import handed_on
from trtcore.ir.graphs import fake_mode_of, is_getitem, mutates, tracing, viewed
from trtcore.ir.schema import node_arguments
from trtcore.lowering.rewrite import provenance
from trtcore.runtime.functional_write import returned_alias

_CLONE = torch.ops.aten.clone.default


def memories(graph: Graph) -> list[int]:
    """For every result a number, equal for those that share memory: from 0 up for what the graph makes, below for what
    is there before: inputs and attributes."""
    numbers: dict[Any, int] = {}
    found = []
    for place, node in enumerate(_results(graph)):
        root = _chain(node)[-1]
        key: Any = root.args if is_getitem(root) else root
        if not isinstance(root.meta.get("val"), torch.Tensor):
            key = place  # a number
        number = len(numbers)
        found.append(numbers.setdefault(key, number if root.op == "call_function" else -1 - number))
    return found


def separate_results(graph: Graph, before: Sequence[int]) -> None:
    """Give results memory of their own again.

    Args:
        graph: lowered; to be changed.
        before: `memories` of the graph as it was captured.
    """
    nodes, after = _results(graph), memories(graph)
    first: dict[int, int] = {}
    copies: dict[tuple[int, int], Node] = {}
    separate: list[Node] = []
    for node, was, now in zip(nodes, before, after, strict=True):
        *views, root = _chain(node)
        if (first.setdefault(now, was) != was or now < 0 <= was) and not _is_empty(root):
            if (now, was) not in copies:
                copies[now, was] = _copy(graph, root, node)
            node = _again(graph, views, root, copies[now, was])
        separate.append(node)
    if separate != nodes:
        left = iter(separate)
        output = graph.output_node()
        output.args = map_arg(output.args, lambda _: next(left))


def _is_empty(node: Node) -> bool:
    """Whether there is no element that somebody could write to."""
    return any(isinstance(size, int) and size == 0 for size in getattr(node.meta.get("val"), "shape", ()))


def _results(graph: Graph) -> list[Node]:
    found: list[Node] = []
    map_arg(graph.output_node().args, found.append)
    return found


def _chain(node: Node) -> list[Node]:
    """The node, what it is a view of, and so on to what has the memory."""
    found = [node]
    while (below := _below(found[-1])) is not None:
        found.append(below)
    return found


def _below(node: Node) -> Node | None:
    if is_getitem(node):
        owner = node.args[0]
        return owner if isinstance(owner, Node) and _below(owner) is not None else None
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    if not mutates(node):
        return viewed(node) or handed_on(node)
    returns = node.target._schema.returns
    alias = returned_alias(node.target, 0) if len(returns) == 1 else ""
    value = node_arguments(node)[alias] if alias else None
    return value if isinstance(value, Node) else None


def _copy(graph: Graph, root: Node, result: Node) -> Node:
    """A copy of a tensor as it is made, for a result."""
    behind = root.next
    while behind.op == "placeholder":
        behind = behind.next
    with graph.inserting_before(behind):
        made = graph.call_function(_CLONE, (root,))
    with tracing(fake_mode_of(graph)):
        made.meta = {**provenance(result), "val": torch.clone(root.meta["val"])}
    return made


def _again(graph: Graph, views: Sequence[Node], root: Node, copy: Node) -> Node:
    """Views of a tensor, taken of its copy; so they have the strides that they had."""
    below, made = root, copy
    for view in reversed(views):
        known = {below: made}
        with graph.inserting_after(view):
            below, made = view, graph.node_copy(view, partial(_known, known))
    return made


def _known(known: Mapping[Node, Node], node: Node) -> Node:
    return known.get(node, node)

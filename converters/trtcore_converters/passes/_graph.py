"""Questions that several passes ask of a graph, and the rewrites that they share."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx


def keeps(user: fx.Node) -> bool:
    """Whether a user lets a tensor out of the graph, or writes it somewhere."""
    schema = getattr(user.target, "_schema", None)
    return user.op == "output" or (schema is not None and bool(schema.is_mutable))


def written(graph_module: fx.GraphModule) -> set[Any]:
    """What the model overwrites: targets of its placeholders and get_attr nodes."""
    return {
        node.args[0].target
        for node in graph_module.graph.nodes
        if node.op == "call_function" and node.args and isinstance(node.args[0], fx.Node) and keeps(node)
    }


def unchanged(before: fx.Node, after: fx.Node) -> bool:
    a, b = before.meta.get("val"), after.meta.get("val")
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return False
    return (
        a.dtype == b.dtype
        and a.device == b.device
        and a.layout == b.layout
        and same_sizes(a.shape, b.shape)
        and same_sizes(a.stride(), b.stride())
    )


def same_sizes(a: Any, b: Any) -> bool:
    """Whether traced sizes are surely equal. Adds no guard."""
    return len(a) == len(b) and all(_size(x) == _size(y) for x, y in zip(a, b))


def _size(value: Any) -> Any:
    return value.node.expr if isinstance(value, torch.SymInt) else int(value)


def constants(graph_module: fx.GraphModule) -> dict[fx.Node, torch.Tensor]:
    """The tensors of the get_attr nodes that nothing writes to."""
    overwritten = written(graph_module)
    found: dict[fx.Node, torch.Tensor] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr" and node.target not in overwritten:
            value: Any = graph_module
            for part in str(node.target).split("."):
                value = getattr(value, part)
            if isinstance(value, torch.Tensor):
                found[node] = value
    return found

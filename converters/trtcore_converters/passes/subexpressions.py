"""Compute once what the graph computes several times."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from trtcore.pack import CompileContext
from trtcore_converters.passes._graph import keeps


def common_subexpressions(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Compute once what the graph computes several times: the same op on the same arguments.

    Random ops stay, and what the model returns: two results must not become one tensor.
    """
    first: dict[Any, fx.Node] = {}
    for node in list(graph_module.graph.nodes):
        key = _expression(node)
        if key is None or any(keeps(user) for user in node.users):
            continue
        earlier = first.setdefault(key, node)
        if earlier is not node:
            node.replace_all_uses_with(earlier)
            graph_module.graph.erase_node(node)


def _expression(node: fx.Node) -> Any:
    """Equal for nodes that compute the same; None where there is no telling."""
    target = node.target
    if node.op == "get_attr":
        return ("get_attr", target)
    if node.op != "call_function":
        return None
    if isinstance(target, torch._ops.OpOverload):
        if (
            target._schema.is_mutable
            or torch.Tag.nondeterministic_seeded in target.tags
            or not target._schema.returns
        ):
            return None
    elif target is not operator.getitem:
        return None
    return (target, _hashable(node.args), _hashable(node.kwargs))


def _hashable(value: Any) -> Any:
    """Arguments as something that is equal only where they are: 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    if isinstance(value, (list, tuple)):
        return tuple(_hashable(item) for item in value)
    if isinstance(value, dict):
        return tuple((name, _hashable(item)) for name, item in sorted(value.items()))
    return (type(value), repr(value)) if isinstance(value, (bool, int, float, complex)) else value

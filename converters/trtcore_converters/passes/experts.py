"""Mixtures of experts whose products run in torch: one cut a layer."""

from __future__ import annotations

import torch
from torch import fx

from trtcore.pack import CompileContext, facts, set_facts
from trtcore_converters.passes._graph import tensor_of

_PRODUCTS = frozenset({"transformers.grouped_mm_fallback.default", "aten._grouped_mm.default"})

_MOST_BETWEEN = 24
"""Ops between the two products of an expert (a gate, an activation, a bias) are fewer."""


def whole_experts(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Keep in torch what is computed between two products by groups that run there: an engine of so little is not worth
    two more changes between engines and torch."""
    if ctx.backend is None:
        return
    products = [node for node in graph_module.graph.nodes if str(node.target) in _PRODUCTS]
    in_torch = {node for node in products if ctx.registry.select(node, ctx).chosen is None}
    for node in in_torch:
        for between in _between(node, in_torch):
            if not facts(between).kept_in_torch:
                set_facts(
                    between,
                    kept_in_torch=f"between two products of experts that run in torch ({node.name} and another)",
                )


def _between(last: fx.Node, products: set[fx.Node]) -> list[fx.Node]:
    """The calls on the ways from another product to this one."""
    reaches: dict[fx.Node, bool] = {}

    def visit(node: fx.Node) -> bool:
        if node in products and node is not last:
            return True
        if node not in reaches:
            reaches[node] = False
            if node.op == "call_function" and len(reaches) <= _MOST_BETWEEN * 4:
                found = [visit(source) for source in _rows_of(node)]
                reaches[node] = any(found)
        return reaches[node]

    visit(last)
    found = [node for node, yes in reaches.items() if yes and node is not last]
    return found if len(found) <= _MOST_BETWEEN else []


def _rows_of(node: fx.Node) -> list[fx.Node]:
    """The inputs that have as many rows as the node."""
    value = tensor_of(node)
    sources = [(source, tensor_of(source)) for source in node.all_input_nodes]
    if value is None:
        return [source for source, _ in sources]
    return [source for source, one in sources if one is None or _rows(one) == _rows(value)]


def _rows(value: torch.Tensor) -> object:
    first = value.shape[0] if value.dim() else None
    return first.node.expr if isinstance(first, torch.SymInt) else first

"""Whether the graphs that a higher-order op runs can be in an engine with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from trtcore.ir.facts import facts
from trtcore.ir.graphs import is_getitem, is_size, mutates, subgraphs
from trtcore.ir.provenance import describe
from trtcore.ir.symbols import free_symbols


def unconverted(bodies: Iterable[GraphModule], ctx: Any, known: frozenset[str] | None = None) -> str:
    """Why not, naming the op in the graphs that stands in the way and its line; "" if they can.

    Args:
        ctx: the compile, with its registry.
        known: the symbols of sizes that have a range; None where any symbol will do.
    """
    for body in bodies:
        for node in body.graph.nodes:
            if node.op != "call_function" or is_size(node) or is_getitem(node):
                continue
            reason = _reason(node, ctx, known)
            if not reason and (inner := unconverted(subgraphs(body, node).values(), ctx, known)):
                return inner
            if reason:
                return f"in its subgraph, {describe(node)}: {reason}"
    return ""


def _reason(node: Node, ctx: Any, known: frozenset[str] | None) -> str:
    if mutates(node):
        return "writes to a tensor"
    selection = ctx.registry.select(node, ctx)
    if selection.chosen is None:
        return facts(node).reason or str(selection.reason)
    value = node.meta.get("val")
    for item in value if isinstance(value, (list, tuple)) else (value,):
        unknown = [name for name in _symbols(item) if known is not None and name not in known]
        if unknown:
            return f"the size {unknown[0]} of its result depends on data"
    return ""


def _symbols(value: Any) -> list[str]:
    return list(free_symbols(value.shape)) if isinstance(value, torch.Tensor) else []

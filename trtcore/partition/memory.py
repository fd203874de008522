"""Segments whose builds fit into a budget of memory (``enable_resource_partitioning``)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.fx import Node

from trtcore.errors import SettingsError
from trtcore.ir.graphs import attribute
from trtcore.ir.provenance import describe
from trtcore.memory import BUILD_FACTOR


def weight_bytes(graph_module: torch.fx.GraphModule) -> dict[Node, int]:
    """Bytes of the weights that each node reads; those that several read count for the first."""
    seen: set[int] = set()
    found: dict[Node, int] = {}
    for node in graph_module.graph.nodes:
        if node.op != "call_function":
            continue
        for source in node.all_input_nodes:
            value = attribute(graph_module, str(source.target)) if source.op == "get_attr" else None
            if isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() not in seen:
                seen.add(value.untyped_storage().data_ptr())
                found[node] = found.get(node, 0) + value.nbytes
    return found


def split_by_weights(group: list[Node], sizes: Mapping[Node, int], limit: int) -> list[list[Node]]:
    """Pieces of a group, in its order, whose weights are within the limit.

    Raises:
        SettingsError: a single node has more; it names the op and the budget that would do.
    """
    pieces: list[list[Node]] = [[]]
    held = 0
    for node in group:
        size = sizes.get(node, 0)
        if size > limit:
            more = int((size - limit + 1) * BUILD_FACTOR)
            raise SettingsError(
                f"an op alone has {size} bytes of weights, and cpu_memory_budget leaves {limit} for an engine's",
                where=describe(node),
                advice=f"raise cpu_memory_budget by {more}, or leave the op to torch with torch_executed_ops",
            )
        if held + size > limit and pieces[-1]:
            pieces.append([])
            held = 0
        pieces[-1].append(node)
        held += size
    return pieces

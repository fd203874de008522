"""What passes call when they have changed a graph."""

from __future__ import annotations

from typing import Any

import torch

from trtcore_contrib_torch_tensorrt._told import told

__all__ = ["clean_up_graph_after_modifications", "get_tensor_placeholders"]


def clean_up_graph_after_modifications(gm: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Drop what nobody uses, check the graph and make its code anew."""
    gm.graph.eliminate_dead_code()
    gm.graph.lint()
    gm.recompile()
    return gm


def get_tensor_placeholders(gm: torch.fx.GraphModule) -> list[torch.fx.Node]:
    """The graph's inputs that are tensors."""
    nodes = gm.graph.find_nodes(op="placeholder")
    return [node for node in nodes if isinstance(node.meta.get("val"), torch.Tensor)]


def __getattr__(name: str) -> Any:
    return told("dynamo.lowering.passes.pass_utils", name)

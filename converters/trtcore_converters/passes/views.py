"""Views: one where the model takes several."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from trtcore.pack import CompileContext, node_arguments

aten = torch.ops.aten


def strided_views(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Apply ``as_strided`` to the tensor that owns the memory, and not to a view of it.

    It reads memory, whatever view it is given; the output of an engine is its own, plain tensor.
    """
    for node in graph_module.graph.nodes:
        if node.op != "call_function" or node.target is not aten.as_strided.default:
            continue
        view, owner = node.args[0], _owner(node.args[0])
        traced = view.meta.get("val") if isinstance(view, fx.Node) else None
        if owner is view or not isinstance(traced, torch.Tensor):
            continue
        given = node_arguments(node)
        offset = traced.storage_offset() if given["storage_offset"] is None else given["storage_offset"]
        if isinstance(offset, (int, fx.Node)):
            node.args = (owner, given["size"], given["stride"], offset)
            node.kwargs = {}


def _owner(node: Any) -> Any:
    """The tensor whose memory a chain of views looks at."""
    while isinstance(node, fx.Node) and node.op == "call_function":
        schema = getattr(node.target, "_schema", None)
        if (
            schema is None
            or schema.is_mutable
            or not schema.arguments
            or schema.arguments[0].alias_info is None
        ):
            break
        if len(schema.returns) != 1 or schema.returns[0].alias_info is None or not node.args:
            break
        if "(a)" not in str(schema.returns[0]) or not _shares_memory(node):
            break
        node = node.args[0]
    return node


def _shares_memory(node: fx.Node) -> bool:
    """Whether the traced tensor looks at its source's storage (``reshape`` and ``contiguous`` may copy)."""
    source = node.args[0].meta.get("val") if isinstance(node.args[0], fx.Node) else None
    value = node.meta.get("val")
    if not isinstance(source, torch.Tensor) or not isinstance(value, torch.Tensor):
        return False
    return source.untyped_storage()._cdata == value.untyped_storage()._cdata

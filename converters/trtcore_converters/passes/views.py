"""Views: one where the model takes several."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from trtcore.pack import CompileContext, insert_call, node_arguments
from trtcore_converters.passes._graph import calls, in_torch, is_call, keeps, replace, same_sizes, tensor_of
from trtcore_converters.torch_private import shares_storage

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
        if is_call(node, _GETITEM):  # a part of what split and the like give
            parts = node.args[0]
            if not isinstance(parts, fx.Node) or not parts.args or not _shares_memory(node, parts.args[0]):
                break
            node = parts.args[0]
            continue
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
        if "(a)" not in str(schema.returns[0]) or not _shares_memory(node, node.args[0]):
            break
        node = node.args[0]
    return node


_GETITEM = frozenset({operator.getitem})


def _shares_memory(node: fx.Node, given: Any) -> bool:
    """Whether the traced tensor looks at its source's storage (``reshape`` and ``contiguous`` may copy)."""
    source = given.meta.get("val") if isinstance(given, fx.Node) else None
    value = node.meta.get("val")
    if not isinstance(source, torch.Tensor) or not isinstance(value, torch.Tensor):
        return False
    return shares_storage(source, value)


# ---- simplify_views ----------------------------------------------------------------------------------------

_ORDERS = frozenset({aten.transpose.int, aten.permute.default, aten.t.default, aten.mT.default})
_SIZED = frozenset({aten.view.default, aten.reshape.default, aten._unsafe_view.default})
_RESHAPES = _SIZED | {
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
}


_EXPAND = frozenset({aten.expand.default})


def simplify_views(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """One view where the model takes a view of a view: orders of dims, shapes, and expansions.

    Views that undo each other go. What the model returns stays as it is: it may be a copy of its own.
    """
    for node in calls(graph_module, _ORDERS | _RESHAPES | _EXPAND):
        if not node.users or any(keeps(user) for user in node.users):
            continue
        for targets, merge in (
            (_ORDERS, _merge_orders),
            (_RESHAPES, _merge_shapes),
            (_EXPAND, _merge_expand),
        ):
            if node.target in targets and is_call(node.args[0], targets):
                if not in_torch(ctx, (node, node.args[0])):
                    _settle(node, merge(node, node.args[0]))
                break


def _settle(node: fx.Node, merged: fx.Node | None) -> None:
    if merged is not None:
        replace(node, merged)


def order_of(node: fx.Node) -> list[int] | None:
    """The order in which an op puts its input's dims, as `permute` takes it; None for any other op."""
    value = tensor_of(node)
    if value is None or not is_call(node, _ORDERS):
        return None
    rank = value.dim()
    order = list(range(rank))
    if node.target is aten.permute.default:
        return [dim % rank for dim in node_arguments(node)["dims"]]
    if rank >= 2:
        a, b = -2, -1
        if node.target is aten.transpose.int:
            given = node_arguments(node)
            a, b = given["dim0"], given["dim1"]
        order[a], order[b] = order[b], order[a]
    return order


def _merge_orders(outer: fx.Node, inner: fx.Node) -> fx.Node | None:
    after, before = order_of(outer), order_of(inner)
    source = inner.args[0]
    if after is None or before is None or not isinstance(source, fx.Node):
        return None
    order = [before[dim] for dim in after]
    if order == list(range(len(order))):
        return source
    return insert_call(outer, aten.permute.default, (source, order))


def _merge_shapes(outer: fx.Node, inner: fx.Node) -> fx.Node | None:
    source, value = inner.args[0], tensor_of(outer)
    before = tensor_of(source)
    if before is None or value is None or not isinstance(source, fx.Node):
        return None
    if same_sizes(before.shape, value.shape):
        return source if same_sizes(before.stride(), value.stride()) else None
    if outer.target not in _SIZED or not same_sizes(contiguous_strides(before.shape), before.stride()):
        return None  # the first view copies, and later ones may rely on it
    return insert_call(outer, aten.reshape.default, (source, outer.args[1]))


def contiguous_strides(shape: Any) -> list[Any]:
    """The strides of a dense tensor of a shape."""
    strides: list[Any] = []
    step: Any = 1
    for size in reversed(shape):
        strides.insert(0, step)
        step = step * size
    return strides


def _merge_expand(outer: fx.Node, inner: fx.Node) -> fx.Node | None:
    source = inner.args[0]
    wide, narrow = node_arguments(outer)["size"], node_arguments(inner)["size"]
    missing = len(wide) - len(narrow)
    sizes = [narrow[i - missing] if _is_kept(size) else size for i, size in enumerate(wide)]
    return insert_call(outer, aten.expand.default, (source, sizes))


def _is_kept(size: Any) -> bool:
    return isinstance(size, int) and size == -1

"""What an engine has no use for: assertions, casts of another name, and nodes that hand on their input."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from trtcore.pack import CompileContext, insert_call, node_arguments
from trtcore_converters._values import CASTS
from trtcore_converters.passes._graph import calls, in_torch, keeps, replace, unchanged, written

aten = torch.ops.aten


_ASSERTIONS = frozenset(
    {
        aten._assert_tensor_metadata.default,
        aten._assert_async.default,
        aten._assert_async.msg,
        aten._assert_scalar.default,
        aten.sym_constrain_range.default,
        aten.sym_constrain_range_for_size.default,
        torch._check,
    }
)


def remove_assertions(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Drop what export leaves behind to check dtypes and sizes: the compiled module checks its inputs itself."""
    for node in reversed(graph_module.graph.nodes):
        if node.op == "call_function" and node.target in _ASSERTIONS and not node.users:
            graph_module.graph.erase_node(node)


def plain_casts(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """``prims.convert_element_type``, which decompositions leave, as the cast that other passes look for."""
    for node in calls(graph_module, (torch.ops.prims.convert_element_type.default,)):
        if not in_torch(ctx, (node,)):
            source, dtype = node_arguments(node).values()
            replace(node, insert_call(node, aten._to_copy.default, (source,), {"dtype": dtype}))


_ZEROS = (aten._efficientzerotensor.default, aten._new_zeros_with_same_feature_meta.default)


def plain_zeros(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Zeros without memory, which forward derivatives (``torch.func.jvp``, ``jacfwd``) make, as zeros with some: an
    engine or a constant can't be made of a tensor that nothing lies behind."""
    for node in calls(graph_module, _ZEROS):
        value = node.meta["val"]
        if all(type(size) is int for size in value.shape):
            options = {"dtype": value.dtype, "device": value.device}
            replace(node, insert_call(node, aten.zeros.default, (list(value.shape),), options))
        elif node.target is _ZEROS[1] and not node_arguments(node)["self_num_batch_dims"]:
            replace(node, insert_call(node, aten.zeros_like.default, (node.args[1],), {"dtype": value.dtype}))


# Ops that are the identity wherever they change neither dtype, shape, strides nor device.
_NOOPS = frozenset(
    {
        aten.alias.default,
        aten.detach.default,
        aten.clone.default,
        aten.contiguous.default,
        aten.lift_fresh_copy.default,
        *CASTS,
        aten.view.default,
        aten.reshape.default,
        aten.expand.default,
        aten.slice.Tensor,
        aten.flatten.using_ints,
        aten.squeeze.dim,
        aten.squeeze.dims,
    }
)
_DROPOUTS = frozenset({aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default})


def remove_noops(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Drop nodes that hand on their input: dropout at inference, casts to the same dtype, views of the same shape.

    A node that the model returns stays: without it the result would be another tensor's storage. So does a copy
    of a tensor that the model overwrites in the end: it may be there to keep the old value.
    """
    overwritten = written(graph_module)
    for node in list(graph_module.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is operator.getitem and isinstance(node.args[0], (list, tuple)):
            # What inlining a subgraph (torch.no_grad, autocast) leaves of the tuple that it returned.
            node.replace_all_uses_with(node.args[0][node.args[1]])
            graph_module.graph.erase_node(node)
            continue
        if not (node.target in _NOOPS or _inactive_dropout(node)):
            continue
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or any(keeps(user) for user in node.users):
            continue
        if overwritten and _base(source) in overwritten:
            continue
        if node.target in _DROPOUTS or unchanged(source, node):
            node.replace_all_uses_with(source)
            graph_module.graph.erase_node(node)


def _base(node: fx.Node) -> Any:
    """The target of the node whose storage a view looks at; of the node itself, if it is no view."""
    while node.op == "call_function" and node.args and isinstance(node.args[0], fx.Node):
        schema = getattr(node.target, "_schema", None)
        if schema is None or not any(argument.alias_info for argument in schema.returns):
            break
        node = node.args[0]
    return node.target


def _inactive_dropout(node: fx.Node) -> bool:
    if node.target not in _DROPOUTS:
        return False
    given = node_arguments(node)
    return not given["train"] or given["p"] == 0

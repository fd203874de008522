"""Products with weights become ``linear``, which is what converters, autocast and other packs look for."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from trtcore.pack import CompileContext, insert_call, node_arguments
from trtcore_converters.passes._graph import (
    calls,
    constants,
    in_torch,
    is_call,
    only_user,
    operands,
    replace,
    same_sizes,
    tensor_of,
)
from trtcore_converters.passes.views import order_of

aten = torch.ops.aten

_PRODUCTS = frozenset({aten.matmul.default, aten.mm.default})


def fuse_linear(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """``x @ weight.T``, ``addmm(bias, x, weight.T)`` and ``linear(x, weight) + bias`` as one ``linear``.

    A weight is a constant of two dims; one that is stored the other way round is looked at transposed.
    """
    known = constants(graph_module)
    for node in calls(graph_module, _PRODUCTS | {aten.addmm.default, aten.add.Tensor}):
        if is_call(node, _PRODUCTS):
            made = _of_product(node, *node.args, known, ctx)
        elif is_call(node, (aten.addmm.default,)):
            made = _of_addmm(node, known, ctx)
        else:
            made = _with_bias(node, known, ctx)
        if made is not None:
            replace(node, made)


def _of_product(
    node: fx.Node, x: Any, right: Any, known: dict[fx.Node, torch.Tensor], ctx: CompileContext
) -> fx.Node | None:
    weight = None if in_torch(ctx, (node,)) else _weight(node, right, known)
    return None if weight is None else insert_call(node, aten.linear.default, (x, weight))


def _of_addmm(node: fx.Node, known: dict[fx.Node, torch.Tensor], ctx: CompileContext) -> fx.Node | None:
    given = node_arguments(node)
    value, bias = tensor_of(node), tensor_of(given["self"])
    if given["beta"] != 1 or given["alpha"] != 1 or value is None or bias is None:
        return None
    if not _is_bias(bias, value) or in_torch(ctx, (node,)):
        return None
    weight = _weight(node, given["mat2"], known)
    if weight is None:
        return None
    return insert_call(node, aten.linear.default, (given["mat1"], weight, given["self"]))


def _weight(node: fx.Node, right: Any, known: dict[fx.Node, torch.Tensor]) -> fx.Node | None:
    """The weight of shape (out, in) whose transpose is the right operand of a product."""
    value = tensor_of(right)
    if value is None or value.dim() != 2 or not value.is_floating_point():
        return None
    if order_of(right) == [1, 0] and right.args[0] in known:
        return right.args[0]  # type: ignore[no-any-return]
    return insert_call(node, aten.t.default, (right,)) if right in known else None


def _with_bias(node: fx.Node, known: dict[fx.Node, torch.Tensor], ctx: CompileContext) -> fx.Node | None:
    if node_arguments(node)["alpha"] != 1:
        return None
    for product, bias in (operands(node), operands(node)[::-1]):
        value, vector = tensor_of(product), tensor_of(bias)
        if not is_call(product, (aten.linear.default,)) or bias not in known:
            continue
        if len(product.args) > 2 and product.args[2] is not None:
            continue
        if value is None or vector is None or not _is_bias(vector, value) or only_user(product) is not node:
            continue
        if in_torch(ctx, (node, product)):
            continue
        return insert_call(node, aten.linear.default, (*product.args[:2], bias), like=product)
    return None


def _is_bias(bias: torch.Tensor, result: torch.Tensor) -> bool:
    """Whether a tensor is one number for each column of the result, in its dtype."""
    return bias.dtype == result.dtype and bias.dim() == 1 and same_sizes(bias.shape, result.shape[-1:])

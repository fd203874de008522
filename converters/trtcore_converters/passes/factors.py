"""What attention layers read: products that TensorRT can share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from trtcore.pack import CompileContext, insert_constant, node_arguments
from trtcore_converters.passes._graph import constants

aten = torch.ops.aten

_PRODUCTS = frozenset({aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar})
_VECTOR_OP: Mapping[Any, Any] = {aten.mul.Scalar: aten.mul.Tensor, aten.div.Scalar: aten.div.Tensor}
_COMMUTES = frozenset({aten.mul.Tensor, aten.mul.Scalar})

# Layout alone: TensorRT drops those that change nothing, and the product is then the layer's own input.
_LAYOUT = frozenset(
    {
        aten.view.default,
        aten._unsafe_view.default,
        aten.reshape.default,
        aten.transpose.int,
        aten.permute.default,
        aten.movedim.int,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.expand.default,
        aten.unflatten.int,
        aten.flatten.using_ints,
        aten.contiguous.default,
        aten.clone.default,
        aten.alias.default,
        aten.detach.default,
    }
)


def attention_factors(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Write queries and keys that are multiplied (or divided) by a number as multiplied by a vector of it.

    TensorRT-RTX 1.7.1 takes the product with a number into the attention layer, and crashes, or refuses the engine,
    where anything else reads the product too. With a vector it does not. The values are the same.
    """
    known: dict[fx.Node, torch.Tensor] | None = None
    for node in list(graph_module.graph.nodes):
        if node.target is not aten.scaled_dot_product_attention.default:
            continue
        given = node_arguments(node)
        known = constants(graph_module) if known is None else known
        for source in (given["query"], given["key"]):
            product = _product_behind(source)
            if product is not None:
                _widen(graph_module, product, known)


def _product_behind(node: Any) -> fx.Node | None:
    while isinstance(node, fx.Node) and node.target in _LAYOUT and node.args:
        node = node.args[0]
    return node if isinstance(node, fx.Node) and node.target in _PRODUCTS else None


def _widen(graph_module: fx.GraphModule, product: fx.Node, known: dict[fx.Node, torch.Tensor]) -> None:
    if len(product.args) != 2 or product.kwargs:
        return
    x, factor = product.args
    if product.target in _COMMUTES and _number(x, known) is not None:
        x, factor = factor, x
    number, traced = _number(factor, known), product.meta.get("val")
    if number is None or not isinstance(x, fx.Node) or not isinstance(traced, torch.Tensor):
        return
    operand = x.meta.get("val")
    if (
        not isinstance(operand, torch.Tensor)
        or operand.dtype != traced.dtype
        or not _keeps(number, traced.dtype)
    ):
        return
    shape = _vector_shape(operand)
    if shape is None:
        return
    vector = insert_constant(
        graph_module, product, torch.full(shape, number, dtype=traced.dtype, device=traced.device)
    )
    product.target = _VECTOR_OP.get(product.target, product.target)
    product.args = (x, vector)


def _number(value: Any, known: dict[fx.Node, torch.Tensor]) -> float | None:
    """The number that an operand is: a Python one, or a constant of one element."""
    if isinstance(value, fx.Node):
        constant = known.get(value)
        one = constant is not None and constant.numel() == 1 and constant.is_floating_point()
        return float(constant) if one else None  # type: ignore[arg-type]
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _keeps(number: float, dtype: torch.dtype) -> bool:
    """Whether an op of this dtype multiplies by the number as the dtype has it.

    Other numbers are multiplied in float32, and the cast behind the product keeps it out of the layer.
    """
    if dtype == torch.float32:
        return True
    return dtype in (torch.float16, torch.bfloat16) and float(torch.tensor(number, dtype=dtype)) == number


def _vector_shape(operand: torch.Tensor) -> list[int] | None:
    """A shape that broadcasts to the operand's, with more than one element along its last known dim."""
    for back, size in enumerate(reversed(operand.shape)):
        if isinstance(size, int) and size > 1:
            return [size, *[1] * back]
    return None

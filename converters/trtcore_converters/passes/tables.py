"""Tables that a model uses both ways: rows by index, and as a matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from trtcore.pack import CompileContext, insert_call, insert_constant
from trtcore_converters.passes._graph import constants

aten = torch.ops.aten

SMALLEST = 1 << 16
"""Bytes: a smaller table may as well be in the plan twice."""


def pad_tied_tables(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Give a table of an odd number of rows that is an embedding and a linear's weight one more row, of zeros.

    TensorRT-RTX 1.7.1 pads the matrix of a product to an even number of rows, and then has it in the plan beside the
    table that the embedding reads. With an even one both read the same. The extra column of the product is cut off.
    """
    if not ctx.settings.immutable_weights:
        return  # the engine's weights must stay the model's own
    for node, table in constants(graph_module).items():
        if not _is_odd_table(table):
            continue
        lookups = [
            user for user in node.users if user.target is aten.embedding.default and user.args[0] is node
        ]
        products = [user for user in node.users if _is_product_with(user, node)]
        if not lookups or not products:
            continue
        with torch.no_grad():
            padded = torch.cat([table, table.new_zeros(1, table.shape[1])])
        first = next(user for user in graph_module.graph.nodes if user in node.users)
        wide = insert_constant(graph_module, first, padded)
        for lookup in lookups:
            lookup.update_arg(0, wide)
        for product in products:
            _widen(product, wide, table.shape[0])


def _is_odd_table(table: torch.Tensor) -> bool:
    return (
        table.dim() == 2
        and table.shape[0] % 2 == 1
        and table.is_floating_point()
        and table.numel() * table.element_size() >= SMALLEST
        and not table.is_meta
        and type(table) in (torch.Tensor, torch.nn.Parameter)
    )


def _is_product_with(user: fx.Node, table: fx.Node) -> bool:
    """A linear without bias: what heads that are tied to an embedding are."""
    arguments = list(user.args)
    plain = user.target is aten.linear.default and len(arguments) >= 2 and not user.kwargs
    return plain and arguments[1] is table and (len(arguments) == 2 or arguments[2] is None)


def _widen(product: fx.Node, wide: fx.Node, rows: int) -> None:
    x: Any = product.args[0]
    whole = insert_call(product, aten.linear.default, (x, wide))
    dim = whole.meta["val"].dim() - 1
    product.replace_all_uses_with(insert_call(product, aten.slice.Tensor, (whole, dim, 0, rows)))
    product.graph.erase_node(product)

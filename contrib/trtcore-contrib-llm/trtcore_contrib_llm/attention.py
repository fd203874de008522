"""Attention over a static KV cache.

The caches are written by a scatter, which gives new tensors that the model copies to its buffers. TensorRT's own
KVCacheUpdate layer writes in place: its cache must be an input of the network, its result an output, and the
caller must bind both to the same memory, which the runtimes of trtcore do not do.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx

from trtcore.pack import (
    CompileContext,
    ConversionContext,
    LoweringPass,
    NodeContext,
    Priority,
    Reject,
    Requires,
    converter,
    forced_to_torch,
    insert_call,
    node_arguments,
)
from trtcore_contrib_llm.ops import attention_scale
from trtcore_contrib_llm.ops import cached_attention as cached_attention_op

aten = torch.ops.aten
_OP = cached_attention_op._opoverload


def _traced(value: Any) -> torch.Tensor | None:
    found = value.meta.get("val") if isinstance(value, fx.Node) else value
    return found if isinstance(found, torch.Tensor) else None


def _plain(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = node_arguments(node)
    found = {name: _traced(given[name]) for name in ("query", "key", "value", "keys", "values")}
    if any(value is None or value.dim() != 4 for value in found.values()):
        return Reject("query, keys, values and caches have four dims")
    if len({value.dtype for value in found.values()}) != 1 or not found["query"].is_floating_point():
        return Reject("query, keys, values and caches are of one floating-point dtype")
    for name in ("query", "keys"):
        _, heads, _, size = found[name].shape
        if not isinstance(heads, int) or not isinstance(size, int):
            return Reject("the number of heads or their size varies from call to call")
    return True


def _fits_layer(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    if ctx.settings.decompose_attention:
        return Reject("settings.decompose_attention is set")
    return _plain(node, ctx)


@converter(
    _OP,
    capability_validator=_fits_layer,
    supports_dynamic_shapes=True,
    requires=Requires(features=("layer:add_attention_v2:decomposable",)),
)
def cached_attention_layer(
    ctx: ConversionContext,
    query: Any,
    key: Any,
    value: Any,
    keys: Any,
    values: Any,
    position: Any,
    scale: Any,
) -> tuple[Any, Any, Any]:
    """TensorRT's attention layer, which has key heads for groups of query heads."""
    keys, values = _written(ctx, keys, key, position), _written(ctx, values, value, position)
    layer = ctx.net.add_attention_v2(
        _scaled(ctx, query, scale),
        keys,
        values,
        ctx.trt.AttentionNormalizationOp.SOFTMAX,
        ctx.trt.CausalMaskKind.NONE,
    )
    result = ctx.output(layer)
    layer.decomposable = True
    layer.mask = _allowed(ctx, keys, position)
    return result, keys, values


@converter(_OP, priority=Priority.FALLBACK, capability_validator=_plain, supports_dynamic_shapes=True)
def cached_attention_composed(
    ctx: ConversionContext,
    query: Any,
    key: Any,
    value: Any,
    keys: Any,
    values: Any,
    position: Any,
    scale: Any,
) -> tuple[Any, Any, Any]:
    """Two products and a softmax. The queries of a group are rows of one product: the caches are not repeated."""
    keys, values = _written(ctx, keys, key, position), _written(ctx, values, value, position)
    query = _scaled(ctx, query, scale)
    batch, heads, length, size = ctx.dims_of(query)
    groups, capacity = ctx.dim(keys, 1), ctx.dim(keys, 2)
    folded = ctx.reshape(query, [batch, groups, ctx.dim_op(length, heads // groups, "PROD"), size])
    scores = ctx.reshape(ctx.matmul(folded, keys, transpose_b=True), [batch, heads, length, capacity])
    scores = ctx.select(_allowed(ctx, keys, position), scores, ctx.constant(-math.inf, ctx.dtype(query)))
    weights = ctx.reshape(ctx.softmax(scores, -1), [*ctx.dims_of(folded)[:3], capacity])
    return ctx.reshape(ctx.matmul(weights, values), [batch, heads, length, size]), keys, values


def _scaled(ctx: ConversionContext, query: Any, scale: float | None) -> Any:
    query = ctx.tensor(query)
    factor = attention_scale(int(ctx.shape(query)[-1]), scale)
    wide = ctx.elementwise(query, factor, "PROD", to=torch.float32)  # the factor is not rounded to 16 bits
    return ctx.cast(wide, ctx.dtype(query))


def _written(ctx: ConversionContext, cache: Any, new: Any, position: Any) -> Any:
    """The cache with `new` at the places of `position`, along dim 2."""
    cache, new = ctx.tensor(cache), ctx.tensor(new)
    places = ctx.reshape(ctx.tensor(position), [1, 1, -1, 1])
    layer = ctx.net.add_scatter(cache, ctx.expand(places, ctx.dims_of(new)), new, ctx.trt.ScatterMode.ELEMENT)
    layer.axis = 2
    return ctx.output(layer)


def _allowed(ctx: ConversionContext, keys: Any, position: Any) -> Any:
    """(1, 1, length, capacity) bool: True up to each query's own place."""
    capacity = ctx.dim(keys, 2)
    rows = ctx.reshape(ctx.tensor(position, torch.int64), [1, 1, -1, 1])
    if ctx.is_tensor(capacity):
        columns = ctx.net.add_fill((1,), ctx.trt.FillOperation.LINSPACE, ctx.backend.trt_dtype(torch.int64))
        for index, value in enumerate(
            (ctx.shape_tensor([capacity]), ctx.constant(0, torch.int64), ctx.constant([1], torch.int64))
        ):
            columns.set_input(index, value)
        places = ctx.reshape(ctx.output(columns), [1, 1, 1, capacity])
    else:
        places = ctx.constant(torch.arange(capacity).reshape(1, 1, 1, capacity))
    return ctx.unary(ctx.elementwise(places, rows, "GREATER"), "NOT")


# The pass -----------------------------------------------------------------------------------------------


def recover_cached_attention(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Attention over caches that were just written, and masked by place, becomes one `cached_attention`.

    The plain torch of it: both caches by ``index_copy`` along dim 2 at the same places, the mask
    ``arange(capacity) <= position[:, None]``.
    """
    place = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    for node in list(graph_module.graph.nodes):
        if node.op != "call_function" or node.target is not aten.scaled_dot_product_attention.default:
            continue
        found = _cached(graph_module, node)
        if found is None or any(forced_to_torch(one, ctx) for one in (node, *found)):
            continue
        keys, values = found
        if any(place.get(user, 0) < place[node] for one in found for user in one.users):
            continue  # somebody reads the new cache before the attention
        given, written = node_arguments(node), node_arguments(keys)
        call = insert_call(
            node,
            _OP,
            (
                given["query"],
                written["source"],
                node_arguments(values)["source"],
                written["self"],
                node_arguments(values)["self"],
                written["index"],
                given["scale"],
            ),
            like=node,
        )
        _take_over(graph_module, call, (node, keys, values))


def _take_over(graph_module: fx.GraphModule, call: fx.Node, replaced: tuple[fx.Node, ...]) -> None:
    """Output i of `call` in the place of replaced[i]."""
    for index, old in enumerate(replaced):
        with graph_module.graph.inserting_after(call):
            part = graph_module.graph.call_function(operator.getitem, (call, index))
        part.meta = {**old.meta, "val": old.meta["val"]}
        old.replace_all_uses_with(part)
    for old in replaced:
        graph_module.graph.erase_node(old)


def _cached(graph_module: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The two nodes that write the caches an attention reads; None where it is not a cached attention."""
    given = node_arguments(node)
    keys, values, mask = given["key"], given["value"], given["attn_mask"]
    if given["dropout_p"] or given["is_causal"] or not isinstance(mask, fx.Node):
        return None
    for cache in (keys, values):
        traced = _traced(cache)
        if traced is None or traced.dim() != 4 or cache.target is not aten.index_copy.default:
            return None
        if node_arguments(cache)["dim"] % 4 != 2:
            return None
    position = node_arguments(keys)["index"]
    query, cache = _traced(given["query"]), _traced(keys)
    same = query is not None and query.dim() == 4 and query.dtype == cache.dtype
    grouped = given["enable_gqa"] or (same and query.shape[1] == cache.shape[1])
    if not same or not grouped or position is not node_arguments(values)["index"]:
        return None
    return (keys, values) if _masks_by_place(graph_module, mask, position, cache.shape[2]) else None


def _masks_by_place(graph_module: fx.GraphModule, mask: fx.Node, position: Any, capacity: Any) -> bool:
    """Whether `mask` is ``arange(capacity) <= position[:, None]``."""
    if mask.target is not aten.le.Tensor or not isinstance(capacity, int):
        return False
    columns, rows = mask.args
    if not isinstance(rows, fx.Node) or rows.target is not aten.unsqueeze.default:
        return False
    if rows.args[0] is not position or rows.args[1] % 2 != 1 or not isinstance(columns, fx.Node):
        return False
    if columns.op == "get_attr":
        value: Any = graph_module
        for name in str(columns.target).split("."):
            value = getattr(value, name)
        return value.dim() == 1 and torch.equal(value.cpu(), torch.arange(capacity))
    return columns.target is aten.arange.default and columns.args[0] == capacity


PASSES = (LoweringPass("recover_cached_attention", recover_cached_attention),)

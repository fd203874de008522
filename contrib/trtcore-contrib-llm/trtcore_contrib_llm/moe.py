"""Mixture of experts: products, or TensorRT's layer where a pin asks for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from trtcore.pack import (
    ConversionContext,
    NodeContext,
    Priority,
    Reject,
    Requires,
    converter,
    node_arguments,
)
from trtcore_contrib_llm.ops import mixture_of_experts as moe_op


def _known(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = node_arguments(node)
    found = {name: given[name].meta.get("val") for name in ("x", "experts", "scores", "gate", "up", "down")}
    if any(value is None for value in found.values()):
        return Reject("the shapes of a mixture of experts are unknown")
    floating = {value.dtype for name, value in found.items() if name != "experts"}
    if len(floating) != 1 or not found["x"].is_floating_point():
        return Reject("tokens, scores and experts' weights are of one floating-point dtype")
    fixed = [*found["gate"].shape, *found["down"].shape, found["x"].shape[1], found["experts"].shape[1]]
    if not all(isinstance(size, int) for size in fixed):
        return Reject("the experts or their sizes vary from call to call")
    return True


@converter(
    moe_op,
    priority=Priority.FALLBACK
    - 1,  # behind `moe_composed`: its numbers have not been compared with a real TensorRT's
    capability_validator=_known,
    supports_dynamic_shapes=True,
    requires=Requires(layers=frozenset({"add_moe"})),
)
def moe_layer(
    ctx: ConversionContext, x: Any, experts: Any, scores: Any, gate: Any, up: Any, down: Any
) -> Any:
    """TensorRT's MoE layer, on a batch of one; only where it is pinned or given at the call site."""
    x = ctx.tensor(x)
    tokens, size = ctx.dims_of(x)
    chosen = ctx.dim(experts, 1)
    layer = ctx.net.add_moe(
        ctx.reshape(x, [1, tokens, size]),
        ctx.reshape(ctx.tensor(experts, torch.int32), [1, tokens, chosen]),
        ctx.reshape(ctx.tensor(scores), [1, tokens, chosen]),
    )
    layer.set_gated_weights(*(ctx.tensor(weight) for weight in (gate, up, down)), ctx.trt.MoEActType.SILU)
    return ctx.reshape(ctx.output(layer), [tokens, size])


@converter(moe_op, priority=Priority.FALLBACK, capability_validator=_known, supports_dynamic_shapes=True)
def moe_composed(
    ctx: ConversionContext, x: Any, experts: Any, scores: Any, gate: Any, up: Any, down: Any
) -> Any:
    """Few tokens: the weights of their experts, gathered. Else every expert on every token, most of them times zero."""
    tokens, chosen = ctx.shape(experts)
    if tokens != -1 and tokens * chosen < ctx.shape(gate)[0]:
        return _gathered(ctx, x, experts, scores, gate, up, down)
    return _all_experts(ctx, x, experts, scores, gate, up, down)


def _gathered(
    ctx: ConversionContext, x: Any, experts: Any, scores: Any, gate: Any, up: Any, down: Any
) -> Any:
    """Products of (tokens, k, 1, size) and the gathered weights (tokens, k, size, inner)."""
    x, experts = ctx.tensor(x), ctx.tensor(experts)
    tokens, size = ctx.shape(x)
    chosen = ctx.shape(experts)[1]
    rows = ctx.reshape(x, [tokens, 1, 1, size])
    gate, up, down = (ctx.gather(ctx.tensor(weight), experts, 0) for weight in (gate, up, down))
    rows = ctx.expand(rows, [tokens, chosen, 1, size])
    results = ctx.reshape(_expert(ctx, rows, gate, up, down), [tokens, chosen, size])
    weighted = ctx.elementwise(results, ctx.reshape(ctx.tensor(scores), [tokens, chosen, 1]), "PROD")
    return ctx.reduce(weighted, "SUM", [1])


def _all_experts(
    ctx: ConversionContext, x: Any, experts: Any, scores: Any, gate: Any, up: Any, down: Any
) -> Any:
    """(experts, tokens, size), summed with weights (experts, tokens) that are zero where a token did not choose."""
    x, experts = ctx.tensor(x), ctx.tensor(experts, torch.int64)
    count = ctx.shape(gate)[0]
    tokens, size = ctx.dims_of(x)
    chosen = ctx.dim(experts, 1)
    results = _expert(
        ctx, ctx.reshape(x, [1, tokens, size]), *(ctx.tensor(weight) for weight in (gate, up, down))
    )
    number = ctx.constant(torch.arange(count).reshape(count, 1, 1))
    matches = ctx.elementwise(number, ctx.reshape(experts, [1, tokens, chosen]), "EQUAL")
    zero = ctx.constant(0.0, ctx.dtype(x))
    counted = ctx.select(matches, ctx.reshape(ctx.tensor(scores), [1, tokens, chosen]), zero)
    weights = ctx.reduce(counted, "SUM", [2], keepdim=True)
    # What nobody chose may be infinite: times zero it would be NaN.
    used = ctx.reduce(ctx.cast(matches, torch.int32), "MAX", [2], keepdim=True)
    results = ctx.select(ctx.cast(used, torch.bool), ctx.elementwise(results, weights, "PROD"), zero)
    return ctx.reduce(results, "SUM", [0])


def _expert(ctx: ConversionContext, x: Any, gate: Any, up: Any, down: Any) -> Any:
    """``(silu(x @ gate) * (x @ up)) @ down``."""
    gated = ctx.matmul(x, gate)
    gated = ctx.elementwise(gated, ctx.activation(gated, "SIGMOID"), "PROD")
    return ctx.matmul(ctx.elementwise(gated, ctx.matmul(x, up), "PROD"), down)

"""Attention as torch's kernels have it: what a model holds that was decomposed on a GPU, or traced by torch.jit."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from trtcore.pack import CompileContext, insert_call, node_arguments
from trtcore_converters._checks import val
from trtcore_converters.attention import KERNELS
from trtcore_converters.passes._graph import calls, in_torch, replace, same_sizes

aten = torch.ops.aten

_Call = Callable[..., fx.Node]


def attention_kernels(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Kernels of attention, and of the layers around it, as the ops that models are written in.

    ``scaled_dot_product_attention`` in place of the kernels that torch takes it apart into, where only the attention is
    used of what they give; ``nn.MultiheadAttention`` and ``nn.TransformerEncoderLayer`` in place of their fast paths,
    where their inputs are surely of the size that their weights ask for.
    """
    for node in calls(graph_module, _REWRITES):
        if not in_torch(ctx, (node,)):
            _REWRITES[node.target](node)


def _taken(node: fx.Node) -> dict[int, fx.Node]:
    """The results that somebody reads, by number; nodes of those that nobody reads are taken out."""
    for user in list(node.users):
        if user.target is operator.getitem and not user.users:
            node.graph.erase_node(user)
    return {int(user.args[1]) if user.target is operator.getitem else -1: user for user in node.users}  # type: ignore[arg-type]


def _replaced(node: fx.Node, results: dict[int, fx.Node]) -> None:
    for place, user in _taken(node).items():
        replace(user, results[place])


# ---- attention alone ---------------------------------------------------------------------------------------


def _attention(node: fx.Node) -> None:
    given = node_arguments(node)
    query, key = val(given["query"]), val(given["key"])
    if set(_taken(node)) != {0} or not isinstance(query, torch.Tensor) or not isinstance(key, torch.Tensor):
        return
    causal = bool(given["is_causal"])
    if causal and not same_sizes(
        query.shape[-2:-1], key.shape[-2:-1]
    ):  # some kernels let it end at the last key
        return
    made = insert_call(
        node,
        aten.scaled_dot_product_attention.default,
        (given["query"], given["key"], given["value"], given.get("attn_bias", given.get("attn_mask"))),
        {
            "dropout_p": given["dropout_p"],
            "is_causal": causal,
            "scale": given["scale"],
            "enable_gqa": not same_sizes(query.shape[-3:-2], key.shape[-3:-2]),
        },
    )
    _replaced(node, {0: made})


# ---- layers ------------------------------------------------------------------------------------------------


def _multi_head(node: fx.Node) -> None:
    given = node_arguments(node)
    sources = [given[name] for name in ("query", "key", "value")]
    if not all(_fits(source, given["embed_dim"]) for source in sources):
        return
    attended, weights = _heads(node, sources, given, given["need_weights"], given["average_attn_weights"])
    taken = _taken(node)
    if set(taken) <= {0, 1} and (1 not in taken or weights is not None):
        _replaced(node, {0: attended, **({1: weights} if weights is not None else {})})


def _heads(
    node: fx.Node, sources: list[fx.Node], given: dict[str, Any], weighed: bool, averaged: bool = False
) -> tuple[fx.Node, fx.Node | None]:
    """``nn.MultiheadAttention`` of (batch, length, size); the weights too, or their mean over the heads."""

    def call(op: Any, *args: Any, **kwargs: Any) -> fx.Node:
        return insert_call(node, op, args, kwargs)

    heads = given.get("num_head", given.get("num_heads"))
    parts = [
        call(
            aten.transpose.int,
            call(aten.unflatten.int, projected, -1, [heads, given["embed_dim"] // heads]),
            1,
            2,
        )
        for projected in _projections(call, sources, given)
    ]
    mask, weights = given["mask"], None
    if mask is None and not weighed:
        attended = call(aten.scaled_dot_product_attention.default, *parts)
    else:
        query, key, value = parts
        scaled = call(aten.mul.Tensor, query, 1 / math.sqrt(given["embed_dim"] // heads))
        scores = call(aten.matmul.default, scaled, call(aten.transpose.int, key, -2, -1))
        if mask is not None:
            scores = call(
                aten.masked_fill.Scalar, scores, _excluded(call, mask, given["mask_type"]), -math.inf
            )
        weights = call(aten.softmax.int, scores, -1)
        attended = call(aten.matmul.default, weights, value)
        if averaged:
            weights = call(aten.mean.dim, weights, [1])
    rows = call(aten.flatten.using_ints, call(aten.transpose.int, attended, 1, 2), 2)
    return call(
        aten.linear.default, rows, given["proj_weight"], given["proj_bias"]
    ), weights if weighed else None


def _fits(source: Any, size: int) -> bool:
    """Whether the last dim is surely `size`; the kernels' FakeTensors do not ask."""
    value = val(source)
    return isinstance(value, torch.Tensor) and same_sizes(value.shape[-1:], [size])


def _projections(call: _Call, sources: list[fx.Node], given: dict[str, Any]) -> list[fx.Node]:
    """Query, key and value through their thirds of one weight (3 * size, size)."""
    size = given["embed_dim"]
    found = []
    for part, source in enumerate(sources):
        weight, bias = (
            call(aten.slice.Tensor, given[name], 0, part * size, (part + 1) * size)
            for name in ("qkv_weight", "qkv_bias")
        )
        found.append(call(aten.linear.default, source, weight, bias))
    return found


def _excluded(call: _Call, mask: fx.Node, kind: int | None) -> fx.Node:
    """A mask that is True where a key is left out: (batch, keys) if `kind` is 1, else as it broadcasts to scores."""
    return call(aten.unsqueeze.default, call(aten.unsqueeze.default, mask, 1), 2) if kind == 1 else mask


def _encoder_layer(node: fx.Node) -> None:
    """``nn.TransformerEncoderLayer`` at inference."""
    given = node_arguments(node)
    if not _fits(given["src"], given["embed_dim"]):
        return

    def call(op: Any, *args: Any) -> fx.Node:
        return insert_call(node, op, args)

    def norm(x: fx.Node, which: int) -> fx.Node:
        weight, bias = given[f"norm_weight_{which}"], given[f"norm_bias_{which}"]
        return call(aten.layer_norm.default, x, [given["embed_dim"]], weight, bias, given["eps"])

    def attention(x: fx.Node) -> fx.Node:
        return _heads(node, [x, x, x], given, False)[0]

    def forward(x: fx.Node) -> fx.Node:
        hidden = call(aten.linear.default, x, given["ffn_weight_1"], given["ffn_bias_1"])
        hidden = call(aten.gelu.default if given["use_gelu"] else aten.relu.default, hidden)
        return call(aten.linear.default, hidden, given["ffn_weight_2"], given["ffn_bias_2"])

    x = given["src"]
    if given["norm_first"]:
        x = call(aten.add.Tensor, x, attention(norm(x, 1)))
        x = call(aten.add.Tensor, x, forward(norm(x, 2)))
    else:
        x = norm(call(aten.add.Tensor, x, attention(x)), 1)
        x = norm(call(aten.add.Tensor, x, forward(x)), 2)
    replace(node, x)


_REWRITES: dict[Any, Callable[[fx.Node], None]] = {
    **dict.fromkeys(KERNELS, _attention),
    aten._native_multi_head_attention.default: _multi_head,
    aten._transformer_encoder_layer_fwd.default: _encoder_layer,
}

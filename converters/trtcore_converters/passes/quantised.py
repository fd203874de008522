"""Weights that are stored quantised, and quantised operands of attention layers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from trtcore.pack import CompileContext, insert_call, insert_constant, log_rewrite, node_arguments
from trtcore_converters import quantize_ops  # noqa: F401 (registers the ops)
from trtcore_converters._values import CASTS
from trtcore_converters.passes._graph import calls, fixed, only_user, replace

aten = torch.ops.aten

_ATTENTION = aten.scaled_dot_product_attention.default
_FAKE_QUANTIZE = torch.ops.trtcore_quantize.fake_quantize.default
_DEQUANTIZE = torch.ops.trtcore_quantize.dequantize.default
_FORMS = {torch.int8: "int8", torch.float8_e4m3fn: "fp8"}
_VIEWS = frozenset(
    {aten.t.default, aten.transpose.int, aten.permute.default, aten.detach.default, aten.alias.default}
)


def scale_quantised_queries(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Let the dequantise layer of a query scale it: attention in int8 or fp8 takes its inputs from such layers alone.

    TensorRT's attention does not scale, so that otherwise a product stands between.
    """
    for node in calls(graph_module, {_ATTENTION}):
        given = node_arguments(node)
        query, scale = given["query"], given["scale"]
        if (
            not isinstance(query, fx.Node)
            or query.target is not _FAKE_QUANTIZE
            or only_user(query) is not node
        ):
            continue
        size = query.meta["val"].shape[-1]
        if scale is None and not isinstance(size, int):
            continue
        factor = 1.0 / math.sqrt(size) if scale is None else scale
        if not isinstance(factor, float) or not factor > 0 or query in (given["key"], given["value"]):
            continue
        gain = node_arguments(query)["gain"]
        query.args = (*query.args[:5], gain * factor)
        node.kwargs = {**node.kwargs, "scale": 1.0}
        log_rewrite(graph_module, "scale_quantised_queries", node, [node.name], [query.name])


def quantised_weights(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Keep weights that are stored in int8 or fp8 as they are: what makes floats of them is one dequantise op.

    That is torchao's op for it, and a cast with, for scales of channels, the product behind it. Constant folding would
    make them four times as large. Where weights are to stay replaceable nothing is done.
    """
    known = fixed(graph_module, ctx)
    for node in list(graph_module.graph.nodes):
        if node.op != "call_function":
            continue
        if str(node.target) == "torchao.dequantize_affine.default":
            _from_torchao(graph_module, node, known)
        elif node.target in CASTS:
            _from_cast(graph_module, node, known)


def _from_torchao(graph_module: fx.GraphModule, node: fx.Node, known: dict[fx.Node, torch.Tensor]) -> None:
    given = node_arguments(node)
    q, scale, zero = given["input"], given["scale"], given["zero_point"]
    values, block = known.get(q), list(given["block_size"])
    if values is None or scale not in known or (zero is not None and zero not in known):
        return
    if values.dtype not in _FORMS or len(block) != values.dim():
        return
    low, high = given["quant_min"], given["quant_max"]
    small = values.dtype is torch.int8 and low is not None and low >= -8 and high is not None and high <= 7
    form = "int4" if small else _FORMS[values.dtype]
    counts = [math.ceil(size / one) for size, one in zip(values.shape, block)]
    if known[scale].numel() != math.prod(counts):
        return
    scales = insert_constant(graph_module, node, known[scale].detach().float().reshape(counts))
    zeros = None
    if zero is not None and bool((known[zero] != 0).any()):
        zeros = insert_constant(graph_module, node, known[zero].detach().float().reshape(counts))
    made = insert_call(
        node, _DEQUANTIZE, (q, scales, zeros, form, _plain(block, values.shape), node.meta["val"].dtype)
    )
    replace(node, made, "quantised_weights")


def _plain(block: list[int], shape: Any) -> list[int]:
    """Blocks of which one is the whole tensor's, or a row's, are none: its scale has the size 1 there."""
    return [1 if one == size else one for one, size in zip(block, shape)]


def _from_cast(graph_module: fx.GraphModule, node: fx.Node, known: dict[fx.Node, torch.Tensor]) -> None:
    source, result = node.args[0] if node.args else None, node.meta.get("val")
    if not isinstance(source, fx.Node) or not isinstance(result, torch.Tensor) or result.dim() < 2:
        return
    dtype = getattr(source.meta.get("val"), "dtype", None)
    if dtype not in _FORMS or not result.is_floating_point() or not _is_weight(source, known):
        return
    scale, last = torch.ones(()), node
    user = only_user(last)
    if user is not None and user.target is aten.mul.Tensor:  # scales of channels, or of the whole
        other = user.args[1] if user.args[0] is last else user.args[0]
        factor = _value(other, known) if isinstance(other, fx.Node) else None
        if factor is not None and _is_scale(factor, user, last):
            scale, last, user = factor.detach().float(), user, only_user(user)
    exact = last.meta["val"].dtype is torch.float32
    if exact and user is not None and user.target in CASTS and user.meta["val"].is_floating_point():
        last = user  # rounded once, there
    scales = insert_constant(graph_module, node, scale if scale.numel() > 1 else scale.reshape(()))
    made = insert_call(last, _DEQUANTIZE, (source, scales, None, _FORMS[dtype], [], last.meta["val"].dtype))
    replace(last, made, "quantised_weights")


def _is_weight(node: fx.Node, known: dict[fx.Node, torch.Tensor]) -> bool:
    return node in known or (node.target in _VIEWS and _is_weight(node.args[0], known))  # type: ignore[arg-type]


def _value(node: fx.Node, known: dict[fx.Node, torch.Tensor]) -> torch.Tensor | None:
    """A constant, or a view of one."""
    if node in known:
        return known[node]
    if node.target in (*_VIEWS, *CASTS) and isinstance(node.args[0], fx.Node):
        inner = _value(node.args[0], known)
        return None if inner is None else node.target(inner, *node.args[1:], **node.kwargs)
    return None


def _is_scale(factor: torch.Tensor, product: fx.Node, weight: fx.Node) -> bool:
    """Whether a factor has one number for the weight, or for each channel of one dim, and keeps shape and dtype."""
    before, after = weight.meta["val"], product.meta["val"]
    if before.shape != after.shape or before.dtype != after.dtype or not factor.is_floating_point():
        return False
    wide = [size for size in factor.shape if size != 1]
    return factor.numel() == 1 or (factor.dim() == before.dim() and len(wide) == 1)

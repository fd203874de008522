"""Quantised operands of attention layers."""

from __future__ import annotations

import math

import torch
from torch import fx

from trtcore.pack import CompileContext, log_rewrite, node_arguments
from trtcore_converters import quantize_ops  # noqa: F401 (registers the op)
from trtcore_converters.passes._graph import calls, only_user

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
_FAKE_QUANTIZE = torch.ops.trtcore_quantize.fake_quantize.default


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
        if (
            not isinstance(factor, float)
            or not factor > 0
            or given["query"] in (given["key"], given["value"])
        ):
            continue
        gain = node_arguments(query)["gain"]
        query.args = (*query.args[:5], gain * factor)
        node.kwargs = {**node.kwargs, "scale": 1.0}
        log_rewrite(graph_module, "scale_quantised_queries", node, [node.name], [query.name])

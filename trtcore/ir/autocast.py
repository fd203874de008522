"""Casts that autocast makes where a model runs, and that a capture under it leaves out of the graph.

torch.export traces above autocast: under ``torch.autocast`` a ``linear`` of float32 stands in the graph with a result
of bfloat16, and the graph computes something else wherever autocast is off. The casts are put in here, so that it
computes in the dtypes that were captured.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from trtcore.ir.graphs import is_composite, mutates
from trtcore.ir.torch_private import has_autocast_kernel

_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32})


def cast_as_captured(graph_module: GraphModule) -> None:
    """Cast the arguments of every op whose result has a dtype that only autocast can have given it."""
    for module in graph_module.modules():
        if isinstance(module, GraphModule):
            for node in list(module.graph.nodes):
                dtype = _captured_dtype(node)
                if dtype is not None:
                    _cast_arguments(node, dtype)


def _captured_dtype(node: Node) -> torch.dtype | None:
    """The dtype that autocast casts an op's arguments to; None where it casts none."""
    op = node.target
    if not isinstance(op, torch._ops.OpOverload) or mutates(node) or _is_told(node):
        return None
    result = next((value.dtype for value in _tensors(node.meta.get("val"))), None)
    given = [value.dtype for source in node.all_input_nodes for value in _tensors(source.meta.get("val"))]
    floats = [dtype for dtype in given if dtype in _FLOATS]
    if result not in _FLOATS or all(dtype is result for dtype in floats):
        return None
    device = next((value.device.type for value in _tensors(node.meta.get("val"))), "cpu")
    if has_autocast_kernel(op, device):
        return result
    # One that is made of such ops: nothing that it was given explains its result.
    return result if is_composite(op) and result not in floats else None


def _is_told(node: Node) -> bool:
    """Whether a dtype is among an op's arguments: then that is where its result's comes from."""
    return any(isinstance(argument, torch.dtype) for argument in (*node.args, *node.kwargs.values()))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


def _cast_arguments(node: Node, dtype: torch.dtype) -> None:
    made: dict[Node, Node] = {}

    def cast(source: Node) -> Node:
        value = source.meta.get("val")
        if not isinstance(value, torch.Tensor) or value.dtype not in _FLOATS or value.dtype is dtype:
            return source
        if source not in made:
            with node.graph.inserting_before(node):
                made[source] = node.graph.call_function(torch.ops.aten.to.dtype, (source, dtype))
            made[source].meta = {**node.meta, "val": value.to(dtype)}
        return made[source]

    node.args = torch.fx.map_arg(node.args, cast)
    node.kwargs = torch.fx.map_arg(node.kwargs, cast)

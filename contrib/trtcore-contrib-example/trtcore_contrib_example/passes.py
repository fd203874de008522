"""A lowering pass: what models write in plain torch becomes the pack's op."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from trtcore.pack import CompileContext, LoweringPass
from trtcore_contrib_example import ops  # noqa: F401  (registers the op)

aten = torch.ops.aten
_SQUARED_RELU = torch.ops.trtcore_example.squared_relu.default


def fuse_squared_relu(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """``relu(x) ** 2``, ``relu(x).square()`` and ``relu(x) * relu(x)`` become one ``squared_relu``.

    The old nodes are dead then, and the core removes dead code after the passes.
    """
    for node in list(graph_module.graph.nodes):
        positive = _squared(node)
        if positive is None or positive.target is not aten.relu.default or not _floating(node):
            continue
        with graph_module.graph.inserting_before(node):
            fused = graph_module.graph.call_function(_SQUARED_RELU, (positive.args[0],))
        fused.meta = dict(node.meta)  # the FakeTensor, the module and the source line
        node.replace_all_uses_with(fused)
        graph_module.graph.erase_node(node)


def _squared(node: fx.Node) -> fx.Node | None:
    """What `node` is the square of; None if it is no square."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    squares = (
        node.target is aten.square.default
        or (node.target is aten.pow.Tensor_Scalar and node.args[1] == 2)
        or (node.target is aten.mul.Tensor and node.args[0] is node.args[1])
    )
    return node.args[0] if squares else None


def _floating(node: fx.Node) -> bool:
    value: Any = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


# Where a model writes relu(x) * relu(x), the built-in pack's pass makes one relu of the two first.
PASSES = (LoweringPass("fuse_squared_relu", fuse_squared_relu, after=("common_subexpressions",)),)

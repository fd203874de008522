"""Constants: what depends on them alone is computed now."""

from __future__ import annotations

import torch
from torch import fx

from trtcore.pack import CompileContext, insert_constant, remove_unread
from trtcore_converters.passes._graph import constants, keeps
from trtcore_converters.quantize import QUANTIZE

aten = torch.ops.aten


FOLDING_LIMIT = 16 << 20
"""Bytes: constant folding makes no tensor that is larger than this."""


def constant_folding(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Compute now what depends on constants alone, up to `FOLDING_LIMIT` bytes a tensor.

    Left alone: random ops, what the model writes to, what it returns (it would hand out the constant itself),
    and, where the engine's weights are to stay replaceable, everything that depends on a weight.
    """
    values: dict[fx.Node, torch.Tensor] = {}
    if ctx.settings.immutable_weights:
        values.update(constants(graph_module))
    known = set(values)
    for node in graph_module.graph.nodes:
        if _foldable(node, values):
            result = _evaluate(node, values)
            if result is not None:
                values[node] = result
    for node in list(graph_module.graph.nodes):
        if node in values and node not in known and _needed(node, values):
            node.replace_all_uses_with(insert_constant(graph_module, node, values[node]))
    remove_unread(graph_module.graph)


def _foldable(node: fx.Node, values: dict[fx.Node, torch.Tensor]) -> bool:
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return False
    result = node.meta.get("val")
    if not isinstance(result, torch.Tensor) or not all(isinstance(dim, int) for dim in result.shape):
        return False
    if (
        target._schema.is_mutable
        or torch.Tag.nondeterministic_seeded in target.tags
        or (target.namespace != "aten" and target not in QUANTIZE)
    ):
        return False
    return all(source in values for source in node.all_input_nodes)


def _evaluate(node: fx.Node, values: dict[fx.Node, torch.Tensor]) -> torch.Tensor | None:
    result = node.meta["val"]
    inputs = [values[source] for source in node.all_input_nodes]
    largest = max((value.numel() * value.element_size() for value in inputs), default=0)
    size = result.numel() * result.element_size()
    smaller = node.target in QUANTIZE and size <= largest
    if size > FOLDING_LIMIT and not smaller and not _is_view(node, result, inputs, largest):
        return None
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda source: values[source])
    try:
        with torch.no_grad():
            value = node.target(*args, **kwargs)  # type: ignore[operator]
    except Exception:  # it fails when the model runs, then; not here
        return None
    return value if isinstance(value, torch.Tensor) and not value.is_meta else None


def _is_view(node: fx.Node, result: torch.Tensor, inputs: list[torch.Tensor], largest: int) -> bool:
    """Whether the op only looks at its input in another way, without repeating elements."""
    returns = node.target._schema.returns  # type: ignore[union-attr]
    aliases = len(returns) == 1 and returns[0].alias_info is not None
    return aliases and len(inputs) == 1 and result.numel() * result.element_size() <= largest


def _needed(node: fx.Node, values: dict[fx.Node, torch.Tensor]) -> bool:
    """Whether something that is not folded reads the node, and nothing lets it out of the graph."""
    return any(user not in values for user in node.users) and not any(keeps(user) for user in node.users)


# ---- scalar_constants ----

_TAKES_NUMBER = frozenset(
    {
        aten.add.Tensor,
        aten.sub.Tensor,
        aten.mul.Tensor,
        aten.div.Tensor,
        aten.pow.Tensor_Tensor,
        aten.maximum.default,
        aten.minimum.default,
        aten.eq.Tensor,
        aten.ne.Tensor,
        aten.lt.Tensor,
        aten.le.Tensor,
        aten.gt.Tensor,
        aten.ge.Tensor,
        aten.where.self,
    }
)


def scalar_constants(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Write 0-d float64 constants as Python numbers, which promote in the same way; TensorRT has no float64."""
    known = constants(graph_module)
    for node in graph_module.graph.nodes:
        if node.op != "call_function" or node.target not in _TAKES_NUMBER:
            continue
        result = node.meta.get("val")
        if not isinstance(result, torch.Tensor) or result.dtype == torch.float64:
            continue
        for index, source in enumerate(node.args):
            value = known.get(source) if isinstance(source, fx.Node) else None
            if (
                value is not None
                and value.dim() == 0
                and value.dtype == torch.float64
                and _has_tensor_besides(node, index)
            ):
                node.update_arg(index, value.item())


def _has_tensor_besides(node: fx.Node, index: int) -> bool:
    """Whether another operand is a floating-point tensor with dims, so that the number can't decide the dtype."""
    for other, source in enumerate(node.args):
        value = source.meta.get("val") if other != index and isinstance(source, fx.Node) else None
        if isinstance(value, torch.Tensor) and value.dim() and value.is_floating_point():
            return True
    return False

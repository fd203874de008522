"""Sizes: numbers that are computed from them, as ``x * n**0.5``, since a symbolic float is no tensor, and engines take
tensors; and the bounds of those that data decide."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from trtcore.pack import CompileContext, insert_call, node_arguments, set_facts
from trtcore_converters.passes._graph import same_sizes, tensor_of
from trtcore_converters.torch_private import sym_sqrt

aten = torch.ops.aten

_WITH_TENSORS: dict[Any, Any] = {
    **{
        op: op for op in (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.where.self)
    },
    aten.pow.Tensor_Scalar: aten.pow.Tensor_Tensor,
    aten.where.ScalarOther: aten.where.self,
    aten.where.ScalarSelf: aten.where.self,
    aten.masked_fill.Scalar: aten.masked_fill.Tensor,
    aten.clamp.default: aten.clamp.Tensor,
    aten.clamp_min.default: aten.clamp_min.Tensor,
    aten.clamp_max.default: aten.clamp_max.Tensor,
    **{getattr(aten, name).Scalar: getattr(aten, name).Tensor for name in ("add", "sub", "mul", "div")},
    **{
        getattr(aten, name).Scalar: getattr(aten, name).Tensor
        for name in ("eq", "ne", "lt", "le", "gt", "ge")
    },
}
"""Ops with numbers -> the same that takes a 0-d tensor for each of them."""

_MADE = frozenset({aten.full.default, aten.scalar_tensor.default})

_OF_NUMBERS: dict[Any, Any] = {
    operator.add: aten.add.Tensor,
    operator.sub: aten.sub.Tensor,
    operator.mul: aten.mul.Tensor,
    operator.truediv: aten.div.Tensor,
    operator.pow: aten.pow.Tensor_Tensor,
    operator.neg: aten.neg.default,
    sym_sqrt: aten.sqrt.default,
}


def symbolic_floats(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Compute numbers that come from sizes as 0-d float32 tensors, for ops that take these as they take numbers.

    torch computes such numbers in float64 and rounds them for the op: the last digit of float32 may differ.
    """
    for node in list(graph_module.graph.nodes):
        if node.op != "call_function" or tensor_of(node) is None or not _symbolic(node):
            continue
        if node.target in _WITH_TENSORS and _weak(node):
            _with_tensors(node)
        elif node.target in _MADE:
            _made(node)


def _symbolic(node: fx.Node) -> bool:
    return any(isinstance(source.meta.get("val"), torch.SymFloat) for source in node.all_input_nodes)


def _weak(node: fx.Node) -> bool:
    """Whether no tensor without dims could take its dtype from the new one, where a number lets it keep its own."""
    found = (tensor_of(source) for source in node.all_input_nodes)
    return all(x is None or x.dim() or x.dtype not in _OTHER_FLOATS for x in found)


_OTHER_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float64})


def _with_tensors(node: fx.Node) -> None:
    given = dict(node_arguments(node))
    if given.pop("alpha", 1) != 1:
        return
    device = node.meta["val"].device
    parts = [_operand(value, node, device) for value in given.values()]
    if any(part is None and value is not None for part, value in zip(parts, given.values())):
        return
    node.target = _WITH_TENSORS[node.target]
    node.args, node.kwargs = tuple(parts), {}


def _operand(value: Any, before: fx.Node, device: torch.device) -> fx.Node | None:
    tensor = value is None or (isinstance(value, fx.Node) and tensor_of(value) is not None)
    return value if tensor else _tensor(value, before, device)


def _made(node: fx.Node) -> None:
    """A tensor that is full of the number."""
    traced = node.meta["val"]
    given = node_arguments(node)
    value = _tensor(given.get("fill_value", given.get("s")), node, traced.device)
    if value is None:
        return
    full = insert_call(node, aten.to.dtype, (value, traced.dtype))
    if traced.dim():
        full = insert_call(node, aten.expand.default, (full, given["size"]))
    node.replace_all_uses_with(full)
    node.graph.erase_node(node)


def _tensor(value: Any, before: fx.Node, device: torch.device) -> fx.Node | None:
    """A number, or what computes one, as a 0-d float32 tensor; None for what is not in `_OF_NUMBERS`."""
    if isinstance(value, fx.Node) and value.target is torch.sym_float:
        return _tensor(value.args[0], before, device)
    if isinstance(value, fx.Node) and not isinstance(value.meta.get("val"), torch.SymInt):
        op = _OF_NUMBERS.get(value.target)
        parts = [_tensor(part, before, device) for part in value.args] if op is not None else [None]
        if op is None or None in parts:
            return None
        return insert_call(before, op, parts)
    return insert_call(
        before, aten.scalar_tensor.default, (value,), {"dtype": torch.float32, "device": device}
    )


# ---- sizes that data decide ---------------------------------------------------------------------------------

_TAKES_SOME = frozenset(
    {
        *(aten.nonzero.default, aten.nonzero_numpy.default, aten.argwhere.default, aten.where.default),
        *(aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default),
    }
)
"""Ops whose result has at most one row for each element of their argument."""


def bounded_results(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Say of ops that take some elements of a tensor that they take no more than it has."""
    for node in graph_module.graph.nodes:
        dims = _looked_at(node) if node.op == "call_function" else None
        if dims is not None:
            elements: Any = 1
            for dim in dims:
                elements = elements * (dim.node.expr if isinstance(dim, torch.SymInt) else dim)
            set_facts(node, at_most=elements)


def _looked_at(node: fx.Node) -> tuple[Any, ...] | None:
    """The shape of what an op takes some elements of; None for other ops."""
    if node.target in _TAKES_SOME:
        return _shape(node.args[0])
    if str(node.target) == "torchvision.nms.default":
        boxes = _shape(node.args[0])
        return boxes and boxes[:1]
    if node.target is aten.masked_select.default:
        given = node_arguments(node)
        x, mask = _shape(given["self"]), _shape(given["mask"])
        return x if x is not None and mask is not None and same_sizes(x[len(x) - len(mask) :], mask) else None
    if node.target is aten.index.Tensor:
        indices: Any = node.args[1]
        masks = [
            index for index in indices if (one := tensor_of(index)) is not None and one.dtype == torch.bool
        ]
        return _shape(masks[0]) if masks else None
    return None


def _shape(value: Any) -> tuple[Any, ...] | None:
    tensor = tensor_of(value)
    return None if tensor is None else tuple(tensor.shape)

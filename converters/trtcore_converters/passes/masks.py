"""What is computed for elements under a mask, and written back there: computed for all, and chosen by the mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from trtcore.pack import CompileContext, insert_call, node_arguments
from trtcore_converters.passes._graph import calls, in_torch, is_call, replace, same_sizes, tensor_of

aten = torch.ops.aten

_PUTS = (aten.index_put.default, aten._unsafe_index_put.default)


# A procedure and no rule: the ops between reading and writing may be any elementwise ones.
def masked_updates(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """``y[m] = f(y[m])`` with elementwise f becomes ``where(m, f(y), y)``: no size depends on the data any more.

    Floating point only: what f gives where the mask is False is not looked at, and may be anything but an error.
    """
    for put in list(calls(graph_module, _PUTS)):
        given = node_arguments(put)
        x, indices, mask = tensor_of(put.args[0]), given["indices"], tensor_of(given["indices"][0])
        if given["accumulate"] or len(indices) != 1 or mask is None or mask.dtype != torch.bool or x is None:
            continue
        value = given["values"]
        found = _Whole(put, indices[0], mask, x)
        if (
            x.is_floating_point()
            and is_call(value, _OPS)
            and found.covers(value)
            and not in_torch(ctx, [put])
        ):
            whole = found.written(value)
            chosen = indices[0]
            if mask.dim() < x.dim():
                sizes = [-1 if isinstance(dim, torch.SymInt) else dim for dim in tuple[Any, ...](mask.shape)]
                if sizes.count(-1) > 1:
                    continue
                chosen = insert_call(
                    put, aten.reshape.default, (chosen, [*sizes, *([1] * (x.dim() - mask.dim()))])
                )
            made = insert_call(put, aten.where.self, (chosen, whole, put.args[0]))
            replace(put, made, "masked_updates")


class _Any:
    """Every op: what matters is asked of its tags."""

    def __contains__(self, target: object) -> bool:
        return isinstance(target, torch._ops.OpOverload)


_OPS = _Any()


class _Whole:
    """Elementwise ops on ``y[mask]``, written on y.

    Args:
        put: the write.
        mask_node, mask: the mask.
        x: what is written to; every y that is read must be of its shape.
    """

    def __init__(self, put: fx.Node, mask_node: fx.Node, mask: torch.Tensor, x: torch.Tensor) -> None:
        self.put, self.mask_node, self.mask, self.x = put, mask_node, mask, x
        self._covered: dict[fx.Node, bool] = {}
        self._written: dict[fx.Node, fx.Node] = {}

    def covers(self, node: fx.Node) -> bool:
        """Whether a value is computed from ``y[mask]`` by elementwise ops alone."""
        if node not in self._covered:
            self._covered[node] = self._reads(node) or self._is_elementwise(node)
        return self._covered[node]

    def _reads(self, node: fx.Node) -> bool:
        """Whether a node is ``y[mask]``, of the mask that is written by."""
        if not is_call(node, (aten.index.Tensor,)) or list(node.args[1]) != [self.mask_node]:  # type: ignore[arg-type]
            return False
        y = tensor_of(node.args[0])
        return y is not None and y.is_floating_point() and same_sizes(y.shape, self.x.shape)

    def _is_elementwise(self, node: fx.Node) -> bool:
        target, value = node.target, tensor_of(node)
        if not isinstance(target, torch._ops.OpOverload) or value is None or not value.is_floating_point():
            return False
        tags = target.tags
        if (
            torch.Tag.pointwise not in tags
            or torch.Tag.nondeterministic_seeded in tags
            or target._schema.is_mutable
        ):
            return False
        behind = self.x.dim() - self.mask.dim()
        taken = False
        for source in node.all_input_nodes:
            tensor = tensor_of(source)
            if tensor is None:
                return False
            if tensor.dim() > behind:
                taken = True
                if not self.covers(source):
                    return False
        return taken and value.dim() == behind + 1

    def written(self, node: fx.Node) -> fx.Node:
        """The value, computed for every element."""
        if node not in self._written:
            if self._reads(node):
                source: Any = node.args[0]
                self._written[node] = source
            else:

                def of(source: fx.Node) -> fx.Node:
                    return self.written(source) if self._covered.get(source) else source

                args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), of)
                self._written[node] = insert_call(self.put, node.target, args, kwargs, like=node)
        return self._written[node]

"""Normalisation in training: the running statistics that the op overwrites, as values and writes of their own."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import fx

from trtcore.pack import CompileContext, insert_call, insert_constant, node_arguments
from trtcore_converters.passes._graph import calls, in_torch, replace, tensor_of

aten = torch.ops.aten

_Rewrite: TypeAlias = Callable[[fx.GraphModule, fx.Node, dict[str, Any]], None]


def running_statistics(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Let no normalisation write to its arguments, as some do of which the schema does not tell.

    In training the new running statistics become results, and a ``copy_`` writes them back. Runs before
    functionalisation, which takes it from there.
    """
    for node in calls(graph_module, _WRITERS):
        given = node_arguments(node)
        if given["running_mean"] is None or in_torch(ctx, (node,)):
            continue
        if given.get("training", given.get("use_input_stats", True)):
            if given["input"].meta["val"].dim() > 1:  # there is one sample without channels that torch takes
                _WRITERS[node.target](graph_module, node, given)
        elif node.target is aten._native_batch_norm_legit.default:  # says that it writes, and does not
            node.target = aten.native_batch_norm.default


def _batch_norm(functional: Any, settings: Sequence[str]) -> _Rewrite:
    """Calls `functional`, whose last two results are the new statistics and whose first ones are the op's."""

    def rewrite(graph_module: fx.GraphModule, node: fx.Node, given: dict[str, Any]) -> None:
        running = [given["running_mean"], given["running_var"]]
        made = insert_call(
            node,
            functional,
            (given["input"], given["weight"], given["bias"], *running, *(given[name] for name in settings)),
        )
        made.meta["val"] = _as_computed(made.meta["val"], running)
        _empty_constants(graph_module, node)
        count = len(made.meta["val"])
        for place, old in enumerate(running, count - 2):
            _write(node, old, insert_call(node, operator.getitem, (made, place)))
        replace(node, made if _gives_several(node) else insert_call(node, operator.getitem, (made, 0)))

    return rewrite


def _as_computed(results: Sequence[torch.Tensor], running: Sequence[fx.Node]) -> tuple[torch.Tensor, ...]:
    """The results as torch's kernels give them: new statistics have the dtype of the old, whatever the trace says."""
    kept = results[: len(results) - 2]
    new = (value.to(old.meta["val"].dtype) for value, old in zip(results[-2:], running))
    return *kept, *new


def _empty_constants(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """Results that are empty, as the reserve is without cuDNN, need no op: TensorRT makes no uint8."""
    for user in list(node.users):
        value = tensor_of(user)
        if user.target is operator.getitem and value is not None and tuple(value.shape) == (0,):
            replace(
                user,
                insert_constant(
                    graph_module, user, torch.empty(value.shape, dtype=value.dtype, device=value.device)
                ),
            )


def _gives_several(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (list, tuple))


def _write(before: fx.Node, old: fx.Node, new: fx.Node) -> None:
    insert_call(before, aten.copy_.default, (old, new))


def _instance_norm(graph_module: fx.GraphModule, node: fx.Node, given: dict[str, Any]) -> None:
    """Every instance moves statistics of its own, in their dtype; the new ones are the mean of those."""
    x, rank = given["input"], given["input"].meta["val"].dim()
    wide = insert_call(node, aten._to_copy.default, (x,), {"dtype": torch.float32})
    rest = list(range(2, rank))
    for old, op, options in (
        (given["running_mean"], aten.mean.dim, {}),
        (given["running_var"], aten.var.correction, {"correction": 1}),
    ):
        dtype, momentum = old.meta["val"].dtype, given["momentum"]
        own = insert_call(node, op, (wide, rest), options)
        kept = insert_call(node, aten.mul.Scalar, (_cast(node, old, torch.float32), 1 - momentum))
        moved = insert_call(node, aten.add.Tensor, (kept, own), {"alpha": momentum})
        each = _cast(node, moved, dtype)
        _write(node, old, insert_call(node, aten.mean.dim, (each, [0])))
    plain = (x, given["weight"], given["bias"], None, None, True)
    settings = (given["momentum"], given["eps"], given["cudnn_enabled"])
    replace(node, insert_call(node, aten.instance_norm.default, (*plain, *settings)))


def _cast(before: fx.Node, source: fx.Node, dtype: torch.dtype) -> fx.Node:
    value = tensor_of(source)
    if value is not None and value.dtype == dtype:
        return source
    return insert_call(before, aten._to_copy.default, (source,), {"dtype": dtype})


_LEGIT = _batch_norm(aten._native_batch_norm_legit_functional.default, ("training", "momentum", "eps"))

_WRITERS: dict[Any, _Rewrite] = {
    aten.batch_norm.default: _LEGIT,
    aten.native_batch_norm.default: _LEGIT,
    aten._native_batch_norm_legit.default: _LEGIT,
    aten._batch_norm_with_update.default: _batch_norm(
        aten._batch_norm_with_update_functional.default, ("momentum", "eps")
    ),
    aten.instance_norm.default: _instance_norm,
}

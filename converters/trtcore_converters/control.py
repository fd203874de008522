"""Control flow: ``torch.cond`` as an if-conditional, ``while_loop``, ``scan`` and ``map`` as loops.

The ops of branches and bodies are converted by the converters that they have anywhere else
(`ConversionContext.inline`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import fx

from trtcore.pack import ConversionContext, ITensor, NodeContext, Operand, Reject, Requires
from trtcore_converters._declare import converts
from trtcore_converters._loops import LOOPS
from trtcore_converters._values import used_outputs

ops = torch.ops.higher_order

CONDITIONALS = Requires(layers=frozenset({"add_if_conditional"}))


def _scalar(ctx: ConversionContext, condition: Any) -> ITensor:
    return ctx.scalar(ctx.tensor(condition)) if not isinstance(condition, bool) else ctx.constant(condition)


# ---- torch.cond --------------------------------------------------------------------------------------------


@converts(ops.cond, requires=CONDITIONALS)
def cond(
    ctx: ConversionContext, pred: Any, true_graph: Any, false_graph: Any, operands: Sequence[Any]
) -> list[ITensor]:
    """Only the layers of one branch run. What both branches take comes in through layers of the conditional.

    TensorRT for RTX 1.7 builds no conditional inside another where sizes vary: both branches are computed there.
    """
    values = [value for value in operands if ctx.is_tensor(value)]
    varies = any(-1 in ctx.shape(value) for value in values)
    if _inside.get() and varies and not any(map(_may_not_end, (true_graph, false_graph))):
        pairs = zip(ctx.inline(true_graph, *operands), ctx.inline(false_graph, *operands))
        return [ctx.select(_scalar(ctx, pred), ctx.tensor(one), ctx.tensor(other)) for one, other in pairs]
    token = _inside.set(True)
    try:
        return _conditional(ctx, pred, true_graph, false_graph, operands)
    finally:
        _inside.reset(token)


_inside: ContextVar[bool] = ContextVar("inside a conditional", default=False)


def _may_not_end(graph_module: torch.fx.GraphModule) -> bool:
    """Whether a branch has a loop that may go on for ever on values that are not its own."""
    graphs = [part.graph for part in graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    return any(node.target is ops.while_loop for graph in graphs for node in graph.nodes)


def _conditional(
    ctx: ConversionContext, pred: Any, true_graph: Any, false_graph: Any, operands: Sequence[Any]
) -> list[ITensor]:
    conditional = ctx.net.add_if_conditional()
    conditional.set_condition(_scalar(ctx, pred))
    taken = [
        ctx.output(conditional.add_input(value)) if ctx.is_tensor(value) else value for value in operands
    ]
    results = zip(ctx.inline(true_graph, *taken), ctx.inline(false_graph, *taken))
    return [ctx.output(conditional.add_output(_own(ctx, one), _own(ctx, other))) for one, other in results]


def _own(ctx: ConversionContext, value: Operand) -> ITensor:
    """A branch's result as a layer of the branch: it may be an input, or a constant."""
    return ctx.output(ctx.net.add_identity(ctx.tensor(value)))


# ---- loops -------------------------------------------------------------------------------------------------


def _writes_nothing(node: fx.Node, _ctx: NodeContext) -> bool | Reject:
    return Reject("the loop writes to its arguments") if node.kwargs.get("mutated_arg_indices") else True


def _loops(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    """It writes to nothing; an int that it carries comes out as a size that depends on data, which no engine gives."""
    if isinstance(refused := _writes_nothing(node, ctx), Reject):
        return refused
    used = used_outputs(node)
    values = node.meta.get("val")
    for index, value in enumerate(values if isinstance(values, (list, tuple)) else ()):
        if not isinstance(value, torch.Tensor) and (used is None or index in used):
            return Reject(
                "an int that the loop carries is used behind it, and depends on data there; carry a tensor, "
                "torch.tensor(0), instead"
            )
    return True


@converts(ops.while_loop, capability_validator=_loops, requires=LOOPS)
def while_loop(
    ctx: ConversionContext,
    cond_fn: Any,
    body_fn: Any,
    carried_inputs: Sequence[Any],
    additional_inputs: Sequence[Any],
    *,
    mutated_arg_indices: Any = (),
) -> list[Any]:
    """The condition is computed on the state before each iteration, the first one too."""
    loop = ctx.net.add_loop()
    recurrences = [loop.add_recurrence(_state(ctx, value)) for value in carried_inputs]
    states = [ctx.output(layer) for layer in recurrences]
    (proceed,) = _results(ctx.inline(cond_fn, *states, *additional_inputs))
    loop.add_trip_limit(_scalar(ctx, proceed), ctx.trt.TripLimit.WHILE)
    _next(ctx, recurrences, _results(ctx.inline(body_fn, *states, *additional_inputs)))
    return [ctx.output(loop.add_loop_output(state, ctx.trt.LoopOutput.LAST_VALUE)) for state in states]


@converts(ops.scan, capability_validator=_writes_nothing, requires=LOOPS)
def scan(
    ctx: ConversionContext,
    combine_fn: Any,
    init: Sequence[Any],
    xs: Sequence[Any],
    additional_inputs: Sequence[Any],
    *,
    mutated_arg_indices: Any = (),
) -> list[ITensor]:
    """``carry, y = combine_fn(carry, x)`` along dim 0 of xs: the last carries, and all ys."""
    loop, length, slices = _over(ctx, xs)
    recurrences = [loop.add_recurrence(_state(ctx, value)) for value in init]
    states = [ctx.output(layer) for layer in recurrences]
    results = _results(ctx.inline(combine_fn, *states, *slices, *additional_inputs))
    _next(ctx, recurrences, results[: len(states)])
    last = [ctx.output(loop.add_loop_output(state, ctx.trt.LoopOutput.LAST_VALUE)) for state in states]
    return [*last, *(_collected(ctx, loop, length, value) for value in results[len(states) :])]


@converts(ops.map_impl, capability_validator=_writes_nothing, requires=LOOPS)
def map_impl(
    ctx: ConversionContext,
    f: Any,
    xs: Sequence[Any],
    pos_args: Sequence[Any],
    *,
    mutated_arg_indices: Any = (),
) -> list[ITensor]:
    """``f`` of every slice along dim 0 of xs."""
    loop, length, slices = _over(ctx, xs)
    results = _results(ctx.inline(f, *slices, *pos_args))
    return [_collected(ctx, loop, length, value) for value in results]


def _over(ctx: ConversionContext, xs: Sequence[Operand]) -> tuple[Any, ITensor, list[ITensor]]:
    """A loop over dim 0 of tensors: the loop, its length and the slices."""
    loop = ctx.net.add_loop()
    tensors = [ctx.tensor(x) for x in xs]
    length = ctx.scalar(ctx.dim(tensors[0], 0), torch.int32)
    loop.add_trip_limit(length, ctx.trt.TripLimit.COUNT)
    return loop, length, [ctx.output(loop.add_iterator(x, 0)) for x in tensors]


def _collected(ctx: ConversionContext, loop: Any, length: ITensor, value: Operand) -> ITensor:
    layer = loop.add_loop_output(_own(ctx, value), ctx.trt.LoopOutput.CONCATENATE, 0)
    layer.set_input(1, length)
    return ctx.output(layer)


def _state(ctx: ConversionContext, value: Any) -> ITensor:
    """The first value of a state. An int is carried as sizes are, as an int64 tensor of shape (1,)."""
    return (
        ctx.tensor(value)
        if isinstance(value, torch.Tensor) or ctx.is_tensor(value)
        else ctx.constant([value])
    )


def _next(ctx: ConversionContext, recurrences: Sequence[Any], values: Sequence[Any]) -> None:
    for layer, value in zip(recurrences, values):
        layer.set_input(1, _state(ctx, value))


def _results(values: Any) -> list[Any]:
    return list(values) if isinstance(values, (list, tuple)) else [values]

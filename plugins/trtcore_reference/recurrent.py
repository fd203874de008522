"""Loops that are recurrent layers, run by torch's own kernels: a step in Python costs more than its arithmetic.

A loop is one if the graph of its body is what a layer's step is, op for op, over the product of an input with a weight.
Torch's kernels compute the same formula; lengths that do not fit together run as a loop.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from trtcore_reference.control import run_loop
from trtcore_reference.elementwise import relu

Expression = Any
"""An op and its operands, nested: equal for equal computations."""


@dataclass(frozen=True)
class Cell:
    """A recurrent layer's step.

    Attributes:
        kernel: name of torch's function of the layer.
        weights: positions among the staged constants: of the state, its bias, the projection.
    """

    kernel: str
    weights: tuple[int | None, ...]


def cell_of(body: fx.GraphModule, states: int) -> Cell | None:
    """The layer whose step a loop's body is; None where it is something else.

    Args:
        body: (staged constants, *states, one slice) -> (*next states, the output).
    """
    staged, *values = body.graph.find_nodes(op="placeholder")
    results = body.graph.output_node().args[0]
    if len(values) != states + 1 or not isinstance(results, tuple) or len(results) != states + 1:
        return None
    product = next((node for node in body.graph.nodes if node.target is F.linear), None)
    if product is None or product.args[0] is not values[0]:
        return None
    memo: dict[fx.Node, Expression] = {}
    found = tuple(_expression(result, staged, memo) for result in results)
    state, now = (
        [_expression(value, staged, memo) for value in values[:-1]],
        _expression(values[-1], staged, memo),
    )
    of_h = _expression(product, staged, memo)
    size = next((node.args[3] for node in body.graph.nodes if node.target is torch.narrow), 0)
    weights = (of_h[1][1][1], of_h[1][2][1] if len(of_h[1]) > 2 and of_h[1][2] is not None else None)
    if states == 2:
        projection = found[0][1][1][1] if found[0][0] is F.linear else None
        if found == _lstm(state, now, of_h, size, projection):
            return Cell("lstm", (*weights, *((projection,) if projection is not None else ())))
        return None
    for kernel, step in _STEPS.items():
        h = step(state[0], now, of_h, size)
        if found == (h, h):
            return Cell(kernel, weights)
    return None


def _expression(value: Any, staged: fx.Node, memo: dict[fx.Node, Expression]) -> Expression:
    if not isinstance(value, fx.Node):
        return value
    if value not in memo:
        if value.op == "placeholder":
            memo[value] = ("value", value.name)
        elif value.target is operator.getitem and value.args[0] is staged:
            memo[value] = ("constant", value.args[1])
        else:
            operands = tuple(_expression(arg, staged, memo) for arg in value.args)
            memo[value] = (value.target, operands, *sorted(value.kwargs))
    return memo[value]


def _op(function: Callable[..., Any], *operands: Expression) -> Expression:
    return (function, operands)


def _gate(x: Expression, number: int, size: Any) -> Expression:
    return _op(torch.narrow, x, 1, number * size, size)


def _lstm(
    state: Sequence[Expression], now: Expression, of_h: Expression, size: Any, projection: int | None
) -> tuple[Expression, ...]:
    h, c = state
    gates = _op(torch.add, now, of_h)
    let_in, forget, let_out = (_op(torch.sigmoid, _gate(gates, number, size)) for number in (0, 1, 3))
    cell = _op(torch.tanh, _gate(gates, 2, size))
    c = _op(torch.add, _op(torch.mul, forget, c), _op(torch.mul, let_in, cell))
    h = _op(torch.mul, let_out, _op(torch.tanh, c))
    if projection is not None:
        h = _op(F.linear, h, ("constant", projection))
    return h, c, h


def _gru(h: Expression, now: Expression, of_h: Expression, size: Any) -> Expression:
    reset, update = (
        _op(torch.sigmoid, _op(torch.add, _gate(now, number, size), _gate(of_h, number, size)))
        for number in (0, 1)
    )
    new = _op(torch.tanh, _op(torch.add, _gate(now, 2, size), _op(torch.mul, reset, _gate(of_h, 2, size))))
    return _op(torch.add, _op(torch.mul, _op(torch.sub, h, new), update), new)


_STEPS: dict[str, Callable[..., Expression]] = {
    "gru": _gru,
    "rnn_tanh": lambda h, now, of_h, size: _op(torch.tanh, _op(torch.add, now, of_h)),
    "rnn_relu": lambda h, now, of_h, size: _op(relu, _op(torch.add, now, of_h)),
}


def run_layer(
    kernel: str,
    x: Tensor,
    weights: Sequence[Tensor],
    biased: bool,
    step: Callable[..., tuple[Tensor, ...]],
    staged: tuple[Any, ...],
    trip: Tensor,
    states: Sequence[Tensor],
    axis: int,
    reverse: bool,
    collect: tuple[str, int],
    length: Tensor | None,
) -> tuple[Tensor, ...]:
    """What `run_loop` gives for a loop over ``linear(x, weights[0], weights[2])`` along `axis`: (*states, the output).

    Args:
        weights: of the input, of the state, their biases if `biased`, the projection.
    """

    def loop() -> tuple[Tensor, ...]:
        projected = F.linear(x, weights[0], weights[2] if biased else None)
        return run_loop(
            step, None, staged, (trip,), states, ((projected, axis, reverse),), (collect,), (length,), (), ()
        )

    count = int(trip)
    whole = 0 < count == x.shape[axis] and (length is None or int(length) == count)
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and x.dim() == 3
    if not (whole and plain and collect == ("REVERSE" if reverse else "CONCATENATE", axis)):
        return loop()
    hidden = [state.unsqueeze(0).contiguous() for state in states]
    initial = hidden if len(hidden) > 1 else hidden[0]
    given = x.flip(axis) if reverse else x
    y, *last = getattr(torch, kernel)(given, initial, weights, biased, 1, 0.0, False, False, axis == 1)
    if kernel == "rnn_relu" and bool(y.isnan().any()):
        return loop()  # TensorRT's relu of NaN is 0
    return (*(state.squeeze(0) for state in last), y.flip(axis) if reverse else y)

"""Recurrent layers as loops of TensorRT: one layer of the network per op of a step, whatever the length.

Short sequences of a known length are written out (`trtcore_converters.decompositions_recurrent`): there TensorRT can
fuse one step with the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import fx

from trtcore.pack import ConversionContext, ITensor, NodeContext, Operand, Reject
from trtcore_converters._checks import arguments
from trtcore_converters._declare import converts
from trtcore_converters._loops import LOOPS
from trtcore_converters.linear import linear

aten = torch.ops.aten

_WRITTEN_OUT = 16
"""Steps of all layers and directions together, up to which a known length is written out. Measured on TensorRT for RTX,
CPU seconds of a compile, loop and written out: an LSTM of 2 steps 0.3 and 0.3, 8 steps 0.3 and 0.6, 16 steps 0.5 and
1.3, 32 steps 0.6 and 1.9, 64 steps 1.0 and 4.2; a GRU of 64 steps 1.2 and 8.9."""

Step = Callable[[ConversionContext, ITensor, Sequence[ITensor], Sequence[Operand]], Sequence[ITensor]]
"""(what a step takes from its input, the states, the weights but those of the input) -> the next states; the first
of them is what the layer puts out."""


def _loops(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    """Sequences that are long, or of a length that varies."""
    given = arguments(node)
    x = given["input"]
    if given["train"] and given["dropout"] and given["num_layers"] > 1:
        return Reject("dropout between the layers is random; call model.eval() before compiling")
    hidden = given["params"][1].shape[1]
    if node.target is aten.gru.input and hidden < 3:
        return Reject(f"TensorRT for RTX 1.7 does not end building the loop of a GRU of hidden size {hidden}")
    steps = x.shape[1 if given["batch_first"] else 0]
    if isinstance(steps, int):
        steps *= given["num_layers"] * (2 if given["bidirectional"] else 1)
        if steps <= _WRITTEN_OUT:
            return Reject(f"{steps} steps of all layers and directions are written out")
    return True


def _layers(
    ctx: ConversionContext,
    step: Step,
    x: Operand,
    states: Sequence[Operand],
    weights: Sequence[Operand],
    layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> list[ITensor]:
    """All layers: the output, and the last value of every state.

    Args:
        x: (length, batch, size), or (batch, length, size).
        states: each of (layers * directions, batch, hidden).
        weights: of all layers and directions, one after the other.
    """
    directions = 2 if bidirectional else 1
    each = len(weights) // (layers * directions)
    x = ctx.tensor(x)
    last: list[list[ITensor]] = [[] for _ in states]
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            number = layer * directions + direction
            initial = [_at(ctx, state, number) for state in states]
            own = weights[number * each : (number + 1) * each]
            output, *ends = _direction(ctx, step, x, initial, own, int(batch_first), direction == 1)
            outputs.append(output)
            for kept, end in zip(last, ends):
                kept.append(ctx.reshape(end, [1, *ctx.dims_of(end)]))
        x = ctx.concat(outputs, 2)
    return [x, *(ctx.concat(ends, 0) for ends in last)]


def _at(ctx: ConversionContext, state: Operand, number: int) -> ITensor:
    """(layers * directions, batch, hidden) -> (batch, hidden)."""
    if isinstance(state, torch.Tensor):
        return ctx.constant(state[number])
    _, batch, hidden = ctx.dims_of(state)
    return ctx.reshape(ctx.slice(state, [number, 0, 0], [1, batch, hidden]), [batch, hidden])


def _direction(
    ctx: ConversionContext,
    step: Step,
    x: ITensor,
    initial: Sequence[ITensor],
    weights: Sequence[Operand],
    axis: int,
    backwards: bool,
) -> list[ITensor]:
    """One direction of one layer: the output, and the last values of the states.

    What the input gives to all the steps is one matrix product outside of the loop.
    """
    of_x, of_h, *more = weights
    biased = len(more) >= 2
    from_x = linear(ctx, x, of_x, more[0] if biased else None)
    loop = ctx.net.add_loop()
    length = ctx.scalar(ctx.dim(x, axis), torch.int32)
    loop.add_trip_limit(length, ctx.trt.TripLimit.COUNT)
    now = ctx.output(loop.add_iterator(from_x, axis, backwards))
    recurrences = [loop.add_recurrence(state) for state in initial]
    before = [ctx.output(layer) for layer in recurrences]
    after = step(ctx, now, before, [of_h, *(more[1:] if biased else (None, *more))])
    for layer, state in zip(recurrences, after):
        layer.set_input(1, state)
    kind = ctx.trt.LoopOutput.REVERSE if backwards else ctx.trt.LoopOutput.CONCATENATE
    collected = loop.add_loop_output(after[0], kind, axis)
    collected.set_input(1, length)
    last = ctx.trt.LoopOutput.LAST_VALUE
    return [ctx.output(collected), *(ctx.output(loop.add_loop_output(state, last)) for state in before)]


def _gates(ctx: ConversionContext, x: ITensor, count: int) -> list[ITensor]:
    """(batch, count * hidden) -> `count` of (batch, hidden)."""
    batch, hidden = ctx.dim(x, 0), ctx.shape(x)[1] // count
    return [ctx.slice(x, [0, gate * hidden], [batch, hidden]) for gate in range(count)]


def _of_state(
    ctx: ConversionContext, h: ITensor, of_h: Operand, bias: Operand | None, count: int
) -> list[ITensor]:
    """What the state gives to `count` gates, each (batch, hidden)."""
    if not _is_small(of_h, count):
        return _gates(ctx, linear(ctx, h, of_h, bias), count)
    pairs = zip(_rows(of_h, count), _rows(bias, count))
    return [linear(ctx, h, own, add) for own, add in pairs]


def _rows(weight: Operand | None, count: int) -> list[Any]:
    """The rows of a weight or a bias by gates; None for each gate where there is none."""
    if weight is None:
        return [None] * count
    assert isinstance(weight, torch.Tensor), "weights of small layers are constants of the model"
    return list(weight.chunk(count))


def _is_small(of_h: Operand, count: int) -> bool:
    """Whether the gates are products of their own: with batch 1 and less than 8 columns a gate, TensorRT for RTX 1.7
    takes minutes or does not end building the loop (a GRU of hidden size 3 to 5, an LSTM of 5: 25 CPU s; apart 0.3 s).
    """
    return isinstance(of_h, torch.Tensor) and of_h.shape[0] < 8 * count


def _add(ctx: ConversionContext, a: ITensor, b: ITensor) -> ITensor:
    return ctx.elementwise(a, b, "SUM")


def _times(ctx: ConversionContext, a: ITensor, b: ITensor) -> ITensor:
    return ctx.elementwise(a, b, "PROD")


def _lstm_step(
    ctx: ConversionContext, now: ITensor, states: Sequence[ITensor], weights: Sequence[Operand]
) -> Sequence[ITensor]:
    h, c = states
    of_h, bias, *projection = weights
    if _is_small(of_h, 4):
        of_gates = zip(_gates(ctx, now, 4), _of_state(ctx, h, of_h, bias, 4))
        let_in, forget, cell, let_out = (_add(ctx, *pair) for pair in of_gates)
    else:
        let_in, forget, cell, let_out = _gates(ctx, _add(ctx, now, linear(ctx, h, of_h, bias)), 4)
    let_in, forget, let_out = (ctx.activation(gate, "SIGMOID") for gate in (let_in, forget, let_out))
    c = _add(ctx, _times(ctx, forget, c), _times(ctx, let_in, ctx.activation(cell, "TANH")))
    h = _times(ctx, let_out, ctx.activation(c, "TANH"))
    return linear(ctx, h, projection[0]) if projection else h, c


def _gru_step(
    ctx: ConversionContext, now: ITensor, states: Sequence[ITensor], weights: Sequence[Operand]
) -> Sequence[ITensor]:
    """torch applies the reset gate to what the state gives, not to the state (``torch.nn.GRU``)."""
    (h,) = states
    of_h, bias = weights
    reset_x, update_x, new_x = _gates(ctx, now, 3)
    reset_h, update_h, new_h = _of_state(ctx, h, of_h, bias, 3)
    reset = ctx.activation(_add(ctx, reset_x, reset_h), "SIGMOID")
    update = ctx.activation(_add(ctx, update_x, update_h), "SIGMOID")
    new = ctx.activation(_add(ctx, new_x, _times(ctx, reset, new_h)), "TANH")
    return (_add(ctx, _times(ctx, ctx.elementwise(h, new, "SUB"), update), new),)


def _plain_step(kind: str) -> Step:
    def step(
        ctx: ConversionContext, now: ITensor, states: Sequence[ITensor], weights: Sequence[Operand]
    ) -> Sequence[ITensor]:
        (h,) = states
        of_h, bias = weights
        return (ctx.activation(_add(ctx, now, linear(ctx, h, of_h, bias)), kind),)

    return step


def _shapes(
    input: torch.Tensor, hx: Any, *others: Any, keeps_state: bool = False
) -> tuple[torch.Tensor, ...]:
    """What the layers give, without the steps: torch's own pieces on FakeTensors are one for each of them."""
    *_, bidirectional, batch_first = others
    states = hx if isinstance(hx, (list, tuple)) else [hx]
    steps, batch = input.shape[:2][::-1] if batch_first else input.shape[:2]
    dtype = _dtype(input, states[0].dtype, keeps_state)
    output = input.new_empty(steps, batch, states[0].shape[2] * (2 if bidirectional else 1), dtype=dtype)
    last = (input.new_empty(state.shape, dtype=dtype) for state in states)
    return output.transpose(0, 1) if batch_first else output, *last


def _dtype(input: torch.Tensor, state: torch.dtype, keeps_state: bool) -> torch.dtype:
    """The dtype of the results. Under autocast that of its matrix products; a GRU on the CPU adds to its state, and so
    keeps float32 where that is the state's dtype (seen of torch 2.13; no table of autocast's names these ops)."""
    device = input.device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return input.dtype
    lower = torch.get_autocast_dtype(device)
    return torch.promote_types(state, lower) if keeps_state and device == "cpu" else lower


_shapes_of_gru = partial(_shapes, keeps_state=True)


@converts(aten.lstm.input, capability_validator=_loops, requires=LOOPS, shapes=_shapes)
def lstm(
    ctx: ConversionContext,
    input: Operand,
    hx: Sequence[Operand],
    params: Sequence[Operand],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> list[ITensor]:
    """The output, the last h and the last c; hx h0 and c0, of (layers * directions, batch, hidden or projected)."""
    return _layers(ctx, _lstm_step, input, hx, params, num_layers, bidirectional, batch_first)


_STEPS: dict[Any, Step] = {
    aten.gru.input: _gru_step,
    aten.rnn_tanh.input: _plain_step("TANH"),
    aten.rnn_relu.input: _plain_step("RELU"),
}


@converts(aten.gru.input, capability_validator=_loops, requires=LOOPS, shapes=_shapes_of_gru)
@converts(
    [aten.rnn_tanh.input, aten.rnn_relu.input], capability_validator=_loops, requires=LOOPS, shapes=_shapes
)
def recurrent(
    ctx: ConversionContext,
    input: Operand,
    hx: Operand,
    params: Sequence[Operand],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> list[ITensor]:
    """The output and the last h."""
    step = _STEPS[ctx.node.target]
    return _layers(ctx, step, input, [hx], params, num_layers, bidirectional, batch_first)

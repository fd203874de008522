"""Recurrent networks, written out step by step: short ones, and where there are no loops
(`trtcore_converters.recurrent`).

torch's own decomposition of `lstm` calls a kernel for CPUs. The steps of a sequence become layers, which is why
the length must be known and not too large: TensorRT's build time grows with the square of the number of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

aten = torch.ops.aten

_MOST_STEPS = 512
"""Steps of all layers and directions together."""


def _lstm(
    x: torch.Tensor,
    hx: Sequence[torch.Tensor],
    params: Sequence[torch.Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x (length, batch, size), hx two of (layers * directions, batch, hidden): the outputs, the last h and c."""
    steps = x.shape[1 if batch_first else 0]
    directions = 2 if bidirectional else 1
    _refuse(steps, num_layers * directions, train and dropout and num_layers > 1)
    h0, c0 = hx
    projected = h0.shape[2] != c0.shape[2]
    count = 2 + 2 * bool(has_biases) + bool(projected)
    x = x.transpose(0, 1) if batch_first else x
    last_h, last_c = [], []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            number = layer * directions + direction
            own = params[number * count : (number + 1) * count]
            run, h, c = _lstm_layer(x, h0[number], c0[number], own, has_biases, projected, direction == 1)
            outputs.append(run)
            last_h.append(h)
            last_c.append(c)
        x = torch.cat(outputs, -1) if bidirectional else outputs[0]
    x = x.transpose(0, 1) if batch_first else x
    return x, torch.stack(last_h), torch.stack(last_c)


def _refuse(steps: Any, times: int, random: Any) -> None:
    if random:
        raise ValueError("dropout between the layers is random; call model.eval() before compiling")
    if not isinstance(steps, int):
        raise ValueError("the length of the sequence varies from call to call")
    if steps * times > _MOST_STEPS:
        raise ValueError(
            f"the sequences have {steps * times} steps, and more than {_MOST_STEPS} make too many layers"
        )


def _lstm_layer(
    x: torch.Tensor,
    h: torch.Tensor,
    c: torch.Tensor,
    own: Sequence[torch.Tensor],
    has_biases: bool,
    projected: bool,
    backwards: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One direction of one layer: gates in, forget, cell and out, in torch's order."""
    of_x, of_h = own[0], own[1]
    of_biases = own[2:4] if has_biases else (None, None)
    from_x = torch.nn.functional.linear(x, of_x, of_biases[0])
    order = range(x.shape[0] - 1, -1, -1) if backwards else range(x.shape[0])
    states: dict[int, torch.Tensor] = {}
    for step in order:
        gates = from_x[step] + torch.nn.functional.linear(h, of_h, of_biases[1])
        let_in, forget, cell, let_out = gates.chunk(4, -1)
        c = forget.sigmoid() * c + let_in.sigmoid() * cell.tanh()
        h = let_out.sigmoid() * c.tanh()
        if projected:
            h = torch.nn.functional.linear(h, own[-1])
        states[step] = h
    return torch.stack([states[step] for step in range(x.shape[0])]), h, c


TABLE: Mapping[Any, Callable[..., Any]] = {aten.lstm.input: _lstm}
"""Op to function."""

"""Batch normalisation in training with ``momentum=None``: it averages over all batches, and asks a buffer how many.

torch.export takes no number out of a buffer. The same averages are written here with tensors alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_RANKS: Mapping[type[nn.Module], tuple[int, ...]] = {
    nn.BatchNorm1d: (2, 3),
    nn.BatchNorm2d: (4,),
    nn.BatchNorm3d: (5,),
}


@contextmanager
def averages_of_tensors(model: nn.Module) -> Iterator[None]:
    """Within this, such layers of a model compute their averages from tensors."""
    layers = [one for one in model.modules() if _averages(one) and "forward" not in vars(one)]
    for layer in layers:
        layer.forward = partial(_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _averages(layer: Any) -> bool:
    return type(layer) in _RANKS and layer.training and layer.momentum is None and layer.track_running_stats


def _forward(layer: Any, input: Tensor) -> Tensor:
    """y of the batch's mean and biased variance; running += (batch - running) / batches, with the unbiased variance."""
    if input.dim() not in _RANKS[type(layer)]:
        raise ValueError(f"{type(layer).__name__} got an input of {input.dim()} dims")
    with torch.no_grad():
        layer.num_batches_tracked.add_(1)
        share = 1.0 / layer.num_batches_tracked
        batch = input.to(layer.running_mean.dtype)
        variance, mean = torch.var_mean(batch, [dim for dim in range(input.dim()) if dim != 1])
        layer.running_mean.copy_(layer.running_mean * (1 - share) + mean * share)
        layer.running_var.copy_(layer.running_var * (1 - share) + variance * share)
    return nn.functional.batch_norm(input, None, None, layer.weight, layer.bias, training=True, eps=layer.eps)

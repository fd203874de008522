"""Running a model during capture without leaving a trace in it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _pytree as pytree

from trtcore.ir.quiet import quiet_loggers
from trtcore.ir.torch_private import FakeTensor, silent_export


def can_run(model: torch.nn.Module) -> bool:
    """Whether the model's weights are real tensors."""
    tensors = (*model.parameters(), *model.buffers())
    return not any(tensor.is_meta or isinstance(tensor, FakeTensor) for tensor in tensors)


def run(model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The model's outputs, computed on copies of the inputs and buffers, with a fixed random seed."""
    with without_traces((tuple(args), dict(kwargs))) as (own_args, own_kwargs):
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        return torch.func.functional_call(model, buffers, own_args, own_kwargs)


@contextmanager
def without_traces(inputs: Any) -> Iterator[Any]:
    """Copies of the tensors in a pytree, no gradients, and a fixed random seed that is undone at the end."""
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
    gpus = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    with torch.no_grad(), torch.random.fork_rng(devices=gpus):
        torch.manual_seed(0)
        yield pytree.tree_map_only(torch.Tensor, torch.clone, inputs)


_OF_RECURRENT_LAYERS = (
    r"The tensor attributes? (\S+\._flat_weights\[\d+\],? ?)+(was|were) assigned during export"
)
"""nn.LSTM and its kin make this list anew of their parameters: torch.export calls that an assignment of the model's,
and advises buffers. Of a model's own assignment it warns rightly."""


@contextmanager
def quiet_torch() -> Iterator[None]:
    """What torch logs and prints while it traces stays off the screen: an error of ours says it, and only once."""

    with quiet_loggers(), silent_export(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_OF_RECURRENT_LAYERS)
        yield

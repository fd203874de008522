"""Helpers of scripts and tests, by their old names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from trtcore_contrib_torch_tensorrt._Device import Device
from trtcore_contrib_torch_tensorrt._Input import Input
from trtcore_contrib_torch_tensorrt._told import told

__all__ = [
    "COSINE_THRESHOLD",
    "DYNAMIC_DIM",
    "check_output_equal",
    "cosine_similarity",
    "get_model_device",
    "get_torch_inputs",
    "prepare_inputs",
    "to_torch_device",
    "to_torch_tensorrt_device",
]

COSINE_THRESHOLD = 0.99
DYNAMIC_DIM = -1
"""What TensorRT has for a size that varies."""


def cosine_similarity(gt_tensor: torch.Tensor, pred_tensor: torch.Tensor) -> float:
    """How alike two tensors are, from -1 to 1; 1 for two tensors of zeros."""
    a, b = (tensor.detach().flatten().double().cpu() for tensor in (gt_tensor, pred_tensor))
    if not a.any() and not b.any():
        return 1.0
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def check_output_equal(output1: Any, output2: Any, rtol: float = 1e-2, atol: float = 1e-2) -> bool:
    """Whether two trees of results have the same structure and close values."""
    (one, spec), (other, other_spec) = pytree.tree_flatten(output1), pytree.tree_flatten(output2)
    return spec == other_spec and all(
        torch.allclose(a, b, rtol=rtol, atol=atol) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(one, other)
    )


def prepare_inputs(inputs: Any, disable_memory_format_check: bool = False) -> Any:
    """Every tensor of a tree of inputs as an `Input`; scalars as `Input`s of one number."""

    def prepared(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return Input.from_tensor(leaf, disable_memory_format_check)
        if isinstance(leaf, np.ndarray):
            return Input.from_tensor(torch.from_numpy(leaf), disable_memory_format_check)
        return leaf

    return pytree.tree_map(prepared, inputs)


def get_torch_inputs(inputs: Any, device: Any, mode: str = "") -> Any:
    """Tensors for a tree of inputs.

    Args:
        device: where they are to be.
        mode: "min_shape", "opt_shape" or "max_shape", for inputs whose sizes vary.
    """

    def made(leaf: Any) -> Any:
        if isinstance(leaf, Input):
            leaf = leaf.example_tensor(mode or None)
        return leaf.to(to_torch_device(device)) if isinstance(leaf, torch.Tensor) else leaf

    return pytree.tree_map(made, inputs)


def get_model_device(module: torch.nn.Module) -> torch.device:
    """Where a model's weights are; the CPU for one without."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


def to_torch_device(device: Any) -> torch.device:
    """A ``torch.device`` from a `Device`, a ``torch.device`` or a text."""
    if isinstance(device, Device):
        return device.to(torch.device)
    return device if isinstance(device, torch.device) else torch.device(device)


def to_torch_tensorrt_device(device: Any) -> Device:
    """A `Device` from a `Device`, a ``torch.device`` or a text; None is the current GPU."""
    return Device._current_device() if device is None else Device._from(device)


def input_is_dynamic(inputs: Sequence[Any]) -> bool:
    """Whether an `Input` has sizes that vary."""
    leaves = pytree.tree_leaves(inputs)
    return any(isinstance(leaf, Input) and leaf.shape_mode is Input._ShapeMode.DYNAMIC for leaf in leaves)


def __getattr__(name: str) -> Any:
    return told("dynamo.utils", name)

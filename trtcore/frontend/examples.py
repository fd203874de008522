"""Tensors to capture a model with, made from the descriptions of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trtcore.ir.inputs import Input, InputTree


def model_device(model: torch.nn.Module) -> torch.device:
    """Where the model's first parameter or buffer is; the CPU for a model without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def example_leaves(model: torch.nn.Module, tree: InputTree) -> list[Any]:
    """The leaves with every ``Input`` replaced by a tensor, each a tensor of its own.

    Dynamic dimensions get their opt size, but at least 2: torch.export treats 0 and 1 as special.
    """
    device = model_device(model)
    examples: list[Any] = []
    seen: set[int] = {id(leaf) for leaf in tree.leaves if isinstance(leaf, torch.Tensor)}
    given: set[int] = set()
    for leaf in tree.leaves:
        if not isinstance(leaf, Input):
            # A tensor that is given twice would be one input for torch.export, and the other be ignored.
            twice = isinstance(leaf, torch.Tensor) and id(leaf) in given
            examples.append(leaf.clone() if twice else _no_view(leaf))
            given.add(id(leaf))
            continue
        sizes = [max(dim.opt, 2) if dim.dynamic else dim.opt for dim in leaf.dims]
        if leaf.example is not None and all(
            size == dim.opt or (dim.dynamic and size >= 2) for size, dim in zip(leaf.example.shape, leaf.dims)
        ):
            sizes = list(leaf.example.shape)
        example = _no_view(leaf.example_tensor(sizes, device=device))
        if id(example) in seen:
            example = example.clone()
        seen.add(id(example))
        examples.append(example)
    return examples


def examples_beside_opt(tree: InputTree, examples: Sequence[Any]) -> list[Any] | None:
    """The examples with all dynamic dimensions one larger than opt, or one smaller; None where ranges have neither.

    At its opt size a dimension may meet a number of the model's (``x[:, :8]`` of eight).
    """
    dims = [dim for leaf in tree.leaves if isinstance(leaf, Input) for dim in leaf.dims if dim.dynamic]
    for step in (1, -1):
        if dims and all(max(dim.min, 2) <= dim.opt + step <= dim.max for dim in dims):
            return [
                leaf.example_tensor(
                    [dim.opt + step if dim.dynamic else size for dim, size in zip(leaf.dims, example.shape)],
                    device=example.device,
                )
                if isinstance(leaf, Input) and leaf.is_dynamic
                else example
                for leaf, example in zip(tree.leaves, examples)
            ]
    return None


def _no_view(leaf: Any) -> Any:
    """The same memory in the same layout, as a tensor that is no view: torch.export may ask about a view's base, which
    no caller has to have."""
    is_view = type(leaf) is torch.Tensor and leaf._base is not None and leaf.layout is torch.strided
    if not is_view or leaf.requires_grad or leaf.is_inference() or leaf.is_neg() or leaf.is_conj():
        return leaf
    whole = torch.empty(0, dtype=leaf.dtype, device=leaf.device)
    return whole.set_(leaf.untyped_storage(), leaf.storage_offset(), leaf.shape, leaf.stride())

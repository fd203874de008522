"""Calls whose inputs are on another device than what a module keeps in torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from trtcore.errors import InputError


def tell_other_device(
    module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], error: Exception
) -> None:
    """Raise for a call that failed because no input is where the module's weights and buffers are.

    Engines compute where their inputs are; the torch ops between them have weights of their own.

    Raises:
        InputError: from `error`, with both devices.
    """
    own = {tensor.device for tensor in (*module.parameters(), *module.buffers())}
    given = {leaf.device for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
    if not own or not given or own & given:
        return
    there, here = (" and ".join(sorted(map(str, devices))) for devices in (own, given))
    first = min(map(str, given))
    raise InputError(
        f"the inputs are on {here}, and the weights of the module's torch ops are on {there}",
        advice=f"move the module, module.to({first!r}), or give it inputs on {there}",
    ) from error

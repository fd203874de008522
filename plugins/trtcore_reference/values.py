"""What a tensor of the network is while its fx graph is written: a node, or a constant known already."""

from __future__ import annotations

from typing import TypeAlias, Union

import torch
from torch import fx

ADVICE = "run on a GPU with the native runtime, or keep this op in torch with torch_executed_ops"


class Const:
    """A tensor known when the snapshot is compiled, on the host."""

    __slots__ = ("slots", "tensor")

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.slots: dict[bool, int] = {}  # on host? -> position in the staged constants


Value: TypeAlias = Union[fx.Node, Const]  # noqa: UP007 (evaluated at run time)

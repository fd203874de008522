"""The built-in pack `trtcore:reference`: the reference runtime, which executes a network in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from trtcore.pack import NetworkSnapshot, Runtime, hookimpl


class ReferenceRuntime(Runtime):
    """TensorRT's semantics in torch, on any device that torch has."""

    name = "reference"

    def open(self, snapshot: NetworkSnapshot) -> Callable[..., Sequence[torch.Tensor]]:
        """The network as one fx graph module; see `compile_snapshot`."""
        from trtcore_reference import compile_snapshot

        return compile_snapshot(snapshot)

    def open_fused(self, snapshot: NetworkSnapshot) -> Callable[..., Sequence[torch.Tensor]]:
        """The network, compiled by Inductor; see `fusing.FusedNetwork`."""
        from trtcore_reference import EVALUATORS
        from trtcore_reference.fusing import FusedNetwork

        return FusedNetwork(snapshot, EVALUATORS)


_RUNTIMES = (ReferenceRuntime(),)


@hookimpl
def runtimes() -> tuple[Runtime, ...]:
    """The reference runtime; the same object at every call."""
    return _RUNTIMES

"""Networks whose small ops run as kernels that torch's Inductor generates, for each combination of shapes."""

from __future__ import annotations

import dataclasses
import operator
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from trtcore.pack import NetworkSnapshot
from trtcore_reference.build import compile_snapshot
from trtcore_reference.emit import Evaluator
from trtcore_reference.staging import finish, stage

#: Combinations of shapes that are kept; the one that was made first goes first.
MOST = 16


class FusedNetwork:
    """A network as `compile_snapshot` has it, compiled by Inductor for the shapes it is called with.

    With its inputs' shapes fixed a network computes no shapes, and what is left is a graph of tensors. Results are
    those of the network up to rounding: inside of a kernel 16-bit results are not rounded. A network with loops, or
    with sizes that are inputs, runs as it is.

    Args:
        snapshot: the network.
        evaluators: as for `compile_snapshot`.
    """

    def __init__(self, snapshot: NetworkSnapshot, evaluators: Mapping[str, Evaluator]) -> None:
        self._snapshot, self._evaluators = snapshot, evaluators
        self._made: dict[Any, tuple[Callable[..., Sequence[torch.Tensor]], fx.GraphModule]] = {}
        self._lock = threading.Lock()
        self.constants = self

    def __call__(self, *inputs: torch.Tensor) -> Sequence[torch.Tensor]:
        key = tuple((tuple(one.shape), one.device) for one in inputs)
        made = self._made.get(key)
        if made is None:
            with self._lock:
                made = self._made.get(key)
                if made is None:
                    made = self._make(inputs)
                    while len(self._made) >= MOST:
                        self._made.pop(next(iter(self._made)))
                    self._made[key] = made
        return made[0](*inputs)

    def release(self, device: torch.device | None = None) -> None:
        """Forget the constants' copies on `device`; see `staging.Constants`."""
        for _, network in list(self._made.values()):
            network.constants.release(device)  # type: ignore[union-attr, operator]

    def _make(
        self, inputs: Sequence[torch.Tensor]
    ) -> tuple[Callable[..., Sequence[torch.Tensor]], fx.GraphModule]:
        """(what runs, the network whose constants it has) for the shapes of these inputs."""
        tensors = list(self._snapshot.tensors)
        for tensor, given in zip(self._snapshot.inputs, inputs):
            tensors[tensor] = dataclasses.replace(tensors[tensor], shape=tuple(given.shape))
        network = compile_snapshot(
            dataclasses.replace(self._snapshot, tensors=tuple(tensors)), self._evaluators
        )
        device = next((one.device for one in inputs if one.device.type != "cpu"), torch.device("cpu"))
        if any(one.device != device for one in inputs):  # a size: its value decides on shapes
            return network, network
        found = _without_staging(network, device)
        if found is None:
            return network, network
        body, slots = found
        compiled = torch.compile(body, dynamic=False)
        constants: Any = network.constants

        def run(*given: torch.Tensor) -> Sequence[torch.Tensor]:
            staged = stage(constants, *given)
            with torch.no_grad():
                results = compiled(*given, *(staged[slot] for slot in slots))
            return finish(staged, list(given), results)

        return run, network


def _without_staging(
    network: fx.GraphModule, device: torch.device
) -> tuple[fx.GraphModule, list[int]] | None:
    """(the network from inputs and constants to results, which constants); None where more of it wants them staged."""
    slots: list[int] = []
    graph = fx.Graph()
    known: dict[fx.Node, Any] = {}
    inputs = [node for node in network.graph.nodes if node.op == "placeholder"]
    for node in inputs:
        known[node] = graph.placeholder(node.name)
    items = [node for node in network.graph.nodes if _is_item(node)]
    for node in items:
        slot = node.args[1]
        if slot == 0:
            known[node] = device
            continue
        slots.append(slot)
        known[node] = graph.placeholder(f"constant_{slot}")
    for node in network.graph.nodes:
        if node in known or node.target is stage or (node.op == "get_attr" and node.target == "constants"):
            continue
        if node.op == "output":
            continue
        if node.op != "call_function":
            return None
        if node.target is finish:
            graph.output(fx.map_arg(node.args[2], known.__getitem__))
            continue
        if any(one.target is stage for one in node.all_input_nodes):
            return None
        arguments = fx.map_arg((node.args, node.kwargs), known.__getitem__)
        known[node] = graph.call_function(node.target, *arguments)
    return fx.GraphModule(torch.nn.Module(), graph, class_name="FusedEngine"), slots


def _is_item(node: fx.Node) -> bool:
    return node.target is operator.getitem and getattr(node.args[0], "target", None) is stage

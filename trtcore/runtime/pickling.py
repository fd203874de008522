"""Compiled modules in pickles: the graph as data, so that nothing that it was captured under is lost on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import Graph, GraphModule, Node

from trtcore.ir.graph_data import FakeValues, FunctionRef, NodeData, add_node, node_data, resolved_target
from trtcore.ir.graphs import attribute, set_attribute
from trtcore.ir.program import SymbolRange
from trtcore.ir.torch_private import codegen_of
from trtcore.runtime.plans import plans_of

if TYPE_CHECKING:
    from trtcore.report.data import Report
    from trtcore.runtime.input_check import InputCheck
    from trtcore.runtime.recipe import Recipe


@dataclass(frozen=True)
class EngineBytes:
    """An engine's file by its bytes: torch's own way for tensors in shared memory takes no mapped file."""

    data: np.ndarray[Any, Any]

    def open(self) -> torch.Tensor:
        """The container."""
        return torch.from_numpy(np.array(self.data))


@dataclass(frozen=True)
class ModuleState:
    """What a pickle of a compiled module holds.

    Attributes:
        nodes: the hybrid graph.
        attributes: by name: parameters and buffers, plain tensors, `EngineBytes`, submodules.
        buffers: names of the attributes that are registered buffers -> whether they are in the state_dict.
        ranges: of the symbols in the graph's FakeTensors.
        codegen: the calling convention.
        check, report, recipe: those of the module; the report as JSON.
    """

    nodes: tuple[NodeData, ...]
    attributes: Mapping[str, Any]
    buffers: Mapping[str, bool]
    ranges: Mapping[str, SymbolRange]
    codegen: Any
    check: InputCheck | None
    report: str
    class_name: str
    training: bool
    recipe: Recipe | None = None


def state_of(
    module: GraphModule, check: InputCheck | None, report: Report, recipe: Recipe | None = None
) -> ModuleState:
    """A compiled module as data."""
    plans = plans_of(module)
    attributes: dict[str, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            name = str(node.target)
            value = attribute(module, name)
            attributes[name] = EngineBytes(value.numpy()) if name in plans else value
    persistent = module.state_dict().keys()
    buffers = {
        name: name in persistent
        for name, _ in module.named_buffers(remove_duplicate=False)
        if name in attributes
    }
    return ModuleState(
        tuple(node_data(node, FunctionRef.of) for node in module.graph.nodes), attributes, buffers,
        symbol_ranges_of(module), codegen_of(module.graph), check,
        report.to_json(indent=None), type(module).__name__, module.training, recipe,
    )  # fmt: skip


def restored(state: ModuleState) -> GraphModule:
    """The graph module again."""
    graph, root, made = Graph(), torch.nn.Module(), dict[str, Node]()
    values = FakeValues(state.ranges)
    for name, value in state.attributes.items():
        set_attribute(root, name, value.open() if isinstance(value, EngineBytes) else value)
        if name in state.buffers:
            path, _, last = name.rpartition(".")
            owner = root.get_submodule(path)
            tensor = getattr(owner, last)
            delattr(owner, last)
            owner.register_buffer(last, tensor, persistent=state.buffers[name])
    for data in state.nodes:
        add_node(graph, data, resolved_target(data.target), made, values)
    graph.set_codegen(state.codegen)
    return GraphModule(root, graph, class_name=state.class_name)


_MOST = 1 << 62
"""What is written for a size that has no upper bound: torch has several numbers for that."""


def symbol_ranges_of(module: GraphModule) -> dict[str, SymbolRange]:
    """Of every symbol in the graph's FakeTensors, those of sizes that data decide, too: what the trace knew of it."""
    found: dict[str, SymbolRange] = {}
    for node in module.graph.nodes:
        for dim in _sizes(node.meta.get("val")):
            env = dim.node.shape_env
            for symbol in dim.node.expr.free_symbols:
                if symbol.name not in found:
                    known = env.var_to_range[symbol]
                    low, high = _finite(known.lower, 0), min(_finite(known.upper, _MOST), _MOST)
                    hint = min(max(_known(env, symbol), low), high)
                    found[symbol.name] = SymbolRange(symbol.name, low, hint, high)
    return found


def _sizes(value: Any) -> Iterator[torch.SymInt]:
    """The symbolic sizes and strides of a node's value."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _sizes(item)
    elif isinstance(value, torch.SymInt):
        yield value
    elif isinstance(value, torch.Tensor) and value.layout is torch.strided:
        yield from (dim for dim in (*value.shape, *value.stride()) if isinstance(dim, torch.SymInt))


def _known(env: Any, symbol: Any) -> int:
    """The size that a symbol stood for when it was captured; 2 where it stood for none."""
    hints: Any = getattr(env, "backed_var_to_val", None)
    return int((hints if hints is not None else env.var_to_val).get(symbol, 2))  # before torch 2.10


def _finite(bound: Any, otherwise: int) -> int:
    try:
        return int(bound)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return otherwise

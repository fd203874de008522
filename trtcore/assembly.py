"""The hybrid graph: engines as ``trtcore::execute_engine`` calls, everything else as the torch ops it was."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from trtcore.artifact.engine_file import EngineArtifact, stored
from trtcore.errors import EngineBuildError
from trtcore.ir.graphs import (
    attribute,
    is_size,
    memory_of,
    mutates,
    reads_strides,
    set_attribute,
    written_memory,
)
from trtcore.ir.symbols import SizeMaterialiser, expression_of
from trtcore.partition import Partition
from trtcore.partition.segment import Segment


def assemble_hybrid(
    lowered: GraphModule,
    partition: Partition,
    engines: Mapping[str, EngineArtifact],
    symbols: Mapping[str, Any],
    *,
    output_strides: bool = False,
) -> GraphModule:
    """Put engines and torch nodes together.

    Args:
        lowered: the lowered graph; its placeholders and outputs become the hybrid's.
        engines: by segment name.
        symbols: name -> SymInt, for the FakeTensors of size nodes.
        output_strides: whether outputs must have the strides of the trace. Else they are contiguous where an engine
            makes them, whatever they are in the model.

    Returns:
        A GraphModule with plain codegen. It holds the attributes that torch nodes use and the file of each engine,
        as plain (not buffer) uint8 tensors ``engine_0.plan``: ``.to(device)`` does not move them.
    """
    return _Assembler(lowered, partition, engines, symbols, output_strides).run()


class _Assembler:
    def __init__(
        self,
        lowered: GraphModule,
        partition: Partition,
        engines: Mapping[str, EngineArtifact],
        symbols: Mapping[str, Any],
        output_strides: bool,
    ) -> None:
        self.lowered, self.partition, self.engines, self.symbols = lowered, partition, engines, symbols
        self.graph = Graph()
        self.root = torch.nn.Module()
        self.env: dict[Node, Any] = {}
        self.sizes: SizeMaterialiser
        self.inside = {node for segment in partition.segments for node in segment.nodes}
        self.output_strides = output_strides
        self.strides_matter = output_strides or any(
            isinstance(unit, Node) and reads_strides(unit) for unit in partition.order
        )

    def run(self) -> GraphModule:
        placeholders = []
        for node in self.lowered.graph.nodes:
            if node.op == "placeholder":
                self.env[node] = self.graph.node_copy(node, self.lookup)
                placeholders.append(self.env[node])
        self.sizes = SizeMaterialiser(self.graph, placeholders)
        for unit in self.partition.order:
            if isinstance(unit, Segment):
                self._call_engine(unit)
            elif unit not in self.env:
                self.env[unit] = self.graph.node_copy(unit, self.lookup)
                self.sizes.learn(self.env[unit])
        output = next(node for node in reversed(self.lowered.graph.nodes) if node.op == "output")
        self.env[output] = self.graph.node_copy(output, self.lookup)
        self.graph.eliminate_dead_code()
        self.graph.lint()
        return GraphModule(self.root, self.graph)

    def lookup(self, node: Node) -> Any:
        """The hybrid's node for a node of the lowered graph; sizes and attributes are made when first used."""
        if node not in self.env:
            if node.op == "get_attr":
                set_attribute(self.root, str(node.target), attribute(self.lowered, str(node.target)))
                self.env[node] = self.graph.node_copy(node, self.lookup)
            elif is_size(node):
                self.env[node] = self._size(node)
            else:
                self.env[node] = self.graph.node_copy(node, self.lookup)
        return self.env[node]

    def _size(self, node: Node) -> Any:
        value = node.meta["val"]
        if isinstance(value, torch.SymInt):
            expression = expression_of(value)
            if self.sizes.can_make(expression):
                return self.sizes.make(expression, like=value)
        elif isinstance(value, (int, float, bool)):
            return value
        made = self.graph.node_copy(node, self.lookup)  # data-dependent, or by way of a float
        self.sizes.learn(made)
        return made

    def _call_engine(self, segment: Segment) -> None:
        artifact = self.engines[segment.name]
        plan_target = f"{segment.name}.plan"
        set_attribute(self.root, plan_target, artifact.container)
        plan = self.graph.get_attr(plan_target)
        plan.meta["val"] = artifact.container
        inputs = [self.lookup(source) for source in segment.inputs]
        for source in segment.sizes:
            self.lookup(source)
        sizes = [self.sizes.make(self.symbols[binding.symbol]) for binding in artifact.manifest.sizes]
        call = self.graph.create_node(
            "call_function",
            torch.ops.trtcore.execute_engine.default,
            (inputs, sizes, plan, artifact.manifest.to_json()),
            name=segment.name,
        )
        call.meta["val"] = [node.meta["val"] for node in segment.outputs]
        for index, node in enumerate(segment.outputs):
            item = self.graph.create_node("call_function", operator.getitem, (call, index), name=node.name)
            item.meta = dict(node.meta)
            self.env[node] = self._laid_out(node, item) if self.strides_matter else item
            self.sizes.learn(item)

    def _laid_out(self, node: Node, item: Node) -> Node:
        """An engine's output, which is contiguous, with the strides that it has in the model, where torch reads it."""
        value = node.meta["val"]
        outside = [user for user in node.users if user not in self.inside]
        if all(user.op == "output" and not self.output_strides for user in outside):
            return item
        strides = tuple(expression_of(stride) for stride in value.stride())
        shape = [expression_of(dim) for dim in value.shape]
        if strides == _contiguous(shape) or not all(self.sizes.can_make(stride) for stride in strides):
            return item
        made = [self.sizes.make(stride) for stride in strides]
        result = self.graph.call_function(torch.ops.trtcore.restride.default, (item, made))
        result.meta = dict(node.meta)
        return result


def copy_returned_weights(module: GraphModule) -> None:
    """Let the graph return copies of weights, also where it returns parts of them: what the caller writes to a result
    must not change what later calls compute with. What the graph writes to is the model's state, and is returned as is.
    """
    written = written_memory(module.graph.nodes)
    output = module.graph.output_node()
    for node in output.all_input_nodes:
        source = memory_of(node)
        if source.op == "get_attr" and source not in written:
            with module.graph.inserting_before(output):
                own = module.graph.call_function(torch.ops.aten.clone.default, (node,))
            own.meta = dict(node.meta)
            output.replace_input_with(node, own)
    module.recompile()


def own_weights(module: GraphModule) -> None:
    """Give the graph weights of its own where torch ops read them: what is done to the model's later changes nothing.

    Those on the CPU move to one mapped file, whose pages can be evicted; others are copied on their device. What the
    graph writes to is the model's state, and stays shared with it.

    Raises:
        EngineBuildError: there is no room for the file.
    """
    written = {
        node.args[0].target for node in module.graph.nodes if mutates(node) and isinstance(node.args[0], Node)
    }
    tensors: dict[str, torch.Tensor] = {}
    for node in module.graph.find_nodes(op="get_attr"):
        value = attribute(module, str(node.target))
        engine = all(user.target is torch.ops.trtcore.execute_engine.default for user in node.users)
        if isinstance(value, torch.Tensor) and node.target not in written and not engine:
            tensors[str(node.target)] = value
    try:
        storages = stored({name: tensor.untyped_storage() for name, tensor in tensors.items()})
    except OSError as error:
        raise EngineBuildError(
            f"the weights of the ops in torch could not be written to a temporary file: {error}",
            advice="free some space, or set TMPDIR to a larger file system",
        ) from error
    for name, tensor in tensors.items():
        own = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(
            storages[name], tensor.storage_offset(), tensor.shape, tensor.stride()
        )
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        _replace(module, name, torch.nn.Parameter(own, tensor.requires_grad) if is_parameter else own)


def _replace(module: GraphModule, name: str, value: torch.Tensor) -> None:
    path, _, last = name.rpartition(".")
    setattr(module.get_submodule(path), last, value)


def _contiguous(shape: Sequence[Any]) -> tuple[Any, ...]:
    """The strides of a contiguous tensor, as torch traces them."""
    strides: list[Any] = []
    step: Any = 1
    for dim in reversed(shape):
        strides.append(step)
        step = step * dim
    return tuple(expression_of(stride) for stride in reversed(strides))

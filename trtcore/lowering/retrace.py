"""Torch's own functionalisation of a whole graph, by tracing it again.

It is right for every aliasing of views but those in `trtcore.lowering.memory_writes`, and takes longer than renaming in
place. An op of somebody else's that writes to an argument becomes torch's ``auto_functionalized``, which runs in torch
and returns what the op would write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.fx import GraphModule, Node

from trtcore.context import CompileContext
from trtcore.ir.graphs import attribute, fake_mode_of, is_composite, mutates, set_attribute, tracing
from trtcore.ir.torch_private import (
    any_autocast,
    first_auto_functionalized,
    is_of_transform,
    results_of_shapes,
    storage_id,
    transforms_undone,
    without_linalg_checks,
    writes_at_end,
)
from trtcore.lowering.flex import needs_scores
from trtcore.lowering.memory_writes import MemoryWrite, find_memory_writes
from trtcore.lowering.regions import (
    all_nodes,
    inside_transform,
    is_autocast,
    region,
    stand_in,
    whole_under_autocast,
)


def functionalize_with_torch(graph_module: GraphModule, ctx: CompileContext) -> GraphModule:
    """Torch's functionalisation of the whole graph; keeps every node's stack trace and module stack.

    It would take composite ops apart. Those that have a converter stay whole: a stand-in without a
    decomposition is traced in their place. It takes no views but ATen's, and not all that writes: what a pack has a
    decomposition for is decomposed.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    nodes = list(graph_module.graph.nodes)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    attributes = {
        str(node.target): node
        for node in nodes
        if node.op == "get_attr" and isinstance(attribute(graph_module, str(node.target)), torch.Tensor)
    }
    fed = [*placeholders, *attributes.values()]

    kept = {node.target: stand_in(node.target) for node in all_nodes(graph_module) if _stays_whole(node, ctx)}
    apart = {
        node.target: ctx.registry.decompositions[node.target]
        for node in nodes
        if _foreign_view(node, ctx) or (mutates(node) and node.target in ctx.registry.decompositions)
    }

    writes = find_memory_writes(graph_module.graph)

    def run(*values: Any) -> Any:
        interpreter = _FedInterpreter(
            graph_module, dict(zip(attributes, values[len(placeholders) :])), kept, apart, writes
        )
        return interpreter.run(*values[: len(placeholders)])

    below_autocast = kept if any(map(is_autocast, all_nodes(graph_module))) else {}
    shapes = ctx.registry.shapes
    with (
        _tracing(fake_mode_of(graph_module.graph)),
        results_of_shapes(shapes),
        whole_under_autocast(below_autocast, shapes),
    ):
        traced = make_fx(writes_at_end(run))(*(node.meta["val"] for node in fed))
    traced.graph.eliminate_dead_code()
    originals = {one: op for op, one in kept.items()}
    for node in traced.graph.nodes:
        node.target = originals.get(node.target, node.target)
    _restore_inputs(traced, graph_module, fed)
    result = GraphModule(traced, traced.graph)
    result.graph.lint()
    return result


@contextmanager
def _tracing(fake_mode: Any) -> Iterator[None]:
    from torch.fx import traceback as fx_traceback

    with (
        tracing(fake_mode),
        fx_traceback.preserve_node_meta(),
        first_auto_functionalized(),
        transforms_undone(),
        without_linalg_checks(),
    ):
        yield


def _restore_inputs(traced: GraphModule, source: GraphModule, fed: Sequence[Node]) -> None:
    """Give the traced graph's placeholders back what they stand for: names, metadata, and the attributes."""
    graph = traced.graph
    for old, new in zip(fed, graph.find_nodes(op="placeholder")):
        meta = dict(old.meta)
        if old.op == "get_attr":
            set_attribute(traced, str(old.target), attribute(source, str(old.target)))
            with graph.inserting_before(new):
                replacement = graph.create_node("get_attr", str(old.target))
            new.replace_all_uses_with(replacement)
            graph.erase_node(new)
            new = replacement
        else:
            new.target = old.target
            new.name = old.name
        new.meta = meta
    first = next(node for node in graph.nodes if node.op != "placeholder")
    for node in graph.find_nodes(op="placeholder"):
        first.prepend(node)  # placeholders stay ahead of the get_attr nodes


def _stays_whole(node: Node, ctx: CompileContext) -> bool:
    """A composite op with a converter whose results are its own: functionalisation has nothing to do in it."""
    op = node.target
    if node.op != "call_function" or not isinstance(op, torch._ops.OpOverload) or not is_composite(op):
        return False
    if not ctx.registry.candidates(op) and ctx.registry.refusal(op) is None:
        return False
    if any(value.alias_info is not None for value in (*op._schema.arguments, *op._schema.returns)):
        return False
    taken = {_storage(source) for source in node.all_input_nodes} - {None}
    return _storage(node) not in taken  # some say that they return something new, and do not


def _foreign_view(node: Node, ctx: CompileContext) -> bool:
    """An op that is not ATen's, aliases its arguments and has a decomposition."""
    op = node.target
    return (
        isinstance(op, torch._ops.OpOverload)
        and op.namespace != "aten"
        and any(value.alias_info is not None for value in op._schema.returns)
        and op in ctx.registry.decompositions
    )


def _storage(node: Node) -> int | None:
    value = node.meta.get("val")
    return storage_id(value) if isinstance(value, torch.Tensor) and not is_of_transform(value) else None


def _is_foreach_write(target: Any) -> bool:
    schema = getattr(target, "_schema", None)
    return schema is not None and schema.name.startswith("aten::_foreach_") and schema.is_mutable


def _one_by_one(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """A foreach op as it works: tensor by tensor. torch's functionalisation computes all before it writes any, which is
    something else where two of them share memory."""
    count = len(args[0])

    def part(value: Any, index: int) -> Any:
        several = isinstance(value, (list, tuple)) and len(value) == count
        return [value[index]] if several else value

    for index in range(count):
        target(
            *(part(arg, index) for arg in args), **{name: part(arg, index) for name, arg in kwargs.items()}
        )


class _FedInterpreter(torch.fx.Interpreter):
    """Runs a graph with given values (FakeTensors) for its attributes, other ops for some, and some writes on
    copies.

    Args:
        kept: composite ops -> their stand-ins. Where a transform is on they are taken apart still: it has rules for
            what they are made of; and autocast is followed by the stand-in, which it does not know.
        apart: ops -> their decompositions.
    """

    def __init__(
        self,
        module: Any,
        attributes: Mapping[str, Any],
        kept: Mapping[Any, Any],
        apart: Mapping[Any, Any],
        writes: Mapping[Node, MemoryWrite],
    ) -> None:
        super().__init__(module, garbage_collect_values=not writes)
        self._attributes, self._kept, self._apart, self._writes = attributes, kept, apart, writes
        self._node: Node | None = None

    def run_node(self, n: Node) -> Any:
        self._node = n
        return super().run_node(n)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        write = self._writes.get(self._node) if self._node is not None else None
        if write is not None:
            return write.run(args, kwargs, self.env.__getitem__)
        return self._call(target, args, kwargs, self._node)

    def _call(self, target: Any, args: Any, kwargs: Any, node: Node | None = None) -> Any:
        if _is_foreach_write(target):
            return _one_by_one(target, args, kwargs)
        if (written_out := region(target)) is not None:
            if target is torch.ops.higher_order.flex_attention and node is not None:
                written_out = partial(written_out, needs_scores=needs_scores(node))
            return written_out(self._run, *args, **kwargs)
        if target in self._kept and not inside_transform((args, kwargs)) and not any_autocast():
            target = self._kept[target]
        return super().call_function(self._apart.get(target, target), args, kwargs)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        known = self._attributes.get(str(target))
        return super().get_attr(target, args, kwargs) if known is None else known

    def _run(self, body: Any, *values: Any, **options: Any) -> Any:
        """A graph that a node runs, or an op."""
        if isinstance(body, GraphModule):
            return _FedInterpreter(body, {}, self._kept, self._apart, {}).run(*values)
        return self._call(body, values, options)

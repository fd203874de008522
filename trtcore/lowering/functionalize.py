"""Functionalisation: mutation becomes values, so that later stages may reorder and replace nodes freely.

In-place ops on plain intermediate tensors, which is what exported models hold, are renamed to their
functional twins in one linear walk. Where views of the mutated tensor are read later, the whole graph goes
through torch's own functionalisation, which is right in every case and slower.

What the model mutates for good (its buffers, its inputs) ends as ``copy_`` nodes at the end of the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from trtcore.context import CompileContext
from trtcore.errors import ExportError
from trtcore.ir.graphs import (
    TRACING,
    attribute,
    fake_mode_of,
    is_composite,
    is_copy_into,
    mutates,
    set_attribute,
)

_COPY_INTO = torch.ops.aten.copy_.default  # how exported graphs spell "write this back"


def functionalize(graph_module: GraphModule, ctx: CompileContext) -> GraphModule:
    """Return a graph whose only mutating nodes are ``copy_`` into inputs and buffers, at its end."""
    graph = graph_module.graph
    mutating = [node for node in graph.nodes if mutates(node)]
    if mutating:
        _separate_attributes(graph_module, mutating)
    if not mutating or all(_is_final_write(node) for node in mutating):
        return graph_module
    if not rename_in_place(graph):
        graph_module = _functionalize_with_torch(graph_module, ctx)
    graph_module.graph.lint()
    return graph_module


def _separate_attributes(graph_module: GraphModule, mutating: list[Node]) -> None:
    """One node per attribute tensor, and none that shares memory with another that is written to.

    Raises:
        ExportError: the model writes to a buffer of which another one is a part.
    """
    first: dict[tuple[object, ...], Node] = {}
    sharing: dict[tuple[object, ...], list[Node]] = {}
    for node in list(graph_module.graph.nodes):
        tensor = attribute(graph_module, str(node.target)) if node.op == "get_attr" else None
        if not isinstance(tensor, torch.Tensor) or not tensor.numel():
            continue
        view = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if view in first:
            node.replace_all_uses_with(first[view])
            graph_module.graph.erase_node(node)
            continue
        first[view] = node
        sharing.setdefault((tensor.device, tensor.untyped_storage().data_ptr()), []).append(node)
    groups = [nodes for nodes in sharing.values() if len(nodes) > 1]
    if not groups:
        return
    roots = _alias_roots(graph_module.graph)
    written = {roots[target] for node in mutating for target in _written(node)}
    for nodes in groups:
        if any(node in written for node in nodes):
            names = ", ".join(str(node.target) for node in nodes)
            raise ExportError(
                f"the model writes to a buffer that shares its memory with another: {names}",
                advice="make one buffer of them and take views of it in forward, or clone() them apart",
            )


def _is_final_write(node: Node) -> bool:
    """``copy_`` into an input or a buffer that nothing reads afterwards."""
    target = node.args[0]
    if not is_copy_into(node) or not isinstance(target, Node) or target.op not in ("placeholder", "get_attr"):
        return False
    position = {n: i for i, n in enumerate(node.graph.nodes)}
    return not any(user.op == "call_function" for user in node.users) and all(
        position[user] <= position[node] for user in target.users if user.op != "output"
    )


def _written(node: Node) -> list[Node]:
    """The tensors that a node writes to."""
    schema = node.target._schema  # type: ignore[union-attr]
    found: list[Node] = []
    for index, argument in enumerate(schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
        found.extend(
            item
            for item in (value if isinstance(value, (list, tuple)) else [value])
            if isinstance(item, Node)
        )
    return found


def _functional_twin(target: Any) -> Any:
    """``add.Tensor`` of ``add_.Tensor``: same arguments, no write; None where the op has none."""
    schema = target._schema
    writes = [a for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    namespace, name = schema.name.split("::")
    if len(writes) != 1 or (
        writes[0] is not schema.arguments[0] and writes[0].name != schema.arguments[0].name
    ):
        return None
    if not name.endswith("_") or name.endswith("__"):
        return None
    packet = getattr(getattr(torch.ops, namespace), name[:-1], None)
    twin = getattr(packet, schema.overload_name or "default", None) if packet is not None else None
    if twin is None or twin._schema.is_mutable:
        return None
    if [a.name for a in twin._schema.arguments] != [a.name for a in schema.arguments]:
        return None
    return twin


def _alias_roots(graph: Graph) -> dict[Node, Node]:
    """For every tensor, the tensor whose storage it may share (itself, if none)."""
    roots: dict[Node, Node] = {}
    for node in graph.nodes:
        roots[node] = node
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function":
            continue
        if schema is None:  # getitem and the like hand on what they are given
            sources = node.all_input_nodes
        else:
            sources = [
                value
                for index, argument in enumerate(schema.arguments)
                if argument.alias_info is not None
                for value in [node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)]
                if isinstance(value, Node)
            ]
        if sources:
            roots[node] = roots[sources[0]]
    return roots


def rename_in_place(graph: Graph) -> bool:
    """Replace in-place ops by their twins; False (graph unchanged) where aliasing needs more than that."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    roots = _alias_roots(graph)
    family: dict[Node, list[Node]] = {}
    for node, root in roots.items():
        family.setdefault(root, []).append(node)
    plan: list[tuple[Node, Node, Any]] = []
    for node in graph.nodes:
        if not mutates(node):
            continue
        twin, written = _functional_twin(node.target), _written(node)
        if twin is None or len(written) != 1:
            return False
        target = written[0]
        if not _same_extent(target, roots[target]) or not _same_extent(target, node):
            return False
        for relative in family[roots[target]]:
            # Views of the written tensor that are read later would have to see the write.
            if relative is roots[target] or _same_extent(relative, roots[target]):
                continue
            if any(order[user] > order[node] for user in relative.users):
                return False
        plan.append((node, target, twin))
    latest: dict[Node, Node] = {}
    final: dict[Node, Node] = {}
    planned = {node: twin for node, _, twin in plan}
    for node in list(graph.nodes):
        if node.op == "output":
            break
        # Every later read of any same-extent alias reads the newest value of its root.
        for source in node.all_input_nodes:
            newest = latest.get(roots.get(source, source))
            if newest is not None and newest is not source and source in roots and node.op != "placeholder":
                node.replace_input_with(source, newest)
        if node in planned:
            node.target = planned[node]
            latest[roots[node]] = node
            if roots[node].op in ("placeholder", "get_attr"):
                final[roots[node]] = node
    output = next(iter(reversed(graph.nodes)))
    with graph.inserting_before(output):
        for root, newest in final.items():
            write = graph.call_function(_COPY_INTO, (root, newest))
            write.meta = dict(newest.meta)
            final[root] = write
    for source in output.all_input_nodes:
        # A result that is the mutated input or buffer is that very tensor, as in eager.
        newest = final.get(roots.get(source, source)) or latest.get(roots.get(source, source))
        if newest is not None and newest is not source:
            output.replace_input_with(source, newest)
    return True


def _same_extent(a: Node, b: Node) -> bool:
    """Whether two aliases surely cover the same elements in the same layout."""
    x, y = a.meta.get("val"), b.meta.get("val")
    if a is b:
        return True
    if not isinstance(x, torch.Tensor) or not isinstance(y, torch.Tensor):
        return False
    return (
        x.dtype == y.dtype
        and tuple(map(str, x.shape)) == tuple(map(str, y.shape))
        and tuple(map(str, x.stride())) == tuple(map(str, y.stride()))
    )


def _functionalize_with_torch(graph_module: GraphModule, ctx: CompileContext) -> GraphModule:
    """Torch's functionalisation of the whole graph; keeps every node's stack trace and module stack.

    It would take composite ops apart. Those that have a converter stay whole: a stand-in without a
    decomposition is traced in their place. It takes no views but ATen's: others are decomposed, if a pack knows how.
    """
    from torch.fx import traceback as fx_traceback
    from torch.fx.experimental.proxy_tensor import make_fx

    nodes = list(graph_module.graph.nodes)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    attributes = {str(node.target): node for node in nodes if node.op == "get_attr"}
    fed = [*placeholders, *attributes.values()]

    kept = {node.target: _stand_in(node.target) for node in nodes if _stays_whole(node, ctx)}
    apart = {
        node.target: ctx.registry.decompositions[node.target] for node in nodes if _foreign_view(node, ctx)
    }

    def run(*values: Any) -> Any:
        interpreter = _FedInterpreter(
            graph_module, dict(zip(attributes, values[len(placeholders) :])), {**kept, **apart}
        )
        return interpreter.run(*values[: len(placeholders)])

    # Outside the fake mode an op without tensors (arange) would turn a symbolic size into today's int.
    fake_mode = fake_mode_of(graph_module.graph) or nullcontext()
    with TRACING, fake_mode, fx_traceback.preserve_node_meta(), torch.no_grad():
        traced = make_fx(torch.func.functionalize(run, remove="mutations"))(
            *(node.meta["val"] for node in fed)
        )
    graph = traced.graph
    originals = {stand_in: op for op, stand_in in kept.items()}
    for node in graph.nodes:
        node.target = originals.get(node.target, node.target)
    made = [node for node in graph.nodes if node.op == "placeholder"]
    for old, new in zip(fed, made):
        meta = dict(old.meta)
        if old.op == "get_attr":
            set_attribute(traced, str(old.target), attribute(graph_module, str(old.target)))
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
    for node in [node for node in graph.nodes if node.op == "placeholder"]:
        first.prepend(node)  # placeholders stay ahead of the get_attr nodes
    result = GraphModule(traced, graph)
    result.graph.lint()
    return result


def _stays_whole(node: Node, ctx: CompileContext) -> bool:
    """A composite op with a converter whose results are its own: functionalisation has nothing to do in it."""
    op = node.target
    if not isinstance(op, torch._ops.OpOverload) or not ctx.registry.candidates(op) or not is_composite(op):
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
    return value.untyped_storage()._cdata if isinstance(value, torch.Tensor) else None


@cache
def _stand_in(op: torch._ops.OpOverload) -> torch._ops.OpOverload:
    """An op of the same schema that traces as one node."""
    namespace, _, name = op.name().partition("::")  # type: ignore[no-untyped-call]
    library, schema = _library(f"trtcore_whole_{namespace}"), str(op._schema)
    library.define(f"{name}{schema[schema.index('(') :]}")  # type: ignore[no-untyped-call]
    library.impl(name, op, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"{library.ns}::{name}", op, lib=library)
    packet = getattr(getattr(torch.ops, library.ns), name.partition(".")[0])
    return getattr(packet, name.partition(".")[2] or "default")  # type: ignore[no-any-return]


@cache
def _library(namespace: str) -> torch.library.Library:
    return torch.library.Library(namespace, "FRAGMENT")  # type: ignore[no-untyped-call]


class _FedInterpreter(torch.fx.Interpreter):
    """Runs a graph with given values (FakeTensors) for its attributes, and stand-ins for some ops."""

    def __init__(self, module: GraphModule, attributes: dict[str, Any], stand_ins: Mapping[Any, Any]) -> None:
        super().__init__(module)
        self._attributes = attributes
        self._stand_ins = stand_ins

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return super().call_function(self._stand_ins.get(target, target), args, kwargs)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._attributes[str(target)]

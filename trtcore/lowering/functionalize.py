"""Functionalisation: mutation becomes values, so that later stages may reorder and replace nodes freely.

In-place ops on plain intermediate tensors, which is what exported models hold, are renamed to their
functional twins in one linear walk. Where views of the mutated tensor are read later, or an op has no twin, the whole
graph goes through torch's own functionalisation (`trtcore.lowering.retrace`), which is slower.

What the model mutates for good (its buffers, its inputs) ends as ``copy_`` nodes at the end of the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from trtcore.context import CompileContext
from trtcore.errors import ExportError
from trtcore.ir.aliases import find_unsaid, layout, made_others, recompute_views, recomputed, storage
from trtcore.ir.graphs import attribute, fake_mode_of, is_copy_into, mutates, set_attribute, written_by
from trtcore.ir.program import SymbolRange
from trtcore.ir.provenance import describe
from trtcore.lowering.overlaps import refuse_overlaps
from trtcore.lowering.regions import is_written_out
from trtcore.lowering.retrace import functionalize_with_torch

NO_RANGES: Mapping[str, SymbolRange] = MappingProxyType({})
_PART = torch.ops.aten.as_strided.default
_COPY_INTO = torch.ops.aten.copy_.default  # how exported graphs spell "write this back"


def functionalize(
    graph_module: GraphModule, ctx: CompileContext, ranges: Mapping[str, SymbolRange] | None = NO_RANGES
) -> GraphModule:
    """Return a graph whose only mutating nodes are ``copy_`` into inputs and buffers, at its end.

    Args:
        ranges: of sizes for which writes to shared memory are looked at, besides those of the capture; None where who
            calls the graph looks at them himself.

    Raises:
        ExportError: the model writes to memory in a way that has no counterpart in values.
    """
    mutating = [node for node in graph_module.graph.nodes if mutates(node)]
    written_out = any(map(is_written_out, graph_module.graph.nodes))
    if not mutating and not written_out:
        return graph_module
    if not written_out:  # else the trace finds out
        find_unsaid(graph_module.graph)
    if ranges is not None:
        refuse_overlaps(mutating, ranges)
    _separate_attributes(graph_module, mutating)
    if not written_out and _are_final_writes(mutating):
        return graph_module
    _refuse_new_shapes(mutating)
    if written_out or not rename_in_place(graph_module.graph):
        graph_module = functionalize_with_torch(graph_module, ctx)
        _check_left(graph_module.graph)
    return graph_module


def _refuse_new_shapes(mutating: list[Node]) -> None:
    """Raise where an input or a buffer itself, and not what is in it, is another at the end."""
    for target, node in made_others(mutating).items():
        what = f"input {target.target!r} in place, which a compiled model cannot do to the tensor that its caller has"
        if target.op != "placeholder":
            what = f"buffer {target.target!r} in place, and a compiled model keeps the memory of its buffers"
        raise ExportError(
            f"{node.target} changes the shape or the memory of the {what}",
            where=describe(node),
            advice="make a new tensor of it in forward: x.reshape(...) or x.transpose(...), or x.clone() first",
        )


def _check_left(graph: Graph) -> None:
    """Raise for a write in the middle of the graph that torch's functionalisation has left."""
    for node in graph.nodes:
        if mutates(node) and not _is_write_back(node):
            raise ExportError(
                f"{node.target} writes to a tensor, and torch does not know how to compute a new one instead",
                where=describe(node),
                advice="use an op that returns a new tensor, or clone() the tensor first",
            )


def _separate_attributes(graph_module: GraphModule, mutating: list[Node]) -> None:
    """One node per attribute tensor, and none that shares memory with another that is written to: those become views of
    one attribute that has all of the memory.

    Raises:
        ExportError: the model writes to a buffer that shares its memory with one of another dtype.
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
    written = {roots[target] for node in mutating for target in written_by(node)}
    for nodes in groups:
        if any(node in written for node in nodes):
            _share(graph_module, nodes)


def _share(graph_module: GraphModule, nodes: list[Node]) -> None:
    """Make views of one attribute of attributes in the same memory."""
    tensors = [attribute(graph_module, str(node.target)) for node in nodes]
    if len({tensor.dtype for tensor in tensors}) > 1:
        raise ExportError(
            "the model writes to a buffer that shares its memory with another, of another dtype: "
            + ", ".join(str(node.target) for node in nodes),
            advice="make one buffer of them and take views of it in forward, or clone() them apart",
        )
    memory, graph = tensors[0].untyped_storage(), graph_module.graph
    whole = torch.empty(0, dtype=tensors[0].dtype, device=tensors[0].device)
    whole.set_(memory, 0, (memory.nbytes() // whole.itemsize,), (1,))
    name = "memory_of_" + "_and_".join(str(node.target).replace(".", "_") for node in nodes)
    set_attribute(graph_module, name, whole)
    fake_mode = fake_mode_of(graph)
    with graph.inserting_before(nodes[0]):
        base = graph.create_node("get_attr", name)
        base.meta["val"] = fake_mode.from_tensor(whole, static_shapes=True)
        for node, tensor in zip(nodes, tensors):
            view = graph.call_function(
                _PART, (base, list(tensor.shape), list(tensor.stride()), tensor.storage_offset())
            )
            view.meta = {**node.meta, "val": recomputed(view, fake_mode)}
            node.replace_all_uses_with(view)
    for node in nodes:
        graph.erase_node(node)
    recompute_views(graph, base.users)


def _are_final_writes(mutating: list[Node]) -> bool:
    """Whether all that the graph writes is ``copy_`` into inputs and buffers that nothing reads afterwards."""
    if not all(map(_is_write_back, mutating)):
        return False
    position = {node: index for index, node in enumerate(mutating[0].graph.nodes)}
    last: dict[Any, int] = {}
    for node in mutating:
        target = node.args[0]
        if target not in last:
            readers = [position[user] for user in target.users if user.op != "output"]  # type: ignore[union-attr]
            last[target] = max(readers)
        if position[node] < last[target] or any(user.op == "call_function" for user in node.users):
            return False
    return True


def _is_write_back(node: Node) -> bool:
    """``copy_`` into an input or a buffer."""
    target = node.args[0] if node.args else None
    return is_copy_into(node) and isinstance(target, Node) and target.op in ("placeholder", "get_attr")


def _functional_twin(target: Any) -> Any:
    """``add.Tensor`` of ``add_.Tensor``: same arguments, no write; None where the op has none."""
    schema = target._schema
    writes = [a for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    namespace, name = schema.name.split("::")
    if len(writes) != 1 or (
        writes[0] is not schema.arguments[0] and writes[0].name != schema.arguments[0].name
    ):
        return None
    if str(writes[0].type) != "Tensor" or not name.endswith("_") or name.endswith("__"):
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
        if not sources:
            sources = _same_memory(node)
        if sources:
            roots[node] = roots[sources[0]]
    return roots


def _same_memory(node: Node) -> list[Node]:
    """The argument that an op hands on though its schema says nothing of it: dropout does, of a model in eval mode."""
    memory = storage(node)
    return [source for source in node.all_input_nodes if memory is not None and storage(source) == memory][:1]


@dataclass(frozen=True)
class _Rename:
    """An in-place op that becomes its twin: the tensor it writes to, and where that tensor's memory comes from."""

    twin: Any
    root: Node


def rename_in_place(graph: Graph) -> bool:
    """Replace in-place ops by their twins; False (graph unchanged) where aliasing needs more than that."""
    roots = _alias_roots(graph)
    plan = _plan(graph, roots)
    if plan is None:
        return False
    latest: dict[Node, Node] = {}  # root -> the node that has its newest value
    final: dict[Node, Node] = {}
    for node in list(graph.nodes):
        if node.op == "output":
            break
        # Every later read of any same-extent alias reads the newest value of its root.
        for source in node.all_input_nodes:
            newest = latest.get(roots[source])
            if newest is not None and newest is not source:
                node.replace_input_with(source, newest)
        if node in plan:
            rename = plan[node]
            node.target = rename.twin
            latest[rename.root] = node
            if rename.root.op in ("placeholder", "get_attr"):
                final[rename.root] = node
    _write_back(graph, final)
    output = graph.output_node()
    for source in output.all_input_nodes:
        # A result that is the mutated input or buffer is that very tensor, as in eager.
        newest = final.get(roots.get(source, source)) or latest.get(roots.get(source, source))
        if newest is not None and newest is not source:
            output.replace_input_with(source, newest)
    return True


def _plan(graph: Graph, roots: dict[Node, Node]) -> dict[Node, _Rename] | None:
    """What becomes of each mutating node; None where one of them needs more than another name."""
    layouts = {root: layout(root) for root in set(roots.values())}
    order: dict[Node, int] = {}
    reads: dict[
        Node, int
    ] = {}  # root -> the last place where something reads a part of it, or it in another shape
    plan: dict[Node, _Rename] = {}
    mutating = []
    for index, node in enumerate(graph.nodes):
        order[node] = index
        if mutates(node):
            mutating.append(node)
        for source in node.all_input_nodes:
            root = roots[source]
            if source is not root and not _covers(source, root, layouts):
                reads[root] = index
    for node in mutating:
        twin, written = _functional_twin(node.target), written_by(node)
        if twin is None or len(written) != 1:
            return None
        target, root = written[0], roots[written[0]]
        if not _covers(target, root, layouts) or not _covers(node, root, layouts):
            return None
        if reads.get(root, -1) > order[node]:  # views that are read later would have to see the write
            return None
        plan[node] = _Rename(twin, root)
    return plan


def _write_back(graph: Graph, final: dict[Node, Node]) -> None:
    """Copy the newest values of inputs and buffers into them, and let `final` have these copies."""
    with graph.inserting_before(graph.output_node()):
        for root, newest in final.items():
            write = graph.call_function(_COPY_INTO, (root, newest))
            write.meta = dict(newest.meta)
            final[root] = write


def _covers(alias: Node, root: Node, layouts: dict[Node, Any]) -> bool:
    """Whether an alias surely covers the same elements as its root in the same layout."""
    return alias is root or (layouts[root] is not None and layout(alias) == layouts[root])

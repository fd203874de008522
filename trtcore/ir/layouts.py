"""Where the layout of the inputs decides what a graph does: views that would be copies, and looks into memory."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from trtcore.ir.aliases import storage
from trtcore.ir.graphs import looks_into_memory, memory_of, mutates, written_by

_LAYOUTS = "_trtcore_layouts"
_COPY_OR_VIEW = frozenset({"contiguous", "flatten", "ravel", "reshape", "reshape_as"})
_ANY_LAYOUT = (None, torch.preserve_format)


def seen_in_memory(graph: torch.fx.Graph) -> tuple[set[Node], bool]:
    """The placeholders whose layout decides what the graph does, and whether a node counts from the storage's start.

    It decides for nodes that look into memory, and for those that are a view or a copy of what is written, as it is
    laid out. Ops hand the layout of their arguments on to results, so all that such a node depends on counts.
    """
    found: set[Node] = _copies_or_views(graph)
    absolute = False
    for node in graph.nodes:
        if looks_into_memory(node):
            found.add(node)
            names = [argument.name for argument in node.target._schema.arguments]
            given = dict(zip(names, node.args)) | node.kwargs
            absolute = absolute or given.get("storage_offset") is not None
    for node in reversed(graph.nodes):
        if node in found:
            found.update(node.all_input_nodes)
    return {node for node in found if node.op == "placeholder"}, absolute


def _copies_or_views(graph: torch.fx.Graph) -> set[Node]:
    """Nodes that are a view or a copy of their argument, as it is laid out, where something writes to either."""
    found = [node for node in graph.nodes if _by_layout(node)]
    if not found:
        return set()
    written = {target for node in graph.nodes if mutates(node) for target in written_by(node)}
    said = {memory_of(target) for target in written}
    seen = {storage(target) for target in written} - {None}
    return {
        node
        for node in found
        if memory_of(node) in said or storage(node) in seen or storage(node.args[0]) in seen
    }


def _by_layout(node: Node) -> bool:
    """Whether a node is a view of its argument in one layout and a copy in another."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    name = node.target._schema.name.partition("::")[2]
    if name in _COPY_OR_VIEW:
        return True
    formats = [a.name for a in node.target._schema.arguments if a.name == "memory_format"]
    return name == "to" and bool(formats) and _argument(node, "memory_format") not in _ANY_LAYOUT


def _argument(node: Node, name: str) -> Any:
    """What a node gives for one of its op's arguments; None where it leaves it at its default."""
    schema = cast(torch._ops.OpOverload, node.target)._schema
    given = dict(zip((argument.name for argument in schema.arguments), node.args)) | dict(node.kwargs)
    return given.get(name)


# --- what a capture saw -------------------------------------------------------------------------------------


def remember_layouts(ep: ExportedProgram, places: frozenset[int]) -> None:
    """Keep what the graph does not tell: the flat inputs that must be laid out as they were at the capture."""
    setattr(ep, _LAYOUTS, layouts_of(ep) | places)


def layouts_of(ep: ExportedProgram) -> frozenset[int]:
    """The flat inputs that must be laid out as at the capture, beyond those that the graph looks into."""
    return cast("frozenset[int]", getattr(ep, _LAYOUTS, frozenset()))


def drop_nothings(ep: ExportedProgram) -> None:
    """Erase every ``contiguous`` that hands on its argument, as it is laid out in the trace; in regions, too."""
    for module in ep.graph_module.modules():
        if not isinstance(module, GraphModule):
            continue
        for node in list(module.graph.nodes):
            if does_nothing(node):
                source = cast(Node, node.args[0])
                if module is ep.graph_module:
                    ep.graph_signature.replace_all_uses(node.name, source.name)
                node.replace_all_uses_with(source)
                module.graph.erase_node(node)
        module.recompile()


def does_nothing(node: Node) -> bool:
    """Whether a node is a ``contiguous`` of what is contiguous in the trace."""
    if node.target is not torch.ops.aten.contiguous.default:
        return False
    memory = storage(node)
    return memory is not None and memory == storage(node.args[0])

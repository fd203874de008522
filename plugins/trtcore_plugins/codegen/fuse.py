"""The lowering passes that put generated kernels into a model's graph.

`fuse_named` gathers the ops that ``settings.fused_ops`` names, before anything is decomposed. `fuse_uncovered` runs
last, over what no converter takes. Each group of ops that is one kernel becomes one call of ``trtcore_fused::run``.

`fuse_uncovered` leaves alone what it would not help: ops forced to torch, a single op that runs in torch anyway, and
graphs that are not on a GPU, unless the backend has plugin layers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch.fx import Graph, GraphModule, Node

from trtcore.pack import CompileContext, facts, forced_to_torch, set_facts
from trtcore_plugins.codegen.op import run
from trtcore_plugins.codegen.program import Program
from trtcore_plugins.codegen.rules import VIEWS, Unsupported
from trtcore_plugins.codegen.trace import assemble, decomposed, known, paste

LARGEST_GROUP = 64
"""Ops in one kernel."""


def fuse_named(graph_module: GraphModule, ctx: CompileContext) -> None:
    """Replace, in place, the ops that ``settings.fused_ops`` names by calls of generated kernels."""
    named = ctx.settings.fused_ops

    def wanted(node: Node) -> str:
        op = str(node.target)
        is_named = op in named or op.rpartition(".")[0] in named
        return "named in settings.fused_ops" if is_named and not forced_to_torch(node, ctx) else ""

    if named:
        _fuse(graph_module.graph, ctx, wanted, least=1)


def fuse_uncovered(graph_module: GraphModule, ctx: CompileContext) -> None:
    """Replace, in place, groups of ops that no converter takes by calls of generated kernels."""
    backend = ctx.backend
    if backend is not None and (backend.has_plugins or _on_gpu(graph_module.graph)):
        least = 1 if backend.has_plugins else 2
        _fuse(graph_module.graph, ctx, lambda node: _uncovered(node, ctx), least)


def _fuse(graph: Graph, ctx: CompileContext, wanted: Callable[[Node], str], least: int) -> None:
    for group in _Grouping(graph).run(_candidates(graph, wanted)):
        count = sum(node.target is not operator.getitem and node.target not in VIEWS for node in group.nodes)
        if count >= least:
            _replace(graph, group, ctx)


# ---- which ops -----------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Group:
    """Nodes that are to be one kernel, in graph order; op -> why it is here."""

    nodes: list[Node]
    reasons: dict[str, str] = field(default_factory=dict)


def _candidates(graph: Graph, wanted: Callable[[Node], str]) -> list[_Group]:
    """Groups of one op each: op, or what it decomposes into, with the getitems of its results."""
    found = []
    for node in list(graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        if node.target._schema.is_mutable or node.target is run:
            continue
        reason = wanted(node)
        nodes = _known_nodes(graph, node) if reason else []
        if nodes:
            found.append(_Group(nodes, {str(node.target): reason}))
    return found


def _on_gpu(graph: Graph) -> bool:
    values = (node.meta.get("val") for node in graph.nodes if node.op == "placeholder")
    return any(isinstance(value, torch.Tensor) and value.device.type == "cuda" for value in values)


def _uncovered(node: Node, ctx: CompileContext) -> str:
    """Why no converter takes a node; "" if one does, or the user wants it in torch."""
    selection = ctx.registry.select(node, ctx)
    if selection.chosen is not None or forced_to_torch(node, ctx):
        return ""
    return facts(node).reason or selection.reason


def _known_nodes(graph: Graph, node: Node) -> list[Node]:
    """The node, or its decomposition put in its place, if that alone is a kernel; else nothing."""
    if known(node):
        items = [user for user in node.users if user.target is operator.getitem]
        several = isinstance(node.meta.get("val"), (tuple, list))
        if several and len(items) < len(node.users):
            return []
        nodes = [node, *items]
        return nodes if node.target in VIEWS or _fits(nodes) else []
    pieces = decomposed(node)
    if pieces is None:
        return []
    inner = [one for one in pieces.nodes if one.op == "call_function"]
    results = next(one for one in reversed(pieces.nodes) if one.op == "output").args[0]
    try:
        assemble(inner, [one for one in dict.fromkeys(results) if isinstance(one, Node)])
    except Unsupported:
        return []
    return paste(graph, node, pieces)


def _fits(nodes: Sequence[Node]) -> bool:
    try:
        assemble(nodes, _results(nodes))
    except Unsupported:
        return False
    return True


def _results(nodes: Sequence[Node]) -> list[Node]:
    """The nodes of a group that something outside of it reads."""
    inside = set(nodes)
    return [
        node
        for node in nodes
        if any(user not in inside for user in node.users)
        and not isinstance(node.meta.get("val"), (tuple, list))
    ]


# ---- which groups --------------------------------------------------------------------------------------------


class _Grouping:
    """Merges groups along the edges of the graph, as long as they stay one kernel each."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.position: dict[Node, int] = {}
        self.group: dict[Node, _Group] = {}

    def run(self, candidates: Sequence[_Group]) -> list[_Group]:
        self.position = {node: at for at, node in enumerate(self.graph.nodes)}
        groups: dict[int, _Group] = {}
        for group in candidates:
            group.nodes.sort(key=self.position.__getitem__)
            self._take(group)
            groups[id(group)] = group
            for other in self._neighbours(group):
                merged = self._merged(other, group)
                if merged is not None:
                    groups.pop(id(other), None)
                    groups.pop(id(group), None)
                    group = merged
                    self._take(group)
                    groups[id(group)] = group
        kept = [group for group in groups.values() if any(n.target not in VIEWS for n in group.nodes)]
        return sorted((one for one in kept if _fits(one.nodes)), key=lambda one: self.position[one.nodes[0]])

    def _take(self, group: _Group) -> None:
        self.group.update(dict.fromkeys(group.nodes, group))

    def _neighbours(self, group: _Group) -> list[_Group]:
        """The groups that a group reads from, and those that read the same tensors."""
        inside = set(group.nodes)
        sources = [one for node in group.nodes for one in node.all_input_nodes if one not in inside]
        near = [self.group.get(one) for one in sources]
        near += [self.group.get(user) for one in sources for user in one.users]
        return [one for one in dict.fromkeys(near) if one is not None and one is not group]

    def _merged(self, one: _Group, two: _Group) -> _Group | None:
        nodes = sorted({*one.nodes, *two.nodes}, key=self.position.__getitem__)
        if len(nodes) > LARGEST_GROUP or self._leaves_and_returns(nodes) or not _fits_or_views(nodes):
            return None
        return _Group(nodes, {**one.reasons, **two.reasons})

    def _leaves_and_returns(self, nodes: Sequence[Node]) -> bool:
        """Whether a path goes from the nodes to others and back: then they cannot be one call."""
        inside, last = set(nodes), self.position[nodes[-1]]
        seen: set[Node] = set()
        pending = [user for node in nodes for user in node.users if user not in inside]
        while pending:
            node = pending.pop()
            if node in inside:
                return True
            if node in seen or self.position[node] > last:
                continue
            seen.add(node)
            group = self.group.get(node)
            for member in group.nodes if group is not None and not inside & {*group.nodes} else (node,):
                pending.extend(member.users)
        return False


def _fits_or_views(nodes: Sequence[Node]) -> bool:
    return all(node.target in VIEWS for node in nodes) or _fits(nodes)


# ---- putting them in -----------------------------------------------------------------------------------------


def _replace(graph: Graph, group: _Group, ctx: CompileContext) -> None:
    results = _results(group.nodes)
    program, inputs, sizes = assemble(group.nodes, results)
    last = group.nodes[-1]
    call = graph.create_node("call_function", run, (inputs, sizes, program.text), name=program.name)
    last.append(call)
    call.meta = {key: value for key, value in last.meta.items() if key in ("stack_trace", "nn_module_stack")}
    call.meta["val"] = [node.meta["val"] for node in results]
    if ctx.backend is None or not ctx.backend.has_plugins:
        set_facts(call, reason=explanation(program, group.reasons, ctx))
    _move_users(group.nodes, call)
    after = call
    for index, node in enumerate(results):
        item = graph.create_node("call_function", operator.getitem, (call, index))
        after.append(item)
        after = item
        item.meta = dict(node.meta)
        node.replace_all_uses_with(item)
    for node in reversed(group.nodes):
        graph.erase_node(node)


def _move_users(nodes: Sequence[Node], call: Node) -> None:
    """Everything between the group's nodes that reads them comes after the call."""
    inside, late, place = set(nodes), set(nodes), call
    node = nodes[0]
    while node is not call:
        following = node.next
        if node not in inside and any(source in late for source in node.all_input_nodes):
            late.add(node)
            place.append(node)
            place = node
        node = following
    for moved in late - inside:
        assert all(source is not moved for source in call.all_input_nodes)


def explanation(program: Program, reasons: dict[str, str], ctx: CompileContext) -> str:
    """What the report says of a generated kernel that runs in torch."""
    ops = ", ".join(program.ops)
    why = "; ".join(f"{op}: {reason}" for op, reason in reasons.items())
    where = "runs in torch between engines"
    if ctx.backend is not None and not ctx.backend.has_plugins:
        where += f"; {ctx.backend.name} has no plugin layers, with which it would stay in the engine"
    return f"generated kernel {program.name} ({ops}); {where} ({why})"

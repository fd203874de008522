"""Partitioning: which nodes become TensorRT segments.

:func:`partition` asks the registry for every node, lets a partitioner group the nodes that have a converter,
checks the groups, and cuts each out as a :class:`Segment`. The core's partitioners are ``fast`` and ``global``;
packs can bring others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.fx import GraphModule, Node

from trtcore.context import CompileContext
from trtcore.errors import ExportError, PackError, SettingsError
from trtcore.ir.facts import facts
from trtcore.ir.graphs import (
    attribute,
    is_copy_into,
    is_getitem,
    is_random,
    is_size,
    looks_into_memory,
    mutates,
    subgraphs,
    viewed,
)
from trtcore.ir.program import Program, SymbolRange
from trtcore.ir.provenance import describe
from trtcore.ir.symbols import (
    bounds,
    expression_of,
    free_symbols,
    is_data_symbol,
    is_decided_by_data,
    is_integral,
)
from trtcore.packs.patterns import is_pattern
from trtcore.packs.selection import Selection, SelectionMemo
from trtcore.packs.subgraphs import unconverted
from trtcore.partition.fewest import fewest, regrouped
from trtcore.partition.levels import group_by_levels
from trtcore.partition.memory import split_by_weights, weight_bytes
from trtcore.partition.segment import Segment, extract
from trtcore.settings import CompilationSettings

__all__ = ["Partition", "Partitioner", "Segment", "Supported", "partition"]

DEFAULT_MAX_SEGMENT_SIZE = 5000
"""Nodes in one engine when settings.max_segment_size is None: TensorRT's build time is quadratic in layers."""

MAX_RANK = 8
"""TensorRT's ``Dims.MAX_DIMS``."""

_CHEAP_ELEMENTS = 1 << 16

Supported = Mapping[Node, bool]
"""For each tensor-computing node of the graph, in order: does TensorRT take it? Numbers that torch must ask a tensor
for (an ``item``, the number of rows that a mask takes) are among the nodes that it does not."""

Partitioner = Callable[[Supported, CompileContext], Sequence[Sequence[Node]]]
"""Groups the supported nodes into segments. Groups must be convex: no path may leave one and come back."""


@dataclass(frozen=True)
class Partition:
    """What goes where.

    Attributes:
        segments: in an order in which they can run.
        order: every unit of the hybrid graph, in an order in which it can run: a Segment, or a torch node.
        torch_reasons: why a node stays in torch, by node name.
        small: names of the nodes that had a converter and went to torch with a segment below min_block_size.
        selections: by node name.
        constants: get_attr nodes that no node writes to.
        patterns_in_torch: names of nodes that stand for several ops and would run in torch.
    """

    segments: tuple[Segment, ...]
    order: tuple[Segment | Node, ...]
    torch_reasons: Mapping[str, str]
    small: tuple[str, ...]
    selections: Mapping[str, Selection]
    constants: frozenset[Node] = field(default_factory=frozenset)
    patterns_in_torch: tuple[str, ...] = ()


def partition(program: Program, ctx: CompileContext, memo: SelectionMemo | None = None) -> Partition:
    """Decide for every node of the lowered graph and cut the segments out. The program does not change.

    Args:
        program: `failed` names converters that failed for a node. The next candidate gets it; where there is none it
            is quarantined.
        memo: of this compile, with what lowering has already asked.

    Returns:
        the partition. Where it has `patterns_in_torch`, their ops must be restored and the program partitioned again: a
        pattern never runs in torch.

    Raises:
        PackError: a partitioner's groups overlap, take unsupported nodes, or depend on each other in a cycle.
    """
    memo = memo or SelectionMemo(ctx)
    graph = program.graph_module.graph
    written = {node.args[0] for node in graph.nodes if mutates(node)}
    selections: dict[str, Selection] = {}
    reasons: dict[str, str] = {}
    supported: dict[Node, bool] = {}
    ranges = program.ranges

    def select(node: Node) -> Selection:
        failed = program.failed.get(node.name)
        return memo.select(node) if not failed else ctx.registry.select(node, ctx, failed)

    looked_at = _memory_in_torch(graph, select)
    for node in graph.nodes:
        if node.op != "call_function" or is_size(node):
            if node.op == "call_function" and is_decided_by_data(node.meta.get("val")):
                supported[node] = False
            continue
        if is_getitem(node):
            source = node.args[0]
            supported[node] = supported.get(source, False)
            continue
        if mutates(node):
            _check_write(node)
            reasons[node.name] = "writes back to an input or a buffer of the model"
            continue
        selection = selections[node.name] = _with_patterns(node, select(node))
        reason = (
            _quarantined(node, selection, program)
            or _unconverted(node, selection)
            or looked_at.get(node)
            or facts(node).kept_in_torch
            or _objection(node, ranges, graph)
            or _in_subgraphs(node, program, ctx)
        )
        supported[node] = not reason
        if reason:
            reasons[node.name] = reason
    constants = frozenset(
        n
        for n in graph.nodes
        if n.op == "get_attr" and n not in written and _is_constant_attr(program.graph_module, n)
    )
    groups, small = _group(supported, ctx, program)
    for node in small:
        reasons[node.name] = (
            f"in a segment of fewer than min_block_size={ctx.settings.min_block_size} converted ops"
        )
    cutter = _Cutter(program.graph_module, groups, constants, program)
    segments = [cutter.cut(f"engine_{index}", group) for index, group in enumerate(groups)]
    order = _ordered(graph, segments, cutter)
    return Partition(
        tuple(unit for unit in order if isinstance(unit, Segment)), tuple(order), reasons,
        tuple(node.name for node in small), selections, constants,
        tuple(node.name for node in graph.nodes if is_pattern(node) and node.name in reasons),
    )  # fmt: skip


def _with_patterns(node: Node, selection: Selection) -> Selection:
    """The selection, and before it the converters of patterns that did not take the node."""
    lost = facts(node).objections
    return replace(selection, candidates=(*lost, *selection.candidates)) if lost else selection


def _memory_in_torch(graph: torch.fx.Graph, select: Callable[[Node], Selection]) -> dict[Node, str]:
    """Views that torch must make, because an op in torch looks into the memory behind them: an engine's output is all
    the memory there is, and nothing lies before or after it."""
    found: dict[Node, str] = {}
    for node in graph.nodes:
        if not looks_into_memory(node) or mutates(node):
            continue
        if select(node).chosen is not None:
            continue
        source = node.args[0] if node.args else None
        while isinstance(source, Node) and (behind := viewed(source)) is not None:
            if not is_getitem(source):
                found[source] = f"{node.name} looks into the memory of the tensor that it is a view of"
            source = behind
    return found


def count_ops(nodes: Sequence[Node]) -> int:
    """Converted ops among nodes, a pattern's each: what min_block_size counts."""
    return sum(max(len(facts(node).sources), 1) for node in nodes if not is_getitem(node))


def _quarantined(node: Node, selection: Selection, program: Program) -> str:
    """Why a node whose converters have failed is in torch; "" if none has, or another takes it."""
    failed = program.failed.get(node.name)
    if not failed or selection.chosen is not None:
        return ""
    return f"quarantined: {next(iter(failed.values()))}"


def _unconverted(node: Node, selection: Selection) -> str:
    """Why no converter takes the node; "" if one does."""
    return facts(node).reason or selection.reason if selection.chosen is None else ""


def _check_write(node: Node) -> None:
    if not is_copy_into(node) or node.args[0].op not in ("placeholder", "get_attr"):  # type: ignore[union-attr]
        raise ExportError(
            "the graph mutates a tensor in place, and the functionalize pass is turned off",
            where=describe(node),
            advice="take 'functionalize' out of disabled_passes",
        )


def _is_constant_attr(module: GraphModule, node: Node) -> bool:
    """A tensor, or the subgraph that a higher-order op is given."""
    return isinstance(node.meta.get("val"), torch.Tensor) or isinstance(
        attribute(module, str(node.target)), torch.nn.Module
    )


def _taken(node: Node) -> Any:
    """What a node gives; of several results those that somebody takes, and all tensors."""
    value = node.meta.get("val")
    if not isinstance(value, (list, tuple)) or not all(map(is_getitem, node.users)):
        return value
    taken = {user.args[1] for user in node.users}
    return [item for place, item in enumerate(value) if place in taken or isinstance(item, torch.Tensor)]


def _in_subgraphs(node: Node, program: Program, ctx: CompileContext) -> str:
    """Why the graphs that a higher-order op runs cannot be in an engine; "" if they can, or there are none."""
    bodies = subgraphs(program.graph_module, node)
    known = frozenset(program.ranges)
    return (facts(node).reason or unconverted(bodies.values(), ctx, known)) if bodies else ""


def _objection(node: Node, ranges: Mapping[str, SymbolRange], graph: torch.fx.Graph) -> str:
    """Why a node with a converter cannot go into an engine after all; "" if it can."""
    values = [_taken(node), *(source.meta.get("val") for source in node.all_input_nodes)]
    if not any(isinstance(v, (torch.Tensor, list, tuple)) for v in values[:1]):
        return "computes no tensor"
    for value in values:
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(item, torch.Tensor):
                dims: Sequence[Any] = item.shape
                if len(dims) > MAX_RANK:
                    return f"a tensor has {len(dims)} dims, and TensorRT takes at most {MAX_RANK}"
            elif isinstance(item, torch.SymInt):
                dims = [item]
                if not is_integral(item):
                    return f"takes the size {expression_of(item)}, which is computed in floating point"
            elif isinstance(item, (torch.SymFloat, torch.SymBool)):
                return f"takes a symbolic {'float' if isinstance(item, torch.SymFloat) else 'bool'}"
            else:
                continue
            unknown = [name for name in free_symbols(dims) if name not in ranges]
            if unknown:
                return _without_bound(unknown[0], graph)
    made = _made_sizes(node)
    return f"the size {made[0]} of its result depends on data" if made else ""


def _without_bound(name: str, graph: torch.fx.Graph) -> str:
    """Why a size that data decide keeps a node in torch, and where the model could bound it."""
    maker = next((node for node in graph.nodes if name in _sizes_in(node.meta.get("val"))), None)
    where = f", which {describe(maker)} makes," if maker is not None else ""
    return (
        f"the size {name}{where} depends on data and has no upper bound, so no optimisation profile can be given: "
        "say torch._check(n <= 100) of it there"
    )


def _made_sizes(node: Node) -> list[str]:
    """The sizes of a node's result that data decide in it."""
    given = {name for source in node.all_input_nodes for name in _sizes_in(source.meta.get("val"))}
    return [name for name in _sizes_in(_taken(node)) if is_data_symbol(name) and name not in given]


def _sizes_in(value: Any) -> list[str]:
    items = value if isinstance(value, (list, tuple)) else (value,)
    dims = [dim for item in items for dim in (item.shape if isinstance(item, torch.Tensor) else (item,))]
    return free_symbols(dim for dim in dims if isinstance(dim, torch.SymInt))


def _group(
    supported: dict[Node, bool], ctx: CompileContext, program: Program
) -> tuple[list[list[Node]], list[Node]]:
    """The partitioner's groups, checked; small ones dissolved, large ones split."""
    settings, name = ctx.settings, _partitioner_name(ctx.settings)
    if name == "global":
        found = fewest(supported, settings.min_block_size, count_ops)
    else:
        partitioner = _partitioner(name, ctx)
        found = regrouped(
            lambda alive: partitioner(alive, ctx), supported, settings.min_block_size, count_ops,
            lambda groups, alive: _check_groups(groups, alive, name),
        )  # fmt: skip
    groups, small = found.groups, found.small
    limit = settings.max_segment_size or DEFAULT_MAX_SEGMENT_SIZE
    pieces = [part for group in groups for part in _split(group, limit)]
    if (most := ctx.weights_limit) is not None:
        sizes = weight_bytes(program.graph_module)
        pieces = [part for piece in pieces for part in split_by_weights(piece, sizes, most)]
    return pieces, small


def _partitioner_name(settings: CompilationSettings) -> str:
    return settings.partitioner or ("fast" if settings.use_fast_partitioner else "global")


def _partitioner(name: str, ctx: CompileContext) -> Partitioner:
    if name == "fast":
        return group_by_levels
    if name not in ctx.registry.partitioners:
        raise SettingsError(
            f"no pack has a partitioner named {name!r}",
            advice="there are: " + ", ".join(["fast", "global", *sorted(ctx.registry.partitioners)]),
        )
    return ctx.registry.partitioners[name]


def _check_groups(groups: list[list[Node]], supported: Mapping[Node, bool], name: str) -> None:
    seen: set[Node] = set()
    for group in groups:
        for node in group:
            if node in seen or not supported.get(node, False):
                what = "twice" if node in seen else "although TensorRT does not take it"
                raise PackError(f"the partitioner {name!r} put {node.name} into a segment {what}")
            seen.add(node)


def _split(group: list[Node], limit: int) -> list[list[Node]]:
    """Pieces of at most `limit` nodes in graph order; a getitem stays with its producer."""
    if len(group) <= limit:
        return [group]
    pieces: list[list[Node]] = [[]]
    for node in group:
        if len(pieces[-1]) >= limit and not is_getitem(node):
            pieces.append([])
        pieces[-1].append(node)
    return pieces


class _Cutter:
    """Cuts groups out, copying cheap nodes that several units need instead of passing their values on."""

    def __init__(
        self, owner: GraphModule, groups: list[list[Node]], constants: frozenset[Node], program: Program
    ) -> None:
        self.owner, self.constants, self.ranges = owner, constants, program.ranges
        self.position = {node: index for index, node in enumerate(owner.graph.nodes)}
        self.group_of = {node: index for index, group in enumerate(groups) for node in group}
        self._cheap: dict[Node, bool] = {}
        for node in owner.graph.nodes:
            self._cheap[node] = self._is_cheap(node)

    def cheap(self, node: Node) -> bool:
        """Whether a node of a segment may be computed again wherever its value is needed."""
        return node in self.group_of and self._cheap[node]

    def _is_cheap(self, node: Node) -> bool:
        """No tensor goes in but constants and cheap ones, little comes out, and always the same."""
        value = node.meta.get("val")
        if node.op != "call_function" or not isinstance(value, torch.Tensor) or is_getitem(node):
            return False
        if is_random(node):
            return False
        elements = 1
        for dim in value.shape:
            elements *= bounds(dim, self.ranges)[2] if self._bounded(dim) else _CHEAP_ELEMENTS + 1
        return elements <= _CHEAP_ELEMENTS and all(
            is_size(source) or self._cheap.get(source, False) for source in node.all_input_nodes
        )

    def _bounded(self, dim: Any) -> bool:
        return all(name in self.ranges for name in free_symbols([dim]))

    def cut(self, name: str, group: list[Node]) -> Segment:
        index = self.group_of[group[0]]
        nodes = self._with_cheap_sources(group)
        inside = set(nodes)
        outputs = [node for node in group if self._is_needed_outside(node, index, inside)]
        kept: set[Node] = set(outputs)
        for node in sorted(nodes, key=self.position.__getitem__, reverse=True):
            if node in kept:
                kept.update(source for source in node.all_input_nodes if source in inside)
        ordered = sorted(kept, key=self.position.__getitem__)
        return extract(self.owner, name, ordered, outputs, self.constants.__contains__)

    def _with_cheap_sources(self, nodes: Sequence[Node]) -> list[Node]:
        found = dict.fromkeys(nodes)
        queue = list(nodes)
        while queue:
            for source in queue.pop().all_input_nodes:
                if source not in found and self.cheap(source):
                    found[source] = None
                    queue.append(source)
        return list(found)

    def _is_needed_outside(self, node: Node, index: int, inside: set[Node]) -> bool:
        if isinstance(node.meta.get("val"), (list, tuple)):
            return False  # its getitems are
        for user in node.users:
            if user.op == "output":
                return True
            if (
                self.group_of.get(user) != index
                and user not in inside
                and not self.cheap(node)
                and (not is_size(user) or is_decided_by_data(user.meta["val"]))
            ):
                return True
        return False


def _ordered(graph: torch.fx.Graph, segments: list[Segment], cutter: _Cutter) -> list[Segment | Node]:
    """Topological order of segments and torch nodes, as near to the graph's own as dependencies allow."""
    unit_of: dict[Node, Segment | Node] = {}
    for segment in segments:
        for node in segment.outputs:
            unit_of[node] = segment
    last: list[Segment | Node] = []
    torch_nodes: list[Node] = []
    for node in graph.nodes:
        if node.op == "call_function" and mutates(node):
            last.append(node)  # nothing may read after a write
        elif node.op == "call_function" and not is_size(node) and node not in cutter.group_of:
            torch_nodes.append(node)
    cheap = [n for n in cutter._with_cheap_sources([*torch_nodes, *last]) if cutter.cheap(n)]  # type: ignore[list-item]
    for node in (*torch_nodes, *cheap):
        unit_of.setdefault(node, node)
        if cutter.cheap(node):
            unit_of[node] = node
    units: list[tuple[int, Segment | Node]] = [(cutter.position[n], n) for n in (*torch_nodes, *cheap)]
    units += [(cutter.position[s.nodes[0]], s) for s in segments if s.outputs]
    draws = [node for node in torch_nodes if is_random(node)]
    # A seed gives the model's own numbers only if they are drawn in the model's order.
    done, _ = _topological(units, unit_of, dict(zip(draws[1:], draws)))
    if len(done) != len(units):  # segments of a partitioner that does not see to it
        done, stuck = _topological(units, unit_of, {})
        if stuck:
            names = ", ".join(unit.name for unit in stuck[:6])
            raise PackError(f"the partitioner's segments depend on each other in a cycle: {names}")
    return [*done, *last]


def _topological(
    units: list[tuple[int, Segment | Node]],
    unit_of: Mapping[Node, Segment | Node],
    after: Mapping[Node, Node],
) -> tuple[list[Segment | Node], list[Segment | Node]]:
    """The units in an order in which they can run, with what can't be ordered; `after` adds to what they need."""
    import heapq

    rank = {id(unit): (position, index) for index, (position, unit) in enumerate(units)}
    by_rank = {rank[id(unit)]: unit for _, unit in units}
    users: dict[int, list[int]] = {}
    waits: dict[int, int] = {}
    for _, unit in units:
        sources = (*unit.inputs, *unit.sizes) if isinstance(unit, Segment) else unit.all_input_nodes
        needed = {id(unit_of[source]) for source in _through_sizes(sources) if source in unit_of} - {id(unit)}
        if isinstance(unit, Node) and unit in after:
            needed.add(id(unit_of[after[unit]]))
        waits[id(unit)] = len(needed)
        for other in needed:
            users.setdefault(other, []).append(id(unit))
    ready = [rank[id(unit)] for _, unit in units if waits[id(unit)] == 0]
    heapq.heapify(ready)
    done: list[Segment | Node] = []
    while ready:
        unit = by_rank[heapq.heappop(ready)]
        done.append(unit)
        for other in users.get(id(unit), ()):
            waits[other] -= 1
            if waits[other] == 0:
                heapq.heappush(ready, rank[other])
    return done, [unit for _, unit in units if waits[id(unit)] > 0]


def _through_sizes(sources: Sequence[Node]) -> list[Node]:
    """The tensor nodes behind size nodes (which are made from inputs' shapes where possible)."""
    found: list[Node] = []
    queue = list(sources)
    seen: set[Node] = set()
    while queue:
        node = queue.pop()
        if node in seen:
            continue
        seen.add(node)
        if is_size(node) and node.op == "call_function":
            queue.extend(node.all_input_nodes)
        else:
            found.append(node)
    return found

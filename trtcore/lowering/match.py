"""Patterns: where a graph holds a pattern's ops, one node takes their place, if the pattern's converter takes it.

It is done twice, before and after the packs' passes (and before decomposition): those may recover other ops from what
the pattern means, or clear away what hides it. A pattern is lowered by the passes that ran before, so that it looks
as the model does. `unfuse` puts the ops back: a node that is a pattern never
runs in torch, and a pattern whose converter fails leaves its ops to their own converters.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from trtcore.context import CompileContext
from trtcore.ir.facts import facts, set_facts
from trtcore.ir.graphs import is_size, mutates
from trtcore.ir.provenance import Source, op_name, source_line
from trtcore.ir.schema import normalise_arguments
from trtcore.ir.symbols import SizeMaterialiser, expression_of
from trtcore.packs.failures import pack_failure
from trtcore.packs.model import Converter
from trtcore.packs.patterns import Pattern
from trtcore.packs.selection import Candidate, Verdict

_FRAGMENT = "trtcore_fragment"

Lower = Callable[[GraphModule], GraphModule]


def match_patterns(graph_module: GraphModule, ctx: CompileContext, lower: Lower) -> GraphModule:
    """Replace, in place, what patterns match and their converters take.

    Patterns go in the order of their converters; each matches in graph order, and ops of one match are gone for
    the next.

    Args:
        lower: the passes before this one, for the patterns' own graphs.
    """
    patterns = ctx.registry.patterns
    if not patterns or ctx.backend is None:
        return graph_module
    by_target: dict[Any, list[Node]] = {}
    for node in graph_module.graph.nodes:
        if node.op == "call_function":
            by_target.setdefault(node.target, []).append(node)
    gone: set[Node] = set()
    for pattern in patterns:
        shape = _shape(pattern, ctx, lower)
        if shape is None:
            continue
        for anchor in by_target.get(shape.anchor.target, ()):
            found = find(shape, anchor) if anchor not in gone else None
            if found is not None:
                gone.update(_replace(graph_module.graph, shape, found, ctx))
    return graph_module


# ---- the pattern's graph ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """A pattern as it was traced or lowered, ready to be looked for.

    Attributes:
        outputs: its result nodes, and `single` whether it returns one tensor and no tuple.
        anchor: the last op among the outputs; the search starts there.
        placeholders: one per input.
        floats: literal -> input position.
        spelling: whether it matters how it is written. If not, the operands of sums and products match in either order,
            and dims whether they are counted from the front or the back.
    """

    pattern: Pattern
    outputs: tuple[Node, ...]
    single: bool
    anchor: Node
    placeholders: tuple[Node, ...]
    floats: Mapping[float, int]
    spelling: bool = True


def _shape(pattern: Pattern, ctx: CompileContext, lower: Lower) -> Shape | None:
    """The pattern as the model's graph would hold it; None, with a warning, where it cannot be traced or lowered."""
    (first, *_) = ctx.registry.candidates(pattern)
    try:
        traced = pattern.trace()
        module = lower(GraphModule(traced.graph_module, _copy(traced.graph_module.graph)))
    except Exception as error:
        pack_failure(f"a pattern of {first.source_version} is not used: {error}", first.source_version, error)
        return None
    shape = shape_of(pattern, module, traced.floats)
    if shape is None:
        pack_failure(
            f"pattern {pattern.__name__} of {first.source_version} is not used: lowering leaves nothing of it",
            first.source_version,
        )
    return shape


def shape_of(
    pattern: Pattern, module: GraphModule, floats: Mapping[float, int], *, spelling: bool = True
) -> Shape | None:
    """What to look for, from a pattern's graph; None where no op gives one of its results.

    Args:
        floats: what stands in the graph for a float input -> the input's position.
        spelling: see `Shape`.
    """
    results = module.graph.output_node().args[0]
    outputs = tuple(results) if isinstance(results, (tuple, list)) else (results,)
    order = {node: i for i, node in enumerate(module.graph.nodes)}
    if not all(isinstance(node, Node) and node.op == "call_function" for node in outputs):
        return None
    return Shape(
        pattern,
        outputs,
        not isinstance(results, (tuple, list)),
        max(outputs, key=order.__getitem__),
        tuple(node for node in module.graph.nodes if node.op == "placeholder"),
        floats,
        spelling,
    )


def _copy(graph: Graph) -> Graph:
    copied = Graph()
    result = copied.graph_copy(graph, {})
    copied.output(result)
    return copied


# ---- matching -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Match:
    """Where a pattern was found.

    Attributes:
        nodes: pattern node -> graph node, for every op of the pattern.
        arguments: what stands for each of the pattern's inputs: a node or a number.
    """

    nodes: Mapping[Node, Node]
    arguments: tuple[Any, ...]


def find(shape: Shape, anchor: Node) -> Match | None:
    """Where a pattern ends in this node; None if it does not."""
    return _Matcher(shape).match(anchor)


class _Matcher:
    """One attempt, from one anchor. Backtracks only among the users of what is bound, for further outputs."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.positions = {node: i for i, node in enumerate(shape.placeholders)}

    def match(self, anchor: Node) -> Match | None:
        for state in self._outputs(_State(), [(self.shape.anchor, anchor)], list(self.shape.outputs)):
            found = self._finished(state)
            if found is not None:
                return found
        return None

    def _outputs(
        self, state: _State, pairs: Sequence[tuple[Node, Node]], wanted: list[Node]
    ) -> Iterator[_State]:
        """States in which `pairs` and all of the `wanted` outputs are bound."""
        state = state.copy()
        if not all(self._bind(state, *pair) for pair in pairs):
            return
        left = [node for node in wanted if node not in state.nodes]
        if not left:
            yield state
            return
        # The users of a bound node must hold the next op on the way to an output that is not bound yet.
        inputs = [(self.shape.placeholders[i], v) for i, v in state.inputs.items() if isinstance(v, Node)]
        for bound, image in [*state.nodes.items(), *inputs]:
            for user in bound.users:
                if user.op == "call_function" and user not in state.nodes and not is_size(user):
                    for candidate in image.users:
                        if candidate.target == user.target:
                            yield from self._outputs(state, [(user, candidate)], left)
                    return

    def _bind(self, state: _State, mine: Node, theirs: Any) -> bool:
        """Let `mine`, an op or an input of the pattern, be `theirs`."""
        if mine.op == "placeholder":
            return self._bind_input(state, mine, theirs)
        if is_size(mine):
            return self._bind_size(state, mine.meta["val"], theirs)
        if not isinstance(theirs, Node) or theirs.op != "call_function" or theirs.target != mine.target:
            return False
        if mine in state.nodes:
            return state.nodes[mine] is theirs
        state.nodes[mine] = theirs
        try:
            ours = normalise_arguments(mine.target, mine.args, mine.kwargs)
            given = normalise_arguments(theirs.target, theirs.args, theirs.kwargs)
        except Exception:  # a call that does not fit its schema is nobody's
            return False
        if ours.keys() != given.keys():
            return False
        before = None if self.shape.spelling else state.copy()
        if self._all_same(state, theirs, ours, given):
            return True
        if before is None or mine.target not in _COMMUTATIVE or ours.get("alpha", 1) != 1:
            return False
        state.become(before)
        ours = {**ours, "self": ours["other"], "other": ours["self"]}
        return self._all_same(state, theirs, ours, given)

    def _all_same(
        self, state: _State, theirs: Node, ours: Mapping[str, Any], given: Mapping[str, Any]
    ) -> bool:
        # Ops first: an input takes anything, and would take an operand that only an op can be.
        for name in sorted(ours, key=lambda name: _is_input(ours[name])):
            mine, other = ours[name], given[name]
            if name in ("dim", "dims") and not self.shape.spelling:
                mine, other = _from_the_front(mine, theirs), _from_the_front(other, theirs)
            if not self._same(state, mine, other):
                return False
        return True

    def _bind_input(self, state: _State, mine: Node, theirs: Any) -> bool:
        position = self.positions[mine]
        value = mine.meta.get("val")
        if not isinstance(value, torch.Tensor):
            return self._bind_size(state, value, theirs)
        if not isinstance(theirs, Node) or not isinstance(theirs.meta.get("val"), torch.Tensor):
            return False
        if position in state.inputs:
            return state.inputs[position] is theirs
        state.inputs[position] = theirs
        dims = theirs.meta["val"].shape
        if len(dims) == len(value.shape):
            for expected, dim in zip(value.shape, dims):
                expression = expression_of(expected)
                if not isinstance(expression, int) and expression.is_Symbol:
                    state.bind_symbol(expression, expression_of(dim), None)
        return True

    def _bind_size(self, state: _State, mine: Any, theirs: Any) -> bool:
        value = theirs.meta.get("val") if isinstance(theirs, Node) else theirs
        if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
            return False
        state.sizes.append((expression_of(mine), expression_of(value), theirs))
        return True

    def _same(self, state: _State, mine: Any, theirs: Any) -> bool:
        """Whether an argument of the pattern is, or may be, an argument of the graph."""
        if isinstance(mine, Node):
            return self._bind(state, mine, theirs)
        if isinstance(mine, (list, tuple)):
            return (
                isinstance(theirs, (list, tuple))
                and len(mine) == len(theirs)
                and all(self._same(state, a, b) for a, b in zip(mine, theirs))
            )
        if isinstance(mine, float) and mine in self.shape.floats:
            position = self.shape.floats[mine]
            if isinstance(theirs, bool) or not isinstance(theirs, (int, float)):
                return False
            return bool(state.inputs.setdefault(position, theirs) == theirs)
        if isinstance(mine, torch.SymInt):
            return self._bind_size(state, mine, theirs)
        if isinstance(theirs, Node):
            return False
        number = isinstance(mine, (int, float)) and not isinstance(mine, bool)
        return mine == theirs and (type(mine) is type(theirs) or (number and not isinstance(theirs, bool)))

    def _finished(self, state: _State) -> Match | None:
        """The match, if the sizes agree and every input is known."""
        # Symbols alone first: they are what the expressions are made of.
        for mine, theirs, raw in sorted(state.sizes, key=lambda item: not _is_symbol(item[0])):
            if _is_symbol(mine) and mine not in state.symbols:
                state.bind_symbol(mine, theirs, raw)
            elif not state.agrees(mine, theirs):
                return None
        arguments = []
        for position, node in enumerate(self.shape.placeholders):
            value = node.meta.get("val")
            if position in state.inputs:
                arguments.append(state.inputs[position])
            elif isinstance(value, (torch.SymInt, int)) and not isinstance(value, bool):
                found = state.value_of(expression_of(value))
                if found is None:
                    return None
                arguments.append(found)
            elif isinstance(value, torch.Tensor) or type(self.shape.pattern.inputs[position]) is float:
                return None  # lowering has dropped an input, which the converter would miss
            else:
                arguments.append(self.shape.pattern.inputs[position])
        return Match(dict(state.nodes), tuple(arguments))


class _State:
    """What is bound so far."""

    def __init__(self) -> None:
        self.nodes: dict[Node, Node] = {}
        self.inputs: dict[int, Any] = {}
        self.symbols: dict[Any, tuple[Any, Any]] = {}
        self.sizes: list[tuple[Any, Any, Any]] = []

    def copy(self) -> _State:
        other = _State()
        other.nodes, other.inputs = dict(self.nodes), dict(self.inputs)
        other.symbols, other.sizes = dict(self.symbols), list(self.sizes)
        return other

    def become(self, other: _State) -> None:
        """Forget what was bound since `other` was copied from this."""
        self.nodes, self.inputs, self.symbols, self.sizes = (
            other.nodes, other.inputs, other.symbols, other.sizes,
        )  # fmt: skip

    def bind_symbol(self, symbol: Any, expression: Any, raw: Any) -> None:
        """The first value counts; a pattern that uses sizes says in its example which are equal."""
        self.symbols.setdefault(symbol, (expression, raw))

    def agrees(self, mine: Any, theirs: Any) -> bool:
        value = self._substituted(mine)
        return value is not None and bool(value == theirs or (value - theirs) == 0)

    def value_of(self, expression: Any) -> Any:
        """A number or a node for an int input of the pattern; None where it is not known."""
        for mine, theirs, raw in self.sizes:
            if mine == expression:
                return raw if isinstance(raw, Node) else theirs
        value = self._substituted(expression)
        return int(value) if value is not None and not getattr(value, "free_symbols", ()) else None

    def _substituted(self, expression: Any) -> Any:
        if isinstance(expression, int):
            return expression
        if any(symbol not in self.symbols for symbol in expression.free_symbols):
            return None
        value = expression.xreplace({symbol: self.symbols[symbol][0] for symbol in expression.free_symbols})
        return expression_of(value) if not isinstance(value, int) else value


_COMMUTATIVE = frozenset({torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor})
"""Ops of `self` and `other` that give the same whichever comes first."""


def _is_input(value: Any) -> bool:
    return isinstance(value, Node) and value.op == "placeholder"


def _from_the_front(dims: Any, node: Node) -> Any:
    """Dims of a node's first argument, counted from the front; anything else as it is."""
    source = node.args[0] if node.args else None
    value = source.meta.get("val") if isinstance(source, Node) else None
    rank = value.dim() if isinstance(value, torch.Tensor) else 0
    several = isinstance(dims, (list, tuple))
    given = list(dims) if several else [dims]
    if not rank or not all(type(dim) is int for dim in given):
        return dims
    counted = [dim % rank if -rank <= dim < rank else dim for dim in given]
    return counted if several else counted[0]


def is_replaceable(nodes: Sequence[Node], anchor: Node) -> bool:
    """Whether nobody but the ops of a match reads a result in its middle, and none of them writes."""
    inside = set(nodes)
    return not any(mutates(node) for node in nodes) and all(
        user in inside for node in nodes if node is not anchor for user in node.users
    )


def _is_symbol(expression: Any) -> bool:
    return not isinstance(expression, int) and bool(expression.is_Symbol)


# ---- replacing ----------------------------------------------------------------------------------------------


def _replace(graph: Graph, shape: Shape, found: Match, ctx: CompileContext) -> list[Node]:
    """Put one node in place of a match; return what it replaced, nothing where somebody objects."""
    sources = sorted(set(found.nodes.values()))
    outputs = [found.nodes[node] for node in shape.outputs]
    place = _place(sources, outputs)
    if place is None or not _sizes_can_be_made(graph, sources):
        return []
    with graph.inserting_before(place):
        fused = graph.call_function(shape.pattern, found.arguments)
    fused.meta = _meta(sources, outputs, shape.single, found.arguments)
    set_facts(
        fused, sources=tuple(Source(node.name, op_name(node.target), source_line(node)) for node in sources)
    )
    selection = ctx.registry.select(fused, ctx)
    chosen = selection.chosen
    objection = "" if chosen is None else _objection(chosen, sources, ctx)
    if chosen is None or objection:
        graph.erase_node(fused)
        anchor = found.nodes[shape.anchor]
        lost = [
            Candidate(one.converter, Verdict.OVERLAP, objection)
            if one.verdict in (Verdict.CHOSEN, Verdict.SHADOWED)
            else one
            for one in selection.candidates
        ]
        known = facts(anchor).objections
        set_facts(anchor, objections=(*known, *(one for one in lost if one not in known)))
        return []
    if shape.single:
        outputs[0].replace_all_uses_with(fused)
    else:
        with graph.inserting_before(place):
            for index, output in enumerate(outputs):
                item = graph.call_function(operator.getitem, (fused, index))
                item.meta = {**output.meta}
                output.replace_all_uses_with(item)
    for node in reversed(sources):
        for check in list(node.users):
            graph.erase_node(check)
        graph.erase_node(node)
    return sources


def _place(sources: Sequence[Node], outputs: Sequence[Node]) -> Node | None:
    """The node to stand before; None where something outside reads a result in the middle, or reads too early."""
    inside = set(sources)
    readers: list[Node] = []
    for node in sources:
        outside = [user for user in node.users if user not in inside and not _is_check(user)]
        if outside and node not in outputs:
            return None
        readers += outside
    given = [source for node in sources for source in node.all_input_nodes if source not in inside]
    if not readers:
        return None
    first = min(readers)
    return first if all(source < first for source in given) else None


def _is_check(node: Node) -> bool:
    """Whether a node returns nothing and writes nothing: an assertion about what tracing has seen to."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and not schema.returns and not schema.is_mutable


def _objection(chosen: Converter, sources: Sequence[Node], ctx: CompileContext) -> str:
    """Why the pattern must leave its ops alone; "" if it may take them."""
    for node in sources:
        if mutates(node):
            return f"{node.name} writes to a tensor"
        own = ctx.registry.select(node, ctx)
        if own.verdict is Verdict.FORCED_TO_TORCH:
            return f"its op {own.target} is {own.reason}"
        if own.chosen is not None and ctx.registry.goes_before(own.chosen, chosen):
            return f"{own.chosen} goes before it for its op {own.target}"
    return ""


def _sizes_can_be_made(graph: Graph, sources: Sequence[Node]) -> bool:
    sizes = [s for node in sources for s in node.all_input_nodes if is_size(s)]
    if not sizes:
        return True
    maker = SizeMaterialiser(graph, graph.find_nodes(op="placeholder"))
    return all(maker.can_make(node.meta["val"]) for node in sizes)


def _meta(
    sources: Sequence[Node], outputs: Sequence[Node], single: bool, arguments: Sequence[Any]
) -> dict[str, Any]:
    values = tuple(node.meta.get("val") for node in outputs)
    stacks = [node.meta.get("nn_module_stack") or {} for node in sources]
    common = dict(stacks[-1])
    for stack in stacks:
        common = {key: value for key, value in common.items() if stack.get(key) == value}
    return {
        "val": values[0] if single else values,
        "nn_module_stack": common,
        "stack_trace": outputs[-1].meta.get("stack_trace"),
        _FRAGMENT: _Fragment.of(sources, outputs, arguments),
    }


# ---- putting the ops back -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Argument:
    position: int


@dataclass(frozen=True)
class _Size:
    value: Any


@dataclass(frozen=True)
class _Result:
    index: int


@dataclass(frozen=True)
class _Fragment:
    """The ops that a pattern's node stands for, free of other nodes.

    Attributes:
        ops: (target, args, kwargs, name, meta); an argument is a constant, an argument of the pattern's node, an
            earlier result, or a size.
        outputs: indices into `ops`.
    """

    ops: tuple[tuple[Any, Any, Any, str, dict[str, Any]], ...]
    outputs: tuple[int, ...]

    @classmethod
    def of(cls, sources: Sequence[Node], outputs: Sequence[Node], arguments: Sequence[Any]) -> _Fragment:
        index = {node: i for i, node in enumerate(sources)}
        position = {node: i for i, node in enumerate(arguments) if isinstance(node, Node)}

        def plain(node: Node) -> Any:
            if node in index:
                return _Result(index[node])
            return _Argument(position[node]) if node in position else _Size(node.meta["val"])

        ops = [
            (
                node.target,
                torch.fx.map_arg(node.args, plain),
                torch.fx.map_arg(dict(node.kwargs), plain),
                node.name,
                dict(node.meta),
            )
            for node in sources
        ]
        return cls(tuple(ops), tuple(index[node] for node in outputs))


def unfuse(graph: Graph, fused: Node) -> list[Node]:
    """Put the ops back that a pattern's node stands for; return them."""
    fragment: _Fragment = fused.meta[_FRAGMENT]
    made: list[Node] = []
    with graph.inserting_before(fused):
        sizes = SizeMaterialiser(graph, graph.find_nodes(op="placeholder"))

        def real(value: Any) -> Any:
            if isinstance(value, _Result):
                return made[value.index]
            if isinstance(value, _Argument):
                return fused.args[value.position]
            if isinstance(value, _Size):
                return sizes.make(value.value, like=value.value)
            return value

        for target, args, kwargs, name, meta in fragment.ops:
            given = torch.fx.node.map_aggregate((args, kwargs), real)
            node = graph.create_node("call_function", target, given[0], given[1], name=name)
            node.meta = dict(meta)
            made.append(node)
    outputs = [made[index] for index in fragment.outputs]
    if isinstance(fused.meta["val"], tuple):
        for item in list(fused.users):
            item.replace_all_uses_with(outputs[item.args[1]])  # type: ignore[index]
            graph.erase_node(item)
    else:
        fused.replace_all_uses_with(outputs[0])
    graph.erase_node(fused)
    return made

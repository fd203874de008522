"""Rewrite rules: a function to look for, a function to put in its place, and when.

Both are functions of tensors and numbers in torch's ops. What is looked for is matched as patterns are
(`trtcore.lowering.match`); what takes its place is traced on the FakeTensors of what was found, once for all places
that look alike. A pass is a table of rules (`rules_pass`), and every rewrite is logged (`rewrites_of`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from trtcore.context import CompileContext
from trtcore.errors import PackError
from trtcore.ir.graphs import attribute, fake_mode_of, mutates, tracing
from trtcore.ir.symbols import expression_of
from trtcore.ir.torch_private import is_erased
from trtcore.lowering.decompose import signature
from trtcore.lowering.match import Shape, find, is_replaceable, shape_of
from trtcore.lowering.rewrite import log_rewrite, provenance, replace_node
from trtcore.packs.model import LoweringPass
from trtcore.packs.patterns import Pattern
from trtcore.packs.rules import forced_to_torch

__all__ = ["RewriteRule", "RuleMatch", "rewrite", "rules_pass"]


@dataclass(frozen=True)
class RuleMatch:
    """A place that a rule may rewrite.

    Attributes:
        graph_module, ctx: of the pass.
        nodes: the ops that were found, in graph order; the last gives the result.
        arguments: what stands for each input of the rule: a node or a number.
        constants: value of every get_attr node that nothing writes to. With ``immutable_weights=False`` a rule must
            not rely on their numbers.
    """

    graph_module: GraphModule
    ctx: CompileContext
    nodes: tuple[Node, ...]
    arguments: tuple[Any, ...]
    constants: Mapping[Node, torch.Tensor]


Check = Callable[[RuleMatch], "bool | Sequence[Any]"]


@dataclass(frozen=True)
class RewriteRule:
    """One rule; made by `rewrite`.

    Attributes:
        name: for the log.
        searches: ways to write what is looked for.
        replacement: function of the same arguments, or of those that `check` returns.
        check: False where a place is to stay as it is; True, or other arguments for `replacement`, where not.
        ops: the ops that may give its result; () where that shows when it is traced.
        anchor: whether a call of one of them may be the result, at a glance; None where that shows when it is traced.
    """

    name: str
    searches: tuple[Pattern, ...]
    replacement: Callable[..., Any]
    check: Check | None = None
    ops: frozenset[Any] = frozenset()
    anchor: Callable[[Node], bool] | None = None
    _shapes: list[Shape] = field(default_factory=list, compare=False, repr=False)
    _lock: Any = field(default_factory=threading.Lock, compare=False, repr=False)

    def may_match(self, calls: Mapping[Any, Sequence[Node]]) -> bool:
        """Whether a graph can hold what is looked for. Traces nothing.

        Args:
            calls: the graph's calls by their ops.
        """
        single = [one.function for one in self.searches]
        known = self.ops or (
            single if all(isinstance(one, torch._ops.OpOverload) for one in single) else None
        )
        if known is None:
            return True
        found = (node for op in known for node in calls.get(op, ()))
        return any(self.anchor is None or self.anchor(node) for node in found)

    def shapes(self) -> list[Shape]:
        """What is looked for, traced once.

        Raises:
            PackError: a search cannot be traced, or has more than one result.
        """
        with self._lock:
            if not self._shapes:
                for search in self.searches:
                    traced = search.trace()
                    shape = shape_of(search, traced.graph_module, traced.floats, spelling=False)
                    if shape is None or not shape.single:
                        raise PackError(f"rule {self.name}: what it looks for must give one tensor")
                    self._shapes.append(shape)
        return self._shapes


def rewrite(
    search: Callable[..., Any] | Sequence[Callable[..., Any]],
    replacement: Callable[..., Any],
    examples: Sequence[Any],
    check: Check | None = None,
    *,
    name: str = "",
    ops: Collection[Any] = (),
    anchor: Callable[[Node], bool] | None = None,
) -> RewriteRule:
    """Declare a rule: where a graph holds `search`, it is to hold `replacement`.

    Args:
        search: of positional arguments, in torch ops; or several ways to write it. The operands of sums and products
            match in either order, and dims whether they are counted from the front or the back.
        replacement: of the same arguments; it must give a tensor of the dtype and shape that `search` gives.
        examples: one for each argument, as `trtcore.pack.pattern_converter` takes them.
        check: of a `RuleMatch`; False leaves the place alone. It may return other arguments for `replacement`.
        name: the search's own by default.
        ops: the overloads that may give the result of `search`: for a graph that has none of them it is not even
            traced. Not needed where `search` is an overload.
        anchor: whether a call of one of these may give the result of `search`, by a look at the node and what stands
            next to it: for a graph where none may, `search` is not traced either. It may say yes too often; it sees
            the graph as it is before the rules of the pass.

    Nothing is rewritten where somebody else reads a result in the middle, or the user wants one of the ops in torch.

    Raises:
        PackError: the examples are not those of the functions.

    Example:
        >>> import torch
        >>> from trtcore.pack import rewrite
        >>> def double(x):
        ...     return x + x
        >>> rewrite(double, lambda x: x * 2, (torch.empty(2, 3),)).name
        'double'
    """
    functions = tuple(search) if isinstance(search, (list, tuple)) else (search,)
    patterns = tuple(Pattern(function, examples) for function in functions)
    return RewriteRule(name or patterns[0].__name__, patterns, replacement, check, frozenset(ops), anchor)


def rules_pass(name: str, rules: Sequence[RewriteRule], **wishes: Any) -> LoweringPass:
    """A lowering pass that applies rules: node by node in graph order, at each the first rule that takes it.

    Args:
        wishes: other fields of `LoweringPass`.

    Example:
        >>> import torch
        >>> from trtcore.pack import rewrite, rules_pass
        >>> rule = rewrite(lambda x: x + x, lambda x: x * 2, (torch.empty(2, 3),), name="double")
        >>> rules_pass("doubles", [rule]).name
        'doubles'
    """
    table = tuple(rules)

    def run(graph_module: GraphModule, ctx: CompileContext) -> None:
        _Application(graph_module, ctx, table).run()

    return LoweringPass(name, run, **wishes)


class _Application:
    """Rules over one graph."""

    def __init__(self, graph_module: GraphModule, ctx: CompileContext, rules: Sequence[RewriteRule]) -> None:
        self.graph_module, self.ctx = graph_module, ctx
        self.fake_mode = fake_mode_of(graph_module.graph)
        self.constants = _constants(graph_module)
        self.by_anchor: dict[Any, list[tuple[RewriteRule, Shape]]] = {}
        calls: dict[Any, list[Node]] = {}
        for node in graph_module.graph.nodes:
            if node.op == "call_function":
                calls.setdefault(node.target, []).append(node)
        for rule in rules:
            for shape in rule.shapes() if rule.may_match(calls) else ():
                self.by_anchor.setdefault(shape.anchor.target, []).append((rule, shape))
        self._traces: dict[Any, Graph] = {}

    def run(self) -> None:
        for node in list(self.graph_module.graph.nodes):
            if node.op == "call_function" and not is_erased(node):
                for rule, shape in self.by_anchor.get(node.target, ()):
                    if self._apply(rule, shape, node):
                        break

    def _apply(self, rule: RewriteRule, shape: Shape, anchor: Node) -> bool:
        found = find(shape, anchor)
        if found is None:
            return False
        nodes = tuple(sorted(set(found.nodes.values())))
        if any(forced_to_torch(node, self.ctx) for node in nodes) or not is_replaceable(nodes, anchor):
            return False
        match = RuleMatch(self.graph_module, self.ctx, nodes, found.arguments, self.constants)
        verdict = True if rule.check is None else rule.check(match)
        if verdict is False:
            return False
        arguments = found.arguments if verdict is True else tuple(verdict)
        self._replace(rule, nodes, arguments)
        return True

    def _replace(self, rule: RewriteRule, nodes: tuple[Node, ...], arguments: tuple[Any, ...]) -> None:
        anchor, leaves = nodes[-1], list[Node]()
        key = (rule.name, rule.replacement, signature(arguments, leaves))
        given = list(dict.fromkeys(leaves))
        if key not in self._traces:
            self._traces[key] = _traced(rule.replacement, arguments, given, self.fake_mode)
        graph, values = anchor.graph, iter(given)
        known: dict[Node, Node] = {}
        made: list[Node] = []
        with graph.inserting_before(anchor):
            for inner in self._traces[key].nodes:
                if inner.op == "placeholder":
                    known[inner] = next(values)
                elif inner.op != "output":
                    known[inner] = node = graph.node_copy(inner, known.__getitem__)
                    node.meta = {**provenance(anchor), "val": inner.meta["val"]}
                    made.append(node)
        result = known[self._traces[key].output_node().args[0]]  # type: ignore[index]
        _check_result(rule, anchor, result)
        place = anchor
        gone = replace_node(anchor, result)
        log_rewrite(self.graph_module, rule.name, place, gone, [node.name for node in made])


def _constants(graph_module: GraphModule) -> dict[Node, torch.Tensor]:
    nodes = graph_module.graph.nodes
    written = {
        source.target
        for node in nodes
        if mutates(node)
        for source in node.all_input_nodes[:1]
        if source.op == "get_attr"
    }
    found = {
        node: attribute(graph_module, str(node.target))
        for node in nodes
        if node.op == "get_attr" and node.target not in written
    }
    return {node: value for node, value in found.items() if isinstance(value, torch.Tensor)}


def _traced(function: Callable[..., Any], arguments: Sequence[Any], leaves: list[Node], mode: Any) -> Graph:
    from torch.fx.experimental.proxy_tensor import make_fx

    def run(*values: Any) -> Any:
        known = dict(zip(leaves, values))
        return function(*torch.fx.map_arg(tuple(arguments), known.__getitem__))

    with tracing(mode):
        traced = make_fx(run, pre_dispatch=True, _allow_non_fake_inputs=True)(
            *(leaf.meta["val"] for leaf in leaves)
        )
    traced.graph.eliminate_dead_code()
    return traced.graph


def _check_result(rule: RewriteRule, old: Node, new: Node) -> None:
    """Raise ValueError if a replacement gives something else than what it replaces."""

    def described(node: Node) -> str:
        value = node.meta["val"]
        return f"{value.dtype}{list(map(expression_of, value.shape))}"

    if described(old) != described(new):
        raise ValueError(
            f"rule {rule.name}: the replacement gives {described(new)} for {described(old)} at {old.name}"
        )

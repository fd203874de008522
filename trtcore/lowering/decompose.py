"""Node-local decomposition.

A node that no converter takes is traced alone, on its own FakeTensors, through the packs' decomposition
(or torch's, for composite ops), and the pieces are pasted in its place with its stack trace, if every piece has
a converter (or a decomposition of which that is true). Otherwise the node stays whole: one op in torch is
better than its pieces in torch and TensorRT by turns, and its reason names the piece that is missing.

Traces are memoised by op, dtypes, shapes and constants, so the cost is linear in the graph and small: the
layers of a transformer are traced once.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from trtcore.context import CompileContext
from trtcore.ir.facts import facts, set_facts
from trtcore.ir.graphs import fake_mode_of, is_composite, is_getitem, mutates, tracing, uncached
from trtcore.ir.symbols import expression_of, is_size_decision, undecided_sizes
from trtcore.ir.torch_private import core_decompositions, functionalised, is_written
from trtcore.packs.model import StrictDecomposition
from trtcore.packs.rules import survey
from trtcore.packs.selection import SelectionMemo, Verdict


class _NoConverter(str):
    """The reason of an op that no pack has a converter for."""


_ITSELF = "it decomposes into itself"
_LOOSE = "settings.strict_numerics is set, and no one says that its decomposition keeps NaN, infinities, signed zeros"
_DEPTH = 16  # a decomposition of a decomposition of ...; deeper than this is a cycle


def decompose(
    graph_module: GraphModule,
    ctx: CompileContext,
    nodes: Iterable[Node] | None = None,
    memo: SelectionMemo | None = None,
) -> GraphModule:
    """Decompose, in place, every node (or every one of `nodes`) that no converter takes and that somebody knows how
    to decompose.
    """
    _Decomposer(graph_module, ctx, memo or SelectionMemo(ctx)).run(nodes)
    return graph_module


def expand_call(node: Node, ctx: CompileContext) -> bool:
    """Put the ops in a node's place that it decomposes into, whether a converter takes them or not.

    For passes that write ops in another way and know the smaller ones: a pack's decomposition, or torch's own of a
    composite op. Nothing happens where there is none, or where it makes constants or other results than the op.

    Args:
        node: of the graph that a pass is given.

    Returns:
        Whether the node was replaced.
    """
    owner = node.graph.owning_module
    if owner is None:
        return False
    decomposer = _Decomposer(owner, ctx, SelectionMemo(ctx))
    function = decomposer._decomposition(node)
    if function is None:
        return False
    pieces = decomposer._pieces(node, function, _DEPTH, converted=False)
    if not isinstance(pieces, Graph) or pieces.find_nodes(op="get_attr"):
        return False
    decomposer._paste(node.graph, node, pieces)
    return True


class _Decomposer:
    def __init__(self, graph_module: GraphModule, ctx: CompileContext, selections: SelectionMemo) -> None:
        self.graph: Graph = graph_module.graph
        self.ctx = ctx
        self.selections = selections
        self.table: Mapping[Any, Callable[..., Any]] = ctx.registry.decompositions
        self.fake_mode = fake_mode_of(self.graph)
        self.memo: dict[Any, Graph | str] = {}
        self.preferred = self._preferred()

    def run(self, nodes: Iterable[Node] | None) -> None:
        if self.ctx.backend is None:
            return  # everything stays in torch, as it is
        for node in list(self.graph.nodes if nodes is None else nodes):
            self._visit(self.graph, node, 0)

    def _visit(self, graph: Graph, node: Node, depth: int) -> str:
        """Decompose a node of `graph` if that helps; return why it cannot be converted ("" if it can).

        The reason is the one at the bottom: of the piece that no converter takes. A node whose own dtype stands in the
        way, or that comes apart into itself, is that piece; so is one whose converter says why not, where the piece
        below it has none.
        """
        if node.op != "call_function" or not _has_tensor(node.meta.get("val")) or is_getitem(node):
            return ""
        # The pieces of a trace are copied where they are used; only nodes of the graph itself are asked for again.
        known = graph is self.graph
        selection = self.selections.select(node) if known else self.ctx.registry.select(node, self.ctx)
        if selection.chosen is not None:
            self._decompose_anyway(graph, node, depth)
            return ""
        if stated := facts(node).reason:
            return stated  # a pass has looked at it, and says why it runs in torch
        reason = selection.reason if selection.candidates else _NoConverter(selection.reason)
        function = self._decomposition(node)
        if function is not None and not self._keeps_numerics(node, function):
            reason = _LOOSE if not selection.candidates else selection.reason
            set_facts(node, reason=reason)
            return reason
        if function is None or depth >= _DEPTH or selection.verdict is Verdict.FORCED_TO_TORCH:
            return reason
        pieces = self._pieces(node, function, depth)
        if isinstance(pieces, str):
            own = pieces in (_ITSELF, reason) or selection.verdict in (
                Verdict.DTYPE,
                Verdict.LAYOUT,
            )
            own |= isinstance(pieces, _NoConverter) and bool(selection.candidates)
            cause = reason if own else pieces
            whole = cause if own else f"{reason}; its decomposition does not help: {pieces}"
            set_facts(node, reason=whole)
            return cause
        self._paste(graph, node, pieces)
        return ""

    def _preferred(self) -> Mapping[Any, Callable[..., Any]]:
        """What is decomposed although a converter takes it: torch's core ATen decompositions, if they are asked for."""
        if not self.ctx.settings.enable_experimental_decompositions:
            return {}
        return core_decompositions()

    def _decompose_anyway(self, graph: Graph, node: Node, depth: int) -> None:
        function = self.preferred.get(node.target)
        if function is not None and depth < _DEPTH and self._keeps_numerics(node, function):
            pieces = self._pieces(node, function, depth)
            if isinstance(pieces, Graph):
                self._paste(graph, node, pieces)

    def _keeps_numerics(self, node: Node, function: Callable[..., Any]) -> bool:
        """Whether NaN, infinities and signed zeros come out of a decomposition as from the op, where that is asked for.

        The pieces of a composite op are what torch itself runs.
        """
        if not self.ctx.settings.strict_numerics or function is node.target or not survey(node).floats:
            return True
        return isinstance(function, StrictDecomposition)

    def _decomposition(self, node: Node) -> Callable[..., Any] | None:
        if not isinstance(node.target, torch._ops.OpOverload):
            return None
        function = self.table.get(node.target)
        if function is None and is_composite(node.target):
            return node.target
        return function

    def _pieces(
        self, node: Node, function: Callable[..., Any], depth: int, *, converted: bool = True
    ) -> Graph | str:
        """The node's decomposition, itself decomposed as far as it needs; or why it cannot be converted.

        Args:
            converted: whether every piece must have a converter.
        """
        leaves: list[Node] = []
        key: tuple[Any, ...]
        try:
            key = (
                node.target,
                signature(node.args, leaves),
                signature(dict(node.kwargs), leaves),
                _used_outputs(node),
            )
        except TypeError:  # an unhashable constant
            key = (node.target, id(node))
        if key not in self.memo:
            self.memo[key] = _ITSELF  # what a recursion would find
            try:
                traced = self._traced(node, function, list(dict.fromkeys(leaves)))
                _check_results(node, traced)
                _drop_outputs(traced, _used_outputs(node))
                _lay_out(node, traced)
            except KeyboardInterrupt:
                raise
            except _OtherSizes:
                pass  # to the reader the op itself is what depends on data
            except BaseException as error:  # also SystemExit: a pack must not end a compile
                self.memo[key] = (
                    f"it decides on a size that varies from call to call: {_first_line(error)}"
                    if is_size_decision(error)
                    else f"it raised {type(error).__name__}: {_first_line(error)}"
                )
            else:
                self.memo[key] = self._convertible(traced, depth) if converted else traced
        return self.memo[key]

    def _convertible(self, traced: Graph, depth: int) -> Graph | str:
        for piece in list(traced.nodes):
            if piece.op == "get_attr":
                return "it makes a constant"
            reason = self._visit(traced, piece, depth + 1)
            if reason:
                return reason
        return traced

    def _traced(self, node: Node, function: Callable[..., Any], leaves: list[Node]) -> Graph:
        from torch.fx.experimental.proxy_tensor import make_fx

        def run(*values: Any) -> Any:
            given = dict(zip(leaves, values))
            args, kwargs = torch.fx.map_arg((node.args, dict(node.kwargs)), lambda n: given[n])
            return function(*_plain(args), **_plain(kwargs))

        with ExitStack() as stack:
            stack.enter_context(tracing(self.fake_mode))
            shape_env = getattr(self.fake_mode, "shape_env", None)
            if shape_env is not None:  # what it decides on a size must hold for every size
                stack.enter_context(undecided_sizes(shape_env))
                stack.enter_context(uncached(self.fake_mode))
            values = _apart([leaf.meta["val"] for leaf in leaves])
            traced = make_fx(run, _allow_non_fake_inputs=True)(*values)
            if any(mutates(piece) for piece in traced.graph.nodes):
                pure = functionalised(_without_writes(run))
                traced = make_fx(pure, _allow_non_fake_inputs=True)(*values)
        _unwrap_structs(traced.graph)
        traced.graph.eliminate_dead_code()
        return traced.graph

    def _paste(self, graph: Graph, node: Node, traced: Graph) -> None:
        leaves: list[Node] = []
        signature(node.args, leaves)
        signature(dict(node.kwargs), leaves)
        sources = iter(dict.fromkeys(leaves))
        env: dict[Node, Node] = {}
        results: Any = None
        with graph.inserting_before(node):
            for inner in traced.nodes:
                if inner.op == "placeholder":
                    env[inner] = next(sources)
                elif inner.op == "output":
                    results = torch.fx.map_arg(inner.args[0], lambda n: env[n])
                else:
                    made = graph.node_copy(inner, lambda n: env[n])
                    made.meta = {**node.meta, "val": inner.meta.get("val")}
                    made.meta.pop("tensor_meta", None)
                    env[inner] = made
        self._replace(graph, node, results)

    def _replace(self, graph: Graph, node: Node, results: Any) -> None:
        if isinstance(results, Node):
            node.replace_all_uses_with(results)
        else:
            for user in list(node.users):
                assert user.target is operator.getitem, (
                    f"{node.name} returns several values and is used whole"
                )
                if user.users:
                    user.replace_all_uses_with(results[user.args[1]])
                graph.erase_node(user)
        graph.erase_node(node)


def _without_writes(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which raises where it writes to an argument, as a batch normalisation in training does unasked."""

    def run(*values: Any) -> Any:
        result = function(*values)
        for value in values:
            if isinstance(value, torch.Tensor) and is_written(value):
                raise RuntimeError("it writes to its arguments")
        return result

    return run


def _apart(values: list[Any]) -> list[Any]:
    """The values, with no tensor twice: the results of one trace that is pasted often are one FakeTensor, and what is
    given twice would be traced as one argument.
    """
    seen: set[int] = set()
    apart = []
    for value in values:
        if isinstance(value, torch.Tensor) and id(value) in seen:
            value = torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device=value.device
            ).requires_grad_(value.requires_grad)
        seen.add(id(value))
        apart.append(value)
    return apart


def _plain(value: Any) -> Any:
    """Lists and dicts in place of fx's immutable ones, which some decompositions try to change."""
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(map(_plain, value))
    return {name: _plain(item) for name, item in value.items()} if isinstance(value, dict) else value


def _used_outputs(node: Node) -> frozenset[int] | None:
    """Which of a node's several results somebody takes; None where they may all be taken."""
    if not isinstance(node.meta.get("val"), (list, tuple)) or not all(
        is_getitem(user) for user in node.users
    ):
        return None
    return frozenset(int(user.args[1]) for user in node.users if user.users)  # type: ignore[arg-type]


def _drop_outputs(graph: Graph, used: frozenset[int] | None) -> None:
    """Drop what only leads to results that nobody takes."""
    output = graph.output_node()
    results = output.args[0]
    if used is not None and isinstance(results, (list, tuple)):
        output.args = (tuple(result if i in used else None for i, result in enumerate(results)),)
        graph.eliminate_dead_code()


def _check_results(node: Node, traced: Graph) -> None:
    """Refuse a decomposition that returns something else than its op.

    Raises:
        ValueError: another number of results, another dtype or another shape (`_OtherSizes`: only other names).
    """

    def described(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [described(item) for item in value]
        if isinstance(value, torch.Tensor):
            return f"{value.dtype}{list(map(expression_of, value.shape))}"
        return type(value).__name__

    results = torch.fx.map_arg(traced.output_node().args[0], lambda item: item.meta.get("val"))
    made, wanted = described(results), described(node.meta.get("val"))
    if made != wanted:
        error = _OtherSizes if _unnamed(made) == _unnamed(wanted) else ValueError
        raise error(f"it returns {made}, and the op {wanted}")


class _OtherSizes(ValueError):
    """A decomposition makes sizes that depend on data, under other names than those the graph has for them."""


def _unnamed(described: Any) -> str:
    """A description without the names of sizes that depend on data."""
    return re.sub(r"\bu\d+\b", "u", str(described))


def _lay_out(node: Node, traced: Graph) -> None:
    """Give results the strides of the op's own, where the decomposition has others: torch may look at them later."""
    output, value = traced.output_node(), node.meta["val"]
    results: Any = output.args[0]
    if isinstance(results, (list, tuple)):
        output.args = (tuple(map(_with_strides_of, results, value)),)
    else:
        output.args = (_with_strides_of(results, value),)


def _with_strides_of(result: Any, value: Any) -> Any:
    made = result.meta.get("val") if isinstance(result, Node) else None
    if not isinstance(made, torch.Tensor) or not isinstance(value, torch.Tensor):
        return result
    wanted = _strides(value)
    if made.layout is not torch.strided or wanted is None or _strides(made) == wanted:
        return result
    for memory_format in (torch.contiguous_format, torch.channels_last, torch.channels_last_3d):
        if wanted == _strides_in(value.shape, memory_format):
            with result.graph.inserting_before(result.graph.output_node()):
                clone = result.graph.call_function(
                    torch.ops.aten.clone.default, (result,), {"memory_format": memory_format}
                )
            clone.meta = {"val": value}
            return clone
    return result


def _strides(value: torch.Tensor) -> tuple[Any, ...] | None:
    return tuple(map(expression_of, value.stride())) if value.layout is torch.strided else None


def _strides_in(shape: Sequence[Any], memory_format: torch.memory_format) -> tuple[Any, ...] | None:
    """The strides of a dense tensor, from the outermost dimension; None where the format takes no such shape."""
    rank, order = len(shape), list(range(len(shape)))
    if memory_format is not torch.contiguous_format:
        if rank != (4 if memory_format is torch.channels_last else 5):
            return None
        order = [0, *range(2, rank), 1]
    steps: dict[int, Any] = {}
    step: Any = 1
    for dim in reversed(order):
        steps[dim] = expression_of(step)
        step = step * shape[dim]
    return tuple(steps[dim] for dim in range(rank))


def signature(value: Any, leaves: list[Node]) -> Any:
    """A hashable stand-in for an argument, equal where a trace of the op would be; collects the nodes in it."""
    if isinstance(value, Node):
        first = value not in leaves
        leaves.append(value)
        position = leaves.index(value)
        meta = value.meta.get("val")
        if not first:
            return ("again", position)
        if isinstance(meta, torch.Tensor) and meta.layout is not torch.strided:
            return ("other", id(value))
        if isinstance(meta, torch.Tensor):
            return (
                "tensor", meta.dtype, str(meta.device), meta.requires_grad,
                tuple(expression_of(d) for d in meta.shape), tuple(expression_of(s) for s in meta.stride()),
            )  # fmt: skip
        if isinstance(meta, torch.SymInt):
            return ("size", expression_of(meta))
        return ("other", id(value))
    if isinstance(value, (list, tuple)):
        return tuple(signature(item, leaves) for item in value)
    if isinstance(value, dict):
        return tuple((name, signature(item, leaves)) for name, item in value.items())
    hash(value)
    return (type(value).__name__, repr(value)) if isinstance(value, float) else (type(value).__name__, value)


def _unwrap_structs(graph: Graph) -> None:
    """torch's decompositions may return a named tuple, which leaves a node that makes it: its parts are the results."""
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    value = output.args[0]
    if isinstance(value, Node) and isinstance(value.target, type) and issubclass(value.target, tuple):
        parts = (
            value.args[0] if len(value.args) == 1 and isinstance(value.args[0], (list, tuple)) else value.args
        )
        output.args = (tuple(parts),)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")


def _has_tensor(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_has_tensor(item) for item in value)
    return isinstance(value, torch.Tensor)

"""Running lowering passes; one that fails is undone, unless the result would be wrong without it.

To undo a pass, the graph is made again as it was before the first pass, and the other passes run again: so what may
have to be undone costs a record of the graph and no copy before every pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch.fx import Graph, GraphModule, Node

from trtcore.context import CompileContext
from trtcore.errors import InputError, PackError, SettingsError, TrtcoreError
from trtcore.ir.facts import rewrites_of
from trtcore.ir.graphs import attribute, fake_mode_of
from trtcore.ir.symbols import expression_of
from trtcore.ir.torch_private import LazyGraphModule, remember_sizes
from trtcore.packs.failures import pack_failure
from trtcore.packs.model import LoweringPass, Scope


def run_passes(
    graph_module: GraphModule, passes: Sequence[LoweringPass], ctx: CompileContext, *, watched: bool = False
) -> GraphModule:
    """Run passes in order. One that is not required, and raises, leaves a graph that does not hold together, or fixes a
    dynamic size, is left out, with a warning.

    Args:
        watched: observers are shown the graph after each pass.

    Raises:
        PackError: a required pass failed, or in strict mode any.
    """
    before = _Record.of(graph_module)
    runner = _Runner(ctx, watched)
    left = list(passes)
    while True:
        try:
            result = runner.run(graph_module, left)
        except _PassFailure as failure:
            if not runner.checks_all:
                runner.checks_all = True  # an earlier pass may have broken the graph: find out which
            elif failure.culprit.required:
                raise failure.error from failure.error.__cause__
            else:
                _leave_out(failure, left)
        else:
            try:
                result.graph.lint()
            except Exception:
                if runner.checks_all:
                    raise
                runner.checks_all = True
            else:
                return result
        graph_module = before.restore()


def _leave_out(failure: _PassFailure, passes: list[LoweringPass]) -> None:
    """Go on without a pass, and say so.

    Raises:
        PackError: in strict mode.
    """
    pack = str(failure.culprit.pack or "trtcore")
    pack_failure(f"{failure.error.message}; the graph goes on without it", pack, failure.error)
    passes.remove(failure.culprit)


class _PassFailure(Exception):
    """A pass that failed, and how."""

    def __init__(self, culprit: LoweringPass, error: PackError) -> None:
        super().__init__(error.message)
        self.culprit, self.error = culprit, error


class _Runner:
    """One way through the passes.

    Attributes:
        checks_all: also what passes of shipped packs leave is checked, which is else seen at the end.
    """

    def __init__(self, ctx: CompileContext, watched: bool) -> None:
        self.ctx, self.watched = ctx, watched
        self.checks_all = False
        self._announced: set[str] = set()

    def run(self, graph_module: GraphModule, passes: Sequence[LoweringPass]) -> GraphModule:
        dynamic = _dynamic_sizes(graph_module)
        for one in passes:
            if one.name not in self._announced:
                self._announced.add(one.name)
                self.ctx.emit("lowering", "progress", name=one.name)
            graph_module = self._step(one, graph_module, dynamic)
            if self.watched:
                self.ctx.emit("pass", "end", subject=graph_module, name=one.name)
        return graph_module

    def _step(self, one: LoweringPass, graph_module: GraphModule, dynamic: _Sizes) -> GraphModule:
        checked = not one.required and (self.checks_all or _is_foreign(one))
        promised = _Promise.of(graph_module) if checked else None
        log = rewrites_of(graph_module)
        try:
            result = _result_of(one, graph_module, self.ctx)
            _refuse_fixed_sizes(dynamic, one)
            if promised is not None:
                promised.check(one, result)
            elif self.checks_all:
                _check_graph(one, result.graph)
        except PackError as error:
            raise _PassFailure(one, error) from error.__cause__
        if result is not graph_module:
            rewrites_of(result)[:0] = log
        return result


def _is_foreign(one: LoweringPass) -> bool:
    return one.pack is not None and one.pack.scope is not Scope.BUILT_IN


def _result_of(one: LoweringPass, graph_module: GraphModule, ctx: CompileContext) -> GraphModule:
    try:
        result = one.run(graph_module, ctx)
    except (KeyboardInterrupt, SettingsError, InputError):  # Ctrl-C, and what the user asked for
        raise
    except BaseException as error:
        if isinstance(error, TrtcoreError) and one.required:
            raise
        raise _failure(one, f"raised {type(error).__name__}: {error}") from error
    if result is None:
        return graph_module
    if not isinstance(result, GraphModule):
        raise _failure(one, f"returned {type(result).__name__}, not a GraphModule or None")
    return result


class FixedSizeError(PackError):
    """A pass has fixed a size that the graph's inputs leave open."""


def _failure(one: LoweringPass, what: str, kind: type[PackError] = PackError) -> PackError:
    return kind(
        f"the lowering pass {one.name!r} of {one.pack or 'trtcore'} {what}",
        pack=str(one.pack or "trtcore"),
        advice=f"turn it off with disabled_passes={{{one.name!r}}}",
    )


# ---- sizes -------------------------------------------------------------------------------------------------

_Sizes = list[tuple[Node, int, torch.SymInt]]


def _dynamic_sizes(graph_module: GraphModule) -> _Sizes:
    """(input, dim, size) of every size that the inputs leave open; dim -1 for an input that is a size."""
    found: _Sizes = []
    for node in graph_module.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        dims = enumerate(value.shape) if isinstance(value, torch.Tensor) else [(-1, value)]
        found += [(node, dim, size) for dim, size in dims if _is_open(size)]
    return found


def _is_open(size: Any) -> TypeGuard[torch.SymInt]:
    """Whether a size is symbolic still: Dynamo hands over SymInts that its own guards have fixed already."""
    return isinstance(size, torch.SymInt) and not isinstance(expression_of(size), int)


def _refuse_fixed_sizes(dynamic: _Sizes, one: LoweringPass) -> None:
    """A pass that reads a symbolic size as a number fixes it for the whole graph, without a word."""
    for node, dim, size in dynamic:
        if isinstance(expression_of(size), int):
            which = f"dim {dim} of input {node.target!r}" if dim >= 0 else f"input {node.target!r}"
            raise _failure(one, f"fixed {which}, which is dynamic, to {size}", FixedSizeError)


# ---- undoing -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Record:
    """A graph as it was.

    Attributes:
        nodes: of each node what makes it again: itself, its parts, and its metadata.
        attributes: the tensors and modules of its get_attr nodes.
        restore_sizes: what takes decisions on sizes back.
    """

    nodes: list[tuple[Any, ...]]
    attributes: dict[str, Any]
    class_name: str
    restore_sizes: Callable[[], None]

    @classmethod
    def of(cls, graph_module: GraphModule) -> _Record:
        graph = graph_module.graph
        nodes = [
            (node, node.op, node.target, node.args, node.kwargs, node.name, node.type, node.meta.copy())
            for node in graph.nodes
        ]
        targets = [str(node.target) for node in graph.find_nodes(op="get_attr")]
        attributes = {target: attribute(graph_module, target) for target in targets}
        shape_env = getattr(fake_mode_of(graph), "shape_env", None)
        return cls(nodes, attributes, type(graph_module).__name__, remember_sizes(shape_env))

    def restore(self) -> GraphModule:
        """The graph again, on the same weights."""
        self.restore_sizes()
        graph = Graph()
        known: dict[Node, Node] = {}
        for old, op, target, args, kwargs, name, kind, meta in self.nodes:
            args, kwargs = torch.fx.map_arg((args, kwargs), known.__getitem__)
            node = known[old] = graph.create_node(op, target, args, kwargs, name, kind)
            node.meta = dict(meta)
        return LazyGraphModule(dict(self.attributes), graph, self.class_name)


@dataclass(frozen=True)
class _Promise:
    """What a pass must leave as it is: the graph's inputs and what its results look like."""

    inputs: list[Any]
    results: list[Any]

    @classmethod
    def of(cls, graph_module: GraphModule) -> _Promise:
        graph = graph_module.graph
        inputs = [node.target for node in graph.find_nodes(op="placeholder")]
        return cls(inputs, _described(graph.output_node().args[0]))

    def check(self, one: LoweringPass, graph_module: GraphModule) -> None:
        """Refuse what later stages cannot use: a broken graph, other inputs or results, nodes without a FakeTensor."""
        graph = graph_module.graph
        _check_graph(one, graph)
        now = _Promise.of(graph_module)
        if now.inputs != self.inputs:
            raise _failure(one, "changed the graph's inputs")
        if now.results != self.results:
            raise _failure(one, "changed the number, dtypes or shapes of the graph's results")
        for node in graph.nodes:
            if node.op in ("call_method", "call_module"):
                raise _failure(one, f"left a {node.op} node, {node.name}")
            if node.op == "call_function" and node.users and "val" not in node.meta:
                raise _failure(one, f"left {node.name} without its FakeTensor in meta['val']")


def _check_graph(one: LoweringPass, graph: Graph) -> None:
    try:
        graph.lint()
        graph.output_node()
    except Exception as error:
        raise _failure(one, f"left a broken graph: {error}") from error


def _described(outputs: Any) -> list[Any]:
    found: list[Any] = []
    for item in outputs if isinstance(outputs, (list, tuple)) else [outputs]:
        value = item.meta.get("val") if isinstance(item, Node) else item
        if isinstance(value, torch.Tensor):
            found.append((value.dtype, tuple(map(expression_of, value.shape))))
        else:
            found.append(str(value))
    return found

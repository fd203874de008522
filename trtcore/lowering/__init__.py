"""Lowering: named, ordered passes over the captured graph, ending in what the partitioner reads.

The core brings five passes, whose names packs can order theirs by: ``functionalize``, ``match_patterns``,
``match_lowered_patterns``, ``decompose`` and ``eliminate_dead_code``. A pack's pass that names none of them runs
between the two that match patterns: on the graph as it was captured, and as the passes leave it. Every pass can be
turned off with ``settings.disabled_passes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile
from typing import Any, TypeGuard

import attrs
import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx._lazy_graph_module import _LazyGraphModule

from trtcore.context import CompileContext
from trtcore.errors import InputError, PackError, SettingsError, TrtcoreError
from trtcore.ir.program import Program
from trtcore.ir.symbols import expression_of
from trtcore.lowering.decompose import decompose
from trtcore.lowering.functionalize import functionalize
from trtcore.lowering.match import match_patterns, unfuse
from trtcore.packs.failures import pack_failure
from trtcore.packs.model import LoweringPass, Scope
from trtcore.packs.pass_order import order, told
from trtcore.packs.selection import SelectionMemo

__all__ = ["CORE_PASSES", "lower", "ordered_passes", "restore_patterns"]


def lower(program: Program, ctx: CompileContext, memo: SelectionMemo | None = None) -> Program:
    """Run all passes on the program's graph and return the program with the lowered graph.

    Args:
        memo: takes the selections that are made here, for the partitioner.

    Raises:
        PackError: a pass of a shipped pack, or in strict mode any pack's, raised or left a graph that does not
            hold together. Otherwise such a pass is undone, with a warning. Also a pass of any pack that fixed a
            dynamic size, which cannot be undone.
    """
    graph_module = program.graph_module
    dynamic = _dynamic_sizes(graph_module)
    for lowering_pass in ordered_passes(ctx.registry.lowering_passes, ctx.settings.disabled_passes):
        if lowering_pass.run is decompose:
            lowering_pass = attrs.evolve(lowering_pass, run=partial(decompose, memo=memo))
        graph_module = _run(lowering_pass, graph_module, ctx)
        _refuse_fixed_sizes(dynamic, lowering_pass)
    graph_module.graph.lint()
    return replace(program, graph_module=graph_module)


def restore_patterns(program: Program, names: Sequence[str], ctx: CompileContext) -> Program:
    """Put the ops back that these nodes stand for, and offer each to its own converters.

    Args:
        names: of nodes whose targets are patterns.
    """
    graph_module = program.graph_module
    by_name = {node.name: node for node in graph_module.graph.nodes}
    for name in names:
        decompose(graph_module, ctx, unfuse(graph_module.graph, by_name[name]))
    return replace(program, graph_module=graph_module)


def eliminate_dead_code(graph_module: GraphModule, ctx: CompileContext) -> None:
    """Remove nodes that nothing reads and that write nothing."""
    graph_module.graph.eliminate_dead_code()


def _match(graph_module: GraphModule, ctx: CompileContext) -> GraphModule:
    """Patterns, looked for in the graph as it was captured."""
    return match_patterns(graph_module, ctx, lambda pattern: functionalize(pattern, ctx))


def _match_lowered(graph_module: GraphModule, ctx: CompileContext) -> GraphModule:
    """Patterns, looked for as the passes before this one leave them and the graph."""
    passes = ordered_passes(ctx.registry.lowering_passes, ctx.settings.disabled_passes)

    def lowered(pattern: GraphModule) -> GraphModule:
        for lowering_pass in takewhile(lambda one: one.run is not _match_lowered, passes):
            if lowering_pass.run is not _match:
                pattern = _run(lowering_pass, pattern, ctx)
        return pattern

    return match_patterns(graph_module, ctx, lowered)


CORE_PASSES = (
    LoweringPass("functionalize", functionalize),
    LoweringPass("match_patterns", _match, after=("functionalize",)),
    LoweringPass("match_lowered_patterns", _match_lowered, after=("match_patterns",)),
    LoweringPass("decompose", decompose, after=("match_lowered_patterns",)),
    LoweringPass("eliminate_dead_code", eliminate_dead_code, after=("decompose",)),
)


def ordered_passes(
    passes: Sequence[LoweringPass], disabled: frozenset[str] = frozenset()
) -> list[LoweringPass]:
    """The core's and the packs' passes in order: what ``before``/``after`` ask, else as contributed.

    Where they ask for opposite things the pack that comes first is heard (`trtcore.packs.pass_order`).

    Raises:
        PackError: they do, and TRTCORE_STRICT_PACKS is set; the message names passes and packs.
    """
    names, conflicts = order(passes)
    for conflict in conflicts:
        pack_failure(told(conflict, passes), conflict.asker)
    by_name = {one.name: one for one in (*passes, *CORE_PASSES)}
    return [by_name[name] for name in names if name not in disabled]


def _dynamic_sizes(graph_module: GraphModule) -> list[tuple[Node, int, torch.SymInt]]:
    """(input, dim, size) of every size that the inputs leave open; dim -1 for an input that is a size."""
    found: list[tuple[Node, int, torch.SymInt]] = []
    for node in graph_module.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        dims = enumerate(value.shape) if isinstance(value, torch.Tensor) else [(-1, value)]
        found += [(node, dim, size) for dim, size in dims if _is_open(size)]
    return found


def _is_open(size: Any) -> TypeGuard[torch.SymInt]:
    """Whether a size is symbolic still: Dynamo hands over SymInts that its own guards have fixed already."""
    return isinstance(size, torch.SymInt) and not isinstance(expression_of(size), int)


def _refuse_fixed_sizes(dynamic: list[tuple[Node, int, torch.SymInt]], lowering_pass: LoweringPass) -> None:
    """A pass that reads a symbolic size as a number fixes it for the whole graph, without a word."""
    for node, dim, size in dynamic:
        if isinstance(expression_of(size), int):
            which = f"dim {dim} of input {node.target!r}" if dim >= 0 else f"input {node.target!r}"
            raise _failure(lowering_pass, f"fixed {which}, which is dynamic, to {size}")


def _run(lowering_pass: LoweringPass, graph_module: GraphModule, ctx: CompileContext) -> GraphModule:
    """One pass. Somebody else's, that fails or leaves a graph that does not hold together, is undone."""
    ctx.emit("lowering", "progress", name=lowering_pass.name)
    foreign = _is_foreign(lowering_pass)
    before = _copy(graph_module) if foreign else graph_module
    try:
        result = _result_of(lowering_pass, graph_module, ctx)
        if foreign:
            _check(lowering_pass, result, before)
    except PackError as error:
        if not foreign:
            raise
        pack_failure(f"{error.message}; the graph goes on without it", str(lowering_pass.pack), error)
        return before
    return result


def _is_foreign(lowering_pass: LoweringPass) -> bool:
    return lowering_pass.pack is not None and lowering_pass.pack.scope is not Scope.BUILT_IN


def _result_of(lowering_pass: LoweringPass, graph_module: GraphModule, ctx: CompileContext) -> GraphModule:
    try:
        result = lowering_pass.run(graph_module, ctx)
    except (KeyboardInterrupt, SettingsError, InputError):  # Ctrl-C, and what the user asked for
        raise
    except BaseException as error:
        if isinstance(error, TrtcoreError) and not _is_foreign(lowering_pass):
            raise
        raise _failure(lowering_pass, f"raised {type(error).__name__}: {error}") from error
    if result is None:
        return graph_module
    if not isinstance(result, GraphModule):
        raise _failure(lowering_pass, f"returned {type(result).__name__}, not a GraphModule or None")
    return result


def _failure(lowering_pass: LoweringPass, what: str) -> PackError:
    return PackError(
        f"the lowering pass {lowering_pass.name!r} of {lowering_pass.pack or 'trtcore'} {what}",
        pack=str(lowering_pass.pack or "trtcore"),
        advice=f"turn it off with disabled_passes={{{lowering_pass.name!r}}}",
    )


def _copy(graph_module: GraphModule) -> GraphModule:
    """The graph again, on the same weights."""
    graph = Graph()
    graph.output(graph.graph_copy(graph_module.graph, {})).meta = dict(graph_module.graph.output_node().meta)
    return _LazyGraphModule(graph_module, graph)


def _check(lowering_pass: LoweringPass, graph_module: GraphModule, before: GraphModule) -> None:
    """Refuse what later stages cannot use: a broken graph, other inputs or results, nodes without a FakeTensor."""
    graph = graph_module.graph
    try:
        graph.lint()
        outputs = graph.output_node().args[0]
    except Exception as error:
        raise _failure(lowering_pass, f"left a broken graph: {error}") from error
    placeholders = [node.target for node in graph.find_nodes(op="placeholder")]
    if placeholders != [node.target for node in before.graph.find_nodes(op="placeholder")]:
        raise _failure(lowering_pass, "changed the graph's inputs")
    if _described(outputs) != _described(before.graph.output_node().args[0]):
        raise _failure(lowering_pass, "changed the number, dtypes or shapes of the graph's results")
    for node in graph.nodes:
        if node.op in ("call_method", "call_module"):
            raise _failure(lowering_pass, f"left a {node.op} node, {node.name}")
        if node.op == "call_function" and node.users and "val" not in node.meta:
            raise _failure(lowering_pass, f"left {node.name} without its FakeTensor in meta['val']")


def _described(outputs: Any) -> list[Any]:
    found: list[Any] = []
    for item in outputs if isinstance(outputs, (list, tuple)) else [outputs]:
        value = item.meta.get("val") if isinstance(item, Node) else item
        if isinstance(value, torch.Tensor):
            found.append((value.dtype, tuple(map(expression_of, value.shape))))
        else:
            found.append(str(value))
    return found

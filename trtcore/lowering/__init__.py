"""Lowering: named, ordered passes over the captured graph, ending in what the partitioner reads.

The core brings six passes, whose names packs can order theirs by: ``functionalize``, ``match_patterns``,
``match_lowered_patterns``, ``lower_subgraphs``, ``decompose`` and ``eliminate_dead_code``. A pack's pass that names
none of them runs between the two that match patterns: on the graph as it was captured, and as the passes leave it.
Every pass can be turned off with ``settings.disabled_passes``. One that fails is undone, if the result is right without
it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile
from typing import Any

import attrs
from torch.fx import GraphModule

from trtcore.context import CompileContext
from trtcore.ir.facts import rewrites_of
from trtcore.ir.graphs import attribute, fake_mode_of, remove_unread
from trtcore.ir.program import Program
from trtcore.ir.quiet import quiet_loggers
from trtcore.ir.torch_private import FakeTensor
from trtcore.lowering.data_sizes import bounded_by_makers
from trtcore.lowering.decompose import decompose
from trtcore.lowering.functionalize import functionalize
from trtcore.lowering.match import match_patterns, unfuse
from trtcore.lowering.passes import run_passes
from trtcore.lowering.results import memories, separate_results
from trtcore.lowering.subgraphs import lower_subgraphs
from trtcore.packs.failures import pack_failure
from trtcore.packs.model import LoweringPass
from trtcore.packs.pass_order import order, told
from trtcore.packs.patterns import is_pattern
from trtcore.packs.selection import SelectionMemo

__all__ = ["CORE_PASSES", "lower", "ordered_passes", "restore_patterns"]


@quiet_loggers()
def lower(program: Program, ctx: CompileContext, memo: SelectionMemo | None = None) -> Program:
    """Run all passes on the program's graph and return the program with the lowered graph.

    Args:
        memo: takes the selections that are made here, for the partitioner.

    Raises:
        PackError: a pass without which the result would be wrong has failed, or in strict mode any pass. Every other
            pass that raises, leaves a graph that does not hold together or fixes a dynamic size is undone, with a
            warning.
    """
    # A graph of torch.compile is asked at the sizes of each call.
    ranges = None if program.in_spec is None else program.ranges
    own: dict[Any, Any] = {
        decompose: partial(decompose, memo=memo),
        functionalize: partial(functionalize, ranges=ranges),
    }
    passes = [
        attrs.evolve(one, run=own[one.run]) if one.run in own else one
        for one in ordered_passes(ctx.registry.lowering_passes, ctx.settings.disabled_passes)
    ]
    _one_fake_mode(program.graph_module)
    ctx.emit("pass", "end", subject=program.graph_module, name="captured")
    results = memories(program.graph_module.graph)
    graph_module = run_passes(program.graph_module, passes, ctx, watched=True)
    separate_results(graph_module.graph, results)
    made = bounded_by_makers(graph_module.graph, program.ranges)
    return replace(
        program,
        graph_module=graph_module,
        rewrites=tuple(rewrites_of(graph_module)),
        data_sizes={**program.data_sizes, **made},
    )


@quiet_loggers()
def restore_patterns(
    program: Program, names: Collection[str], ctx: CompileContext, memo: SelectionMemo | None = None
) -> Program:
    """Put the ops of patterns back that no engine takes, and decompose those of them that need it: a pattern never runs
    in torch, its ops go on alone.

    Args:
        names: of nodes in the lowered graph; those that are no patterns stay as they are.
        memo: of this compile.
    """
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.name in names and is_pattern(node):
            decompose(program.graph_module, ctx, unfuse(graph, node), memo)
    return program


def _one_fake_mode(graph_module: GraphModule) -> None:
    """Constants that were met while the graph was traced may be known in a FakeTensorMode of their own."""
    mode = fake_mode_of(graph_module.graph)
    for node in graph_module.graph.find_nodes(op="get_attr"):
        value = node.meta.get("val")
        if isinstance(value, FakeTensor) and value.fake_mode is not mode:
            tensor = attribute(graph_module, str(node.target))
            node.meta["val"] = mode.from_tensor(tensor.detach(), static_shapes=True)


def eliminate_dead_code(graph_module: GraphModule, ctx: CompileContext) -> None:
    """Remove nodes that nothing reads and that write nothing."""
    remove_unread(graph_module.graph)


def _match(graph_module: GraphModule, ctx: CompileContext) -> GraphModule:
    """Patterns, looked for in the graph as it was captured."""
    return match_patterns(graph_module, ctx, lambda pattern: functionalize(pattern, ctx))


def _match_lowered(graph_module: GraphModule, ctx: CompileContext) -> GraphModule:
    """Patterns, looked for as the passes before this one leave them and the graph."""
    passes = ordered_passes(ctx.registry.lowering_passes, ctx.settings.disabled_passes)

    def lowered(pattern: GraphModule) -> GraphModule:
        before = takewhile(lambda one: one.run is not _match_lowered, passes)
        return run_passes(pattern, [one for one in before if one.run is not _match], ctx)

    return match_patterns(graph_module, ctx, lowered)


def _lower_subgraphs(graph_module: GraphModule, ctx: CompileContext) -> None:
    """The graphs of higher-order ops, by the same passes but for patterns: theirs would have no way back."""
    passes = ordered_passes(ctx.registry.lowering_passes, ctx.settings.disabled_passes)
    inner = [one for one in passes if one.run not in (_match, _match_lowered)]
    lower_subgraphs(graph_module, ctx, lambda body: run_passes(body, inner, ctx))


CORE_PASSES = (
    LoweringPass("functionalize", functionalize, required=True),
    LoweringPass("match_patterns", _match, after=("functionalize",)),
    LoweringPass("match_lowered_patterns", _match_lowered, after=("match_patterns",)),
    LoweringPass("lower_subgraphs", _lower_subgraphs, after=("match_lowered_patterns",)),
    LoweringPass("decompose", decompose, after=("lower_subgraphs",), required=True),
    LoweringPass("eliminate_dead_code", eliminate_dead_code, after=("decompose",), required=True),
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

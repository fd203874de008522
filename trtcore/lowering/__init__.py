"""Lowering: named, ordered passes over the captured graph, ending in what the partitioner reads.

The core brings four passes, whose names packs can order theirs by: ``functionalize``, ``match_patterns``,
``decompose`` and ``eliminate_dead_code``. A pack's pass that names none of them runs between the first two. Every
pass can be turned off with ``settings.disabled_passes``.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from torch.fx import GraphModule

from trtcore.context import CompileContext
from trtcore.errors import PackError, TrtcoreError
from trtcore.frontend.program import Program
from trtcore.lowering.decompose import decompose
from trtcore.lowering.functionalize import functionalize
from trtcore.lowering.match import match_patterns
from trtcore.registry import LoweringPass

__all__ = ["CORE_PASSES", "lower", "ordered_passes"]


def lower(program: Program, ctx: CompileContext) -> Program:
    """Run all passes on the program's graph and return the program with the lowered graph.

    Raises:
        PackError: a pack's pass raised, or left a graph that does not hold together.
    """
    graph_module = program.graph_module
    for lowering_pass in ordered_passes(ctx.registry.lowering_passes, ctx.settings.disabled_passes):
        graph_module = _run(lowering_pass, graph_module, ctx)
    graph_module.graph.lint()
    return replace(program, graph_module=graph_module)


def eliminate_dead_code(graph_module: GraphModule, ctx: CompileContext) -> None:
    """Remove nodes that nothing reads and that write nothing."""
    graph_module.graph.eliminate_dead_code()


def _match(graph_module: GraphModule, ctx: CompileContext) -> GraphModule:
    """Patterns, looked for as the passes before this one leave them."""
    passes = ordered_passes(ctx.registry.lowering_passes, ctx.settings.disabled_passes)

    def lowered(pattern: GraphModule) -> GraphModule:
        for lowering_pass in takewhile(lambda one: one.run is not _match, passes):
            pattern = _run(lowering_pass, pattern, ctx)
        return pattern

    return match_patterns(graph_module, ctx, lowered)


CORE_PASSES = (
    LoweringPass("functionalize", functionalize),
    LoweringPass("match_patterns", _match, after=("functionalize",)),
    LoweringPass("decompose", decompose, after=("match_patterns", "functionalize")),
    LoweringPass("eliminate_dead_code", eliminate_dead_code, after=("decompose",)),
)


def ordered_passes(
    passes: Sequence[LoweringPass], disabled: frozenset[str] = frozenset()
) -> list[LoweringPass]:
    """The core's and the packs' passes in order: what ``before``/``after`` ask, else as contributed.

    Raises:
        PackError: a cycle; the message names the passes in it.
    """
    everything = [CORE_PASSES[0], *(_between(p) for p in passes), *CORE_PASSES[1:]]
    names = [p.name for p in everything]
    rank = {name: i for i, name in enumerate(names)}
    follows: dict[str, set[str]] = {name: set() for name in names}
    for item in everything:
        follows[item.name].update(name for name in item.after if name in rank)
        for name in item.before:
            if name in follows:
                follows[name].add(item.name)
    ready = [rank[name] for name in names if not follows[name]]
    heapq.heapify(ready)
    order: list[LoweringPass] = []
    users: dict[str, list[str]] = {}
    for name, before in follows.items():
        for other in before:
            users.setdefault(other, []).append(name)
    left = {name: len(before) for name, before in follows.items()}
    while ready:
        item = everything[heapq.heappop(ready)]
        order.append(item)
        for name in users.get(item.name, ()):
            left[name] -= 1
            if left[name] == 0:
                heapq.heappush(ready, rank[name])
    if len(order) != len(everything):
        stuck = sorted(name for name, count in left.items() if count > 0)
        raise PackError(
            f"lowering passes ask for an impossible order: {', '.join(stuck)}",
            advice="turn one of them off with disabled_passes",
        )
    return [item for item in order if item.name not in disabled]


def _between(lowering_pass: LoweringPass) -> LoweringPass:
    core = {p.name for p in CORE_PASSES}
    if core & {*lowering_pass.before, *lowering_pass.after}:
        return lowering_pass
    return replace(
        lowering_pass,
        after=(*lowering_pass.after, "functionalize"),
        before=(*lowering_pass.before, "match_patterns", "decompose"),
    )


def _run(lowering_pass: LoweringPass, graph_module: GraphModule, ctx: CompileContext) -> GraphModule:
    ctx.emit("lowering", "progress", name=lowering_pass.name)
    try:
        result = lowering_pass.run(graph_module, ctx)
    except TrtcoreError:
        raise
    except Exception as error:
        raise PackError(
            f"the lowering pass {lowering_pass.name!r} raised {type(error).__name__}: {error}",
            pack=str(getattr(lowering_pass, "pack", None) or "trtcore"),
            advice=f"turn it off with disabled_passes={{{lowering_pass.name!r}}}",
        ) from error
    if result is None:
        return graph_module
    if not isinstance(result, GraphModule):
        raise PackError(
            f"the lowering pass {lowering_pass.name!r} returned {type(result).__name__}, not a GraphModule or None",
            pack=str(getattr(lowering_pass, "pack", None) or "trtcore"),
        )
    return result

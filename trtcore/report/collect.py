"""Filling the Report from what the stages returned."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from trtcore._version import __version__
from trtcore.context import CompileContext
from trtcore.ir.facts import facts
from trtcore.ir.graphs import is_getitem, is_size, mutates
from trtcore.ir.program import profile_ranges
from trtcore.ir.provenance import module_path, op_name, source_line
from trtcore.packs.rules import modules_of
from trtcore.packs.selection import Selection
from trtcore.partition import Partition, Segment
from trtcore.report.advice import advice
from trtcore.report.costs import Costs
from trtcore.report.data import (
    CandidateReport,
    NodeReport,
    PackReport,
    PluginReport,
    QuarantineReport,
    Report,
    SegmentReport,
    StageTiming,
)
from trtcore.report.precisions import precisions

if TYPE_CHECKING:
    from trtcore.engine.builds import BuiltEngine
    from trtcore.engine.quarantine import Quarantined
    from trtcore.ir.program import Program, SymbolRange


def make_report(
    kind: str,
    program: Program,
    found: Partition,
    ctx: CompileContext,
    times: Mapping[str, float],
    engines: Mapping[str, BuiltEngine] | None,
    quarantined: Sequence[Quarantined],
    runtime: str,
    runtime_reason: str,
) -> Report:
    """The report of a compile, a dry run or an explain."""
    segments, where = _segments(found, engines)
    failed = {one.node.name for one in quarantined} & found.torch_reasons.keys()
    nodes = _nodes(program, found, where, failed, ctx, _layers(engines))
    graph = program.graph_module.graph
    backend = ctx.backend
    settings = ctx.settings
    profiles = profile_ranges(program.ranges)
    return Report(
        kind=kind,
        model=program.model_name,
        nodes=nodes,
        segments=segments,
        stages=tuple(StageTiming(name, seconds) for name, seconds in times.items()),
        quarantined=tuple(_quarantined(one, found) for one in quarantined),
        packs=_packs(ctx, nodes),
        plugins=_plugins(ctx, found, nodes),
        backend=backend.name if backend else None,
        backend_version=str(backend.version) if backend else "",
        no_backend_reason=ctx.no_backend_reason,
        target=ctx.target.name if ctx.target else "",
        runtime=runtime,
        runtime_reason=runtime_reason,
        symbols=_ranges(program.ranges),
        profiles=tuple(map(_ranges, profiles)) if len(profiles) > 1 else (),
        settings={name: getattr(settings, name) for name in sorted(settings.explicit)},
        rewrites=tuple(map(str, program.rewrites)),
        ties=tuple(str(tie) for tie in ctx.registry.ties),
        peak_memory_bytes=peak_memory(),
        trtcore_version=__version__,
        torch_version=torch.__version__,
        inputs=tuple(value_text(node) for node in graph.find_nodes(op="placeholder")),
        outputs=tuple(_output_text(node) for node in graph.output_node().all_input_nodes),
        modules=_modules(graph, where),
    )


def _modules(graph: torch.fx.Graph, where: Mapping[str, str]) -> dict[str, str]:
    """The class of each module that has ops, by its path."""
    found: dict[str, str] = {}
    for node in graph.nodes:
        if node.name in where:
            for path, kind in modules_of(node):
                name = kind if isinstance(kind, str) else kind.__qualname__
                found.setdefault(path, name.rpartition(".")[2])
    return found


@dataclasses.dataclass
class _Layers:
    """What a node became in an engine."""

    texts: list[str] = dataclasses.field(default_factory=list)
    formats: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        """Those of a `NodeReport`."""
        return {
            "layers": tuple(self.texts),
            "computes": "; ".join(dict.fromkeys(self.formats)),
            "note": "; ".join(dict.fromkeys(self.notes)),
        }


def _layers(engines: Mapping[str, BuiltEngine] | None) -> dict[tuple[str, str], _Layers]:
    """The layers of each node by engine and node; those of a cached engine are named as they were in its model."""
    found: dict[tuple[str, str], _Layers] = {}
    for name, engine in (engines or {}).items():
        network = engine.artifact.network() if engine.artifact is not None else None
        if network is None:
            continue
        formats = precisions(network)
        for layer in network.layers:
            try:
                known = json.loads(layer.metadata)
                node, note = known["node"], known.get("note", "")
            except (ValueError, TypeError, KeyError):  # one that is not of a node, or a long name alone
                node, note = layer.metadata, ""
            one = found.setdefault((name, node), _Layers())
            one.texts.append(f"{layer.type} {layer.name}")
            one.formats += [formats[layer.index]] if layer.index in formats else []
            one.notes += [note] if note else []
    return found


def _quarantined(one: Quarantined, found: Partition) -> QuarantineReport:
    selection = found.selections.get(one.node.name)
    candidates = selection.candidates if selection is not None else ()
    failed = next((c.converter for c in candidates if str(c.converter) == one.converter), None)
    return QuarantineReport(
        node=one.node.name,
        op=op_name(one.node.target),
        reason=one.reason,
        converter=failed.name if failed else "",
        pack=failed.source_version if failed else "",
        tensorrt=one.tensorrt,
        module_path=module_path(one.node),
        source=source_line(one.node),
        builds=one.builds,
    )


def _ranges(symbols: Mapping[str, SymbolRange]) -> dict[str, tuple[int, int, int]]:
    return {name: (r.min, r.opt, r.max) for name, r in symbols.items()}


def _segments(
    found: Partition, engines: Mapping[str, BuiltEngine] | None
) -> tuple[tuple[SegmentReport, ...], dict[str, str]]:
    """Every part in execution order, and the part that each node ended in."""
    parts: list[SegmentReport] = []
    where: dict[str, str] = {}
    run: list[Node] = []

    def close() -> None:
        if run:
            name = f"torch_{sum(part.kind == 'torch' for part in parts)}"
            for node in run:
                where.setdefault(node.name, name)  # a copy of what an engine computes too counts there
            parts.append(SegmentReport(name, "torch", ops=_count(run)))
            run.clear()

    for unit in found.order:
        if isinstance(unit, Node):
            run.append(unit)
            continue
        close()
        where.update(dict.fromkeys((node.name for node in unit.nodes), unit.name))
        parts.append(_engine(unit, engines))
    close()
    return tuple(parts), where


def _count(nodes: Sequence[Node]) -> int:
    """Ops among nodes, as the report lists them: a pattern is one."""
    return sum(1 for node in nodes if not is_getitem(node))


def _engine(segment: Segment, engines: Mapping[str, BuiltEngine] | None) -> SegmentReport:
    report = SegmentReport(
        segment.name,
        "tensorrt",
        ops=_count(segment.nodes),
        inputs=tuple(value_text(node) for node in segment.inputs),
        outputs=tuple(value_text(node) for node in segment.outputs),
    )
    engine = engines.get(segment.name) if engines is not None else None
    if engine is None:
        return report
    size = engine.artifact.plan.numel() if engine.artifact is not None else None
    return dataclasses.replace(
        report, layers=engine.layers, engine_bytes=size, build_seconds=engine.seconds,
        cached=engine.cached,
    )  # fmt: skip


def _nodes(
    program: Program,
    found: Partition,
    where: Mapping[str, str],
    quarantined: Set[str],
    ctx: CompileContext,
    layers: Mapping[tuple[str, str], _Layers],
) -> tuple[NodeReport, ...]:
    engines = {segment.name for segment in found.segments}
    small = set(found.small)
    costs = Costs(program.ranges)
    reports = []
    for node in program.graph_module.graph.nodes:
        if node.op != "call_function" or is_getitem(node) or node.name not in where:
            continue
        reason = found.torch_reasons.get(node.name, "")
        if not reason and where[node.name] not in engines:
            reason = "cheap, and needed in torch only"
        lost = ""
        if node.name in small:
            lost = "min_block_size"
        elif node.name in quarantined:
            lost = "quarantine"
        elif mutates(node):
            lost = "write_back"
        segment = where[node.name]
        selection = found.selections.get(node.name) or Selection(op_name(node.target))
        one = node_report(
            node,
            selection,
            segment=segment,
            in_engine=segment in engines,
            reason=reason,
            lost_to=lost,
        )
        if one.in_engine:
            more = layers.get((segment, node.name), _Layers()).fields()
        else:
            more = {"flops": costs.flops(node), "advice": advice(node, selection, lost, program, ctx)}
        reports.append(dataclasses.replace(one, bytes=costs.moved(node), **more))
    return tuple(reports)


def _packs(ctx: CompileContext, nodes: tuple[NodeReport, ...]) -> tuple[PackReport, ...]:
    used: dict[str, int] = {}
    for node in nodes:
        if node.in_engine:
            used[node.pack] = used.get(node.pack, 0) + 1
    return tuple(
        PackReport(pack.id, pack.version, pack.status, pack.error or "", used.get(str(pack), 0))
        for pack in ctx.registry.packs
    )


def _plugins(
    ctx: CompileContext, found: Partition, nodes: tuple[NodeReport, ...]
) -> tuple[PluginReport, ...]:
    """The kernel plugins of the model's ops: those in engines, and those that the backend has no layers for."""
    placed: dict[tuple[str, str, bool], list[int]] = {}
    without = ctx.backend is not None and not ctx.backend.has_plugins
    for node in nodes:
        selection = found.selections.get(node.name)
        chosen = selection.chosen if selection is not None else None
        for candidate in selection.candidates if selection is not None else ():
            one = candidate.converter
            taken = node.in_engine and one is chosen
            lacking = not node.in_engine and chosen is None and without and one.requires.plugins
            if one.plugin is not None and (taken or lacking):
                key = (one.plugin.name, one.source_version, one.plugin.deployable)
                placed.setdefault(key, [0, 0])[0 if taken else 1] += 1
    return tuple(PluginReport(*key, *counts) for key, counts in placed.items())


def node_report(
    node: Node,
    selection: Selection,
    *,
    segment: str = "",
    in_engine: bool = False,
    reason: str | None = None,
    lost_to: str = "",
) -> NodeReport:
    """The report of an fx node and the registry's selection for it.

    Args:
        node: the fx node; module path and source line are read from its meta.
        selection: what `ConverterRegistry.select` returned for it.
        segment: name of the segment that the node ended in.
        in_engine: whether that segment is an engine.
        reason: why the node is in torch; None takes the selection's own reason.
        lost_to: see the class.
    """
    if reason is None:
        reason = "" if in_engine else selection.reason
    chosen = selection.chosen
    return NodeReport(
        name=node.name,
        op=selection.target,
        in_engine=in_engine,
        segment=segment,
        converter=chosen.name if chosen is not None else "",
        pack=chosen.source_version if chosen is not None else "",
        reason=reason,
        lost_to=lost_to,
        module_path=module_path(node),
        source=source_line(node),
        candidates=tuple(
            CandidateReport(
                converter=candidate.converter.name,
                pack=candidate.converter.source_version,
                priority=int(candidate.converter.priority),
                verdict=candidate.verdict.outcome,
                reason=candidate.reason,
            )
            for candidate in selection.candidates
        ),
        sources=tuple(map(str, facts(node).sources)),
        inputs=tuple(dict.fromkeys(_maker(one).name for one in node.all_input_nodes if _is_value(one))),
        weights=tuple(_output_text(one) for one in node.all_input_nodes if _is_weight(one)),
        outputs=_results(node.meta.get("val")),
        precision=facts(node).precision,
    )


def _is_weight(node: Node) -> bool:
    return node.op == "get_attr"


def _is_value(node: Node) -> bool:
    return not _is_weight(node) and not is_size(node)


def _maker(node: Node) -> Node:
    """The op that makes a value: one of several results is its op's."""
    while is_getitem(node) and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


def _output_text(node: Node) -> str:
    """A value by the name of what makes it; of a weight, by the model's name."""
    name = str(node.target) if _is_weight(node) else _maker(node).name
    return f"{name}: {', '.join(_results(node.meta.get('val')))}".removesuffix(": ")


def _results(value: Any) -> tuple[str, ...]:
    """``float32[s0, 128]`` for every tensor of a value."""
    if isinstance(value, (list, tuple)):
        return tuple(text for item in value for text in _results(item))
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return (f"{str(value.dtype).removeprefix('torch.')}[{', '.join(map(str, value.shape))}]",)
    return (str(value),) if value is not None else ()


def value_text(node: Node) -> str:
    """A node's value for `SegmentReport.inputs`: ``x: float32[s0, 128]``; the name alone when unknown."""
    value: Any = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        return f"{node.name}: {_results(value)[0]}"
    return f"{node.name}: {value}" if type(value).__name__ == "SymInt" else node.name


def peak_memory() -> int | None:
    """The most memory this process ever had resident, in bytes; None where the platform cannot say."""
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None

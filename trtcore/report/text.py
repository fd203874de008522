"""A report as text for people: the summary, the whole, tables on a console, and the warning of a compile in vain."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtcore.errors import printable
from trtcore.report.records import NodeReport, PluginReport, QuarantineReport, ReportFields, SegmentReport

if TYPE_CHECKING:
    from rich.console import Console


def summary(report: ReportFields) -> str:
    """The few lines a person wants first."""
    lines = [counts(report), *(f"{name}: {value}" for name, value in facts(report))]
    if report.fallbacks():
        lines.append(f"in torch: {report.fallbacks()[0]}")
        if len(report.fallbacks()) > 1:
            lines.append(f"  and {len(report.fallbacks()) - 1} more reasons: print(report)")
    return printable("\n".join(lines))


def text(report: ReportFields, *, verbose: bool = False) -> str:
    """The whole report as plain text; `verbose` adds every op with its candidates."""
    blocks = [_header(report)]
    for section in _sections(report, verbose=verbose):
        blocks.append("\n".join([section.title, *("  " + line for line in section.lines())]))
    return printable("\n\n".join(blocks))


def render(report: ReportFields, console: Console | None = None, *, verbose: bool = False) -> None:
    """Print the report to a rich console, with tables."""
    from rich.console import Console
    from rich.markup import escape as markup
    from rich.table import Table

    def escape(line: str) -> str:
        return markup(printable(line))

    console = console or Console()
    first, *rest = _header(report).splitlines()
    console.print(f"[bold]{escape(first)}[/bold]")
    for line in rest:
        console.print(escape(line), highlight=False, soft_wrap=True)
    for section in _sections(report, verbose=verbose):
        console.print(f"\n[bold]{escape(section.title)}[/bold]")
        if not section.columns:
            for (line,) in section.rows:
                console.print("  " + escape(line), highlight=False, soft_wrap=True)
            continue
        table = Table(box=None, pad_edge=True, header_style="dim")
        for column in section.columns:
            table.add_column(column, justify="right" if column in _NUMERIC else "left", overflow="fold")
        for row in section.rows:
            table.add_row(*(escape(cell) for cell in row))
        console.print(table)


def no_engine_warning(report: ReportFields) -> str | None:
    """Why a compile made no engine, and what changes that; None where it made one, or there was nothing to take."""
    if report.engines or not report.in_torch:
        return None
    reasons = report.fallbacks()
    lines = [
        f"no engine was made: all {len(report.in_torch)} ops run in torch",
        "" if report.backend else f"no backend: {report.no_backend_reason or 'no backend took part'}",
        _small(report),
        *map(str, reasons[:3]),
        f"and {len(reasons) - 3} more reasons" if len(reasons) > 3 else "",
        _failed(report),
        *_advice(report),
        "print(report) has every op, and why",
    ]
    return "\n  ".join(filter(None, lines))


def _small(report: ReportFields) -> str:
    lost = report.lost("min_block_size")
    if not lost:
        return ""
    count = sum(group.count for group in lost)
    ops = ", ".join(dict.fromkeys(group.op for group in lost))
    return f"{count} could be in engines, and are in segments below min_block_size ({ops}): min_block_size=1 takes them"


def _advice(report: ReportFields) -> list[str]:
    """Settings that would take what stays in torch."""
    double = any("float64" in group.reason for group in report.fallbacks())
    if double and not report.settings.get("truncate_double"):
        return ["truncate_double=True computes what is float64 in float32, in engines"]
    return []


def _failed(report: ReportFields) -> str:
    count = len(report.quarantined)
    return f"{count} went back to torch after a failure: {report.quarantined[0].reason}" if count else ""


# -- piece by piece --------------------------------------------------------------------------------------

_NUMERIC = frozenset({"ops", "layers", "engine", "build", "seconds", "share"})


@dataclass(frozen=True)
class _Section:
    """A titled table (`columns` non-empty) or a titled list of lines (one cell a row)."""

    title: str
    rows: Sequence[tuple[str, ...]]
    columns: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        if not self.columns:
            return [row[0] for row in self.rows]
        return format_table(self.columns, self.rows, _NUMERIC)


def _table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> _Section:
    """A table without the columns in which every cell is empty."""
    kept = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    return _Section(title, [tuple(row[i] for i in kept) for row in rows], tuple(columns[i] for i in kept))


def _header(report: ReportFields) -> str:
    title = f"trtcore {report.kind}" + (f": {report.model}" if report.model else "")
    known = facts(report)
    width = max((len(name) for name, _ in known), default=0)
    lines = [title, f"  {counts(report)}", *(f"  {name.ljust(width)}  {value}" for name, value in known)]
    return "\n".join(lines)


def counts(report: ReportFields) -> str:
    """``12 of 15 ops in 2 engines, 3 in torch, 4 segments``."""
    engines = len(report.engines)
    outside, inside, writes = len(report.in_torch), len(report.converted), len(report.written_back)
    return (
        f"{inside} of {inside + outside} ops in {engines} engine{'' if engines == 1 else 's'}, "
        f"{outside} in torch, {len(report.segments)} segment{'' if len(report.segments) == 1 else 's'}"
        + (f", {writes} written back" if writes else "")
    )


def facts(report: ReportFields) -> list[tuple[str, str]]:
    """What a compile had at hand and what it took: names and values, for people."""
    found: list[tuple[str, str]] = []
    if report.backend:
        target = f", target {report.target}" if report.target else ""
        found.append(("backend", f"{report.backend} {report.backend_version}".strip() + target))
    else:
        found.append(("backend", f"none: {report.no_backend_reason or 'no backend took part'}"))
    if report.runtime:
        why = f": {report.runtime_reason}" if report.runtime_reason else ""
        found.append(("runtime", report.runtime + why))
    if report.engine_bytes:
        found.append(("engines", format_bytes(report.engine_bytes)))
    if report.stages:
        stages = ", ".join(f"{stage.name} {format_seconds(stage.seconds)}" for stage in report.stages)
        found.append(("time", f"{format_seconds(report.seconds)} ({stages})"))
    if report.peak_memory_bytes:
        found.append(("peak memory", format_bytes(report.peak_memory_bytes)))
    for index, symbols in enumerate(report.profiles or [report.symbols] * bool(report.symbols)):
        ranges = (f"{name} {low}..{high} (opt {opt})" for name, (low, opt, high) in symbols.items())
        found.append((f"profile {index}" if report.profiles else "dynamic", ", ".join(ranges)))
    if report.settings:
        found.append(("settings", ", ".join(f"{name}={value!r}" for name, value in report.settings.items())))
    return found


def _sections(report: ReportFields, *, verbose: bool) -> list[_Section]:
    sections = []
    if report.segments:
        rows = [_segment_row(segment) for segment in report.segments]
        columns = ("segment", "kind", "ops", "layers", "engine", "build", "inputs", "outputs")
        sections.append(_table("Segments", columns, rows))
    if report.fallbacks():
        lines = [(line,) for line in (*map(str, report.fallbacks()), *_advice(report))]
        sections.append(_Section("In torch, and why", lines))
    for cause in dict.fromkeys(node.lost_to for node in report.in_torch if node.lost_to):
        if cause != "quarantine":
            sections.append(_Section(f"Lost to {cause}", [(str(group),) for group in report.lost(cause)]))
    if report.kept_precise():
        lines = [(str(group),) for group in report.kept_precise()]
        sections.append(_Section("Not lowered by autocast, and the rule", lines))
    if len({group.reason for group in report.precisions()}) > 1 or _is_quantised(report):
        lines = [(str(group),) for group in report.precisions()]
        sections.append(_Section("Number formats of products, as TensorRT is given them", lines))
    if report.noted():
        sections.append(_Section("Computed in another way", [(str(group),) for group in report.noted()]))
    if report.written_back:
        sections.append(_Section("Written back", [(str(group),) for group in report.lost("write_back")]))
    if report.quarantined:
        lines = [(line,) for item in report.quarantined for line in _quarantine_lines(item)]
        sections.append(_Section("Quarantined: back to torch after a failure", lines))
    if report.plugins:
        lines = [(line,) for plugin in report.plugins for line in plugin_lines(plugin, report.backend)]
        sections.append(_Section("Kernel plugins", lines))
    if report.packs:
        rows = [(pack.name, pack.version, pack.status, str(pack.ops), pack.error) for pack in report.packs]
        sections.append(_table("Packs", ("pack", "version", "status", "ops", "problem"), rows))
    if report.ties:
        sections.append(_Section("Ties between packs", [(tie,) for tie in report.ties]))
    if report.warnings:
        sections.append(_Section("Warnings", [(warning,) for warning in report.warnings]))
    if verbose and report.rewrites:
        sections.append(_Section("Rewritten by lowering", [(rewrite,) for rewrite in report.rewrites]))
    if verbose and report.nodes:
        sections.append(_Section("Ops", [(line,) for node in report.nodes for line in _node_lines(node)]))
    return sections


def _is_quantised(report: ReportFields) -> bool:
    return any(
        not group.reason.startswith(("float32", "float16", "bfloat16")) for group in report.precisions()
    )


def _segment_row(segment: SegmentReport) -> tuple[str, ...]:
    size = "" if segment.engine_bytes is None else format_bytes(segment.engine_bytes)
    built = "" if segment.build_seconds is None else format_seconds(segment.build_seconds)
    return (
        segment.name,
        segment.kind + (" (cached)" if segment.cached else ""),
        str(segment.ops),
        "" if segment.layers is None else str(segment.layers),
        size,
        built,
        _shortened(segment.inputs),
        _shortened(segment.outputs),
    )


def _shortened(items: tuple[str, ...], limit: int = 3) -> str:
    more = f", and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def _quarantine_lines(item: QuarantineReport) -> list[str]:
    place = NodeReport(item.node, item.op, module_path=item.module_path, source=item.source).place
    whose = f" [{item.converter} of {item.pack}]" if item.converter else ""
    lines = [f"{item.op} at {place}{whose}: {item.reason}"]
    return lines + [f"  TensorRT: {line}" for line in item.tensorrt]


def plugin_lines(plugin: PluginReport, backend: str | None) -> list[str]:
    """What a report says of a kernel plugin."""
    lines = []
    if plugin.ops:
        outside = "" if plugin.deployable else "; a Python callback: the engine does not run outside Python"
        lines.append(f"{plugin.name} of {plugin.pack}: {plugin.ops} x in an engine{outside}")
    if plugin.in_torch:
        lines.append(
            f"{plugin.name} of {plugin.pack}: {plugin.in_torch} x in torch, for {backend} has no plugin layers; with a "
            "backend that has them (tensorrt) the op would not end an engine"
        )
    return lines


def _node_lines(node: NodeReport) -> list[str]:
    fate = node.segment or ("engine" if node.in_engine else "torch")
    who = f"{node.converter} of {node.pack}" if node.in_engine else f"torch: {node.reason}"
    lines = [f"{node.name} ({node.op}) at {node.place} -> {fate}: {who}"]
    if node.sources:
        lines.append(f"    stands for {', '.join(node.sources)}")
    if node.precision:
        lines.append(f"    not lowered by autocast: {node.precision}")
    if node.computes:
        lines.append(f"    multiplies {node.computes}")
    if node.note:
        lines.append(f"    {node.note}")
    lines += [
        f"    {candidate.verdict}: {candidate.converter} of {candidate.pack}, priority {candidate.priority}"
        + (f": {candidate.reason}" if candidate.reason else "")
        for candidate in node.candidates
    ]
    return lines


def format_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Collection[str] = ()
) -> list[str]:
    """A header and rows of text as lines of aligned columns; those named in `numeric` to the right."""
    table = [columns, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(columns))]
    return [
        "  ".join(
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ).rstrip()
        for row in table
    ]


def format_bytes(count: int) -> str:
    """Bytes for a person: ``87.3 MiB``."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """Seconds for a person: ``12 ms``, ``3.4 s``, ``2 min 5 s``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"

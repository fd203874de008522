"""What every compile and every explain returns: plain, frozen values, and their text and JSON.

A `Report` is filled by the compiler and read by people (`str(report)`, `report.summary()`,
`report.render(console)`), by tools (`report.to_json()`, schema 1) and by tests (the attributes). It holds
no tensor and no graph, so keeping it costs nothing, and it can be pickled and copied.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from torch import fx

    from trtcore.packs.selection import Selection

SCHEMA = 1

REFERENCE_NOTE = (
    "TensorRT built this engine; the numbers below are from the reference runtime, no TensorRT kernel ran"
)


@dataclass(frozen=True)
class CandidateReport:
    """A converter that could have taken a node, and what became of it.

    Attributes:
        converter: the function's qualified name.
        pack: ``distribution:name version``, or the scope for converters outside packs.
        priority: the converter's priority.
        verdict: "chosen", "shadowed" or "rejected".
        reason: why it lost; "" when chosen.
    """

    converter: str
    pack: str = ""
    priority: int = 0
    verdict: str = "chosen"
    reason: str = ""


@dataclass(frozen=True)
class NodeReport:
    """One op of the lowered graph.

    Attributes:
        name: the fx node's name.
        op: the target, as ``aten.gelu.default``.
        in_engine: whether a TensorRT engine computes it.
        segment: name of the segment it is in.
        converter: the chosen converter's name, "" when none was. Set too when the op has a converter and
            still runs in torch (see `lost_to`).
        pack: the chosen converter's pack.
        reason: why the op runs in torch; "" when it is in an engine.
        lost_to: what took a convertible op out of an engine: "min_block_size", "quarantine", ...; "write_back" for
            a copy into a buffer or an input of the model, which computes nothing; else "".
        module_path: where in the user's model, as ``encoder.layer.0.attention``.
        source: file and line in the user's code, as ``/home/me/model.py:12``.
        candidates: every converter that was considered, best first.
        sources: of a pattern, the captured graph's ops that it stands for, as ``mul (aten.mul.Tensor)``.
    """

    name: str
    op: str
    in_engine: bool = False
    segment: str = ""
    converter: str = ""
    pack: str = ""
    reason: str = ""
    lost_to: str = ""
    module_path: str = ""
    source: str = ""
    candidates: tuple[CandidateReport, ...] = ()
    sources: tuple[str, ...] = ()

    @classmethod
    def from_selection(
        cls,
        node: fx.Node,
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
        from trtcore.ir.facts import facts
        from trtcore.ir.provenance import module_path, source_line

        chosen = selection.chosen
        return cls(
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
        )

    @property
    def place(self) -> str:
        """``module.path (file.py:12)``, as much of it as is known; the node's name when nothing is."""
        source = _short_path(self.source)
        if self.module_path and source:
            return f"{self.module_path} ({source})"
        return self.module_path or source or self.name


@dataclass(frozen=True)
class SegmentReport:
    """One partition of the hybrid graph, in execution order.

    Attributes:
        name: the submodule's name.
        kind: "tensorrt" or "torch".
        ops: number of ops in it.
        inputs: its inputs as text, ``x: float32[s0, 128]``.
        outputs: its outputs, the same way.
        layers: TensorRT layers in the network; None where none was built.
        engine_bytes: size of the plan in bytes; None where none was built.
        build_seconds: conversion and build of this segment; None where none was built.
        reason: for a torch segment, a word on why it exists.
        cached: the engine came from the engine cache.
    """

    name: str
    kind: str
    ops: int = 0
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    layers: int | None = None
    engine_bytes: int | None = None
    build_seconds: float | None = None
    reason: str = ""
    cached: bool = False


@dataclass(frozen=True)
class StageTiming:
    """Seconds of wall clock spent in one stage ("export", "lowering", "partition", "conversion", "build")."""

    name: str
    seconds: float


@dataclass(frozen=True)
class QuarantineReport:
    """A node whose converter failed or whose layers TensorRT refused, and that went back to torch.

    Attributes:
        node: the fx node's name.
        op: its target.
        reason: what went wrong, one line.
        converter, pack: whose code was at work.
        tensorrt: TensorRT's own log lines.
        module_path, source: where in the user's model.
        builds: how many builds it took to find the node.
    """

    node: str
    op: str
    reason: str
    converter: str = ""
    pack: str = ""
    tensorrt: tuple[str, ...] = ()
    module_path: str = ""
    source: str = ""
    builds: int = 0


@dataclass(frozen=True)
class PackReport:
    """A pack as this compile saw it.

    Attributes:
        name: ``distribution:name``.
        version: the distribution's version.
        status: "loaded", "disabled", "failed", "incompatible" or "not imported".
        error: what went wrong; "" when loaded.
        ops: how many ops of this model its converters took into engines.
    """

    name: str
    version: str = ""
    status: str = "loaded"
    error: str = ""
    ops: int = 0


@dataclass(frozen=True)
class PluginReport:
    """A kernel plugin that this model's ops have.

    Attributes:
        name: the op's qualified name, ``"namespace::op"``.
        pack: whose it is.
        deployable: whether engines with it run outside Python.
        ops: how many ops it computes in engines.
        in_torch: how many ops it would compute if the backend had plugin layers; they run in torch between engines.
    """

    name: str
    pack: str = ""
    deployable: bool = False
    ops: int = 0
    in_torch: int = 0

    def lines(self, backend: str | None) -> list[str]:
        """What a person reads about it."""
        lines = []
        if self.ops:
            outside = "" if self.deployable else "; a Python callback: the engine does not run outside Python"
            lines.append(f"{self.name} of {self.pack}: {self.ops} x in an engine{outside}")
        if self.in_torch:
            lines.append(
                f"{self.name} of {self.pack}: {self.in_torch} x in torch, for {backend} has no plugin layers; with a "
                "backend that has them (tensorrt) the op would not end an engine"
            )
        return lines


@dataclass(frozen=True)
class FallbackGroup:
    """Ops of one kind that run in torch for one reason."""

    op: str
    reason: str
    nodes: tuple[NodeReport, ...]

    @property
    def count(self) -> int:
        return len(self.nodes)

    def __str__(self) -> str:
        first = self.nodes[0]
        return f"{self.count} x {self.op}: {self.reason or 'no reason given'}; first at {first.place}"


@dataclass(frozen=True)
class Report:
    """What a compile did, or what it would do.

    Attributes:
        kind: "compile", "explain" or "dryrun".
        model: the model's class or file name.
        nodes: every op of the lowered graph, in graph order.
        segments: the hybrid graph's parts, in execution order.
        stages: wall clock of each stage, in order.
        quarantined: nodes that went back to torch after a failure.
        packs: the packs this compile saw.
        plugins: the kernel plugins that this model's ops have.
        backend, backend_version: TensorRT flavour; None when there is none (`no_backend_reason`).
        target: what engines are built for, as text.
        runtime, runtime_reason: "native", "reference" or "", and why it was taken.
        symbols: dynamic dimension name -> (min, opt, max); with several optimisation profiles what spans them.
        profiles: the same for each of several optimisation profiles; empty when there is one, or none.
        settings: the settings that the user set, as plain values.
        ties: third-party packs with equal claims to an op, one sentence each.
        warnings: other things that a person should know.
        peak_memory_bytes: most host memory that the process had resident up to the end; None if unknown.
        trtcore_version, torch_version: versions at work.
    """

    kind: str = "compile"
    model: str = ""
    nodes: tuple[NodeReport, ...] = ()
    segments: tuple[SegmentReport, ...] = ()
    stages: tuple[StageTiming, ...] = ()
    quarantined: tuple[QuarantineReport, ...] = ()
    packs: tuple[PackReport, ...] = ()
    plugins: tuple[PluginReport, ...] = ()
    backend: str | None = None
    backend_version: str = ""
    no_backend_reason: str = ""
    target: str = ""
    runtime: str = ""
    runtime_reason: str = ""
    symbols: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    profiles: tuple[Mapping[str, tuple[int, int, int]], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    ties: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    peak_memory_bytes: int | None = None
    trtcore_version: str = ""
    torch_version: str = ""

    def __post_init__(self) -> None:
        # Settings may hold functions, dtypes, devices: a report is plain, so that it pickles and compares.
        object.__setattr__(self, "settings", _plain(self.settings))

    # -- reading it ---------------------------------------------------------------------------------

    @property
    def engines(self) -> tuple[SegmentReport, ...]:
        """The TensorRT segments."""
        return tuple(segment for segment in self.segments if segment.kind == "tensorrt")

    @property
    def engine_bytes(self) -> int:
        """Size of all plans together, in bytes."""
        return sum(segment.engine_bytes or 0 for segment in self.segments)

    @property
    def converted(self) -> tuple[NodeReport, ...]:
        """The ops that engines compute."""
        return tuple(node for node in self.nodes if node.in_engine)

    @property
    def in_torch(self) -> tuple[NodeReport, ...]:
        """The ops that stay in torch."""
        return tuple(node for node in self.nodes if not node.in_engine and node.lost_to != "write_back")

    @property
    def written_back(self) -> tuple[NodeReport, ...]:
        """Copies of results into buffers and inputs that the model changes. They are no ops of the model."""
        return tuple(node for node in self.nodes if node.lost_to == "write_back")

    @property
    def fully_converted(self) -> bool:
        """True when engines compute every op (what is only written back aside)."""
        return not self.in_torch

    @property
    def seconds(self) -> float:
        """Wall clock of all stages together."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def runtime_note(self) -> str:
        """The sentence that must stand above numbers no TensorRT kernel made; "" where one did."""
        return REFERENCE_NOTE if self.runtime == "reference" and self.engine_bytes else ""

    def fallbacks(self) -> tuple[FallbackGroup, ...]:
        """Ops in torch that no converter took, grouped by op and reason, the most frequent first."""
        return _groups(node for node in self.nodes if not node.in_engine and not node.lost_to)

    def lost(self, to: str = "min_block_size") -> tuple[FallbackGroup, ...]:
        """Ops that have a converter and run in torch all the same, for the reason `to`."""
        return _groups(node for node in self.nodes if not node.in_engine and node.lost_to == to)

    # -- text ---------------------------------------------------------------------------------------

    def summary(self) -> str:
        """The few lines a person wants first."""
        lines = [_counts(self), *(f"{name}: {value}" for name, value in _facts(self))]
        if self.fallbacks():
            lines.append(f"in torch: {self.fallbacks()[0]}")
            if len(self.fallbacks()) > 1:
                lines.append(f"  and {len(self.fallbacks()) - 1} more reasons: print(report)")
        return "\n".join(lines)

    def text(self, *, verbose: bool = False) -> str:
        """The whole report as plain text; `verbose` adds every op with its candidates."""
        blocks = [_header(self)]
        for section in _sections(self, verbose=verbose):
            blocks.append("\n".join([section.title, *("  " + line for line in section.lines())]))
        return "\n\n".join(blocks)

    def __str__(self) -> str:
        return self.text()

    def render(self, console: Console | None = None, *, verbose: bool = False) -> None:
        """Print the report to a rich console, with tables."""
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        console = console or Console()
        first, *rest = _header(self).splitlines()
        console.print(f"[bold]{escape(first)}[/bold]")
        for line in rest:
            console.print(escape(line), highlight=False, soft_wrap=True)
        for section in _sections(self, verbose=verbose):
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

    # -- JSON ---------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the first key is ``schema``. Fields may be added within a schema, never changed."""
        return {
            "schema": SCHEMA,
            **{item.name: _plain(getattr(self, item.name)) for item in dataclasses.fields(self)},
            "totals": {
                "ops": len(self.nodes) - len(self.written_back),
                "ops_in_engines": len(self.converted),
                "engines": len(self.engines),
                "engine_bytes": self.engine_bytes,
                "seconds": self.seconds,
            },
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read `to_json` back.

        Raises:
            ArtifactError: it is not a report, or one of another schema.
        """
        from trtcore.errors import ArtifactError

        try:
            data = json.loads(text)
            schema = data["schema"]
        except (ValueError, TypeError, KeyError) as error:
            raise ArtifactError(f"this is not a trtcore report: {error!r}") from error
        if schema != SCHEMA:
            raise ArtifactError(
                f"this report has schema {schema!r}, this version of trtcore reads {SCHEMA}",
                advice="read it with the trtcore that wrote it",
            )
        try:
            report: Report = _from_plain(cls, data)
        except (TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"this report is damaged: {error}") from error
        return report


# -- what fills it ------------------------------------------------------------------------------------


def value_text(node: fx.Node) -> str:
    """A node's value for `SegmentReport.inputs`: ``x: float32[s0, 128]``; the name alone when unknown."""
    value: Any = node.meta.get("val")
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{node.name}: {dtype}[{', '.join(map(str, value.shape))}]"
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


def _short_path(source: str) -> str:
    """``file:line`` without what every file of an environment, or of this directory, begins with."""
    _, found, rest = source.rpartition("site-packages" + os.sep)
    return rest if found else source.removeprefix(os.getcwd() + os.sep)


def _groups(nodes: Iterable[NodeReport]) -> tuple[FallbackGroup, ...]:
    groups: dict[tuple[str, str], list[NodeReport]] = {}
    for node in nodes:
        groups.setdefault((node.op, node.reason), []).append(node)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return tuple(FallbackGroup(op, reason, tuple(members)) for (op, reason), members in ordered)


# -- text, piece by piece -------------------------------------------------------------------------------

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


def _header(report: Report) -> str:
    title = f"trtcore {report.kind}" + (f": {report.model}" if report.model else "")
    facts = _facts(report)
    width = max((len(name) for name, _ in facts), default=0)
    lines = [title, f"  {_counts(report)}", *(f"  {name.ljust(width)}  {value}" for name, value in facts)]
    return "\n".join(lines)


def _counts(report: Report) -> str:
    engines = len(report.engines)
    outside, inside, writes = len(report.in_torch), len(report.converted), len(report.written_back)
    return (
        f"{inside} of {inside + outside} ops in {engines} engine{'' if engines == 1 else 's'}, "
        f"{outside} in torch, {len(report.segments)} segment{'' if len(report.segments) == 1 else 's'}"
        + (f", {writes} written back" if writes else "")
    )


def _facts(report: Report) -> list[tuple[str, str]]:
    facts = []
    if report.backend:
        target = f", target {report.target}" if report.target else ""
        facts.append(("backend", f"{report.backend} {report.backend_version}".strip() + target))
    else:
        facts.append(("backend", f"none: {report.no_backend_reason or 'no backend took part'}"))
    if report.runtime:
        why = f": {report.runtime_reason}" if report.runtime_reason else ""
        facts.append(("runtime", report.runtime + why))
    if report.engine_bytes:
        facts.append(("engines", format_bytes(report.engine_bytes)))
    if report.stages:
        stages = ", ".join(f"{stage.name} {format_seconds(stage.seconds)}" for stage in report.stages)
        facts.append(("time", f"{format_seconds(report.seconds)} ({stages})"))
    if report.peak_memory_bytes:
        facts.append(("peak memory", format_bytes(report.peak_memory_bytes)))
    for index, symbols in enumerate(report.profiles or [report.symbols] * bool(report.symbols)):
        ranges = (f"{name} {low}..{high} (opt {opt})" for name, (low, opt, high) in symbols.items())
        facts.append((f"profile {index}" if report.profiles else "dynamic", ", ".join(ranges)))
    if report.settings:
        facts.append(("settings", ", ".join(f"{name}={value!r}" for name, value in report.settings.items())))
    return facts


def _sections(report: Report, *, verbose: bool) -> list[_Section]:
    sections = []
    if report.segments:
        rows = [_segment_row(segment) for segment in report.segments]
        columns = ("segment", "kind", "ops", "layers", "engine", "build", "inputs", "outputs")
        sections.append(_table("Segments", columns, rows))
    if report.fallbacks():
        sections.append(_Section("In torch, and why", [(str(group),) for group in report.fallbacks()]))
    for cause in dict.fromkeys(node.lost_to for node in report.in_torch if node.lost_to):
        if cause != "quarantine":
            sections.append(_Section(f"Lost to {cause}", [(str(group),) for group in report.lost(cause)]))
    if report.written_back:
        sections.append(_Section("Written back", [(str(group),) for group in report.lost("write_back")]))
    if report.quarantined:
        lines = [(line,) for item in report.quarantined for line in _quarantine_lines(item)]
        sections.append(_Section("Quarantined: back to torch after a failure", lines))
    if report.plugins:
        lines = [(line,) for plugin in report.plugins for line in plugin.lines(report.backend)]
        sections.append(_Section("Kernel plugins", lines))
    if report.packs:
        rows = [(pack.name, pack.version, pack.status, str(pack.ops), pack.error) for pack in report.packs]
        sections.append(_table("Packs", ("pack", "version", "status", "ops", "problem"), rows))
    if report.ties:
        sections.append(_Section("Ties between packs", [(tie,) for tie in report.ties]))
    if report.warnings:
        sections.append(_Section("Warnings", [(warning,) for warning in report.warnings]))
    if verbose and report.nodes:
        sections.append(_Section("Ops", [(line,) for node in report.nodes for line in _node_lines(node)]))
    return sections


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


def _node_lines(node: NodeReport) -> list[str]:
    fate = node.segment or ("engine" if node.in_engine else "torch")
    who = f"{node.converter} of {node.pack}" if node.in_engine else f"torch: {node.reason}"
    lines = [f"{node.name} ({node.op}) at {node.place} -> {fate}: {who}"]
    if node.sources:
        lines.append(f"    stands for {', '.join(node.sources)}")
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


# -- JSON, piece by piece -------------------------------------------------------------------------------

_T = TypeVar("_T")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item) for item in value), key=str)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


_ELEMENTS: dict[str, type] = {
    "nodes": NodeReport,
    "segments": SegmentReport,
    "stages": StageTiming,
    "quarantined": QuarantineReport,
    "packs": PackReport,
    "plugins": PluginReport,
    "candidates": CandidateReport,
}


def _from_plain(cls: type[_T], data: Mapping[str, Any]) -> _T:
    """A report dataclass from its plain form; keys of a newer minor version are ignored."""
    values: dict[str, Any] = {}
    for name in (item.name for item in dataclasses.fields(cls)):  # type: ignore[arg-type]
        if name not in data:
            continue
        value = data[name]
        element = _ELEMENTS.get(name)
        if element is not None:
            value = tuple(_from_plain(element, item) for item in value)
        elif name == "symbols":
            value = _ranges(value)
        elif name == "profiles":
            value = tuple(map(_ranges, value))
        elif isinstance(value, list):
            value = tuple(value)
        values[name] = value
    return cls(**values)


def _ranges(value: Mapping[str, Any]) -> dict[str, tuple[int, int, int]]:
    return {key: (int(low), int(opt), int(high)) for key, (low, opt, high) in value.items()}

"""The rows of a report, and its fields: plain, frozen values.

They hold no tensor and no graph, so keeping them costs nothing, and they can be pickled and copied.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

REFERENCE_NOTE = (
    "TensorRT built this engine; the numbers below are from the reference runtime, no TensorRT kernel ran"
)


FLOPS_PER_BYTE = 100
"""Where costs are compared: an H200 computes 495 TFLOP/s in TF32 and moves 4.8 TB/s."""


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
        inputs: names of the ops and model inputs whose values it takes, in order, each once.
        weights: the weights and constants that it takes, as ``fc.weight: float32[8, 8]``.
        outputs: its results, as ``float32[s0, 8]``; a pattern of several results has several.
        layers: the TensorRT layers that it became, as ``MATRIX_MULTIPLY fc/aten.linear.default/linear/0``; empty where
            no network was made.
        bytes: estimate of what it reads and writes at opt sizes, in bytes; 0 for a view, None where a size is unknown.
        flops: estimate of its floating-point operations at opt sizes, where it is in torch and torch has a formula
            for its op; else None.
        advice: the one thing that would change where it runs; "" where nothing is known to.
        precision: the rule that keeps it in the model's dtype where autocast lowers others; "" where none does.
        computes: of convolutions, matrix products and attention in an engine: the number format of what they multiply,
            as ``float32``, ``int8`` (both sides) or ``float16, weights int4``; else "".
        note: what its converter says of how it is computed; "" where it says nothing.
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
    inputs: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    bytes: int | None = None
    flops: int | None = None
    advice: str = ""
    precision: str = ""
    computes: str = ""
    note: str = ""

    @property
    def cost(self) -> float:
        """What it costs, in bytes moved: a GPU does some 100 floating-point operations while it moves a byte."""
        return max(self.bytes or 0, (self.flops or 0) / FLOPS_PER_BYTE)

    @property
    def place(self) -> str:
        """``module.path (file.py:12)``, as much of it as is known; the node's name when nothing is."""
        source = short_path(self.source)
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


@dataclass(frozen=True)
class FallbackGroup:
    """Ops of one kind that something is said of for one reason: they run in torch, say."""

    op: str
    reason: str
    nodes: tuple[NodeReport, ...]

    @property
    def count(self) -> int:
        return len(self.nodes)

    @property
    def cost(self) -> float:
        """What its ops cost together, see `NodeReport.cost`."""
        return sum(node.cost for node in self.nodes)

    @property
    def advice(self) -> str:
        """The one thing that would change where its ops run; "" where nothing is known to."""
        return next((node.advice for node in self.nodes if node.advice), "")

    def __str__(self) -> str:
        first = self.nodes[0]
        return f"{self.count} x {self.op}: {self.reason or 'no reason given'}; first at {first.place}"


@dataclass(frozen=True)
class ReportFields:
    """The fields of a `Report`, and the questions that its text and its readers ask of them.

    Attributes:
        kind: "compile", "explain" or "dryrun".
        model: the model's class or file name.
        nodes: every op of the lowered graph, in graph order.
        inputs, outputs: the model's, as ``x: float32[s0, 128]``. The name of an output is that of the op or input
            whose value it is.
        modules: the class of each module that has ops, by its path.
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
        rewrites: what lowering put other nodes for: rule, place in the model, nodes, and what is there now.
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
    rewrites: tuple[str, ...] = ()
    ties: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    peak_memory_bytes: int | None = None
    trtcore_version: str = ""
    torch_version: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    modules: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Settings may hold functions, dtypes, devices: a report is plain, so that it pickles and compares.
        object.__setattr__(self, "settings", plain(self.settings))

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

    def kept_precise(self) -> tuple[FallbackGroup, ...]:
        """Ops that autocast left in the model's dtype, by op and the rule that keeps them, the most frequent first."""
        return _groups((node for node in self.nodes if node.precision), lambda node: node.precision)

    def precisions(self) -> tuple[FallbackGroup, ...]:
        """Convolutions, matrix products and attention in engines, by op and the number format of what they multiply."""
        return _groups((node for node in self.nodes if node.computes), lambda node: node.computes)

    def noted(self) -> tuple[FallbackGroup, ...]:
        """Ops whose converters say that they are computed in another way than asked, by op and reason."""
        return _groups((node for node in self.nodes if node.note), lambda node: node.note)

    def costliest(self) -> tuple[FallbackGroup, ...]:
        """All ops in torch, grouped by op and reason, what costs the most first."""
        return tuple(sorted(_groups(self.in_torch), key=lambda group: -group.cost))

    def lost(self, to: str = "min_block_size") -> tuple[FallbackGroup, ...]:
        """Ops that have a converter and run in torch all the same, for the reason `to`."""
        return _groups(node for node in self.nodes if not node.in_engine and node.lost_to == to)


def short_path(source: str) -> str:
    """A ``file:line`` without what every file of an environment, or of this directory, begins with."""
    _, found, rest = source.rpartition("site-packages" + os.sep)
    return rest if found else source.removeprefix(os.getcwd() + os.sep)


def _groups(
    nodes: Iterable[NodeReport], reason: Callable[[NodeReport], str] = attrgetter("reason")
) -> tuple[FallbackGroup, ...]:
    groups: dict[tuple[str, str], list[NodeReport]] = {}
    for node in nodes:
        groups.setdefault((node.op, reason(node)), []).append(node)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return tuple(FallbackGroup(op, why, tuple(members)) for (op, why), members in ordered)


def plain(value: Any) -> Any:
    """A JSON value for a record, a collection or a setting; what has none of its own is its text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)

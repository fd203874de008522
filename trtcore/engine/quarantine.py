"""From segments to engines, with quarantine: a node that cannot be built goes back to torch, with the reason."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from trtcore._version import __version__
from trtcore.artifact.engine_file import EngineArtifact
from trtcore.artifact.manifest import EngineManifest
from trtcore.context import CompileContext
from trtcore.conversion.interpreter import ConvertedSegment, NodeConversionError
from trtcore.engine.builders import ConverterCrash, workshop
from trtcore.errors import ConversionError, EngineBuildError, TrtcoreError, UnsupportedOperatorError
from trtcore.ir.facts import facts
from trtcore.ir.graphs import is_getitem, mutates
from trtcore.ir.provenance import describe, module_path, op_name, source_line
from trtcore.packs.registry import Converter
from trtcore.packs.selection import SelectionMemo
from trtcore.partition import Partition, Segment, partition
from trtcore.partition.segment import extract
from trtcore.report.data import QuarantineReport

if TYPE_CHECKING:
    from trtcore.ir.program import Program

# What TensorRT calls many layers compiled as one: the names in it are only the first and the last of them.
_FUSED = re.compile(r"\{ForeignNode\[.*?\]\}")
_MAX_CRASHES = 3


@dataclass(frozen=True)
class BuiltEngine:
    """An engine and what the report says of it.

    Attributes:
        artifact: None after a dry run.
        layers: number of TensorRT layers.
        seconds: TensorRT's build time.
    """

    artifact: EngineArtifact | None
    layers: int
    seconds: float


@dataclass
class BuiltPartition:
    """The final partition, an engine per segment (by segment name), and what was quarantined on the way."""

    partition: Partition
    engines: dict[str, BuiltEngine] = field(default_factory=dict)
    quarantined: tuple[QuarantineReport, ...] = ()


def build_segments(
    program: Program,
    ctx: CompileContext,
    timings: dict[str, float],
    runtime: str,
    *,
    build: bool = True,
    memo: SelectionMemo | None = None,
) -> BuiltPartition:
    """Partition, convert and build, until every segment has an engine.

    Args:
        program: the lowered program.
        timings: stage name -> seconds, added to.
        runtime: "native" or "reference", written into the manifests.
        build: False stops after conversion (dry run).
        memo: the selections that lowering made.

    Raises:
        ConversionError, EngineBuildError: with require_full_compilation or pass_through_build_failures.
        UnsupportedOperatorError: require_full_compilation, and nodes stay in torch.
    """
    return _Builder(program, ctx, timings, runtime, build, memo or SelectionMemo(ctx)).run()


class _Builder:
    def __init__(
        self,
        program: Program,
        ctx: CompileContext,
        timings: dict[str, float],
        runtime: str,
        build: bool,
        memo: SelectionMemo,
    ) -> None:
        self.program, self.ctx, self.timings, self.runtime, self.build = program, ctx, timings, runtime, build
        self.memo = memo
        self.reasons: dict[str, str] = {}
        self.reports: list[QuarantineReport] = []
        self.built: dict[Any, BuiltEngine] = {}
        self.trial_builds = 0
        self.blamed: set[Any] = set()
        self.crashed: list[Converter | None] = []
        self._order: dict[Node, int] = {}
        self.workshop = workshop(ctx)

    def run(self) -> BuiltPartition:
        try:
            return self._run()
        finally:
            self.workshop.close()

    def _run(self) -> BuiltPartition:
        while True:
            with self.ctx.stage("partition", self.timings):
                found = partition(self.program, self.ctx, self.memo, self.reasons)
            if self.ctx.settings.require_full_compilation:
                refuse_partial(found)
            if self._ensure_all(found):
                engines = {segment.name: self._named(segment) for segment in found.segments}
                return BuiltPartition(found, engines, tuple(self.reports))

    def _ensure_all(self, found: Partition) -> bool:
        """Build every segment's engine; False when nodes were quarantined and the partition has to be redone.

        Then the other segments are converted too: what fails in them is found in the same round.
        """
        for number, segment in enumerate(found.segments):
            if not self._ensure(segment, found, number):
                for later in found.segments[number + 1 :]:
                    if later.key not in self.built:
                        self._convert(later, found)
                return False
        return True

    def _named(self, segment: Segment) -> BuiltEngine:
        """The engine of a segment, which an earlier round may have built under another name."""
        engine = self.built[segment.key]
        artifact = engine.artifact
        if artifact is not None and artifact.manifest.name != segment.name:
            artifact = replace(artifact, manifest=replace(artifact.manifest, name=segment.name))
            engine = replace(engine, artifact=artifact)
        return engine

    def _ensure(self, segment: Segment, found: Partition, number: int) -> bool:
        """Build the segment's engine; False when nodes were quarantined and the partition has to be redone."""
        if segment.key in self.built:
            return True
        converted = self._convert(segment, found)
        if converted is None:
            return False
        if not self.build:
            self.built[segment.key] = BuiltEngine(None, converted.num_layers, 0.0)
            return True
        try:
            self.built[segment.key] = self._build(converted, number, len(found.segments))
        except EngineBuildError as error:
            if self._is_fatal():
                raise self._located(error, segment, found, converted) from error
            self._quarantine_build_failure(segment, found, converted, error)
            return False
        return True

    def _convert(self, segment: Segment, found: Partition) -> ConvertedSegment | None:
        """The segment's network; None when nodes were quarantined."""
        try:
            with self.ctx.stage("conversion", self.timings, segment=segment.name), self._on_target():
                return self.workshop.convert(segment, found.selections, self.program.symbols)
        except NodeConversionError as error:
            if self._is_fatal():
                raise
            for one in (error, *error.others):
                self._quarantine_alike(segment, found, one.node, one.message, one.tensorrt)
            if isinstance(error, ConverterCrash):
                self._count_crash(error.node, found)
        except (ConversionError, EngineBuildError) as error:  # the network as a whole
            if self._is_fatal():
                raise self._located(error, segment, found, None) from error
            self._quarantine_build_failure(segment, found, None, error)
        return None

    def _on_target(self) -> AbstractContextManager[Any]:
        """TensorRT builds for the current device: the target's, while it works."""
        device = self.ctx.target.device if self.ctx.target is not None else None
        return nullcontext() if device is None else torch.cuda.device(device)

    def _is_fatal(self) -> bool:
        settings = self.ctx.settings
        return settings.require_full_compilation or settings.pass_through_build_failures

    # ---- building ---------------------------------------------------------------------------------

    def _build(self, converted: ConvertedSegment, number: int, total: int) -> BuiltEngine:
        before = self.timings.get("build", 0.0)
        name = converted.segment.name
        with (
            self.ctx.stage("build", self.timings, segment=name, number=number, total=total),
            self._on_target(),
        ):
            plan = self.workshop.build(converted)
        manifest = self._manifest(converted)
        artifact = EngineArtifact(plan, manifest, converted.snapshot)
        return BuiltEngine(artifact, converted.num_layers, self.timings["build"] - before)

    def _manifest(self, converted: ConvertedSegment) -> EngineManifest:
        assert self.ctx.backend is not None
        assert self.ctx.target is not None
        nodes = [node for node in converted.segment.nodes if not is_getitem(node)]
        chosen = [one for node in nodes if (one := self.memo.select(node).chosen) is not None]
        packs = {(p.distribution, p.version, p.name) for one in chosen if (p := one.pack) is not None}
        target = {
            "compute_capability": self.ctx.target.compute_capability,
            "platform": self.ctx.target.platform,
        }
        capability = self.ctx.target.compute_capability
        target["compute_capability"] = list(capability) if capability else None  # type: ignore[assignment]
        target |= _device_without_inputs(converted.segment)
        return EngineManifest(
            id=uuid.uuid4().hex,
            name=converted.segment.name,
            inputs=converted.inputs,
            sizes=converted.sizes,
            outputs=converted.outputs,
            symbols=converted.symbols,
            backend=self.ctx.backend.name,
            backend_version=str(self.ctx.backend.version),
            target=target,
            runtime=self.runtime,  # type: ignore[arg-type]
            packs=tuple({"distribution": d, "version": v, "name": n} for d, v, n in sorted(packs)),
            plugins=_plugin_records(chosen),
            trtcore_version=__version__,
            torch_version=torch.__version__,
        )

    # ---- quarantine -------------------------------------------------------------------------------

    def _quarantine_alike(
        self, segment: Segment, found: Partition, name: str, reason: str, said: Sequence[str]
    ) -> None:
        """The node, and its likes in the segment: the same converter given the same would do the same."""
        by_name = {node.name: node for node in segment.nodes}
        wanted = _signature(by_name[name])
        for node in segment.nodes:
            if node.name == name or _signature(node) == wanted:
                self._quarantine(node, found, reason, said)

    def _count_crash(self, name: str, found: Partition) -> None:
        """Each crash costs a new process: after some, a converter is not tried for further nodes."""
        chosen = found.selections[name].chosen
        self.crashed.append(chosen)
        times = sum(one is chosen for one in self.crashed)
        if times < _MAX_CRASHES or chosen is None:
            return
        reason = (
            f"the converter {chosen.name} crashed for {times} other nodes, and was not tried for this one"
        )
        for segment in found.segments:
            for node in segment.nodes:
                selection = found.selections.get(node.name)
                if selection is not None and selection.chosen is chosen:
                    self._quarantine(node, found, reason, ())

    def _quarantine(
        self, node: Node, found: Partition, reason: str, said: Sequence[str], builds: int = 0
    ) -> None:
        if node.name in self.reasons:
            return
        self.reasons[node.name] = f"quarantined: {reason}"
        selection = found.selections.get(node.name)
        chosen = selection.chosen if selection is not None else None
        self.reports.append(
            QuarantineReport(
                node=node.name,
                op=op_name(node.target),
                reason=reason,
                converter=chosen.name if chosen else "",
                pack=chosen.source_version if chosen else "",
                tensorrt=tuple(said),
                module_path=module_path(node),
                source=source_line(node),
                builds=builds,
            )
        )

    def _quarantine_build_failure(
        self,
        segment: Segment,
        found: Partition,
        converted: ConvertedSegment | None,
        error: EngineBuildError | ConversionError,
    ) -> None:
        culprits, how = self._culprits(segment, found, converted, error)
        for node in segment.nodes:
            if node.name in culprits:
                reason = f"{error.message} ({how})"
                self._quarantine(node, found, reason, error.tensorrt, self.trial_builds)
        if culprits:
            return
        for node in segment.nodes:
            if not is_getitem(node):
                reason = (
                    f"{error.message}; no single node of its segment could be blamed within "
                    f"max_quarantine_builds={self._limit()}"
                )
                self._quarantine(node, found, reason, error.tensorrt, self.trial_builds)

    def _culprits(
        self, segment: Segment, found: Partition, converted: ConvertedSegment | None, error: TrtcoreError
    ) -> tuple[set[str], str]:
        """Whose fault a refused build is: by layer name, by building suspects alone, by building beginnings; and by
        which of these. Empty where no node can be blamed within the limit.
        """
        self.trial_builds = 0
        if converted is not None and (named := self._named_in(error, converted)):
            return named, "TensorRT names its layer"
        if alone := self._alone(segment, found):
            return alone, "TensorRT refuses it built alone"
        return self._last_straw(segment, found), "TensorRT builds the segment up to it, not with it"

    def _limit(self) -> int:
        return int(self.ctx.settings.max_quarantine_builds)

    def _named_in(self, error: TrtcoreError, converted: ConvertedSegment) -> set[str]:
        """The nodes whose layers TensorRT's lines name, and their likes."""
        text = _FUSED.sub("", "\n".join(error.tensorrt))
        named = [layer for layer in converted.node_of_layer if layer in text]
        # "a/b/node_1" is also in "a/b/node_12": the longest names win
        longest = [
            n for n in named if not any(n != other and n in other and other in named for other in named)
        ]
        blamed = {converted.node_of_layer[layer] for layer in longest}
        wanted = {_signature(node) for node in converted.segment.nodes if node.name in blamed}
        return {n.name for n in converted.segment.nodes if n.name in blamed or _signature(n) in wanted}

    def _alone(self, segment: Segment, found: Partition) -> set[str]:
        """Nodes that TensorRT refuses alone; one build for all nodes that are alike."""
        alike: dict[Any, list[Node]] = {}
        for node in segment.nodes:
            if not is_getitem(node):
                alike.setdefault(_signature(node), []).append(node)
        if len(alike) > self._limit() // 2:  # `_last_straw` needs fewer builds
            return set()
        culprits: set[str] = set()
        for nodes in alike.values():
            if not self._builds([nodes[0]], found):
                culprits.update(node.name for node in nodes)
        return culprits

    def _last_straw(self, segment: Segment, found: Partition) -> set[str]:
        """The last node of a beginning of the segment that is refused, where without that node it is built.

        Halving finds one in log2(n) builds, be it at fault alone or together with earlier ones. Its likes are
        blamed with it if it is refused alone too, or the second time; and if alone, other shapes of its op that are.
        """
        nodes = [node for node in segment.nodes if not is_getitem(node)]
        good, bad = 0, len(nodes)
        while bad - good > 1:
            if self.trial_builds >= self._limit():
                return set()
            middle = (good + bad) // 2
            if self._builds(nodes[:middle], found):
                good = middle
            else:
                bad = middle
        culprit = nodes[good]
        signature = _signature(culprit)
        spread = {signature} if signature in self.blamed else set()
        self.blamed.add(signature)
        if not spread and self.trial_builds < self._limit() and not self._builds([culprit], found):
            spread = {signature} | self._refused_shapes(culprit, nodes, found)
        return {node.name for node in nodes if node is culprit or _signature(node) in spread}

    def _refused_shapes(self, culprit: Node, nodes: Sequence[Node], found: Partition) -> set[Any]:
        """The signatures of the culprit's op that are refused alone like it, as far as the limit goes."""
        others = {_signature(node): node for node in nodes if node.target is culprit.target}
        del others[_signature(culprit)]
        refused = set()
        for signature, node in others.items():
            if self.trial_builds >= self._limit():
                break
            if not self._builds([node], found):
                refused.add(signature)
        return refused

    def _builds(self, nodes: Sequence[Node], found: Partition) -> bool:
        self.trial_builds += 1
        try:
            trial = self._trial(nodes, found)
            self.workshop.build(self.workshop.convert(trial, found.selections, self.program.symbols))
        except NodeConversionError:  # in the segment it was converted; what it lacks alone says nothing
            return True
        except (ConversionError, EngineBuildError):
            return False
        return True

    def _trial(self, nodes: Sequence[Node], found: Partition) -> Segment:
        """The nodes as a segment, whose outputs are what other nodes read of them."""
        inside = dict.fromkeys(nodes)
        for node in nodes:
            inside.update(dict.fromkeys(user for user in node.users if is_getitem(user)))
        outputs = [
            node
            for node in inside
            if isinstance(node.meta.get("val"), torch.Tensor) and not inside.keys() >= node.users.keys()
        ]
        ordered = sorted(inside, key=self._positions().__getitem__)
        return extract(self.program.graph_module, "trial", ordered, outputs, found.constants.__contains__)

    def _positions(self) -> dict[Node, int]:
        if len(self._order) != len(
            self.program.graph_module.graph.nodes
        ):  # patterns may have gone back into ops
            self._order = {node: i for i, node in enumerate(self.program.graph_module.graph.nodes)}
        return self._order

    def _located(
        self,
        error: EngineBuildError | ConversionError,
        segment: Segment,
        found: Partition,
        converted: ConvertedSegment | None,
    ) -> EngineBuildError | ConversionError:
        """The error with the place in the user's model, where a node can be blamed."""
        culprits, how = self._culprits(segment, found, converted, error)
        nodes = [node for node in segment.nodes if node.name in culprits]
        if not nodes:
            return error
        chosen = self.memo.select(nodes[0]).chosen
        layers = [] if converted is None else [
            f"{layer.type} {layer.name}"
            for layer in converted.snapshot.layers
            if converted.node_of_layer.get(layer.name) == nodes[0].name
        ]  # fmt: skip
        return type(error)(
            f"{error.message} ({how})",
            where=describe(nodes[0]),
            pack=str(chosen.pack) if chosen and chosen.pack else error.pack,
            tensorrt=error.tensorrt,
            layers=layers,
            advice=error.advice
            or f"leave it to torch with torch_executed_ops={{{op_name(nodes[0].target)!r}}}",
        )


def refuse_partial(found: Partition, asked: str = "require_full_compilation is set") -> None:
    """Raise UnsupportedOperatorError if anything stays in torch but sizes, write-backs and casts at the boundary."""
    left = [
        unit
        for unit in found.order
        if isinstance(unit, Node) and unit.name in found.torch_reasons and not mutates(unit)
        if not facts(unit).boundary
    ]
    if not left:
        return
    lines = [f"{describe(node)}: {found.torch_reasons[node.name]}" for node in left[:20]]
    more = f"\n  ... and {len(left) - 20} more" if len(left) > 20 else ""
    raise UnsupportedOperatorError(
        f"{asked}, but {len(left)} op{'s stay' if len(left) > 1 else ' stays'} in torch:\n  "
        + "\n  ".join(lines)
        + more,
        where=describe(left[0]),
        advice="run trtcore.explain(model, inputs) for every op's reasons; write a converter for it, install a "
        "pack that has one, or let it run in torch",
    )


def _device_without_inputs(segment: Segment) -> dict[str, Any]:
    """``{"device": ...}`` for an engine that no tensor tells where its outputs belong; {} for one on the CPU."""
    if segment.inputs or not segment.outputs:
        return {}
    device = segment.outputs[0].meta["val"].device
    return {"device": str(device)} if device.type == "cuda" else {}


def _plugin_records(chosen: Sequence[Converter]) -> tuple[dict[str, Any], ...]:
    """The manifest's records of the kernel plugins that some converters place."""
    records = {
        one.plugin.name: {
            "name": one.plugin.name,
            "distribution": one.pack.distribution if one.pack is not None else "",
            "version": one.pack.version if one.pack is not None else "",
            "deployable": bool(one.plugin.deployable),
        }
        for one in chosen
        if one.plugin is not None
    }
    return tuple(records[name] for name in sorted(records))


def _signature(node: Node) -> Any:
    """Equal for nodes whose conversion is the same: op, constants, dtypes and shapes."""

    def plain(value: Any) -> Any:
        if isinstance(value, Node):
            meta = value.meta.get("val")
            if isinstance(meta, torch.Tensor):
                return ("tensor", str(meta.dtype), str(tuple(meta.shape)), value.op == "get_attr")
            return ("size", str(meta))
        if isinstance(value, (list, tuple)):
            return tuple(plain(item) for item in value)
        return repr(value)

    return node.target, plain(node.args), tuple((name, plain(v)) for name, v in sorted(node.kwargs.items()))

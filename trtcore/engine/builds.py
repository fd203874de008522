"""All engines of one compile: built once each, with what failed as values.

`EngineBuilds` makes a request of every segment (`trtcore.engine.request`) and hands it to the one builder that the
settings ask for (`builder_of`): a thread or a process (`trtcore.engine.builders`), an executor, the cache. Every one of
them comes to `trtcore.engine.build.build_engine`, which converts and builds a single request.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from torch.fx import Node

from trtcore.artifact.engine_file import EngineArtifact
from trtcore.context import CompileContext
from trtcore.conversion.interpreter import NodeConversionError
from trtcore.engine.build import Builder, Failure
from trtcore.engine.builders import ProcessBuilder, ThreadBuilder
from trtcore.engine.quarantine import Quarantined, Suspicion, alike, find_culprits
from trtcore.engine.refit import Donors, RefitBuilder
from trtcore.engine.request import EngineRequest, request_of
from trtcore.errors import ConversionError, EngineBuildError, TrtcoreError
from trtcore.ir.facts import facts
from trtcore.ir.graphs import is_getitem
from trtcore.ir.program import Program
from trtcore.ir.provenance import describe, op_name
from trtcore.packs.model import Converter
from trtcore.partition import Partition, Segment

_MAX_CRASHES = 3


@dataclass(frozen=True)
class BuiltEngine:
    """An engine and what the report says of it.

    Attributes:
        artifact: None after a dry run.
        layers: number of TensorRT layers.
        seconds: TensorRT's build time; None where it came from the engine cache.
        cached: it did.
    """

    artifact: EngineArtifact | None
    layers: int
    seconds: float | None
    cached: bool = False


@contextmanager
def engine_builds(
    ctx: CompileContext, timings: dict[str, float], runtime: str, donors: Donors | None = None
) -> Iterator[EngineBuilds]:
    """The engines of one compile; at the end, processes and temporary files are gone.

    Args:
        timings: stage name -> seconds, added to.
        runtime: "native" or another runtime's name, for the manifests.
        donors: engines that are there, and take the weights of the requests that they fit.
    """
    builder: Builder = builder_of(ctx)
    if donors is not None:
        builder = RefitBuilder(builder, donors, ctx.registry)
    try:
        yield EngineBuilds(ctx, builder, timings, runtime)
    finally:
        builder.close()


def builder_of(ctx: CompileContext) -> Builder:
    """Who builds: what the settings ask for, behind the engine cache where they ask for that.

    Raises:
        SettingsError: there is no such cache.
    """
    settings = ctx.settings
    if settings.cache_built_engines or settings.reuse_cached_engines:
        from trtcore.engine.cache.builder import CachedBuilder

        return CachedBuilder(settings, _inner_builder(ctx), ctx.registry)
    return _inner_builder(ctx)


def _inner_builder(ctx: CompileContext) -> Builder:
    if ctx.settings.build_executor is not None:
        from trtcore.engine.executor import ExecutorBuilder

        return ExecutorBuilder(ctx)
    return ProcessBuilder(ctx) if ctx.settings.build_isolation == "process" else ThreadBuilder(ctx)


class EngineBuilds:
    """Builds the engines of a partition, each segment once however often it is partitioned again.

    Attributes:
        quarantined: all nodes that went back to torch.
    """

    def __init__(
        self, ctx: CompileContext, builder: Builder, timings: dict[str, float], runtime: str
    ) -> None:
        self.ctx, self.timings, self.runtime = ctx, timings, runtime
        self._builder = builder
        self._built: dict[Any, BuiltEngine] = {}
        self._suspicion = Suspicion(int(ctx.settings.max_quarantine_builds))
        self._crashed: list[Converter] = []
        self.quarantined: list[Quarantined] = []

    def __call__(self, lowered: Program, parts: Partition) -> tuple[Quarantined, ...]:
        """Build every segment's engine.

        Returns:
            the nodes that have to go back to torch, so that the program must be partitioned again; () when every
            segment has an engine. What fails in the segments behind a failed one is found in the same round: they are
            converted.

        Raises:
            ConversionError, EngineBuildError: with require_full_compilation or pass_through_build_failures.
        """
        requests = self._requests(lowered, parts)
        failed: list[Quarantined] = []
        for number, (segment, request) in enumerate(requests):
            events = _Events(self.ctx, self.timings, segment.name, number, len(parts.segments))
            convert_only = bool(failed or self.ctx.settings.dryrun)
            self.ctx.emit("request", "start", subject=request, segment=segment.name)
            result = self._build(request, events, convert_only)
            if result is not None and not isinstance(result, Failure):
                self.ctx.emit("engine", "end", subject=result, segment=segment.name)
            if isinstance(result, Failure):
                self.ctx.emit(
                    "failure",
                    result.kind,
                    subject=request,
                    segment=segment.name,
                    message=result.error.message,
                )
                if failed and result.kind == "build":
                    continue
                failed += self._blamed(result, request, segment, lowered, parts)
            elif result is not None or self.ctx.settings.dryrun:
                seconds = None if events.cached else events.build_seconds
                self._built[self._key(segment, parts)] = BuiltEngine(
                    result, events.layers, seconds, events.cached
                )
        fresh = self._fresh(failed)
        self.quarantined += fresh
        return tuple(fresh)

    def engines(self, parts: Partition) -> dict[str, BuiltEngine]:
        """An engine per segment, by the segment's name; an earlier round may have built it under another."""
        found = {}
        for segment in parts.segments:
            engine = self._built[self._key(segment, parts)]
            artifact = engine.artifact
            if artifact is not None and artifact.manifest.name != segment.name:
                artifact = artifact.with_manifest(replace(artifact.manifest, name=segment.name))
                engine = replace(engine, artifact=artifact)
            found[segment.name] = engine
        return found

    @staticmethod
    def _key(segment: Segment, parts: Partition) -> Any:
        """Equal where the same nodes are converted by the same converters."""
        chosen = (parts.selections.get(node.name) for node in segment.nodes)
        return segment.key, tuple(str(one.chosen) for one in chosen if one is not None)

    def _requests(self, lowered: Program, parts: Partition) -> list[tuple[Segment, EngineRequest]]:
        """A request for each segment that has no engine yet."""
        requests = [
            (segment, request_of(
                segment, parts.selections, lowered.ranges, self.ctx, conditions=lowered.conditions,
                runtime=self.runtime, weight_names=lowered.weight_names,
            ))
            for segment in parts.segments
            if self._key(segment, parts) not in self._built
        ]  # fmt: skip
        if not self.ctx.settings.dryrun:
            with self._asking_the_cache():
                for _, request in requests:
                    self._builder.submit(request)
        return requests

    def _asking_the_cache(self) -> AbstractContextManager[None]:
        reads = self.ctx.settings.reuse_cached_engines
        return self.ctx.stage("cache", self.timings) if reads else nullcontext()

    def _build(self, request: EngineRequest, events: _Events, convert_only: bool) -> Any:
        try:
            return self._builder.build(request, events, convert_only=convert_only)
        finally:
            events.close()

    def _fresh(self, failed: Sequence[Quarantined]) -> list[Quarantined]:
        known = {(one.node.name, one.converter) for one in self.quarantined}
        first: dict[Any, Quarantined] = {}
        for one in failed:
            if (one.node.name, one.converter) not in known:
                first.setdefault(one.node.name, one)
        return list(first.values())

    # ---- blame ------------------------------------------------------------------------------------

    def _blamed(
        self, failure: Failure, request: EngineRequest, segment: Segment, lowered: Program, parts: Partition
    ) -> list[Quarantined]:
        error = failure.error
        if isinstance(error, NodeConversionError):
            if self._is_fatal():
                raise error
            failed = [
                Quarantined(node, _converter(node, parts), one.message, one.tensorrt)
                for one in (error, *error.others)
                for node in alike(segment, one.node)
            ]
            if failure.kind == "crash":
                failed += self._given_up(error.node, parts)
            return failed

        def builds(trial: Segment) -> bool:
            result = self._builder.build(request.with_segment(trial), _silent, trial=True)
            # in the segment it was converted; what it lacks alone says nothing
            return not isinstance(result, Failure) or result.kind == "node"

        nodes, how, trials = find_culprits(failure, segment, parts, lowered, builds, self._suspicion)
        if self._is_fatal():
            raise _located(failure, nodes, how, parts) from error
        if nodes:
            reason = f"{error.message} ({how})"
            return [
                Quarantined(node, _converter(node, parts), reason, error.tensorrt, trials) for node in nodes
            ]
        reason = (
            f"{error.message}; no single node of its segment could be blamed within "
            f"max_quarantine_builds={self._suspicion.limit}"
        )
        return [
            Quarantined(node, _converter(node, parts), reason, error.tensorrt, trials)
            for node in segment.nodes
            if not is_getitem(node)
        ]

    def _given_up(self, name: str, parts: Partition) -> list[Quarantined]:
        """Each crash costs a new process: after some, a converter is not tried for further nodes."""
        chosen = parts.selections[name].chosen
        if chosen is None:
            return []
        self._crashed.append(chosen)
        times = sum(one is chosen for one in self._crashed)
        if times < _MAX_CRASHES:
            return []
        reason = (
            f"the converter {chosen.name} crashed for {times} other nodes, and was not tried for this one"
        )
        return [
            Quarantined(node, str(chosen), reason)
            for segment in parts.segments
            for node in segment.nodes
            if (selection := parts.selections.get(node.name)) is not None and selection.chosen is chosen
        ]

    def _is_fatal(self) -> bool:
        settings = self.ctx.settings
        return bool(settings.require_full_compilation or settings.pass_through_build_failures)


def _converter(node: Node, parts: Partition) -> str:
    selection = parts.selections.get(node.name)
    return str(selection.chosen) if selection is not None else ""


def _silent(what: str, *data: Any) -> None:
    """Nobody is told of trial builds."""


class _Events:
    """Turns what a build tells into the compile's stages: "cache", "conversion", "build"."""

    def __init__(
        self, ctx: CompileContext, timings: dict[str, float], segment: str, number: int, total: int
    ) -> None:
        self.ctx, self.timings = ctx, timings
        self.data: dict[str, Any] = {"segment": segment, "number": number, "total": total}
        self.layers = 0
        self.build_seconds = 0.0
        self.cached = False
        self._stage = ""
        self._began = 0.0

    def __call__(self, what: str, *data: Any) -> None:
        if what in ("cache", "conversion", "build"):
            self.close()
            self._stage, self._began = what, time.perf_counter()
            self.ctx.emit(what, "start", **self.data)
        elif what in ("converted", "cached"):
            self.layers, self.cached = data[0], what == "cached"
        elif what == "progress":
            phase, step, steps = data
            self.ctx.emit(
                "build", "progress", segment=self.data["segment"], phase=phase, step=step, steps=steps
            )

    def close(self) -> None:
        """The stage is over."""
        if not self._stage:
            return
        seconds = time.perf_counter() - self._began
        self.timings[self._stage] = self.timings.get(self._stage, 0.0) + seconds
        if self._stage == "build":
            self.build_seconds = seconds
        self.ctx.emit(self._stage, "end", seconds, **self.data)
        self._stage = ""


def _located(
    failure: Failure, nodes: Sequence[Node], how: str, parts: Partition
) -> EngineBuildError | ConversionError | TrtcoreError:
    """The error with the place in the user's model, where a node can be blamed."""
    error = failure.error
    if not nodes:
        return error
    selection = parts.selections.get(nodes[0].name)
    chosen = selection.chosen if selection is not None else None
    return type(error)(
        f"{error.message} ({how})",
        where=describe(nodes[0]),
        pack=str(chosen.pack) if chosen and chosen.pack else error.pack,
        tensorrt=error.tensorrt,
        layers=failure.layers.get(nodes[0].name, ()),
        advice=error.advice
        or f"leave it to torch with torch_executed_ops={{{_names_in_settings(nodes[0])}}}",
    )


def _names_in_settings(node: Node) -> str:
    """What ``torch_executed_ops`` knows a node by: its op, or the ops that a pattern stands for."""
    names = sorted({source.op for source in facts(node).sources}) or [op_name(node.target)]
    return ", ".join(map(repr, names))

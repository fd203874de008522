"""The stages of a compile, in order. The only file that names them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from trtcore.assembly import assemble_hybrid, own_weights
from trtcore.backend.base import Backend, resolve_backend
from trtcore.context import CompileContext, Observer
from trtcore.engine.builds import BuiltEngine, engine_builds
from trtcore.engine.config import check_settings
from trtcore.engine.quarantine import quarantine
from trtcore.errors import BackendUnavailableError, SettingsError, UnsupportedOperatorError
from trtcore.ir.graphs import mutates
from trtcore.ir.program import Program
from trtcore.ir.provenance import describe
from trtcore.lowering import lower, restore_patterns
from trtcore.packs.loading import build_registry
from trtcore.partition import Partition, partition
from trtcore.partition.whole import refuse_partial
from trtcore.report.collect import make_report
from trtcore.runtime.choose import choose_runtime
from trtcore.runtime.engine import register_engine
from trtcore.runtime.module import CompiledModule, assemble
from trtcore.settings import CompilationSettings

if TYPE_CHECKING:
    from trtcore.report.data import Report


def compile_program(
    program: Program,
    settings: CompilationSettings,
    *,
    observers: Sequence[Observer] = (),
    timings: Mapping[str, float] | None = None,
) -> CompiledModule:
    """Compile a captured program.

    Args:
        program: what the frontend captured. Its graph is used up: lowering changes it in place.
        observers: told of every stage's start, progress and end.
        timings: seconds of what went before (export), for the report.

    Returns:
        the hybrid graph, called as the model was, with `.report`.

    Raises:
        BackendUnavailableError: `settings.backend` names a backend that cannot be used here.
        UnsupportedOperatorError, ConversionError, EngineBuildError: with `require_full_compilation` or
            `pass_through_build_failures`; without them what fails is left to torch, and the report says why.
    """
    ctx, times = make_context(settings, observers), dict(timings or {})
    with ctx.stage("lowering", times):
        lowered = lower(program.with_weight_names(), ctx, ctx.selections)
    runtime, why = _runtime(ctx)
    with engine_builds(ctx, times, runtime) as build:
        lowered, parts = _partition(lowered, ctx, times)
        while failures := build(lowered, parts):
            lowered, parts = _partition(quarantine(lowered, failures), ctx, times)
        engines = build.engines(parts)
    with ctx.stage("assembly", times):
        compiled = _assemble(lowered, parts, engines, ctx)
    kind = "dryrun" if settings.dryrun else "compile"
    report = make_report(kind, lowered, parts, ctx, times, engines, tuple(build.quarantined), runtime, why)
    _write_dryrun(report, settings)
    module = assemble(program, compiled, report)
    if program.in_spec is not None:  # torch.compile keeps an eye on the model's weights itself
        own_weights(module)
    return module


def explain_program(
    program: Program, settings: CompilationSettings, *, timings: Mapping[str, float] | None = None
) -> Report:
    """Lower and partition a program and say what would happen. No network is made, no engine built."""
    ctx, times = make_context(settings), dict(timings or {})
    with ctx.stage("lowering", times):
        lowered = lower(program.with_weight_names(), ctx, ctx.selections)
    lowered, parts = _partition(lowered, ctx, times)
    return make_report("explain", lowered, parts, ctx, times, None, (), *_runtime(ctx))


def serialize_program(program: Program, settings: CompilationSettings) -> bytes:
    """Compile the whole program into one engine and return its plan.

    Raises:
        UnsupportedOperatorError: it does not fit into one engine; the message names what did not convert.
    """
    ctx, times = make_context(settings), dict[str, float]()
    if ctx.backend is None:
        raise BackendUnavailableError(f"no engine can be built: {ctx.no_backend_reason}")
    lowered = lower(program.with_weight_names(), ctx, ctx.selections)
    with engine_builds(ctx, times, "native") as build:
        lowered, parts = _partition(lowered, ctx, times)
        _refuse_other_than_one(parts)
        while failures := build(lowered, parts):
            lowered, parts = _partition(quarantine(lowered, failures), ctx, times)
            _refuse_other_than_one(parts)
        (engine,) = build.engines(parts).values()
    assert engine.artifact is not None
    return engine.artifact.plan.numpy().tobytes()


def _partition(lowered: Program, ctx: CompileContext, times: dict[str, float]) -> tuple[Program, Partition]:
    """The partition, and the program that it is of: patterns that would run in torch are their ops again."""
    with ctx.stage("partition", times):
        parts = partition(lowered, ctx, ctx.selections)
        while parts.patterns_in_torch:
            lowered = restore_patterns(lowered, parts.patterns_in_torch, ctx)
            parts = partition(lowered, ctx, ctx.selections)
    if ctx.settings.require_full_compilation:
        refuse_partial(parts)
    return lowered, parts


def _runtime(ctx: CompileContext) -> tuple[str, str]:
    """The runtime's name, and why it is that one."""
    return choose_runtime(ctx.backend, ctx.settings, ctx.target) if ctx.backend is not None else ("", "")


def make_context(settings: CompilationSettings, observers: Sequence[Observer] = ()) -> CompileContext:
    """Registry, backend and target of one compile.

    Without any usable backend everything stays in torch, and the report says why; but a backend that the
    user named must be usable.
    """
    registry = build_registry(settings)
    watching = (*registry.observers, *observers)
    backend: Backend | None = None
    reason = ""
    try:
        backend = resolve_backend(settings.backend, registry.backends)
    except BackendUnavailableError as error:
        if settings.backend != "auto" or settings.require_full_compilation:
            raise
        reason = f"{error.message}" + (f" ({error.advice})" if error.advice else "")
    if backend is None:
        return CompileContext(settings, registry, None, None, watching, reason)
    target = backend.default_target(settings)
    check_settings(backend, settings, target)
    return CompileContext(settings, registry, backend, target, watching)


def _assemble(
    lowered: Program, parts: Partition, engines: Mapping[str, BuiltEngine], ctx: CompileContext
) -> torch.fx.GraphModule:
    """The hybrid graph, with its engines registered for `execute_engine`; after a dry run, torch alone."""
    artifacts = {name: engine.artifact for name, engine in engines.items() if engine.artifact is not None}
    if not artifacts:
        return torch.fx.GraphModule(lowered.graph_module, lowered.graph_module.graph)
    for artifact in artifacts.values():
        register_engine(artifact)
    return assemble_hybrid(
        lowered.graph_module,
        parts,
        artifacts,
        _symbol_values(lowered),
        output_strides=lowered.in_spec
        is None,  # Dynamo takes the traced strides of a graph's outputs for granted
    )


def _symbol_values(program: Program) -> dict[str, Any]:
    """name -> a SymInt of that symbol, for the shapes of the nodes that the hybrid graph adds."""
    values: dict[str, Any] = {}
    for node in program.graph_module.graph.nodes:
        if node.op != "placeholder":
            break
        value = node.meta.get("val")
        for dim in value.shape if isinstance(value, torch.Tensor) else (value,):
            if isinstance(dim, torch.SymInt):
                for symbol in dim.node.expr.free_symbols:
                    values.setdefault(symbol.name, symbol)
                if dim.node.expr.is_Symbol:
                    values[dim.node.expr.name] = dim
    return values


def _refuse_other_than_one(parts: Partition) -> None:
    refuse_partial(parts, "the whole program is to be one engine")
    _refuse_several(parts)
    _refuse_writes(parts)


def _refuse_writes(found: Partition) -> None:
    """A plan alone cannot change a buffer of the model."""
    for unit in found.order:
        if isinstance(unit, torch.fx.Node) and mutates(unit):
            raise UnsupportedOperatorError(
                f"the model changes {unit.args[0]}, and a plan alone writes nothing back",
                where=describe(unit),
                advice="return the new value, or use trtcore.compile",
            )


def _refuse_several(found: Partition) -> None:
    if len(found.segments) == 1:
        return
    if not found.segments:
        raise UnsupportedOperatorError("the program computes nothing that could be an engine")
    names = ", ".join(segment.name for segment in found.segments)
    raise UnsupportedOperatorError(
        f"the program became {len(found.segments)} engines ({names}), not one",
        advice="raise max_segment_size, or compile it with trtcore.compile",
    )


def _write_dryrun(report: Report, settings: CompilationSettings) -> None:
    if isinstance(settings.dryrun, str):
        try:
            with open(settings.dryrun, "w", encoding="utf-8") as file:
                file.write(str(report) + "\n")
        except OSError as error:
            raise SettingsError(
                f"dryrun={settings.dryrun!r}: the report could not be written: {error}"
            ) from error


__all__ = ["compile_program", "explain_program", "make_context", "serialize_program"]

"""The stages of a compile, in order. The only file that names them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from trtcore.assembly import assemble_hybrid
from trtcore.backend.base import Backend, resolve_backend
from trtcore.context import CompileContext, Observer
from trtcore.engine.quarantine import BuiltPartition, build_segments, refuse_partial
from trtcore.errors import BackendUnavailableError, SettingsError, UnsupportedOperatorError
from trtcore.ir.graphs import mutates
from trtcore.ir.program import Program
from trtcore.ir.provenance import describe
from trtcore.lowering import lower
from trtcore.packs.loading import build_registry
from trtcore.packs.selection import SelectionMemo
from trtcore.partition import Partition, partition
from trtcore.report.collect import make_report
from trtcore.runtime.engine import choose_runtime, register_engine
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
    times = dict(timings or {})
    ctx = make_context(settings, observers)
    memo = SelectionMemo(ctx)
    with ctx.stage("lowering", times):
        lowered = lower(program, ctx, memo)
    runtime, why = choose_runtime(ctx.backend, settings, ctx.target) if ctx.backend is not None else ("", "")
    built = build_segments(lowered, ctx, times, runtime, build=not settings.dryrun, memo=memo)
    with ctx.stage("assembly", times):
        compiled = _assemble(lowered, built, ctx)
    kind = "dryrun" if settings.dryrun else "compile"
    report = make_report(kind, lowered, built.partition, ctx, times, built, runtime, why)
    _write_dryrun(report, settings)
    return assemble(program, compiled, report)


def explain_program(
    program: Program, settings: CompilationSettings, *, timings: Mapping[str, float] | None = None
) -> Report:
    """Lower and partition a program and say what would happen. No network is made, no engine built."""
    times = dict(timings or {})
    ctx = make_context(settings)
    memo = SelectionMemo(ctx)
    with ctx.stage("lowering", times):
        lowered = lower(program, ctx, memo)
    with ctx.stage("partition", times):
        found = partition(lowered, ctx, memo)
    runtime, why = choose_runtime(ctx.backend, settings, ctx.target) if ctx.backend is not None else ("", "")
    return make_report("explain", lowered, found, ctx, times, None, runtime, why)


def serialize_program(program: Program, settings: CompilationSettings) -> bytes:
    """Compile the whole program into one engine and return its plan.

    Raises:
        UnsupportedOperatorError: it does not fit into one engine; the message names what did not convert.
    """
    ctx = make_context(settings)
    memo = SelectionMemo(ctx)
    if ctx.backend is None:
        raise BackendUnavailableError(f"no engine can be built: {ctx.no_backend_reason}")
    lowered = lower(program, ctx, memo)
    found = partition(lowered, ctx, memo)
    refuse_partial(found, "the whole program is to be one engine")
    _refuse_several(found)
    _refuse_writes(found)
    built = build_segments(lowered, ctx, {}, "native", memo=memo)
    refuse_partial(built.partition, "the whole program is to be one engine")
    _refuse_several(built.partition)
    (engine,) = built.engines.values()
    assert engine.artifact is not None
    return engine.artifact.plan.numpy().tobytes()


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
    from trtcore.engine.config import check_settings

    target = backend.default_target(settings)
    check_settings(backend, settings, target)
    return CompileContext(settings, registry, backend, target, watching)


def _assemble(lowered: Program, built: BuiltPartition, ctx: CompileContext) -> torch.fx.GraphModule:
    """The hybrid graph, with its engines registered for `execute_engine`; after a dry run, torch alone."""
    artifacts = {
        name: engine.artifact for name, engine in built.engines.items() if engine.artifact is not None
    }
    if not artifacts:
        return torch.fx.GraphModule(lowered.graph_module, lowered.graph_module.graph)
    for artifact in artifacts.values():
        register_engine(artifact)
    return assemble_hybrid(
        lowered.graph_module,
        built.partition,
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

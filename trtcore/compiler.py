"""The stages of a compile, in order. The only file that names them all."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from trtcore.assembly import assemble_hybrid, copy_returned_weights, own_weights
from trtcore.backend.base import Backend, resolve_backend
from trtcore.context import CompileContext, Observer
from trtcore.engine.builds import BuiltEngine, engine_builds
from trtcore.engine.config import check_settings
from trtcore.engine.quarantine import quarantine
from trtcore.engine.refit import Donors
from trtcore.errors import BackendUnavailableError, SettingsError, UnsupportedOperatorError
from trtcore.events import ambient_observers
from trtcore.ir.aliases import find_unsaid, handed_out
from trtcore.ir.graphs import mutates
from trtcore.ir.output_views import Outputs, are_views_computed
from trtcore.ir.program import Program
from trtcore.ir.provenance import describe
from trtcore.lowering import lower, ordered_passes, restore_patterns
from trtcore.offloading import back_on_device, offload
from trtcore.packs.loading import build_registry
from trtcore.partition import Partition, partition
from trtcore.partition.whole import refuse_partial
from trtcore.report.collect import make_report
from trtcore.report.text import no_engine_warning
from trtcore.runtime.choose import choose_runtime, native_obstacle
from trtcore.runtime.engine import engines_in, register_engine
from trtcore.runtime.module import CompiledModule, assemble, captured_dtypes, settle_weights
from trtcore.runtime.recipe import Recipe, weights_of
from trtcore.settings import CompilationSettings
from trtcore.settings_use import SettingsUse

if TYPE_CHECKING:
    from trtcore.report.data import Report


def compile_program(
    program: Program,
    settings: CompilationSettings,
    *,
    observers: Sequence[Observer] = (),
    timings: Mapping[str, float] | None = None,
    donors: Donors | None = None,
    again: Recipe | None = None,
) -> CompiledModule:
    """Compile a captured program.

    Args:
        program: what the frontend captured. Its graph is used up: lowering changes it in place.
        observers: told of every stage's start, progress and end.
        timings: seconds of what went before (export), for the report.
        donors: engines of an earlier compile of the model, which take the program's weights where they are its engines
            but for these.
        again: what that compile made: converters that failed are not tried again, and segments are cut as they were.

    Returns:
        the hybrid graph, called as the model was, with `.report`.

    Raises:
        BackendUnavailableError: `settings.backend` names a backend that cannot be used here.
        UnsupportedOperatorError, ConversionError, EngineBuildError: with `require_full_compilation` or
            `pass_through_build_failures`; without them what fails is left to torch, and the report says why.
        RefitError: with strict `donors`, an engine of the program is none of them.
    """
    weights, earlier = weights_of(program), again or Recipe(settings)
    ctx, times = make_context(settings, observers, earlier.limit), dict(timings or {})
    outputs = _without_views(program)
    with ctx.stage("lowering", times):
        lowered = replace(_lower(program, ctx), failed=earlier.failed)
    runtime, why = _runtime(ctx)
    if settings.offload_module_to_cpu:
        offload(lowered.graph_module)
    with captured_dtypes(), engine_builds(ctx, times, runtime, donors) as build:
        lowered, parts = _partition(lowered, ctx, times)
        while failures := build(lowered, parts):
            lowered, parts = _partition(quarantine(lowered, failures), ctx, times)
        engines = build.engines(parts)
    with ctx.stage("assembly", times):
        # Dynamo takes the traced strides of a graph's outputs for granted
        strides = program.in_spec is None or (outputs is not None and outputs.need_strides)
        compiled = _assemble(lowered, parts, engines, ctx, strides)
        if outputs is not None:
            outputs.append(compiled)
        if program.in_spec is not None:
            copy_returned_weights(compiled)
        if settings.offload_module_to_cpu:
            back_on_device(compiled)
    kind = (
        "dryrun" if settings.dryrun else "refit" if donors is not None and donors.nothing_built else "compile"
    )
    report = make_report(kind, lowered, parts, ctx, times, engines, tuple(build.quarantined), runtime, why)
    ctx.emit("report", "end", subject=report, model=report.model)
    _write_dryrun(report, settings)
    module = assemble(program, compiled, report)
    failed = {name: dict(why) for name, why in lowered.failed.items()}
    module.recipe = Recipe(settings, failed, weights, limit=ctx.weights_limit)
    if (
        program.in_spec is not None
    ):  # torch.compile keeps an eye on the model's weights, and has many small graphs
        own_weights(module)
        settle_weights(module)
        _warn_without_engine(report)
    _open_engines(module, ctx, runtime)
    return module


def _open_engines(module: CompiledModule, ctx: CompileContext, runtime: str) -> None:
    """With ``lazy_engine_init=False``, let TensorRT open native engines now, where they can run here."""
    lazy = ctx.settings.lazy_engine_init
    if runtime != "native":
        if lazy and runtime:
            warnings.warn(
                f"lazy_engine_init=True changes nothing on the {runtime} runtime, which sets engines up at their first "
                "call",
                UserWarning,
                stacklevel=4,
            )
        return
    if not lazy and not native_obstacle(ctx.backend, ctx.target):
        for engine in engines_in(module):
            engine.open()


def explain_program(
    program: Program, settings: CompilationSettings, *, timings: Mapping[str, float] | None = None
) -> Report:
    """Lower and partition a program and say what would happen. No network is made, no engine built."""
    ctx, times = make_context(settings), dict(timings or {})
    _without_views(program)
    with ctx.stage("lowering", times):
        lowered = _lower(program, ctx)
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
    lowered = _lower(program, ctx)
    with captured_dtypes(), engine_builds(ctx, times, "native") as build:
        lowered, parts = _partition(lowered, ctx, times)
        _refuse_other_than_one(parts)
        while failures := build(lowered, parts):
            lowered, parts = _partition(quarantine(lowered, failures), ctx, times)
            _refuse_other_than_one(parts)
        (engine,) = build.engines(parts).values()
    assert engine.artifact is not None
    return engine.artifact.plan.numpy().tobytes()


def _without_views(program: Program) -> Outputs | None:
    """Leave out outputs that are views of inputs, written buffers and other outputs: the caller may write to them. None
    where there are none; the backend of torch.compile has done that."""
    if program.in_spec is None or are_views_computed():
        return None
    graph_module = program.graph_module
    find_unsaid(graph_module.graph, handed_out(graph_module.graph))
    outputs = Outputs(graph_module, apart=True)
    if not outputs.replayed:
        return None
    outputs.without(graph_module)
    return outputs


def _lower(program: Program, ctx: CompileContext) -> Program:
    """The lowered program. Names in settings that match nothing of the model are told."""
    passes = ordered_passes(ctx.registry.lowering_passes)
    use = SettingsUse(ctx.settings, [one.name for one in passes])
    use.look(program.graph_module.graph)
    with captured_dtypes():
        lowered = lower(program.with_weight_names(), ctx, ctx.selections)
    use.look(lowered.graph_module.graph)
    use.warn()
    return lowered


def _warn_without_engine(report: Report) -> None:
    text = no_engine_warning(report)
    if text is not None and report.kind == "compile":
        warnings.warn(text, UserWarning, stacklevel=4)


def _partition(lowered: Program, ctx: CompileContext, times: dict[str, float]) -> tuple[Program, Partition]:
    """The partition, and the program that it is of: patterns that would run in torch are their ops again."""
    with captured_dtypes(), ctx.stage("partition", times):
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


def make_context(
    settings: CompilationSettings, observers: Sequence[Observer] = (), limit: int | None = None
) -> CompileContext:
    """Registry, backend and target of one compile.

    Args:
        limit: `CompileContext.known_limit`.

    Without any usable backend everything stays in torch, and the report says why; but a backend that the
    user named must be usable.
    """
    registry = build_registry(settings)
    watching = (*registry.observers, *observers, *ambient_observers())
    backend: Backend | None = None
    reason = ""
    try:
        backend = resolve_backend(settings.backend, registry.backends)
    except BackendUnavailableError as error:
        if settings.backend != "auto" or settings.require_full_compilation:
            raise
        reason = f"{error.message}" + (f" ({error.advice})" if error.advice else "")
    if backend is None:
        return CompileContext(settings, registry, None, None, watching, reason, limit)
    target = backend.default_target(settings)
    check_settings(backend, settings, target)
    return CompileContext(settings, registry, backend, target, watching, known_limit=limit)


def _assemble(
    lowered: Program,
    parts: Partition,
    engines: Mapping[str, BuiltEngine],
    ctx: CompileContext,
    output_strides: bool,
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
        output_strides=output_strides,
    )


def _symbol_values(program: Program) -> dict[str, Any]:
    """name -> a SymInt of that symbol, for the shapes of the nodes that the hybrid graph adds."""
    values: dict[str, Any] = {}
    for node in program.graph_module.graph.nodes:
        if node.op != "placeholder" and not program.data_sizes:
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
                f"dryrun={settings.dryrun!r}: the report could not be written: {error}",
                advice="name a file in a folder that is there, or set dryrun=True and print the module's report",
            ) from error


__all__ = ["compile_program", "explain_program", "make_context", "serialize_program"]

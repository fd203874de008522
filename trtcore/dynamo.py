"""The dynamo entry points: export, compile ahead of time, or serialise one engine."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from typing_extensions import Unpack

    from trtcore.context import Observer
    from trtcore.ir.program import Program
    from trtcore.jit.backend import GraphReport
    from trtcore.report.data import Report
    from trtcore.runtime.module import CompiledModule
    from trtcore.settings import CompilationSettings
    from trtcore.settings.kwargs import SettingsDict

__all__ = [
    "compile",
    "convert_exported_program_to_serialized_trt_engine",
    "cross_compile_for_windows",
    "explain",
    "load_cross_compiled_exported_program",
    "refit_module_weights",
    "reports",
    "save_cross_compiled_exported_program",
    "trace",
]


def trace(
    model: torch.nn.Module,
    inputs: Any = None,
    *,
    arg_inputs: Sequence[Any] | None = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    strict: bool = False,
) -> ExportedProgram:
    """Export a model from example tensors and/or `Input`s; dims with a range become dynamic.

    Args:
        strict: capture with Dynamo, as ``torch.export.export(strict=True)``; give what comes out to `compile`.

    Raises:
        InputError: the inputs are missing, given twice, or do not fit together.
        ExportError: torch.export could not capture the model; says where and why.
    """
    from trtcore.frontend.export import trace as trace_model

    return trace_model(model, inputs, arg_inputs=arg_inputs, kwarg_inputs=kwarg_inputs, strict=strict)


def compile(
    exported_program: ExportedProgram | torch.nn.Module,
    inputs: Any = None,
    *,
    arg_inputs: Sequence[Any] | None = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    observers: Sequence[Observer] = (),
    progress: bool = False,
    **settings: Unpack[SettingsDict],
) -> CompiledModule:
    """Compile an ExportedProgram ahead of time.

    Args:
        exported_program: from `trace` or torch.export; a module is traced with `inputs`. Its dynamic dims' ranges
            become the profile.
        inputs, arg_inputs, kwarg_inputs: only needed to give opt sizes, or to narrow the ranges.
        observers: told of every stage's start, progress and end.
        progress: show bars while it works, on stderr or in the notebook's cell.
        **settings: fields of `CompilationSettings`.

    Returns:
        a `torch.fx.GraphModule` of engines and torch ops, called as the model was; `.report` says what happened.

    Raises:
        SettingsError: an unknown or impossible setting.
        InputError: inputs that do not fit the program; an unbounded dynamic dim.
        BackendUnavailableError, UnsupportedOperatorError, ConversionError, EngineBuildError: see
            `trtcore.compiler.compile_program`.
    """
    from trtcore.settings import CompilationSettings

    chosen = CompilationSettings.from_kwargs(**settings)
    return _compile(
        exported_program, _positional(inputs, arg_inputs, kwarg_inputs), chosen, observers, progress
    )


def _compile(
    model: Any,
    given: tuple[Any, Any],
    chosen: CompilationSettings,
    observers: Sequence[Observer],
    progress: bool,
) -> CompiledModule:
    from trtcore.compiler import compile_program
    from trtcore.frontend.program import program_from_exported, warn_of_exclusions
    from trtcore.ir.torch_private import forgetting_traces
    from trtcore.progress import with_progress

    with forgetting_traces(), with_progress(observers, progress) as watching:
        began = time.perf_counter()
        program = program_from_exported(_exported(model, *given), *given)
        warn_of_exclusions(program)
        return compile_program(
            program, chosen, observers=watching, timings={"capture": time.perf_counter() - began}
        )


def explain(
    exported_program: ExportedProgram | torch.nn.Module,
    inputs: Any = None,
    *,
    arg_inputs: Sequence[Any] | None = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    **settings: Unpack[SettingsDict],
) -> Report:
    """Say per op what `compile` would do with it, without building an engine."""
    from trtcore.compiler import explain_program
    from trtcore.frontend.export import program_from_exported
    from trtcore.ir.torch_private import forgetting_traces
    from trtcore.settings import CompilationSettings

    chosen = CompilationSettings.from_kwargs(**settings)
    with forgetting_traces():
        given = _positional(inputs, arg_inputs, kwarg_inputs)
        program = program_from_exported(_exported(exported_program, *given), *given)
        return explain_program(program, chosen)


def convert_exported_program_to_serialized_trt_engine(
    exported_program: ExportedProgram | torch.nn.Module,
    inputs: Any = None,
    *,
    arg_inputs: Sequence[Any] | None = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    **settings: Unpack[SettingsDict],
) -> bytes:
    """Compile the whole program into one engine; the bytes load in plain TensorRT.

    The engine's inputs and outputs have the names of the ExportedProgram's graph inputs and outputs.

    Raises:
        UnsupportedOperatorError: something did not convert; the message names it.
        ExportError: the program was captured under a condition that not all sizes of its ranges fulfil. A plan
            alone could not refuse the others.
    """
    from trtcore.compiler import serialize_program
    from trtcore.frontend.export import program_from_exported
    from trtcore.ir.torch_private import forgetting_traces
    from trtcore.settings import CompilationSettings

    settings.setdefault("min_block_size", 1)
    chosen = CompilationSettings.from_kwargs(**settings)
    with forgetting_traces():
        given = _positional(inputs, arg_inputs, kwarg_inputs)
        program = program_from_exported(_exported(exported_program, *given), *given)
        _refuse_exclusions(program)
        return serialize_program(program, chosen)


def refit_module_weights(
    compiled_module: CompiledModule,
    new_weight_module: ExportedProgram,
    arg_inputs: Sequence[Any] | None = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    verify_output: bool = False,
    use_weight_map_cache: bool = True,
    in_place: bool = False,
) -> CompiledModule:
    """Put the weights of another ExportedProgram of the same model into a compiled module, without building an engine.

    The new program is lowered and converted as for a compile, so that weights which were folded, cast, transposed or
    joined are so again. Each of its networks must be that of an engine of the module but for the values of its
    constants; then the engine takes these. Weights of ops in torch are the new program's, too.

    On the reference runtime every engine takes other weights; if it was not built with ``immutable_weights=False`` its
    plan is dropped, and only that runtime can run it from then on. On the native runtime TensorRT is given the weights.

    Args:
        compiled_module: what a compile or `trtcore.load` returned; unchanged, unless `in_place`.
        new_weight_module: exported for the same inputs, with ranges that include the module's.
        arg_inputs, kwarg_inputs: for `verify_output`.
        verify_output: compare the results for these inputs with the new program's (to 1e-2).
        use_weight_map_cache: constants whose bytes have not changed keep their recorded hashes; False hashes all anew.
        in_place: change `compiled_module` itself, and return it.

    Returns:
        the module with the new weights; its report is of the kind "refit".

    Raises:
        RefitError: the program is of another model (the message names weights, or what differs in which engine); an
            engine takes no other weights; the results differ. `compiled_module` is as it was.
    """
    from trtcore.refit import refit_module_weights as refit

    return refit(
        compiled_module,
        new_weight_module,
        arg_inputs,
        kwarg_inputs,
        verify_output,
        use_weight_map_cache,
        in_place,
    )


def cross_compile_for_windows(
    exported_program: ExportedProgram | torch.nn.Module,
    inputs: Any = None,
    *,
    arg_inputs: Sequence[Any] | None = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    observers: Sequence[Observer] = (),
    progress: bool = False,
    **settings: Unpack[SettingsDict],
) -> CompiledModule:
    """Compile as `compile` does, on Linux, with engines that run on Windows.

    Returns:
        a module to be saved with `save_cross_compiled_exported_program`. Here the reference runtime alone runs it.

    Raises:
        SettingsError: the backend builds for no other platform (TensorRT for RTX does not: its own words are in the
            message), or this is Windows already.
    """
    from trtcore.archive.windows import refuse_on_windows
    from trtcore.errors import SettingsError
    from trtcore.settings import CompilationSettings

    refuse_on_windows()
    if not settings.pop("enable_cross_compile_for_windows", True):
        raise SettingsError(
            "enable_cross_compile_for_windows=False, and cross_compile_for_windows builds for Windows",
            advice="leave it out, or call trtcore.dynamo.compile",
        )
    chosen = CompilationSettings.from_kwargs(**settings).replace(enable_cross_compile_for_windows=True)
    return _compile(
        exported_program, _positional(inputs, arg_inputs, kwarg_inputs), chosen, observers, progress
    )


def save_cross_compiled_exported_program(
    gm: CompiledModule, file_path: str | os.PathLike[str], inputs: Sequence[Any] | None = None
) -> None:
    """Save what `cross_compile_for_windows` returned to a file as `trtcore.save` writes it, for Windows.

    Raises:
        ArtifactError: an engine of the module is for another platform; or see `trtcore.save`.
    """
    from trtcore.archive.windows import save_for_windows

    save_for_windows(gm, file_path, inputs)


def load_cross_compiled_exported_program(file_path: str | os.PathLike[str]) -> CompiledModule:
    """Load such a file, on Windows.

    Raises:
        BackendUnavailableError: this is not Windows.
        ArtifactError: its engines are for another platform; or see `trtcore.load`.
    """
    from trtcore.archive.windows import load_on_windows

    return load_on_windows(file_path)


def reports() -> tuple[GraphReport, ...]:
    """The report of every graph that ``torch.compile(backend="trtcore")`` compiled in this process, oldest first.

    The latest 1,000 are kept; ``torch._dynamo.reset()`` forgets them.
    """
    from trtcore.jit.backend import reports as made

    return made()


def __getattr__(name: str) -> Any:
    from trtcore._not_built import missing

    raise missing("trtcore.dynamo", name)


def _positional(inputs: Any, arg_inputs: Any, kwarg_inputs: Any) -> tuple[Any, Any]:
    from trtcore.errors import InputError

    if inputs is not None and arg_inputs is not None:
        raise InputError("give either inputs or arg_inputs, not both: they mean the same")
    return (inputs if inputs is not None else arg_inputs), kwarg_inputs


def _exported(model: Any, inputs: Any, kwarg_inputs: Any) -> ExportedProgram:
    """An ExportedProgram as it is; a module, traced."""
    if isinstance(model, torch.export.ExportedProgram):
        return model
    from trtcore.frontend.export import trace as trace_model

    return trace_model(model, arg_inputs=inputs, kwarg_inputs=kwarg_inputs)


def _refuse_exclusions(program: Program) -> None:
    from trtcore.errors import ExportError
    from trtcore.frontend.program import exclusions

    if left_out := exclusions(program):
        raise ExportError(
            f"{program.model_name} was captured under the condition {'; '.join(left_out)}, and a plan alone cannot "
            "refuse these sizes",
            advice="give `inputs` with ranges in which it holds: Input(profiles=[shape, ...]) takes single shapes",
        )

"""`trtcore.compile` and `trtcore.explain`: from any kind of model, in one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import torch

from trtcore.errors import InputError, SettingsError

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from typing_extensions import Unpack

    from trtcore.context import Observer
    from trtcore.report.data import Report
    from trtcore.runtime.module import CompiledModule
    from trtcore.settings.kwargs import SettingsDict

_AheadOfTime: TypeAlias = 'Literal["dynamo", "default", "fx", "ts", "torchscript"]'
_IRS = ("dynamo", "default", "torch_compile", "fx", "ts", "torchscript")


@overload
def compile(
    model: Any,
    inputs: Any = None,
    ir: _AheadOfTime = "dynamo",
    *,
    arg_inputs: Sequence[Any] | None = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    observers: Sequence[Observer] = (),
    progress: bool = False,
    **settings: Unpack[SettingsDict],
) -> CompiledModule: ...
@overload
def compile(
    model: Any,
    inputs: Any = None,
    *,
    ir: Literal["torch_compile"],
    arg_inputs: Sequence[Any] | None = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    observers: Sequence[Observer] = (),
    progress: bool = False,
    **settings: Unpack[SettingsDict],
) -> Callable[..., Any]: ...
def compile(
    model: Any,
    inputs: Any = None,
    ir: str = "dynamo",
    *,
    arg_inputs: Sequence[Any] | None = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    observers: Sequence[Observer] = (),
    progress: bool = False,
    **settings: Unpack[SettingsDict],
) -> CompiledModule | Callable[..., Any]:
    """Compile a model to TensorRT.

    Args:
        model: an `nn.Module`, `ExportedProgram`, `fx.GraphModule` or `ScriptModule`.
        inputs: positional inputs: tensors, `Input`s, nested tuples, lists and dicts of them, scalars.
        ir: "dynamo" (or "default"): ahead of time. "torch_compile": returns at once, compiles at the first
            call, for the shapes of that call (`inputs` are not needed). "fx", "ts", "torchscript": for an
            `fx.GraphModule` or a `ScriptModule`, ahead of time too.
        arg_inputs: the same as `inputs`. kwarg_inputs: keyword inputs.
        observers: told of every stage's start, progress and end.
        progress: show bars while it works, on stderr or in the notebook's cell.
        **settings: fields of `CompilationSettings`.

    Returns:
        a `torch.fx.GraphModule` called as the model, with `.report`; with ir="torch_compile" what
        `torch.compile` returns.

    Raises:
        SettingsError, InputError, ExportError: bad input, before anything is built.
        BackendUnavailableError, UnsupportedOperatorError, ConversionError, EngineBuildError: see
            `trtcore.dynamo.compile`.

    Example:
        >>> compiled = trtcore.compile(model, inputs=[trtcore.Input((1, 3, 224, 224))])  # doctest: +SKIP
    """
    from trtcore.compiler import compile_program
    from trtcore.frontend.program import program_from_exported, warn_of_exclusions
    from trtcore.ir.torch_private import forgetting_traces
    from trtcore.progress import with_progress
    from trtcore.settings import CompilationSettings

    chosen = CompilationSettings.from_kwargs(**settings)
    if ir not in _IRS:
        raise SettingsError(f"ir={ir!r}: it must be one of {', '.join(map(repr, _IRS))}")
    if ir == "torch_compile":
        _refuse_ranges(inputs, arg_inputs, kwarg_inputs)
        options: Any = {**settings, "observers": tuple(observers)} if observers else dict(settings)
        return torch.compile(model, backend="trtcore", options=options)
    with forgetting_traces(), with_progress(observers, progress) as watching:
        began = time.perf_counter()
        given = _one_of(inputs, arg_inputs)
        if settings.get("use_distributed_mode_trace") and isinstance(model, torch.nn.Module):
            model = _rank_local(model, given, kwarg_inputs)
        exported = _export(model, given, kwarg_inputs)
        exported_at = time.perf_counter()
        program = program_from_exported(exported, given, kwarg_inputs)
        warn_of_exclusions(program)
        timings = {"export": exported_at - began, "capture": time.perf_counter() - exported_at}
        return compile_program(program, chosen, observers=watching, timings=timings)


def explain(
    model: Any,
    inputs: Any = None,
    *,
    arg_inputs: Sequence[Any] | None = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    **settings: Unpack[SettingsDict],
) -> Report:
    """Say for every op which converter takes it, or why none does. No engine is built.

    Arguments and errors as for `compile`.
    """
    from trtcore import dynamo
    from trtcore.ir.torch_private import forgetting_traces

    with forgetting_traces():
        given = _one_of(inputs, arg_inputs)
        if settings.get("use_distributed_mode_trace") and isinstance(model, torch.nn.Module):
            model = _rank_local(model, given, kwarg_inputs)
        exported = _export(model, given, kwarg_inputs)
        return dynamo.explain(exported, arg_inputs=given, kwarg_inputs=kwarg_inputs, **settings)


def _one_of(inputs: Any, arg_inputs: Any) -> Any:
    if inputs is not None and arg_inputs is not None:
        raise InputError("give either inputs or arg_inputs, not both: they mean the same")
    return inputs if inputs is not None else arg_inputs


def _refuse_ranges(*inputs: Any) -> None:
    """torch.compile learns shapes from the calls: a range that nobody would look at is an error."""
    from torch.utils import _pytree as pytree

    from trtcore.ir.inputs import Input

    if any(isinstance(leaf, Input) and leaf.is_dynamic for leaf in pytree.tree_leaves(inputs)):
        raise InputError(
            "ir='torch_compile' takes its shapes from the calls, so the ranges of an Input would be ignored",
            advice="use torch.compile(model, backend='trtcore', dynamic=True), or ir='dynamo' for engines with ranges",
        )


def _rank_local(model: torch.nn.Module, inputs: Any, kwarg_inputs: Any) -> torch.nn.Module:
    """A tensor parallel model as this rank runs it."""
    from trtcore.frontend.examples import example_leaves
    from trtcore.frontend.export import argument_names
    from trtcore.ir.inputs import Input, collect_inputs, flatten_inputs
    from trtcore.jit.distributed import rank_local_module

    names = argument_names(model)
    call = collect_inputs(inputs, kwarg_inputs=kwarg_inputs, argument_names=names)
    assert call is not None
    tree = flatten_inputs(*call, names)
    if not all(isinstance(leaf, (torch.Tensor, Input)) for leaf in tree.leaves):
        raise InputError(
            "use_distributed_mode_trace takes tensors and Inputs: the model is run once with them",
            advice="make numbers and flags attributes of the model, or use torch.compile(model, backend='trtcore')",
        )
    examples = example_leaves(model, tree)
    ranges = {
        index: {dim: (size.min, size.max) for dim, size in enumerate(leaf.dims) if size.dynamic}
        for index, leaf in enumerate(tree.leaves)
        if isinstance(leaf, Input) and leaf.is_dynamic
    }
    return rank_local_module(model, *tree.unflatten(examples), ranges)


def _export(model: Any, inputs: Any, kwarg_inputs: Any) -> ExportedProgram:
    from trtcore.frontend.export import trace

    if isinstance(model, torch.export.ExportedProgram):
        return model
    return trace(model, arg_inputs=inputs, kwarg_inputs=kwarg_inputs)

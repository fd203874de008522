"""Capture by torch.export: example tensors and ``Input`` ranges in, ExportedProgram out.

Every dynamic dimension gets its own symbol, and torch.export finds which of them the model needs to be equal
or related. What torch assumes without saying is checked here: it traces with sizes of at least 2, so sizes of
0 and 1 are only promised after the captured graph has been compared with the model at them
(`trtcore.frontend.range_check`).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

import torch
from torch.export import Dim, ExportedProgram, ShapesCollection

from trtcore.errors import ExportError, InputError, TrtcoreError
from trtcore.frontend.cumulative_averages import averages_of_tensors
from trtcore.frontend.derivatives import export_differentiated
from trtcore.frontend.dict_order import DictOrder, holds_dicts
from trtcore.frontend.equal_dims import find_ties, tie_hook
from trtcore.frontend.examples import example_leaves, examples_beside_opt
from trtcore.frontend.export_errors import (
    capture_error,
    fixes_a_size,
    refuse_foreign_dtypes,
    refuse_mixed_dtypes,
)
from trtcore.frontend.layout_questions import settled, with_layouts_of_another
from trtcore.frontend.pack_captures import as_packs_capture
from trtcore.frontend.program import program_from_exported
from trtcore.frontend.quiet import can_run, quiet_torch
from trtcore.frontend.range_check import capture_for_all_sizes
from trtcore.frontend.script_graph import differs, script_as_module, scripts_replaced
from trtcore.frontend.tensor_data import TensorData
from trtcore.frontend.torchscript import KeptBranchError, trace_script
from trtcore.ir.graphs import TRACING
from trtcore.ir.inputs import (
    Input,
    InputTree,
    collect_inputs,
    describe,
    flatten_inputs,
    profile_count,
    refuse_bare_shapes,
)
from trtcore.ir.signature import keywords_named, parameters_of_callable, remember
from trtcore.ir.torch_private import results_of_shapes, transforms_undone
from trtcore.packs.loading import build_registry
from trtcore.settings import CompilationSettings

__all__ = ["program_from_exported", "trace"]


def trace(
    model: torch.nn.Module,
    inputs: Any = None,
    *,
    arg_inputs: Any = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    strict: bool = False,
) -> ExportedProgram:
    """Export a model; dimensions of an ``Input`` whose min and max differ become dynamic.

    With several optimisation profiles (`Input.profiles`) the exported range is what spans them.

    Args:
        model: an ``nn.Module`` (also an ``fx.GraphModule``, or a ``ScriptModule``).
        inputs, arg_inputs: the positional arguments: tensors, ``Input``s, numbers, strings, None, or tuples,
            lists and dicts of them. A single tensor or Input is one argument. A dict whose keys are names of
            arguments of the model's forward is keyword arguments.
        kwarg_inputs: the keyword arguments.
        strict: capture with Dynamo (``torch.export.export(strict=True)``).

    Returns:
        The ExportedProgram in the training dialect. Its ranges are those asked for; dimensions that the model
        needs to be equal share a symbol and the intersection of their ranges.

    Raises:
        InputError: no inputs, wrong ones, or ranges that contradict each other.
        ExportError: torch.export can't capture the model, or not for all the sizes that were asked for.
    """
    if not isinstance(model, torch.nn.Module):
        raise ExportError(
            f"the model must be a torch.nn.Module, got {describe(model)}",
            advice="put a function into a module's forward",
        )
    if isinstance(model, torch.jit.ScriptModule):
        return _trace_script(model, inputs, arg_inputs, kwarg_inputs)
    with scripts_replaced(model), as_packs_capture(model, build_registry(CompilationSettings())):
        return _trace(model, inputs, arg_inputs, kwarg_inputs, strict)


def _trace_script(
    script: torch.jit.ScriptModule, inputs: Any, arg_inputs: Any, kwarg_inputs: Mapping[str, Any] | None
) -> ExportedProgram:
    """A ScriptModule: as the plain module that its graph describes; where torch.export can't take that (a branch on a
    value), by torch's converter."""
    model = script_as_module(script)
    try:
        return _trace(model, inputs, arg_inputs, kwarg_inputs, strict=False, script=script)
    except ExportError:
        try:
            return trace_script(script, inputs, arg_inputs=arg_inputs, kwarg_inputs=kwarg_inputs)
        except KeptBranchError:
            raise
        except TrtcoreError:
            pass
        raise


def _trace(
    model: torch.nn.Module,
    inputs: Any,
    arg_inputs: Any,
    kwarg_inputs: Mapping[str, Any] | None,
    strict: bool,
    script: torch.jit.ScriptModule | None = None,
) -> ExportedProgram:
    names = argument_names(model)
    call = collect_inputs(inputs, arg_inputs=arg_inputs, kwarg_inputs=kwarg_inputs, argument_names=names)
    assert call is not None
    tree = flatten_inputs(*call, names)
    refuse_bare_shapes(tree)
    profile_count(tree.leaves, tree.names)  # raises where Inputs disagree
    _check_call(model, *call)
    _warn_if_training(model)
    examples = example_leaves(model, tree)
    refuse_foreign_dtypes(model, tree, examples)
    if script is not None and can_run(script) and differs(script, model, *tree.unflatten(examples)):
        raise ExportError(f"the graph of the ScriptModule {script.original_name} is not understood rightly")
    ties = find_ties(model, tree, examples)
    known_shapes = build_registry(CompilationSettings()).shapes

    def exported(
        leaves: Sequence[Any], order: DictOrder | None = None, strict: bool = False
    ) -> ExportedProgram:
        args, kwargs = tree.unflatten(leaves)
        with (
            TRACING,
            quiet_torch(),
            transforms_undone(),
            results_of_shapes(known_shapes),
            _prepared(model, kwargs, ties, order),
            nullcontext() if strict else TensorData().inputs_of(model, tree.names),
        ):
            shapes = _dynamic_shapes(model, tree, leaves)
            return export_differentiated(model, args, kwargs, shapes, strict)

    def capture(leaves: Sequence[Any], order: DictOrder | None = None) -> ExportedProgram:
        if strict:
            return with_layouts_of_another(exported(leaves, strict=True), leaves, exported)
        return settled(leaves, partial(exported, order=order))

    captured: Sequence[Any] = examples
    order = DictOrder() if not strict and holds_dicts(*call[0], *call[1].values()) else None
    try:
        ep, order, captured = _capture_at_some_size(capture, tree, examples, order)
    except (KeyboardInterrupt, TrtcoreError):
        raise
    except Exception as error:
        raise capture_error(model, tree, examples, error, strict) from error
    refuse_mixed_dtypes(model, tree, captured, ep)
    ep = capture_for_all_sizes(model, ep, tree, captured, capture)
    remember(ep, parameters_of_callable(model.forward), dict_order_matters=order is None or order.seen)
    return ep


def _capture_at_some_size(
    capture: Callable[..., ExportedProgram], tree: InputTree, examples: Sequence[Any], order: DictOrder | None
) -> tuple[ExportedProgram, DictOrder | None, Sequence[Any]]:
    """Capture at the opt sizes, and beside them where torch.export fixes one that meets a number of the model's."""
    try:
        return *_first_capture(capture, examples, order), examples
    except Exception as error:
        others = examples_beside_opt(tree, examples) if fixes_a_size(error) else None
        if others is not None:
            with suppress(Exception):
                return *_first_capture(capture, others, order), others
        raise


def _first_capture(
    capture: Callable[..., ExportedProgram], examples: Sequence[Any], order: DictOrder | None
) -> tuple[ExportedProgram, DictOrder | None]:
    """Capture, watching the dicts among the arguments where the model takes watched ones."""
    if order is not None:
        with suppress(Exception):
            return capture(examples, order), order
    return capture(examples), None


def _dynamic_shapes(model: torch.nn.Module, tree: InputTree, examples: Sequence[Any]) -> Any:
    """torch.export's specification of the dynamic dimensions; None when there is none."""
    shapes = ShapesCollection()  # type: ignore[no-untyped-call]
    for leaf, example in zip(tree.leaves, examples):
        if isinstance(leaf, Input) and leaf.is_dynamic:
            shapes[example] = {
                # With a max of 2 torch would make the dimension static; capture_for_all_sizes() sets the real range.
                dim: Dim.DYNAMIC(min=size.min, max=max(size.max, 3))
                for dim, size in enumerate(leaf.dims)
                if size.dynamic
            }
    if not len(shapes):
        return None
    return shapes.dynamic_shapes(model, *tree.unflatten(examples))  # type: ignore[no-untyped-call]


@contextmanager
def _prepared(
    model: torch.nn.Module, kwargs: Mapping[str, Any], ties: Sequence[Any], order: DictOrder | None = None
) -> Iterator[None]:
    """The model while it is traced: tied sizes are compared, ``**kwargs`` has the names that are given, and averages
    are counted in tensors."""
    hooks = [model.register_forward_pre_hook(tie_hook(ties), with_kwargs=True)] if ties else []
    if order is not None:
        hooks.append(model.register_forward_pre_hook(order.hook, with_kwargs=True))
    try:
        with keywords_named(model, kwargs), averages_of_tensors(model):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def argument_names(model: torch.nn.Module) -> list[str]:
    """Names of the arguments of forward, without ``*args`` and ``**kwargs``; empty if they can't be known."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind not in variadic]


def _check_call(model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        shape = tuple(args)
        one_shape = len(shape) > 1 and all(type(size) is int for size in shape)
        raise InputError(
            f"the inputs do not fit {type(model).__name__}.forward{signature}: {error}",
            advice=f"for one tensor of the shape {shape} write inputs=[trtcore.Input({shape})]"
            if one_shape
            else "inputs are the positional arguments in order; kwarg_inputs the others by name",
        ) from None


_DIFFERENT_IN_TRAINING = (
    *(torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.SyncBatchNorm),
    *(torch.nn.Dropout, torch.nn.Dropout1d, torch.nn.Dropout2d, torch.nn.Dropout3d),
    *(torch.nn.AlphaDropout, torch.nn.FeatureAlphaDropout),
)


def _warn_if_training(model: torch.nn.Module) -> None:
    for name, module in model.named_modules():
        if module.training and isinstance(module, _DIFFERENT_IN_TRAINING):
            warnings.warn(
                f"{type(model).__name__} is exported in training mode ({name or 'it'} is a "
                f"{type(module).__name__}); call model.eval() first for inference",
                UserWarning,
                stacklevel=3,
            )
            return

"""From an ExportedProgram and the inputs that were asked for to a Program: structure, types and ranges are compared."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import sympy
import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from trtcore.errors import InputError
from trtcore.ir.exclusions import describe_exclusion, exclusion
from trtcore.ir.exported import argument_names, flat_program, with_ranges
from trtcore.ir.inputs import (
    Input,
    InputTree,
    collect_inputs,
    describe,
    describe_structure,
    flatten_inputs,
    profile_count,
)
from trtcore.ir.program import InputSpec, Program
from trtcore.ir.ranges import Asked, InputRange
from trtcore.ir.signature import same_value
from trtcore.ir.symbols import solve_linear


def program_from_exported(
    ep: ExportedProgram,
    arg_inputs: Any = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    *,
    inputs: Any = None,
) -> Program:
    """The Program of an ExportedProgram; `ep` is not changed and its weights are shared, not copied.

    Args:
        ep: of any dialect (training, inference, decomposed).
        inputs, arg_inputs, kwarg_inputs: optional; tensors or ``Input``s in the structure that was exported.
            An ``Input`` narrows the range of the dimensions and gives the size that is tuned for (or several of
            both, `Input.profiles`); a tensor gives only the latter. Without them ranges come from `ep` and the tuned
            sizes from its example inputs.

    Raises:
        InputError: the inputs have another structure, type, rank or size than was exported; a range leaves
            that of `ep`; a dimension has no upper bound.
        ExportError: `ep` holds something that can't be compiled (script objects, effect tokens).
    """
    in_spec = ep.call_spec.in_spec
    assert in_spec is not None
    given = _given_inputs(in_spec, argument_names(ep), inputs, arg_inputs, kwarg_inputs)
    program = flat_program(ep)
    if given is None:
        return with_ranges(program, ep)
    profile_count(given.leaves, [spec.name for spec in program.inputs])  # raises where Inputs disagree
    asked = [_check_leaf(spec, leaf) for spec, leaf in zip(program.inputs, given.leaves)]
    return with_ranges(program, ep, asked)


def _given_inputs(
    in_spec: pytree.TreeSpec,
    arg_names: Sequence[str],
    inputs: Any,
    arg_inputs: Any,
    kwarg_inputs: Mapping[str, Any] | None,
) -> InputTree | None:
    call = collect_inputs(
        inputs, arg_inputs=arg_inputs, kwarg_inputs=kwarg_inputs, argument_names=arg_names, allow_none=True
    )
    if call is None:
        return None
    args, kwargs = call
    order = in_spec.child(1).context or []
    kwargs = {
        name: kwargs[name]
        for name in sorted(kwargs, key=lambda n: order.index(n) if n in order else len(order))
    }
    tree = flatten_inputs(args, kwargs, arg_names)
    if tree.spec != in_spec:
        raise InputError(
            "the inputs have another structure than the program was exported with\n"
            f"  given:    {describe_structure(tree.spec)}\n"
            f"  exported: {describe_structure(in_spec, arg_names)}",
            advice="give arg_inputs and kwarg_inputs as the model was called when it was exported",
        )
    return tree


def _check_leaf(spec: InputSpec, leaf: Any) -> InputRange | None:
    """Compare one given input with what was exported; the sizes it asks for."""
    if spec.kind == "tensor":
        if not isinstance(leaf, (torch.Tensor, Input)):
            raise InputError(f"input {spec.name} was exported as a tensor, got {describe(leaf)}")
        return _check_tensor(spec, leaf)
    if isinstance(leaf, (torch.Tensor, Input)):
        raise InputError(
            f"input {spec.name} was exported as {_describe_constant(spec)}, got {describe(leaf)}"
        )
    if spec.kind == "constant" and not same_value(leaf, spec.value):
        raise InputError(
            f"input {spec.name} was fixed to {spec.value!r} by the export, got {describe(leaf)}",
            advice="export the model again with this value",
        )
    if spec.kind == "symint":
        if type(leaf) is not int:
            raise InputError(f"input {spec.name} is an int, got {describe(leaf)}")
        return InputRange(((None, leaf, None),))
    return None


def _check_tensor(spec: InputSpec, leaf: torch.Tensor | Input) -> InputRange:
    shape = spec.shape
    assert shape is not None
    if leaf.dtype != spec.dtype:
        raise InputError(f"input {spec.name} was exported as {spec.dtype}, got {leaf.dtype}")
    if leaf.device is not None and torch.device(leaf.device).type != cast(torch.device, spec.device).type:
        raise InputError(f"input {spec.name} was exported on device {spec.device}, got one on {leaf.device}")
    profiles: list[tuple[Asked, ...]] = []
    if isinstance(leaf, Input):
        asked: list[Asked] = [(dim.min, dim.opt, dim.max) for dim in leaf.dims]
        if leaf.profiles is not None:
            profiles = [tuple((dim.min, dim.opt, dim.max) for dim in dims) for dims in leaf.profile_dims]
    else:
        asked = [(None, int(size), None) for size in leaf.shape]
    if len(asked) != len(shape):
        raise InputError(f"input {spec.name} was exported with {len(shape)} dimensions, got {len(asked)}")
    for dim, (exported, (low, opt, high)) in enumerate(zip(shape, asked)):
        if not isinstance(exported, int):
            continue
        if low is not None and low != high:
            raise InputError(
                f"input {spec.name}: dimension {dim} is asked for as {low}..{high}, but the program was "
                f"exported with the fixed size {exported}",
                advice="export it dynamically: torch.export.export(..., dynamic_shapes={"
                f"{spec.name!r}: {{{dim}: torch.export.Dim('d', min={low}, max={high})}}}}), "
                "or let trtcore.dynamo.trace(model, inputs) do it",
            )
        if opt != exported:
            raise InputError(
                f"input {spec.name}: dimension {dim} was exported with the fixed size {exported}, got {opt}"
            )
    return InputRange(tuple(asked), tuple(profiles))


def _describe_constant(spec: InputSpec) -> str:
    return "an int" if spec.kind == "symint" else f"the constant {spec.value!r}"


def exclusions(program: Program) -> list[str]:
    """The conditions that sizes in the program's ranges do not fulfil, each with these sizes."""
    places: dict[str, tuple[str, int, int]] = {}
    for spec in program.inputs:
        dims = enumerate(spec.shape or ()) if spec.kind == "tensor" else [(None, spec.value)]
        for index, dim in dims:
            solved = solve_linear(dim) if isinstance(dim, sympy.Expr) else None
            if solved is not None:
                where = spec.name if index is None else f"{spec.name}: dimension {index}"
                places.setdefault(solved[0], (where, *solved[1:]))
    found = (exclusion(guard, program.symbols) for guard in program.guards)
    return [describe_exclusion(one.guard, one.points, places) for one in found if one.points]


def warn_of_exclusions(program: Program) -> None:
    """Warn of conditions that sizes in the program's ranges do not fulfil; for the function that a user called."""
    if left_out := exclusions(program):
        warnings.warn(
            f"{program.model_name} was captured under the condition {'; '.join(left_out)}; calls with these sizes will "
            "be refused",
            UserWarning,
            stacklevel=3,
        )

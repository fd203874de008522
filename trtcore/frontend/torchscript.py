"""ScriptModules: traced or scripted TorchScript, converted to an ExportedProgram."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from trtcore.errors import ExportError, InputError
from trtcore.frontend.examples import example_leaves
from trtcore.ir.inputs import Input, collect_inputs, flatten_inputs
from trtcore.ir.torch_private import script_to_exported


def trace_script(
    model: torch.jit.ScriptModule,
    inputs: Any = None,
    *,
    arg_inputs: Any = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
) -> ExportedProgram:
    """Convert a ScriptModule with torch's ``TS2EPConverter``; static shapes only.

    Raises:
        InputError: an ``Input`` is dynamic; TorchScript graphs are converted with the sizes of the examples.
        ExportError: the converter does not know something in the graph.
    """
    forward: Any = model.forward
    names = [argument.name for argument in forward.schema.arguments[1:]]
    call = collect_inputs(inputs, arg_inputs=arg_inputs, kwarg_inputs=kwarg_inputs, argument_names=names)
    assert call is not None
    tree = flatten_inputs(*call, names)
    for name, leaf in zip(tree.names, tree.leaves):
        if isinstance(leaf, Input) and leaf.is_dynamic:
            raise InputError(
                f"input {name} is dynamic ({leaf}), but a ScriptModule is converted with fixed shapes: its "
                "graph may hold sizes of the example as constants",
                advice="compile the original nn.Module, or give a static Input",
            )
    args, kwargs = tree.unflatten(example_leaves(model, tree))
    try:
        converted = script_to_exported(model, args, kwargs)
        # The converter leaves sizes dynamic that its own graph may hold as constants: fix them.
        ep = torch.export.export(converted.module(check_guards=False), args, kwargs)
    except KeyboardInterrupt:
        raise
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()][:8]
        raise ExportError(
            "\n    ".join([f"torch could not convert the ScriptModule {model.original_name}", *lines]),
            advice="compile the nn.Module that it was made from",
        ) from error
    signature = ep.module_call_graph[0].signature
    if signature is not None:
        signature.forward_arg_names = [*names[: len(args)], *kwargs]
        (returned,) = forward.schema.returns
        numbered = pytree.tree_unflatten(range(signature.out_spec.num_leaves), signature.out_spec)
        signature.out_spec = pytree.tree_structure(_as_declared(numbered, returned.type))
    return ep


def _as_declared(value: Any, declared: Any) -> Any:
    """A result in the tuples and lists that its TorchScript type names; the converter makes lists of all of them."""
    kind = declared.kind()
    if kind == "TupleType" and isinstance(value, (list, tuple)):
        return tuple(map(_as_declared, value, declared.elements()))
    if kind == "ListType" and isinstance(value, (list, tuple)):
        return [_as_declared(item, declared.getElementType()) for item in value]
    return value

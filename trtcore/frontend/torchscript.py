"""ScriptModules: traced or scripted TorchScript, converted to an ExportedProgram."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from trtcore.errors import ExportError, InputError
from trtcore.frontend.examples import example_leaves
from trtcore.ir.inputs import Input, collect_inputs, flatten_inputs, refuse_bare_shapes
from trtcore.ir.torch_private import script_to_exported


class KeptBranchError(ExportError):
    """The conversion has one of the branches that data decide between."""


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
        ExportError: the converter does not know something in the graph, or keeps one of two branches.
    """
    forward: Any = model.forward
    names = [argument.name for argument in forward.schema.arguments[1:]]
    call = collect_inputs(inputs, arg_inputs=arg_inputs, kwarg_inputs=kwarg_inputs, argument_names=names)
    assert call is not None
    tree = flatten_inputs(*call, names)
    refuse_bare_shapes(tree)
    for name, leaf in zip(tree.names, tree.leaves):
        if isinstance(leaf, Input) and leaf.is_dynamic:
            raise InputError(
                f"input {name} is dynamic ({leaf}), but a ScriptModule is converted with fixed shapes: its "
                "graph may hold sizes of the example as constants",
                advice="compile the original nn.Module, or give a static Input",
            )
    args, kwargs = tree.unflatten(example_leaves(model, tree))
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
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
    if any(_BRANCH_TAKEN in str(one.message) for one in told) and (
        kind := _decided_by_data(model.inlined_graph)
    ):
        raise KeptBranchError(
            f"the ScriptModule {model.original_name} takes a branch by what {kind} reads of a tensor, and torch's "
            "conversion keeps the branch of one call alone",
            advice="let the condition be a tensor (if x.sum() > 0:, without .item() or int()); or compile the "
            "nn.Module that it was made from, with torch.cond",
        )
    signature = ep.module_call_graph[0].signature
    if signature is not None:
        signature.forward_arg_names = [*names[: len(args)], *kwargs]
        (returned,) = forward.schema.returns
        numbered = pytree.tree_unflatten(range(signature.out_spec.num_leaves), signature.out_spec)
        signature.out_spec = pytree.tree_structure(_as_declared(numbered, returned.type))
    return ep


_BRANCH_TAKEN = "Pred is a Python constant"
"""What torch.cond warns of in an export where it was given no tensor: a size that is known, or a value of one call."""

_READS = frozenset(
    {
        "aten::item",
        "aten::Int",
        "aten::Float",
        "aten::Bool",
        "aten::equal",
        "aten::allclose",
        "aten::is_nonzero",
    }
)


def _decided_by_data(graph: Any) -> str:
    """What reads a tensor's values in the condition of a branch, as ``aten::item``; "" where nothing does."""
    for branch in graph.findAllNodes("prim::If", recurse=True):
        look_at, seen = [next(branch.inputs())], set()
        while look_at:
            value = look_at.pop()
            node = value.node()
            if value.unique() in seen or node.kind() == "prim::Param":
                continue
            seen.add(value.unique())
            sources = list(node.inputs())
            if node.kind() in _READS and any(
                one.type().isSubtypeOf(torch._C.TensorType.get()) for one in sources
            ):
                return str(node.kind())
            look_at += sources
    return ""


def _as_declared(value: Any, declared: Any) -> Any:
    """A result in the tuples and lists that its TorchScript type names; the converter makes lists of all of them."""
    kind = declared.kind()
    if kind == "TupleType" and isinstance(value, (list, tuple)):
        return tuple(map(_as_declared, value, declared.elements()))
    if kind == "ListType" and isinstance(value, (list, tuple)):
        return [_as_declared(item, declared.getElementType()) for item in value]
    return value

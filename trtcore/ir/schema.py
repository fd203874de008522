"""An op's arguments by name, with defaults filled in, as its schema has them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import fx

from trtcore.errors import ConversionError


class Parameter(NamedTuple):
    """One parameter of an op; ``default`` is ``inspect.Parameter.empty`` where there is none."""

    name: str
    default: Any
    keyword_only: bool
    length: int | None


def node_arguments(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of a call_function node by parameter name, defaults filled in.

    A single value given for a list of fixed length (``int[2] stride``) is repeated to that length. Values
    stay what the graph has: `fx.Node`, numbers, lists, None. For a target without a schema or a signature the
    names of positional arguments are ``"0"``, ``"1"`` and so on.

    Raises:
        ConversionError: the arguments do not fit the op's schema.

    Example:
        >>> import torch
        >>> graph = torch.fx.Graph()
        >>> x = graph.placeholder("x")
        >>> node_arguments(graph.call_function(torch.ops.aten.gelu.default, (x,)))
        {'self': x, 'approximate': 'none'}
    """
    return normalise_arguments(node.target, node.args, node.kwargs)


def normalise_arguments(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return `args` and `kwargs` of a call of `target` by name; see `node_arguments`."""
    parameters = parameters_of(target)
    if parameters is None:
        return {**{str(i): value for i, value in enumerate(args)}, **kwargs}
    positional = [p for p in parameters if not p.keyword_only]
    if len(args) > len(positional):
        raise ConversionError(f"{target} takes {len(positional)} positional arguments, and gets {len(args)}")
    unknown = kwargs.keys() - {p.name for p in parameters}
    if unknown:
        names = ", ".join(p.name for p in parameters)
        raise ConversionError(f"{target} has no parameter {', '.join(sorted(unknown))}; it has {names}")
    given = dict(zip((p.name for p in positional), args))
    result: dict[str, Any] = {}
    for parameter in parameters:
        name = parameter.name
        if name in given:
            if name in kwargs:
                raise ConversionError(f"{target} gets its argument {name!r} twice")
            value = given[name]
        elif name in kwargs:
            value = kwargs[name]
        elif parameter.default is not inspect.Parameter.empty:
            default = parameter.default
            value = list(default) if isinstance(default, list) else default  # the schema's list is shared
        else:
            raise ConversionError(f"{target} lacks its argument {name!r}")
        if parameter.length is not None and value is not None and not isinstance(value, (list, tuple)):
            value = [value] * parameter.length
        result[name] = value
    return result


@cache
def parameters_of(target: Callable[..., Any]) -> tuple[Parameter, ...] | None:
    """Return the parameters of an op or a Python callable; None where there is no telling."""
    if isinstance(target, torch._ops.OpOverload):
        empty = inspect.Parameter.empty
        return tuple(
            Parameter(a.name, a.default_value if a.has_default_value() else empty, a.kwarg_only, _length(a))
            for a in target._schema.arguments
        )
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return None
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if any(p.kind in variadic for p in signature.parameters.values()):
        return None
    return tuple(
        Parameter(p.name, p.default, p.kind is inspect.Parameter.KEYWORD_ONLY, None)
        for p in signature.parameters.values()
    )


def _length(argument: Any) -> int | None:
    """The length of a fixed-size list, ``2`` for ``int[2]``."""
    length: int | None = argument.N
    return length

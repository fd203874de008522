"""How a declaration's functions get what they ask for, and a kernel's parameters their values.

The functions of a declaration (shapes, dtypes, grid, kernel arguments) name what they need: parameters called
like the op's arguments or outputs. They see tensors when the kernel is launched, and FakeTensors with
symbolic sizes when a plugin is generated, so one text serves both.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trtcore.pack import PackError

POINTER_SUFFIX = "_ptr"


class Asking:
    """A function of a declaration together with the names it asks for.

    Args:
        function: its parameters are names of the op's arguments or outputs.
        known: the names there are.
        what: what the function is, for errors.

    Raises:
        PackError: not callable, or a parameter that is none of `known`.
    """

    def __init__(self, function: Callable[..., Any], known: Sequence[str], what: str) -> None:
        if not callable(function):
            raise PackError(f"{what}: {function!r} is not a function")
        self.function = function
        try:
            self.names = tuple(inspect.signature(function).parameters)
        except (TypeError, ValueError) as error:
            raise PackError(f"{what}: the parameters of {function!r} cannot be read") from error
        strange = [name for name in self.names if name not in known]
        if strange:
            raise PackError(
                f"{what} asks for {', '.join(strange)}; there is {', '.join(known) or 'nothing'}",
                advice="name its parameters like the op's arguments and outputs",
            )

    def __call__(self, values: Mapping[str, Any]) -> Any:
        return self.function(*(values[name] for name in self.names))


def resolve_parameters(
    parameters: Sequence[str], arguments: Mapping[str, Any], known: Sequence[str], what: str
) -> dict[str, Any]:
    """Return, per parameter of a kernel, a constant, an `Asking`, or the name of an op argument or output.

    A parameter is what `arguments` says; else the op's argument or output of its name, with or without
    ``_ptr``.

    Raises:
        PackError: a parameter that nothing gives, or an entry of `arguments` that is no parameter.
    """
    strange = sorted(set(arguments) - set(parameters))
    if strange:
        raise PackError(f"{what}: the kernel has no parameter {', '.join(strange)}; it has {parameters}")
    resolved: dict[str, Any] = {}
    for parameter in parameters:
        name = parameter if parameter in known else parameter.removesuffix(POINTER_SUFFIX)
        if parameter in arguments:
            given = arguments[parameter]
            resolved[parameter] = (
                Asking(given, known, f"{what}: argument {parameter!r}") if callable(given) else given
            )
        elif name in known:
            resolved[parameter] = Named(name)
        else:
            raise PackError(
                f"{what}: nothing gives the kernel's parameter {parameter!r}",
                advice=f"put it in arguments={{...}}, or name it like one of {', '.join(known)}",
            )
    return resolved


class Named(str):
    """A kernel parameter that is the op's argument or output of this name."""

    __slots__ = ()


def evaluate(resolved: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The value of every kernel parameter, from the op's arguments and outputs by name."""
    return {
        parameter: values[source]
        if isinstance(source, Named)
        else source(values)
        if isinstance(source, Asking)
        else source
        for parameter, source in resolved.items()
    }

"""The model's own signature: how arguments are bound to its parameters, on every route that calls it."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.export import ExportedProgram

from trtcore.errors import InputError

POSITIONAL_ONLY, EITHER, ARGS, KEYWORD_ONLY, KWARGS = (
    "positional only", "either", "args", "keyword only", "kwargs",
)  # fmt: skip
_KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD: EITHER,
    inspect.Parameter.VAR_POSITIONAL: ARGS,
    inspect.Parameter.KEYWORD_ONLY: KEYWORD_ONLY,
    inspect.Parameter.VAR_KEYWORD: KWARGS,
}
KINDS = frozenset(_KINDS.values())
_ATTRIBUTE = "_trtcore_parameters"
_ORDER = "_trtcore_dict_order_matters"
PLAIN = (type(None), bool, int, float, str)
"""Types of defaults that a saved module keeps; a parameter with another default must be given there."""


def same_value(a: Any, b: Any) -> bool:
    """Whether two plain values are one to a model: of one type, NaN as NaN, and 0.0 not as -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return bool(a == b or (a != a and b != b)) and math.copysign(1.0, a) == math.copysign(1.0, b)
    return bool(a == b)


@dataclass(frozen=True)
class Parameter:
    """One parameter of the model's forward.

    Attributes:
        kind: "positional only", "either", "args" (``*args``), "keyword only" or "kwargs".
        default: where there is one.
    """

    name: str
    kind: str = EITHER
    has_default: bool = False
    default: Any = None


Parameters = tuple[Parameter, ...]


def parameters_of_callable(function: Callable[..., Any]) -> Parameters | None:
    """The parameters of a model's forward; None where Python cannot tell."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    empty = inspect.Parameter.empty
    return tuple(
        Parameter(p.name, _KINDS[p.kind], p.default is not empty, None if p.default is empty else p.default)
        for p in signature.parameters.values()
    )


@contextmanager
def keywords_named(model: torch.nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Within this, forward's signature names what is given to its ``**kwargs``.

    torch.export refuses dynamic shapes together with names that only ``**kwargs`` takes: it looks for them among the
    named arguments.

    Args:
        model: what is exported.
        names: of the keyword arguments.
    """
    parameters = list(inspect.signature(model.forward).parameters.values())
    variadic = bool(parameters) and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
    known = {parameter.name for parameter in parameters}
    extra = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names if name not in known]
    if not (variadic and extra) or "forward" in model.__dict__:
        yield
        return
    original = model.forward

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    forward.__signature__ = inspect.Signature([*parameters[:-1], *extra])  # type: ignore[attr-defined]
    model.forward = forward
    try:
        yield
    finally:
        del model.forward


def remember(ep: ExportedProgram, parameters: Parameters | None, *, dict_order_matters: bool = True) -> None:
    """Keep what torch.export does not of the model's call: all its parameters, and whether it goes through dicts."""
    if parameters is not None:
        setattr(ep, _ATTRIBUTE, parameters)
    setattr(ep, _ORDER, dict_order_matters)


def dict_order_matters(ep: ExportedProgram) -> bool:
    """Whether a dict among the arguments whose keys come in another order could be another call."""
    return bool(getattr(ep, _ORDER, True))


def parameters_of(ep: ExportedProgram, arg_names: Sequence[str]) -> Parameters:
    """The parameters of an ExportedProgram's call: the model's where they are known.

    Else what was given by position has no default, and what was given by name is keyword-only.
    """
    known: Parameters | None = getattr(ep, _ATTRIBUTE, None)
    if known is not None:
        return known
    assert ep.call_spec.in_spec is not None
    positional = ep.call_spec.in_spec.child(0).num_children
    return tuple(
        Parameter(name, EITHER if index < positional else KEYWORD_ONLY)
        for index, name in enumerate(arg_names)
    )


@dataclass(frozen=True)
class Binding:
    """From a call's arguments to the arguments that were captured.

    Attributes:
        parameters: the model's.
        names: of the captured arguments: those given by position, then those given by name.
        positional: how many were given by position.
        model: the model's name, for messages.
    """

    parameters: Parameters
    names: tuple[str, ...]
    positional: int
    model: str = "model"
    sources: tuple[tuple[str, Any], ...] = field(init=False, repr=False, compare=False)
    """Per captured argument: ("parameter", name), ("args", index) or ("kwargs", key)."""
    _straight: bool = field(init=False, repr=False, compare=False)
    """Whether a call by position alone gives the captured arguments in their order."""

    def __post_init__(self) -> None:
        by_position = [p.name for p in self.parameters if p.kind in (POSITIONAL_ONLY, EITHER)]
        named = {p.name for p in self.parameters if p.kind in (EITHER, KEYWORD_ONLY)}
        sources: list[tuple[str, Any]] = []
        for index in range(self.positional):
            inside = index < len(by_position)
            sources.append(
                ("parameter", by_position[index]) if inside else ("args", index - len(by_position))
            )
        for name in self.names[self.positional :]:
            sources.append(("parameter", name) if name in named else ("kwargs", name))
        straight = by_position[: len(sources)] == [name for _, name in sources]
        object.__setattr__(self, "sources", tuple(sources))
        object.__setattr__(self, "_straight", straight)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any]:
        """The captured arguments' values in this call, bound as the model's own call would.

        Raises:
            InputError: the model's call would refuse the arguments; or one that was left at its default, or that was
                one of ``*args`` or ``**kwargs``, is another than at capture.
        """
        if not kwargs and self._straight and len(args) == len(self.names):
            return args
        values, extra, keywords = self._assign(args, kwargs)
        self._check_variadic(extra, keywords)
        found = []
        for kind, key in self.sources:
            found.append(
                values.pop(key) if kind == "parameter" else extra[key] if kind == "args" else keywords[key]
            )
        self._check_left(values)
        return found

    def _assign(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[dict[str, Any], tuple[Any, ...], dict[str, Any]]:
        """(parameter -> value, ``*args``, ``**kwargs``), by Python's rules."""
        by_position = [p for p in self.parameters if p.kind in (POSITIONAL_ONLY, EITHER)]
        kinds = {p.kind for p in self.parameters}
        values = {p.name: value for p, value in zip(by_position, args)}
        extra = tuple(args[len(by_position) :])
        problems = []
        if extra and ARGS not in kinds:
            problems.append(f"{len(args)} positional arguments")
        named = {p.name for p in self.parameters if p.kind in (EITHER, KEYWORD_ONLY)}
        keywords: dict[str, Any] = {}
        twice, unknown = [], []
        for name, value in kwargs.items():
            if name in named:
                if name in values:
                    twice.append(name)
                values[name] = value
            elif KWARGS in kinds:
                keywords[name] = value
            else:
                unknown.append(name)
        if twice:
            problems.append(f"{', '.join(twice)} twice")
        if unknown:
            problems.append(f"the unknown argument{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}")
        missing = []
        for parameter in self.parameters:
            if parameter.kind in (ARGS, KWARGS) or parameter.name in values:
                continue
            if parameter.has_default:
                values[parameter.name] = parameter.default
            else:
                missing.append(parameter.name)
        if missing:
            problems.append(f"no {', '.join(missing)}")
        if problems:
            raise InputError(
                f"the compiled {self.model} takes ({self.signature()}), got {' and '.join(problems)}",
                advice="call it as the model",
            )
        return values, extra, keywords

    def _check_variadic(self, extra: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        wanted = [key for kind, key in self.sources if kind == "args"]
        if len(extra) != len(wanted):
            raise InputError(
                f"the model was compiled for {len(wanted)} arguments in *args, got {len(extra)}",
                advice="compile the model again for this call",
            )
        order = [key for kind, key in self.sources if kind == "kwargs"]
        if list(keywords) != order:
            raise InputError(
                f"the model was compiled for the keyword arguments {', '.join(order) or 'none'} in **kwargs, in this "
                f"order, got {', '.join(keywords) or 'none'}",
                advice="give the same ones in the same order: a model that goes through them could compute something "
                "else",
            )

    def _check_left(self, values: Mapping[str, Any]) -> None:
        """Parameters that no argument was captured for: they had their defaults, and must have them now."""
        defaults = {p.name: p.default for p in self.parameters if p.has_default}
        for name, value in values.items():
            default = defaults.get(name)
            if value is default or (isinstance(value, PLAIN) and same_value(value, default)):
                continue
            given = type(value).__name__ if not isinstance(value, PLAIN) else repr(value)
            raise InputError(
                f"argument {name} was left at its default {default!r} when the model was compiled, got {given}",
                advice=f"compile the model with {name} among its inputs",
            )

    def signature(self) -> str:
        """The parameters, as Python writes them."""
        parts, star = [], False
        for parameter in self.parameters:
            if parameter.kind == KEYWORD_ONLY and not star:
                parts.append("*")
                star = True
            if parameter.kind == ARGS:
                star = True
            prefix = {ARGS: "*", KWARGS: "**"}.get(parameter.kind, "")
            parts.append(
                prefix + parameter.name + (f"={parameter.default!r}" if parameter.has_default else "")
            )
        return ", ".join(parts)

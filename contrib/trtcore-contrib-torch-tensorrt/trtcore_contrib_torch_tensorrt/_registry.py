"""The decorator, its priorities and validators, and the context that converters get."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, TypeVar

import torch
from torch import fx

from trtcore.pack import Priority, Reject, converter, parameters_of
from trtcore_contrib_torch_tensorrt._bindings import bindings

_F = TypeVar("_F", bound=Callable[..., Any])


class ConverterPriority(Enum):
    """STANDARD and HIGH, as trtcore's priorities. At STANDARD, too, a converter of yours goes before a built-in one."""

    STANDARD = Priority.STANDARD
    HIGH = Priority.HIGH


class SourceIR(Enum):
    """Where an op comes from: only a part of layer names."""

    NN = "nn"
    ACC = "acc"
    ATEN = "aten"
    PRIM = "prim"
    TORCHTRT_LOWERED = "torchtrt_lowered"
    UNKNOWN = "unknown"

    def __str__(self) -> str:
        return self.value


class ConversionContext:
    """What a converter gets as `ctx`: ``net`` and ``compilation_settings``.

    Everything else is `trtcore.pack.ConversionContext`'s: ``ctx.constant``, ``ctx.shape_of`` and so on work too.
    """

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx
        self.net: Any = ctx.net
        self.compilation_settings: Any = ctx.settings

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


def dynamo_tensorrt_converter(
    key: Any,
    *,
    enabled: bool = True,
    capability_validator: Callable[[fx.Node, Any], bool | Reject] | None = None,
    priority: ConverterPriority = ConverterPriority.STANDARD,
    supports_dynamic_shapes: bool = False,
    requires_output_allocator: bool = False,
) -> Callable[[_F], _F]:
    """Declare a converter that is called as ``f(ctx, target, args, kwargs, name)``.

    `args` and `kwargs` are split as the node has them: what it leaves out is not filled in. Tensors come as
    ITensors, weights as `torch.Tensor`, symbolic ints as int64 ITensors of shape (1,).

    Args:
        key: the op: an overload, or a packet that has one.
        enabled: False leaves the function undeclared.
        capability_validator: ``(node, compilation settings) -> bool``; a `trtcore.pack.Reject` carries a reason.
        priority: see `ConverterPriority`.
        supports_dynamic_shapes: whether it may get nodes with symbolic dims.
        requires_output_allocator: whether its output's shape depends on data.

    Raises:
        PackError: `key` is not an op.
    """
    register = converter(
        key,
        priority=priority.value,
        capability_validator=_validator(capability_validator),
        supports_dynamic_shapes=supports_dynamic_shapes,
        requires_output_allocator=requires_output_allocator,
        stacklevel=2,  # the module that uses this decorator declares the converter
    )

    def declare(function: _F) -> _F:
        if enabled:
            adapted = register(_adapted(function))
            # The function carries what was declared too, for `converters_in` and ``converters={op: function}``.
            vars(function).update({k: v for k, v in vars(adapted).items() if k != "__wrapped__"})
        return function

    return declare


def _adapted(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` behind trtcore's calling convention."""

    @functools.wraps(function)
    def convert(ctx: Any, *values: Any, **named: Any) -> Any:
        node = ctx.node
        args, kwargs = _as_written(node, values, named)
        with bindings(ctx.trt):
            return function(ConversionContext(ctx), node.target, args, kwargs, node.name)

    return convert


def _as_written(
    node: fx.Node, values: Sequence[Any], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Values by schema, split into positional ones and keywords as the node's call is."""
    parameters = parameters_of(node.target) or ()
    positional = [parameter.name for parameter in parameters if not parameter.keyword_only]
    by_name = {**dict(zip(positional, values)), **named}
    return tuple(values[: len(node.args)]), {name: by_name[name] for name in node.kwargs}


def _validator(given: Callable[[fx.Node, Any], bool | Reject] | None) -> Callable[..., bool | Reject] | None:
    if given is None:
        return None

    @functools.wraps(given)
    def validate(node: fx.Node, ctx: Any) -> bool | Reject:
        with bindings(ctx.backend.trt):
            return given(node, ctx.settings)

    return validate


# Validators ---------------------------------------------------------------------------------------------


def has_dynamic_shapes_in_args(positions: Sequence[int] | None = None) -> Callable[..., bool]:
    """A validator: an argument (one at `positions`, if given) has a symbolic size."""

    def check(node: fx.Node, settings: Any = None) -> bool:
        return any(_is_dynamic(argument) for argument in _arguments(node, positions))

    return check


def has_static_shapes_in_args(positions: Sequence[int] | None = None) -> Callable[..., bool]:
    """A validator: no argument (none at `positions`, if given) has a symbolic size."""

    def check(node: fx.Node, settings: Any = None) -> bool:
        return not any(_is_dynamic(argument) for argument in _arguments(node, positions))

    return check


def is_only_operator_on_placeholder(node: fx.Node, settings: Any = None) -> bool:
    """A validator: the node takes an input of the graph, and its result is an output of the graph."""
    takes_input = any(
        isinstance(argument, fx.Node) and argument.op == "placeholder" for argument in node.args
    )
    return node.op == "call_function" and takes_input and any(user.op == "output" for user in node.users)


def _arguments(node: fx.Node, positions: Sequence[int] | None) -> Sequence[Any]:
    if positions is None:
        return node.all_input_nodes
    return [node.args[position] for position in positions if position < len(node.args)]


def _is_dynamic(argument: Any) -> bool:
    value = argument.meta.get("val") if isinstance(argument, fx.Node) else argument
    if isinstance(value, torch.Tensor):
        return any(isinstance(size, torch.SymInt) for size in value.shape)
    if isinstance(value, (list, tuple)):
        return any(_is_dynamic(part) for part in value)
    return isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool))

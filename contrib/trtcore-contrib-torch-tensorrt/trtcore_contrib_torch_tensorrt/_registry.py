"""The decorator, its priorities and validators, and the context that converters get."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any, TypeVar

import numpy as np
import torch
from torch import fx

from trtcore.pack import Priority, Reject, converter, parameters_of
from trtcore_contrib_torch_tensorrt import torch_private
from trtcore_contrib_torch_tensorrt._bindings import bindings
from trtcore_contrib_torch_tensorrt._by_torch import world_of

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
    CORE_ATEN = "core_aten"
    TORCHSCRIPT = "torchscript"
    TORCHTRT_LOWERED = "torchtrt_lowered"
    UNKNOWN = "unknown"

    def __str__(self) -> str:
        return self.value


class CallingConvention(Enum):
    """How a converter is called: with a context."""

    LEGACY = 1
    CTX = 2


class ConversionContext:
    """What a converter gets as `ctx`.

    Everything else is `trtcore.pack.ConversionContext`'s: ``ctx.constant``, ``ctx.shape_of`` and so on work too.

    Attributes:
        net: the ``trt.INetworkDefinition``.
        compilation_settings: the compile's settings by their old names.
        requires_output_allocator: whether a layer's output depends on data; trtcore sees that by itself.
        weight_refit_map: what `record_weight` was given, by name, in this network.
    """

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx
        self._world = world_of(ctx)
        self.net: Any = ctx.net
        self.requires_output_allocator = False
        self.requires_native_multidevice = False

    @property
    def compilation_settings(self) -> Any:
        """The compile's settings by their old names."""
        world = self._world
        if world.settings is None:
            world.settings = _old_settings(self._ctx.settings)
        return world.settings

    @property
    def current_node(self) -> fx.Node:
        """The node that is being converted."""
        return self._ctx.node  # type: ignore[no-any-return]

    @property
    def weight_refit_map(self) -> dict[str, Any]:
        """Name -> weight, as `record_weight` was given them. trtcore finds weights for a refit by converting again."""
        return self._world.weight_refit_map

    @property
    def cpu_weights_reference_holder(self) -> list[torch.Tensor]:
        """Weights that are held until the network is built."""
        return self._world.held

    def record_weight(self, name: str, weight: Any) -> None:
        """Keep a weight alive until the network is built, and in `weight_refit_map`."""
        self.weight_refit_map[name] = weight
        if isinstance(weight, torch.Tensor):
            self._world.held.append(weight)

    def clear_cpu_weights_reference_holder(self) -> None:
        """Nothing is let go before the network is built."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_ctx":
            raise AttributeError(name)
        return getattr(self._ctx, name)


def _old_settings(settings: Any) -> Any:
    from trtcore_contrib_torch_tensorrt._settings import CompilationSettings

    return CompilationSettings.of(settings)


def dynamo_tensorrt_converter(
    key: Any,
    *,
    enabled: bool = True,
    capability_validator: Callable[[fx.Node, Any], bool | Reject] | None = None,
    priority: ConverterPriority = ConverterPriority.STANDARD,
    supports_dynamic_shapes: bool = False,
    requires_output_allocator: bool = False,
    requires_native_multidevice: bool = False,
) -> Callable[[_F], _F]:
    """Declare a converter that is called as ``f(ctx, target, args, kwargs, name)``.

    `args` and `kwargs` are split as the node has them: what it leaves out is not filled in. Tensors come as
    ITensors, weights as `torch.Tensor`, symbolic ints as int64 ITensors of shape (1,).

    Args:
        key: the op: an overload, or a packet that has one; or a function of ``torch.nn.functional`` that is an op: its
            converter gets all arguments, in the function's order.
        enabled: False leaves the function undeclared.
        capability_validator: ``(node, compilation settings) -> bool``; a `trtcore.pack.Reject` carries a reason.
        priority: see `ConverterPriority`.
        supports_dynamic_shapes: whether it may get nodes with symbolic dims.
        requires_output_allocator: whether its output's shape depends on data.
        requires_native_multidevice: whether its layers talk to other processes; then no node is its, and the report
            says why.

    Raises:
        PackError: `key` is not an op.
    """
    op = op_of_function(key)
    register = converter(
        key if op is None else op,
        priority=priority.value,
        capability_validator=_one_process
        if requires_native_multidevice
        else _validator(capability_validator),
        supports_dynamic_shapes=supports_dynamic_shapes,
        requires_output_allocator=requires_output_allocator,
        stacklevel=2,  # the module that uses this decorator declares the converter
    )

    def declare(function: _F) -> _F:
        if enabled:
            adapted = register(_adapted(function, None if op is None else key))
            # The function carries what was declared too, for `converters_in` and ``converters={op: function}``.
            vars(function).update({k: v for k, v in vars(adapted).items() if k != "__wrapped__"})
        return function

    return declare


def op_of_function(key: Any) -> Any:
    """The op that a function of ``torch.nn.functional`` is in graphs; None for other keys."""
    name = getattr(key, "__name__", "")
    if not name or getattr(torch.nn.functional, name, None) is not key:
        return None
    return getattr(getattr(torch.ops.aten, name, None), "default", None)


def _adapted(function: Callable[..., Any], key: Any = None) -> Callable[..., Any]:
    """`function` behind trtcore's calling convention; `key` is the function that it was declared for, if not an op."""

    @functools.wraps(function)
    def convert(ctx: Any, *values: Any, **named: Any) -> Any:
        node = ctx.node
        by_name = _by_name(node, values, named)
        args, kwargs = tuple(values[: len(node.args)]), {name: by_name[name] for name in node.kwargs}
        if key is not None:
            args, kwargs = tuple(values), dict(named)
        world_of(ctx).begin(node, by_name)
        with bindings(ctx.trt):
            result = function(ConversionContext(ctx), key or node.target, args, kwargs, node.name)
            return _as_the_op_gives(ctx, result, node.meta.get("val"))

    return convert


def _by_name(node: fx.Node, values: Sequence[Any], named: dict[str, Any]) -> dict[str, Any]:
    """Values by the names of the op's schema; by their numbers, as `node_arguments` has them, where there is none."""
    parameters = parameters_of(node.target)
    if parameters is None:
        return {**{str(place): value for place, value in enumerate(values)}, **named}
    positional = [parameter.name for parameter in parameters if not parameter.keyword_only]
    return {**dict(zip(positional, values)), **named}


def _as_the_op_gives(ctx: Any, result: Any, expected: Any) -> Any:
    """A converter's results, cast where Torch-TensorRT casts them: trtcore itself refuses results of another dtype.

    Arrays and tensors become constants; a dtype becomes the op's; one element in any shape is one element in the op's;
    and an op of several results whose converter gives the first ones gives those.
    """
    if isinstance(expected, (list, tuple)):
        given = list(result) if isinstance(result, (list, tuple)) else [result]
        given += [None] * (len(expected) - len(given))
        return [
            None if one is None else _as_the_op_gives(ctx, one, want) for one, want in zip(given, expected)
        ]
    if isinstance(result, (list, tuple)) and len(result) == 1:
        (result,) = result
    if isinstance(result, (np.ndarray, np.generic)):
        result = torch.from_numpy(np.array(result))
    if isinstance(expected, torch.Tensor) and isinstance(result, (bool, int, float)):
        result = torch.tensor(result, dtype=expected.dtype)
    if isinstance(result, torch.Tensor):
        result = ctx.constant(result, expected.dtype if isinstance(expected, torch.Tensor) else None)
    if not isinstance(expected, torch.Tensor) or not ctx.is_tensor(result):
        return result
    result = ctx.cast(result, expected.dtype)
    shape = ctx.shape(result)
    if len(shape) != expected.dim() and all(size == 1 for size in (*shape, *expected.shape)):
        result = ctx.reshape(result, [1] * expected.dim())
    return result


def _one_process(*args: Any, **kwargs: Any) -> Reject:
    return Reject("its layers would talk to other processes: collectives run in torch between engines")


def _validator(given: Callable[..., bool | Reject] | None) -> Callable[..., bool | Reject] | None:
    if given is None:
        return None
    takes_settings = _takes(given, 2)

    @functools.wraps(given)
    def validate(node: fx.Node, ctx: Any) -> bool | Reject:
        with bindings(ctx.backend.trt), _tensor_meta(node):
            verdict = given(node, _SETTINGS(ctx.settings)) if takes_settings else given(node)
        return verdict if isinstance(verdict, (bool, Reject)) else bool(verdict)

    return validate


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function can be called with so many positional arguments."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True


class _LastSettings:
    """The settings of the latest compile by their old names: a validator is asked for every node of it."""

    def __init__(self) -> None:
        self._last: tuple[Any, Any] = (None, None)

    def __call__(self, settings: Any) -> Any:
        last, made = self._last
        if last is not settings:
            made = _old_settings(settings)
            self._last = (settings, made)
        return made


_SETTINGS = _LastSettings()


@contextmanager
def _tensor_meta(node: fx.Node) -> Iterator[None]:
    """``meta["tensor_meta"]``, which older validators read, while one runs: what ``meta["val"]`` has of it."""
    given = []
    for one in (node, *node.all_input_nodes):
        value = one.meta.get("val")
        if "tensor_meta" in one.meta or not isinstance(value, torch.Tensor):
            continue
        one.meta["tensor_meta"] = torch_private.tensor_meta(value)
        given.append(one)
    try:
        yield
    finally:
        for one in given:
            del one.meta["tensor_meta"]


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


def has_static_shapes(node: fx.Node, settings: Any = None) -> bool:
    """A validator: neither the node nor an argument has a symbolic size."""
    return not node_has_dynamic_shapes(node)


def node_has_dynamic_shapes(node: fx.Node, settings: Any = None) -> bool:
    """A validator: the node or an argument has a symbolic size."""
    return any(_is_dynamic(one) for one in (node, *node.all_input_nodes))


def dynamic_unsupported(node: fx.Node, settings: Any = None) -> bool:
    """An older name of `has_static_shapes`."""
    return has_static_shapes(node)


def dynamic_unsupported_with_args(arg_positions_to_check: Sequence[int] | None = None) -> Callable[..., bool]:
    """An older name of `has_static_shapes_in_args`."""
    return has_static_shapes_in_args(arg_positions_to_check)


def qualified_name_or_str(target: Any) -> str:
    """A node's target as text: a text is itself."""
    return target if isinstance(target, str) else torch.fx.node._get_qualified_name(target)

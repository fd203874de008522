"""Patterns: several ops that one converter takes together.

A pattern is a function of tensors and numbers, written in torch, with example inputs to trace it by. Where a
model's graph holds the same ops with the same constants, `trtcore.lowering.match` puts one node in their place,
whose target is the pattern.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch.fx import Graph, GraphModule

from trtcore.errors import PackError, shown
from trtcore.ir.graphs import TRACING, mutates
from trtcore.packs.declare import DECLARED, converter
from trtcore.packs.model import NO_REQUIREMENTS, Priority, Requires, Validator

__all__ = ["Pattern", "TracedPattern", "pattern_converter"]

_F = TypeVar("_F", bound=Callable[..., Any])


class TracedPattern:
    """A pattern's graph.

    Attributes:
        graph_module: of ATen ops on FakeTensors, a placeholder per input.
        floats: what stands in the graph for a float input -> the input's position.
    """

    def __init__(self, graph_module: GraphModule, floats: dict[float, int]) -> None:
        self.graph_module = graph_module
        self.floats = floats


class Pattern:
    """Several ops as the target of a converter. Called, it is its function.

    Args:
        function: of positional arguments; returns a tensor or a tuple of tensors. It must not write to its inputs,
            make tensors of its own, or branch on sizes.
        inputs: an example for each argument. Of a tensor the dtype counts where the function asks for it; its
            sizes do not, but sizes that are equal in the example and used in the function must be equal in the
            model. Numbers other than bools stand for any number (an int must be at least 2); everything else
            is a constant of the pattern.
        name: for reports; the function's own by default.

    Patterns of one function (by module and name) and of inputs alike are equal.

    Raises:
        PackError: the inputs are not those of the function.
    """

    def __init__(self, function: Callable[..., Any], inputs: Sequence[Any], *, name: str = "") -> None:
        self.function = function
        self.inputs = tuple(inputs)
        called = name or getattr(function, "__name__", type(function).__name__)
        self.__name__ = self.__qualname__ = re.sub(r"\W+", "_", called).strip("_") or "pattern"
        self.__module__ = "pattern"
        try:
            self.__signature__ = inspect.signature(function)
            self.__signature__.bind(*self.inputs)
        except (TypeError, ValueError) as error:
            raise PackError(
                f"pattern {self.__name__}: its inputs are not those of its function: {error}",
                advice="give an example for each positional argument, like inputs=(torch.empty(2, 3), 1e-6)",
            ) from error
        for value in self.inputs:
            if type(value) is int and value < 2:
                raise PackError(
                    f"pattern {self.__name__}: the input {value} would be taken for a constant",
                    advice="give an int of at least 2, which stands for any int",
                )
        self._lock = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    @cached_property
    def _key(self) -> tuple[Any, ...]:
        function = self.function
        module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "<")
        who = id(function) if "<" in name or module is None else (module, name)
        return (who, self.__name__, *(_kind(value) for value in self.inputs))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Pattern({self.__name__})"

    def trace(self) -> TracedPattern:
        """The function as a graph, traced once as torch.export traces models.

        Raises:
            PackError: it cannot be traced, or does what a pattern must not.
        """
        with self._lock:
            return self._traced

    @cached_property
    def _traced(self) -> TracedPattern:
        if isinstance(self.function, torch._ops.OpOverload) and _are_tensors(self.inputs):
            return TracedPattern(self._one_op(self.function), {})
        from torch.fx.experimental.proxy_tensor import make_fx

        floats: dict[float, int] = {}
        values: list[Any] = []
        for position, value in enumerate(self.inputs):
            if type(value) is float:
                value = _stand_in(value, position)
                floats[value] = position
            values.append(value.detach() if isinstance(value, torch.Tensor) else value)
        try:
            with TRACING, torch.no_grad():
                traced = make_fx(self.function, tracing_mode="symbolic", pre_dispatch=True)(*values)
        except Exception as error:
            raise self._error(f"tracing it raised {type(error).__name__}: {shown(error, str)}") from error
        traced.graph.eliminate_dead_code()
        self._check(traced)
        return TracedPattern(traced, floats)

    def _one_op(self, op: Any) -> GraphModule:
        """What tracing one op on tensors gives, without torch's symbolic sizes, which take long to start."""
        graph = Graph()
        arguments = []
        for position, value in enumerate(self.inputs):
            arguments.append(graph.placeholder(f"arg{position}"))
            arguments[-1].meta["val"] = value.detach().to("meta")
        result = graph.call_function(op, tuple(arguments))
        with torch.no_grad():
            try:
                result.meta["val"] = op(*(one.meta["val"] for one in arguments))
            except Exception as error:
                raise self._error(f"calling it raised {type(error).__name__}: {shown(error, str)}") from error
        graph.output(result)
        traced = GraphModule(torch.nn.Module(), graph)
        self._check(traced)
        return traced

    def _check(self, traced: GraphModule) -> None:
        ops = [node for node in traced.graph.nodes if node.op == "call_function"]
        if any(node.op == "get_attr" for node in traced.graph.nodes):
            raise self._error("it makes a tensor; make it an argument, or use a number")
        for node in ops:
            if mutates(node):
                raise self._error(f"{node.target} writes to a tensor")
        results = traced.graph.output_node().args[0]
        for result in results if isinstance(results, (tuple, list)) else (results,):
            if not isinstance(result, torch.fx.Node) or result.op != "call_function":
                raise self._error("it returns something that none of its ops computes")

    def _error(self, what: str) -> PackError:
        return PackError(
            f"pattern {self.__name__} cannot be used: {what}",
            advice="a pattern is a function of tensors and numbers, in torch ops that write to nothing",
        )


def pattern_converter(
    function: Callable[..., Any] | Sequence[Callable[..., Any]],
    inputs: Sequence[Any],
    *,
    priority: int = Priority.STANDARD,
    capability_validator: Validator | None = None,
    supports_dynamic_shapes: bool = False,
    requires: Requires = NO_REQUIREMENTS,
    name: str | None = None,
) -> Callable[[_F], _F]:
    """Declare a function as the converter of several ops that occur together.

    The converter is called like the pattern's function, after ``ctx``. It takes the ops only where its
    requirements hold, its validator agrees, and no user or pack wants one of the ops otherwise: a converter given
    at the call site, a pin, or a higher priority goes before. Where it fails, the ops are converted one by one.

    Args:
        function: the pattern, see `Pattern`; or several ways to write it.
        inputs: an example for each of its arguments.
        priority, capability_validator, supports_dynamic_shapes, requires, name: as for `converter`. A validator's
            node has the pattern's arguments, by the function's names in ``node_arguments(node)``.

    Raises:
        PackError: the inputs are not those of the function, or an option of the wrong type.

    Example:
        >>> import torch
        >>> from trtcore.pack import pattern_converter, scoped_registry
        >>> def rms_norm(x, weight, eps):
        ...     return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight
        >>> with scoped_registry():
        ...     @pattern_converter(rms_norm, (torch.empty(2, 8), torch.empty(8), 1e-6))
        ...     def convert(ctx, x, weight, eps): ...
    """
    functions = tuple(function) if isinstance(function, (list, tuple)) else (function,)
    return converter(
        [Pattern(one, inputs) for one in functions],
        priority=priority,
        capability_validator=capability_validator,
        supports_dynamic_shapes=supports_dynamic_shapes,
        requires=requires,
        name=name,
        stacklevel=2,
    )


def is_pattern(node: torch.fx.Node) -> bool:
    """Whether a node stands for the ops of a pattern."""
    return node.op == "call_function" and isinstance(node.target, Pattern)


def patterns_of(function: Callable[..., Any]) -> tuple[Pattern, ...]:
    """The patterns that a function was decorated for."""
    declared = getattr(function, DECLARED, ())
    return tuple(one.target for one in declared if isinstance(one.target, Pattern))


def _are_tensors(values: Sequence[Any]) -> bool:
    return all(type(value) is torch.Tensor for value in values)


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{list(value.shape)}"
    return type(value).__name__ if type(value) in (int, float) else repr(value)


def _stand_in(value: float, position: int) -> float:
    """A float that no function has as a constant."""
    unlikely = 0.618033988749895 + position * 0.0101010317
    return -unlikely if value < 0 else unlikely

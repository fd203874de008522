"""A graph as plain data: what pickles, crosses processes and is hashed, and the graph again.

Nodes go as names, ops as names with their schemas, FakeTensors as dtypes and shape expressions.
"""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch.fx import Graph, Node

from trtcore.ir.expressions import parse
from trtcore.ir.program import SymbolRange
from trtcore.ir.symbols import expression_of
from trtcore.ir.torch_private import FakeTensorMode, higher_order_name, size_interval

_HIGHER_ORDER = "torch.ops.higher_order"


@dataclass(frozen=True)
class NodeRef:
    """An argument that is another node's value."""

    name: str


@dataclass(frozen=True)
class TensorSpec:
    """A FakeTensor: sizes and strides are ints and sympy expressions over the graph's symbols."""

    dtype: torch.dtype
    shape: tuple[Any, ...]
    stride: tuple[Any, ...]
    device: str


@dataclass(frozen=True)
class SizeSpec:
    """A SymInt."""

    expression: Any


@dataclass(frozen=True)
class OpRef:
    """An op by name, ``aten.relu.default``, and by schema, for processes that have not registered it."""

    name: str
    schema: str

    @staticmethod
    def of(op: torch._ops.OpOverload) -> OpRef:
        """The reference to an op."""
        return OpRef(str(op), str(op._schema))

    def find(self) -> torch._ops.OpOverload:
        """The op.

        Raises:
            AttributeError: nothing in this process has registered it.
        """
        namespace, packet, overload = self.name.split(".")
        found: torch._ops.OpOverload = getattr(getattr(getattr(torch.ops, namespace), packet), overload)
        return found


@dataclass(frozen=True)
class FunctionRef:
    """A Python function that a node calls, such as ``operator.getitem``, or a higher-order op."""

    module: str
    name: str

    @staticmethod
    def of(target: Any) -> FunctionRef:
        """The reference to what a node calls that is no op overload."""
        if isinstance(target, torch._ops.HigherOrderOperator):
            return FunctionRef(_HIGHER_ORDER, higher_order_name(target))
        return FunctionRef(str(target.__module__), str(getattr(target, "__qualname__", target.__name__)))

    def find(self) -> Any:
        """The function.

        Raises:
            ImportError, AttributeError: it is not in this process.
        """
        if self.module == _HIGHER_ORDER:
            return getattr(torch.ops.higher_order, self.name)
        return operator.attrgetter(self.name)(importlib.import_module(self.module))


def resolved_target(target: Any) -> Any:
    """What a node calls, of the reference to it; names of placeholders and attributes come back as they are.

    Raises:
        ImportError, AttributeError: it is not in this process.
    """
    return target.find() if isinstance(target, (OpRef, FunctionRef)) else target


@dataclass(frozen=True)
class NodeData:
    """One fx node.

    Attributes:
        target: of a placeholder or get_attr its name, else an `OpRef`, a Python function, or what the caller's
            `encode_target` made of it.
        value: what ``meta["val"]`` says: specs, plain values, or lists of them.
        module_stack: (key, module path) pairs, outermost first.
    """

    op: str
    name: str
    target: Any
    args: Any
    kwargs: Any
    value: Any
    stack_trace: str | None
    module_stack: tuple[tuple[str, str], ...]


def node_data(node: Node, encode_target: Callable[[Any], Any] = lambda target: target) -> NodeData:
    """A node as data; `encode_target` is asked about targets that are no ops."""
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        target = OpRef.of(target)
    elif node.op == "call_function":
        target = encode_target(target)
    stack = node.meta.get("nn_module_stack") or {}
    return NodeData(
        node.op, node.name, target, _plain(node.args), _plain(dict(node.kwargs)), value_spec(node.meta.get("val")),
        node.meta.get("stack_trace"), tuple((str(key), str(value[0])) for key, value in stack.items()),
    )  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, Node):
        return NodeRef(value.name)
    if isinstance(value, torch._ops.OpOverload):  # what `auto_functionalized` calls
        return OpRef.of(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else [_plain(v) for v in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, slice):
        return slice(_plain(value.start), _plain(value.stop), _plain(value.step))
    return value


def value_spec(value: Any) -> Any:
    """What ``meta["val"]`` holds, as data; None for what has no such form."""
    if isinstance(value, torch.Tensor):
        return TensorSpec(
            value.dtype, tuple(map(expression_of, value.shape)), tuple(map(expression_of, value.stride())),
            str(value.device),
        )  # fmt: skip
    if isinstance(value, torch.SymInt):
        return SizeSpec(expression_of(value))
    if isinstance(value, (list, tuple)):
        return [value_spec(item) for item in value]
    return value if isinstance(value, (int, float, bool, str)) else None


def add_node(graph: Graph, data: NodeData, target: Any, made: dict[str, Node], values: FakeValues) -> Node:
    """Append the node to a graph, with this target, and enter it into `made`."""
    node = graph.create_node(
        data.op, target, _restored(data.args, made), _restored(data.kwargs, made), name=data.name
    )
    made[data.name] = node
    node.meta["val"] = values.value(data.value)
    node.meta["stack_trace"] = data.stack_trace
    node.meta["nn_module_stack"] = {key: (path, "") for key, path in data.module_stack}
    return node


def _restored(value: Any, made: Mapping[str, Node]) -> Any:
    if isinstance(value, NodeRef):
        return made[value.name]
    if isinstance(value, OpRef):
        return value.find()
    if isinstance(value, (list, tuple)):
        return type(value)(_restored(item, made) for item in value)
    if isinstance(value, dict):
        return {name: _restored(item, made) for name, item in value.items()}
    if isinstance(value, slice):
        return slice(_restored(value.start, made), _restored(value.stop, made), _restored(value.step, made))
    return value


_UNBACKED = "u"
"""How torch's names of sizes that data decide begin: they have no hint."""

_ANY = 2**31 - 1
"""Bound of an int that a loop carries."""


class FakeValues:
    """Makes FakeTensors and SymInts of specs, over symbols of its own.

    Args:
        ranges: of every symbol that occurs but ints that loops carry; a symbol's hint is its opt.
    """

    def __init__(self, ranges: Mapping[str, SymbolRange]) -> None:
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        self.ranges = ranges
        self.env = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.env)

    def value(self, spec: Any) -> Any:
        """What `value_spec` was made from."""
        if isinstance(spec, TensorSpec):
            shape, stride = [self.size(d) for d in spec.shape], [self.size(s) for s in spec.stride]
            with self.mode:
                return torch.empty_strided(shape, stride, dtype=spec.dtype, device=spec.device)
        if isinstance(spec, SizeSpec):
            return self.size(spec.expression)
        if isinstance(spec, list):
            return [self.value(item) for item in spec]
        return spec

    def size(self, expression: Any) -> Any:
        """An int, or a SymInt of this expression (sympy's, or a text of `trtcore.ir.expressions`)."""
        if isinstance(expression, int):
            return expression
        if isinstance(expression, str):
            parsed = parse(expression)
            # In numbers first: one beyond 64 bits is an error before sympy works out a power of powers.
            parsed.evaluate({name: self._range(name).opt for name in parsed.symbols})
            return parsed.evaluate(
                {name: self.size(sympy.Symbol(name, integer=True)) for name in parsed.symbols}
            )

        values = {}
        hints: Any = getattr(self.env, "backed_var_to_val", None)
        hints = hints if hints is not None else self.env.var_to_val  # before torch 2.10
        for symbol in expression.free_symbols:
            known = self._range(symbol.name)
            values[symbol] = known.opt
            if symbol.name.startswith(_UNBACKED):
                self.env.var_to_range[symbol] = size_interval(known.min, known.max)
            elif symbol not in hints:
                hints[symbol] = sympy.Integer(known.opt)
                self.env.var_to_range[symbol] = size_interval(known.min, known.max)
        unknown = any(symbol.name.startswith(_UNBACKED) for symbol in values)
        hint = None if unknown else int(expression.xreplace(values))
        return self.env.create_symintnode(expression, hint=hint)

    def _range(self, name: str) -> SymbolRange:
        if name not in self.ranges and name.startswith(_UNBACKED):
            return SymbolRange(name, -_ANY, 0, _ANY)
        return self.ranges[name]

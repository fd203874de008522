"""From a torch op to a plugin and its converter: `generate_plugin`, `generate_converter`, `custom_op`."""

from __future__ import annotations

import itertools
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs
import torch
from torch import fx

from trtcore.pack import (
    Backend,
    ConversionContext,
    ConversionError,
    Converter,
    NodeContext,
    PackError,
    Priority,
    Reject,
    Requires,
    node_arguments,
    register_kernel_plugin,
)
from trtcore_plugins.quick import Combination, Definition, define, describe
from trtcore_plugins.signature import OpSignature
from trtcore_plugins.tracing import TensorSpec

_CHECKED_SIZES = 8


class OpPlugin(ABC):
    """A torch op as a kernel plugin (`trtcore.pack.KernelPlugin`).

    Attributes:
        name: ``"namespace::op"``.
        op: the `torch._ops.OpOverload`.
        signature: its arguments and outputs.
        combinations: types and formats that TensorRT may choose from.
        priority: of the converter.
    """

    name: str
    op: torch._ops.OpOverload
    signature: OpSignature
    combinations: tuple[Combination, ...] = ()
    priority: int = Priority.STANDARD

    @property
    @abstractmethod
    def deployable(self) -> bool:
        """Whether an engine with the plugin runs outside Python."""

    @abstractmethod
    def definition(self, absent: tuple[str, ...], ctx: ConversionContext | NodeContext | None) -> Definition:
        """The plugin as it is registered, without the optional tensors in `absent`."""

    def shape_definition(self, absent: tuple[str, ...] = ()) -> Definition:
        """As much of the plugin as its shapes need, for no target."""
        return Definition(plugin_name(self.name, self.op, absent), self.op, self.signature, absent)

    def prepare(self, backend: Backend) -> None:
        """Register a Python callback with a backend's TensorRT, before an engine with it is loaded.

        Every choice of absent optional tensors is a plugin of its own, and the engine may have any of them.
        """
        if self.deployable:
            return
        optional = [name for name, kind in self.signature.kinds.items() if kind == "Optional[Tensor]"]
        for count in range(len(optional) + 1):
            for absent in itertools.combinations(optional, count):
                define(self.definition(absent, None), backend)

    def check(  # noqa: B027
        self, definition: Definition, specs: Sequence[TensorSpec], attributes: Mapping[str, Any]
    ) -> None:
        """Raise ConversionError where the plugin cannot be built for such inputs; there is nothing by default."""

    @cached_property
    def converter(self) -> Converter:
        """The converter that places the plugin layer."""
        return Converter(
            self.op,
            self.place,
            priority=self.priority,
            capability_validator=self.validate,
            supports_dynamic_shapes=True,
            requires=Requires(plugins=True),
            name=f"plugin {self.name}",
        )

    # ---- conversion -------------------------------------------------------------------------------------

    def place(self, ctx: ConversionContext, *args: Any, **kwargs: Any) -> Any:
        """Add the plugin layer to a network: the converter. Arguments and result are those of the op."""
        values = self.signature.bind(args, kwargs)
        absent = tuple(name for name in self.signature.tensors if values[name] is None)
        definition = self.definition(absent, ctx)
        define(definition, ctx.backend)
        layer = ctx.plugin(
            definition.name,
            [ctx.tensor(values[name]) for name in definition.tensors],
            definition.encode(values),
            ahead_of_time=definition.compile is not None,
        )
        first = len(definition.aliased)
        return self.signature.pack([ctx.output(layer, first + i) for i in range(len(self.signature.outputs))])

    def validate(self, node: fx.Node, ctx: NodeContext) -> bool | Reject:
        """The capability validator: whether the plugin gives what the graph says, for this node."""
        return self.validate_call(node_arguments(node), node.meta.get("val"), ctx)

    def validate_call(self, values: Mapping[str, Any], result: Any, ctx: NodeContext | None) -> bool | Reject:
        """Whether the plugin gives `result` (FakeTensors) for the op's arguments by name, nodes among them."""
        if self.signature.mutated:
            written = ", ".join(self.signature.mutated)
            return Reject(
                f"it writes to {written}, and TensorRT shares a plugin's input with an output only as a preview"
            )
        symbolic = [
            name
            for name, value in values.items()
            if name not in self.signature.tensors and any(isinstance(v, fx.Node) for v in _leaves(value))
        ]
        if symbolic:
            return Reject(f"{', '.join(symbolic)} depends on a size; a plugin's attributes are fixed")
        fakes = [(name, values[name]) for name in self.signature.tensors if values[name] is not None]
        if any(isinstance(v, fx.Node) and not isinstance(v.meta.get("val"), torch.Tensor) for _, v in fakes):
            return Reject("the shapes of its inputs are not known")
        tensors = [_value(value) for _, value in fakes]
        absent = tuple(name for name in self.signature.tensors if values[name] is None)
        specs = [TensorSpec(tensor.dtype, tuple(_fixed(size) for size in tensor.shape)) for tensor in tensors]
        try:
            definition = self.definition(absent, ctx)
            attributes = definition.decode(definition.encode(values))
            reason = _disagreement(definition, specs, attributes, tensors, result)
            if not reason:
                self.check(definition, specs, attributes)
        except ConversionError as error:
            return Reject(error.message)
        return Reject(reason) if reason else True


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _leaves(one)
    else:
        yield value


def _value(value: Any) -> torch.Tensor:
    """The (fake) tensor of a node's argument."""
    tensor: torch.Tensor = value.meta["val"] if isinstance(value, fx.Node) else value
    return tensor


def _fixed(size: Any) -> int | None:
    """A size, or None for a symbolic one."""
    return int(size) if isinstance(size, int) else None


def _disagreement(
    definition: Definition,
    specs: Sequence[TensorSpec],
    attributes: Mapping[str, Any],
    inputs: Sequence[torch.Tensor],
    result: Any,
) -> str:
    """Why the plugin's outputs are not those of the traced graph at some sizes in range; "" where they are."""
    traced = describe(definition, specs, attributes)
    outputs = definition.signature.unpack(result)
    kinds = tuple((output.dtype, output.dim()) for output in outputs)
    if kinds != traced.rest:
        return f"the graph has outputs {kinds}, and its fake implementation now says {traced.rest}"
    for at in _sizes_in_range([*inputs, *outputs]):
        expected = tuple(at(size) for output in outputs for size in output.shape)
        shapes = [tuple(at(size) for size in tensor.shape) for tensor in inputs]
        found = traced.evaluate(shapes)
        if found != expected:
            return f"its shapes cannot be followed: for inputs {shapes} a plugin would give {found}, not {expected}"
    return ""


def _sizes_in_range(tensors: Sequence[torch.Tensor]) -> Iterator[Any]:
    """Functions from a size of these tensors to an int, for some choices of the symbols in them."""
    traced: list[Any] = [size for tensor in tensors for size in tensor.shape]
    sizes = [size.node for size in traced if isinstance(size, torch.SymInt)]
    symbols = sorted({symbol for node in sizes for symbol in node.expr.free_symbols}, key=str)
    randoms = random.Random(0)
    for which in range(_CHECKED_SIZES if symbols else 1):
        chosen = {}
        for symbol in symbols:
            found = sizes[0].shape_env.var_to_range.get(symbol)
            low = max(int(found.lower), 1) if found is not None else 1
            high = int(found.upper) if found is not None and found.upper.is_Integer else low + 4096
            high = max(low, min(high, low + 4096))
            chosen[symbol] = (low, high)[which] if which < 2 else randoms.randint(low, high)

        def at(size: Any, chosen: Mapping[Any, int] = chosen) -> int:
            return int(size.node.expr.xreplace(chosen)) if isinstance(size, torch.SymInt) else int(size)

        yield at


class CustomOpPlugin(OpPlugin):
    """A torch op as a plugin that calls it in Python: TensorRT's kernel is the op itself.

    An engine with it runs only in a Python process in which the op and the plugin are registered.
    """

    def __init__(
        self,
        op: str | torch._ops.OpOverload,
        combinations: Sequence[Combination] = (),
        priority: int = Priority.STANDARD,
    ) -> None:
        self.op = resolve_op(op)
        self.name = self.op._schema.name
        self.signature = OpSignature(self.name, self.op._schema)
        self.combinations = tuple(combinations)
        self.priority = priority
        check_combinations(self.name, self.combinations, self.signature)

    @property
    def deployable(self) -> bool:
        """False: the kernel is a Python callback."""
        return False

    def definition(self, absent: tuple[str, ...] = (), ctx: Any = None) -> Definition:
        """The plugin without the optional tensors in `absent`."""
        return Definition(
            plugin_name(self.name, self.op, absent), self.op, self.signature, absent, self.combinations
        )

    def __repr__(self) -> str:
        return f"<plugin {self.op._schema}>"


def plugin_name(name: str, op: torch._ops.OpOverload, absent: Sequence[str]) -> str:
    """The name of a plugin in TensorRT's registry: the op's, its overload's, and what is absent."""
    overload = op._schema.overload_name
    return f"{name}{overload and f'_{overload}'}" + (f"__no_{'_'.join(absent)}" if absent else "")


def resolve_op(op: str | torch._ops.OpOverload) -> torch._ops.OpOverload:
    """The op overload that a name means: ``"ns::op"``, ``"ns::op.overload"``.

    Raises:
        PackError: there is none of that name.
    """
    if isinstance(op, torch._ops.OpOverload):
        return op
    namespace, found, rest = str(op).partition("::")
    name, _, overload = rest.partition(".")
    packet = getattr(getattr(torch.ops, namespace), name, None) if found else None
    if packet is None:
        raise PackError(
            f"there is no op {op!r}", advice='write "namespace::op", and import what registers it first'
        )
    if not overload and packet.overloads() == ["default"]:
        overload = "default"
    if overload not in packet.overloads():
        raise PackError(f"{op!r} is no op overload", advice=f"it has {', '.join(packet.overloads())}")
    resolved: torch._ops.OpOverload = getattr(packet, overload)
    return resolved


def check_combinations(name: str, combinations: Sequence[Combination], signature: OpSignature) -> None:
    """Raise PackError where a combination does not have an entry for each input and output."""
    count = len(signature.tensors) + len(signature.mutated) + len(signature.outputs)
    for one in combinations:
        for what, text, one_for_all in (("types", one.types, False), ("formats", one.formats, True)):
            entries = [entry.strip() for entry in text.split(",")]
            fits = len(entries) == count or (one_for_all and len(entries) == 1)
            if not fits or not all(entries):
                raise PackError(
                    f"{name}: {what} {text!r} has {len(entries)} entries for {count} inputs and outputs"
                )


def generate_plugin(
    op: str | torch._ops.OpOverload,
    *,
    combinations: Sequence[Combination] = (),
    priority: int = Priority.STANDARD,
) -> CustomOpPlugin:
    """Make a plugin of a torch op: shapes and dtypes from its fake implementation, its kernel the op itself.

    It is not registered: return it from a pack's ``kernel_plugins`` hook, or see `custom_op`.

    Args:
        op: ``"ns::op"``, ``"ns::op.overload"`` or the overload. It takes and returns tensors; its other arguments
            are numbers, strings, dtypes or lists of them.
        combinations: types and formats that TensorRT may choose from; by default the network's types, and linear.
        priority: of its converter.

    Raises:
        PackError: there is no such op, or it is nothing that a plugin can be.
    """
    return CustomOpPlugin(op, combinations, priority)


def generate_converter(
    op: str | torch._ops.OpOverload,
    *,
    combinations: Sequence[Combination] = (),
    priority: int = Priority.STANDARD,
) -> Converter:
    """Make the converter that places the plugin of a torch op; see `generate_plugin`."""
    plugin = generate_plugin(op, combinations=combinations, priority=priority)
    return attrs.evolve(plugin.converter, plugin=plugin)


def custom_op(
    op: str | torch._ops.OpOverload,
    *,
    combinations: Sequence[Combination] = (),
    priority: int = Priority.STANDARD,
) -> CustomOpPlugin:
    """Make the plugin of a torch op and let every compile of this process use it; see `generate_plugin`."""
    plugin = generate_plugin(op, combinations=combinations, priority=priority)
    register_kernel_plugin(plugin, str(sys._getframe(1).f_globals.get("__name__", "")))
    return plugin

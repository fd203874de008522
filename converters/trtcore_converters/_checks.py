"""Small pieces that capability validators are made of.

A check takes the fx node and the compile context, as validators do, and gives True or a `Reject`. They look
at ``meta["val"]`` where it is there and accept what they cannot see, as converters read ITensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import fx

from trtcore.pack import NodeContext, Reject, node_arguments

Check: TypeAlias = Callable[[fx.Node, NodeContext], "bool | Reject"]


def val(value: Any) -> Any:
    """What a node computes (a FakeTensor or SymInt; None where unknown); any other value is itself."""
    return value.meta.get("val") if isinstance(value, fx.Node) else value


def arguments(node: fx.Node) -> dict[str, Any]:
    """The node's schema arguments by name, nodes replaced by what they compute."""
    return {name: _values(value) for name, value in node_arguments(node).items()}


def _values(value: Any) -> Any:
    return [_values(part) for part in value] if isinstance(value, (list, tuple)) else val(value)


def is_static(value: Any) -> bool:
    """True for a plain number, and for a list of them."""
    if isinstance(value, (list, tuple)):
        return all(is_static(part) for part in value)
    return value is None or isinstance(value, (bool, int, float))


def all_of(*checks: Check) -> Check:
    """Every check in order; the first `Reject` is the answer."""

    def check(node: fx.Node, ctx: NodeContext) -> bool | Reject:
        for one in checks:
            verdict = one(node, ctx)
            if not verdict:
                return verdict
        return True

    return check


def floating(*names: str) -> Check:
    """The named tensor arguments (default: ``self`` or ``input``) are floating point."""
    wanted = names or ("self", "input")

    def check(node: fx.Node, ctx: NodeContext) -> bool | Reject:
        given = node_arguments(node)
        for name in wanted:
            tensor = val(given.get(name))
            if isinstance(tensor, torch.Tensor) and not tensor.is_floating_point():
                return Reject(
                    f"TensorRT computes this only in floating point, and {name} is {_name(tensor.dtype)}"
                )
        return True

    return check


def numeric(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    """The node's tensors are of dtypes that TensorRT computes with; int8 and uint8 it only stores."""
    for source in node.all_input_nodes:
        tensor = val(source)
        if isinstance(tensor, torch.Tensor) and tensor.dtype not in _COMPUTED:
            return Reject(f"TensorRT does not compute with {_name(tensor.dtype)}; cast {source.name} before")
    return True


def static(*names: str) -> Check:
    """The named arguments are numbers known now, not sizes that vary from call to call."""

    def check(node: fx.Node, ctx: NodeContext) -> bool | Reject:
        given = node_arguments(node)
        for name in names:
            if not is_static(given.get(name)):
                return Reject(f"{name} varies from call to call, and TensorRT wants it fixed in the engine")
        return True

    return check


def not_bool(*names: str) -> Check:
    """The named tensor arguments (default: ``self``) are no bools."""
    wanted = names or ("self",)

    def check(node: fx.Node, ctx: NodeContext) -> bool | Reject:
        given = node_arguments(node)
        for name in wanted:
            tensor = val(given.get(name))
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.bool:
                return Reject(f"TensorRT has no such operation on bool ({name})")
        return True

    return check


def only_first_output_used(what: str) -> Check:
    """No user of the node takes another output than the first."""

    def check(node: fx.Node, ctx: NodeContext) -> bool | Reject:
        for user in node.users:
            index = user.args[1] if len(user.args) > 1 else None
            if index != 0:
                return Reject(f"the model uses the op's {what}, which TensorRT does not compute")
        return True

    return check


def shape_of(value: Any) -> Sequence[Any] | None:
    """The shape of what a node computes; None where it is unknown."""
    tensor = val(value)
    return tensor.shape if isinstance(tensor, torch.Tensor) else None


_COMPUTED = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.bool})


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

"""Ops as the targets of nodes: what they are called, and what a name or an object that stands for one means."""

from __future__ import annotations

import re
from typing import Any

import torch

from trtcore.errors import PackError
from trtcore.ir.torch_private import higher_order_name

_NAME = re.compile(r"(\w+)(?:::|\.)(\w+)(?:\.(\w+))?")


def op_name(target: Any) -> str:
    """Return what people call an op: ``"aten.gelu.default"``, ``"operator.getitem"``, ``"cond"``.

    Every report, error, pin and setting uses this name.

    Example:
        >>> import operator, torch
        >>> op_name(torch.ops.aten.gelu.default), op_name(operator.getitem), op_name("torchvision::nms")
        ('aten.gelu.default', 'operator.getitem', 'torchvision.nms')
    """
    if isinstance(target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return str(target)
    if isinstance(target, str):
        return target.replace("::", ".")
    if isinstance(target, torch._ops.HigherOrderOperator):
        return str(higher_order_name(target))
    name = getattr(target, "__qualname__", None) or repr(target)
    module = getattr(target, "__module__", None)
    return f"{module.lstrip('_')}.{name}" if module and module != "builtins" else str(name)


target_name = op_name
"""The name under which converters' targets have always asked for it."""


def resolve_target(target: Any) -> Any:
    """Return what nodes call: an overload, another callable, or a name that a compile will look up.

    Raises:
        PackError: nothing that a node of a captured graph calls, or a packet of several overloads.

    Example:
        >>> import torch
        >>> resolve_target(torch.ops.aten.gelu), resolve_target("torchvision::nms")
        (<OpOverload(op='aten.gelu', overload='default')>, 'torchvision::nms')
    """
    if isinstance(target, str):
        match = _NAME.fullmatch(target.strip().removeprefix("torch.ops."))
        if match is None:
            raise PackError(
                f"{target!r} is no name of an op", advice='write "namespace::op" or "namespace::op.overload"'
            )
        namespace, name, overload = match.groups()
        return f"{namespace}::{name}" + (f".{overload}" if overload else "")
    if isinstance(target, torch._ops.OpOverloadPacket):
        return _only_overload(target)
    overload = getattr(target, "_opoverload", None)  # what torch.library.custom_op returns
    if isinstance(overload, torch._ops.OpOverload):
        return overload
    if not callable(target):
        raise PackError(
            f"{target!r} is not an op", advice="give an OpOverload such as torch.ops.aten.gelu.default"
        )
    if not isinstance(target, torch._ops.OperatorBase):
        _refuse_torch_function(target)
    return target


def find_target(target: Any) -> Any:
    """Return the op that a name means; None where nothing has registered it. Anything else comes back.

    Raises:
        PackError: the name of a packet with several overloads.
    """
    if not isinstance(target, str):
        return target
    namespace, _, rest = target.partition("::")
    name, _, overload = rest.partition(".")
    packet = getattr(getattr(torch.ops, namespace), name, None)
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        return packet if isinstance(packet, torch._ops.OperatorBase) else None
    return getattr(packet, overload, None) if overload else _only_overload(packet)


def _only_overload(packet: torch._ops.OpOverloadPacket) -> torch._ops.OpOverload:
    """The overload that writes to none of its arguments (graphs are functional when converters see them)."""
    overloads = [getattr(packet, name) for name in packet.overloads()]  # type: ignore[no-untyped-call]
    functional = [one for one in overloads if not one._schema.is_mutable]
    if len(functional) != 1:
        names = ", ".join(str(one) for one in functional or overloads)
        raise PackError(f"{packet} is a family of ops", advice=f"name the overload: {names}")
    return functional[0]  # type: ignore[no-any-return]


def _refuse_torch_function(target: Any) -> None:
    """``torch.relu`` is what models call, and not what captured graphs do: its converter would never act."""
    name = getattr(target, "__name__", "")
    for home in (torch, torch.nn.functional, torch.Tensor):
        if not name.startswith("sym_") and getattr(home, name, None) is target:
            raise PackError(
                f"{home.__name__}.{name} is no op: captured graphs call ATen ops",
                advice=f"give the op, such as torch.ops.aten.{name}.default; trtcore.explain shows the names",
            )

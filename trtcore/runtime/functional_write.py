"""The torch op that writes to copies: ``trtcore::functional_write``.

    functional_write(str op, str call, Tensor[] memory, Tensor[] tensors, SymInt[] sizes) -> Tensor[]

It calls an op that writes to its arguments, and returns what the op returns and then, for each tensor of `memory`, a
new one with what the op left there. So writes that have no other counterpart in values keep eager's results: to views
that overlap themselves (``expand``, ``unfold``, ``as_strided``), to arguments that share memory, and by ops that
torch's ``auto_functionalized`` does not take. The op runs on memory that is laid out as in eager, and does there what
it does in eager: it may refuse it.

`call` is JSON (`trtcore.ir.graph_json.value_to_json`): the op's arguments in the order of its schema, the strides of
each tensor of `memory`, and views of these as (memory, offset in elements, size, strides). ``t0``, ``s0`` and ``v0``
stand for a tensor, a size and a view.

Importing this module registers the op.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.utils import _pytree as pytree

from trtcore.errors import InputError
from trtcore.ir.graph_data import NodeRef
from trtcore.ir.graph_json import find_op, read_call, write_call

_library: Any = torch.library.Library("trtcore", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    "functional_write(str op, str call, Tensor[] memory, Tensor[] tensors, SymInt[] sizes) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@dataclass(frozen=True)
class Place:
    """Where an argument lies in one of the written tensors; sizes are ints or SymInts, counted in elements."""

    memory: int
    offset: Any
    size: tuple[Any, ...]
    stride: tuple[Any, ...]


def call_functional_write(
    op: torch._ops.OpOverload, values: Sequence[Any], memory: Sequence[tuple[torch.Tensor, Sequence[Any]]]
) -> list[torch.Tensor]:
    """Call the op.

    Args:
        op: what writes.
        values: its arguments in the order of its schema, a `Place` for each that lies in `memory`.
        memory: the tensors that are written to, each with the strides that it has in eager.
    """
    tensors: list[torch.Tensor] = []
    sizes: list[Any] = []
    views: list[tuple[Any, ...]] = []

    def refer(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            tensors.append(value)
            return NodeRef(f"t{len(tensors) - 1}")
        if isinstance(value, torch.SymInt):
            sizes.append(value)
            return NodeRef(f"s{len(sizes) - 1}")
        if isinstance(value, Place):
            views.append((value.memory, refer(value.offset), refer(value.size), refer(value.stride)))
            return NodeRef(f"v{len(views) - 1}")
        if isinstance(value, (list, tuple)):
            return type(value)(map(refer, value))
        return value

    given = tuple(map(refer, values))
    strides = tuple(refer(tuple(stride)) for _, stride in memory)
    call = write_call((given, strides, tuple(views)))
    written: list[torch.Tensor] = functional_write(str(op), call, [one for one, _ in memory], tensors, sizes)
    return written


def returned_alias(op: torch._ops.OpOverload, index: int) -> str:
    """The argument that an op returns as its result `index`; "" where the result is new."""
    alias = op._schema.returns[index].alias_info
    if alias is None:
        return ""
    for argument in op._schema.arguments:
        if argument.alias_info is not None and argument.alias_info.before_set & alias.before_set:
            return str(argument.name)
    return ""


def _run(
    op: str, call: str, memory: Sequence[torch.Tensor], tensors: Sequence[torch.Tensor], sizes: Sequence[Any]
) -> list[torch.Tensor]:
    """The op's kernel, for every device and for FakeTensors. AOTInductor's packages pass None for an empty list."""
    memory, tensors, sizes = memory or (), tensors or (), sizes or ()
    target = find_op(op)
    if target is None:
        raise InputError(
            f"the model calls {op}, and no torch op of that name is registered here",
            advice="import what registers it before the call",
        )
    values, strides, views = _parsed(call)
    known: dict[str, Any] = {f"t{index}": tensor for index, tensor in enumerate(tensors)}
    known |= {f"s{index}": size for index, size in enumerate(sizes)}
    own = [_laid_out(one, _resolved(stride, known)) for one, stride in zip(memory, strides, strict=True)]
    for index, (place, *layout) in enumerate(views):
        offset, size, stride = (_resolved(part, known) for part in layout)
        known[f"v{index}"] = _part(op, own[place], size, stride, offset)
    arguments = zip(target._schema.arguments, _resolved(values, known), strict=True)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for argument, value in arguments:
        if argument.kwarg_only:
            kwargs[argument.name] = value
        else:
            args.append(value)
    return [*_new_results(target, target(*args, **kwargs)), *own]


def _part(op: str, whole: torch.Tensor, size: Any, stride: Any, offset: Any) -> torch.Tensor:
    """What an op writes to, in a tensor that has all of its memory."""
    try:
        return whole.as_strided(size, stride, offset)
    except RuntimeError as error:
        if whole.untyped_storage().nbytes() >= _bytes_up_to(whole, size, stride, offset):
            raise
        raise InputError(
            f"{op} writes to elements of sizes {list(size)} and strides {list(stride)} from place {offset}, and the "
            f"tensor that the model takes them of has {whole.numel()}: of sizes {list(whole.shape)}",
            advice="pass an input that is large enough; memory behind a tensor belongs to nobody in a compiled model",
        ) from error


def _bytes_up_to(whole: torch.Tensor, size: Any, stride: Any, offset: Any) -> Any:
    last = sum((count - 1) * step for count, step in zip(size, stride))
    return (offset + last + 1) * whole.itemsize


def _laid_out(tensor: torch.Tensor, stride: Sequence[Any]) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def _new_results(op: torch._ops.OpOverload, returned: Any) -> list[torch.Tensor]:
    """The tensors that an op returns and that are none of its arguments."""
    results = returned if isinstance(returned, tuple) else (returned,)
    new = [
        result
        for index, result in enumerate(results)
        if index < len(op._schema.returns) and not returned_alias(op, index)
    ]
    return [leaf for leaf in pytree.tree_leaves(new) if isinstance(leaf, torch.Tensor)]


def _resolved(value: Any, known: dict[str, Any]) -> Any:
    if isinstance(value, NodeRef):
        return known[value.name]
    if isinstance(value, (list, tuple)):
        return type(value)(_resolved(item, known) for item in value)
    return value


@lru_cache(maxsize=1024)
def _parsed(call: str) -> tuple[Any, Any, Any]:
    values, strides, views = read_call(call)
    return values, strides, views


_kernel: Callable[..., Any] = _run
_library.impl("functional_write", _kernel, "CompositeExplicitAutograd")
_library.impl("functional_write", torch.library.fallthrough_kernel, "Autograd")
torch.library.register_fake("trtcore::functional_write", _kernel, lib=_library)

functional_write = torch.ops.trtcore.functional_write.default
"""``functional_write(str op, str call, Tensor[] memory, Tensor[] tensors, SymInt[] sizes) -> Tensor[]``"""

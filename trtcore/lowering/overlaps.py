"""Writes that torch itself refuses: to memory of which another argument has a part, as in ``x[1:] += x[:-1]``.

A trace does not look at memory, and functionalisation would compute with what was there before. Which ops ask, and of
which layouts they can tell, is known to their kernels alone: so a kernel is asked, on tensors laid out like these.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from trtcore.errors import ExportError
from trtcore.ir.aliases import storage
from trtcore.ir.graphs import mutates, written_by
from trtcore.ir.provenance import describe
from trtcore.ir.torch_private import hint

_REFUSAL = "single memory location"
_LARGEST = 1 << 28
"""Bytes of memory in which a kernel is asked."""


def refuse_overlaps(mutating: Iterable[Node]) -> None:
    """Raise for a write that torch's kernel refuses.

    Raises:
        ExportError: there is one.
    """
    for node in mutating:
        if (told := overlap_refused(node)) is not None:
            raise ExportError(
                f"{node.target} cannot write there, in plain torch neither: {told}",
                where=describe(node),
                advice="clone() what is read: x[1:] += x[:-1].clone()",
            )


def overlap_refused(node: Node) -> str | None:
    """What torch's kernel says to a write for the memory that its arguments share; None where it takes them.

    Sizes that vary are those of the capture.
    """
    op = node.target
    if not isinstance(op, torch._ops.OpOverload) or op.namespace != "aten" or not mutates(node):
        return None
    leaves = pytree.tree_leaves((node.args, dict(node.kwargs)))  # a tensor may be two arguments
    tensors = [leaf for leaf in leaves if storage(leaf) is not None]
    memory = [storage(source) for source in tensors]
    if all(memory.count(storage(one)) < 2 for one in written_by(node)):
        return None
    layouts = {source: _layout(source.meta["val"]) for source in tensors}
    needed: dict[int | None, int] = {}
    for source, (_, _, _, _, last) in layouts.items():
        needed[storage(source)] = max(needed.get(storage(source), 0), last)
    if sum(needed.values()) > _LARGEST:
        return None
    storages = {
        one: torch.zeros(size, dtype=torch.uint8, device="cpu").untyped_storage()
        for one, size in needed.items()
    }

    def real(source: Node) -> Any:
        if source not in layouts:
            return pytree.tree_map_only((torch.SymInt, torch.SymFloat), hint, source.meta.get("val"))
        dtype, offset, size, stride, _ = layouts[source]
        return torch.empty(0, dtype=dtype, device="cpu").set_(storages[storage(source)], offset, size, stride)

    try:
        with torch.no_grad():
            args, kwargs = torch.fx.map_arg((node.args, dict(node.kwargs)), real)
            op(*args, **kwargs)
    except RuntimeError as error:
        text = str(error).partition("\n")[0]
        return text if _REFUSAL in text else None  # else it is the zeros that it does not take
    except Exception:
        return None
    return None


def _layout(value: torch.Tensor) -> tuple[torch.dtype, int, list[int], list[int], int]:
    """dtype, offset, size, strides, and the bytes up to the last element."""
    offset, size, stride = (
        _int(value.storage_offset()),
        list(map(_int, value.shape)),
        list(map(_int, value.stride())),
    )
    reach = 0 if 0 in size else 1 + sum((n - 1) * step for n, step in zip(size, stride))
    return value.dtype, offset, size, stride, (offset + reach) * value.itemsize


def _int(size: Any) -> int:
    return int(hint(size) or 0) if isinstance(size, torch.SymInt) else int(size)

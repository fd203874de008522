"""Looks into memory (``as_strided``): whether one stays within the tensor that it is given.

A graph of values has the elements of its tensors and no others. What eager reads or writes beside them, between the
columns of a slice or behind its end, is memory that belongs to nobody in the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import torch
from torch.fx import Graph, Node

from trtcore.ir.aliases import storage
from trtcore.ir.graphs import looks_into_memory, mutates, written_by
from trtcore.ir.schema import node_arguments
from trtcore.ir.symbols import expression_of, surely

_LARGEST = 1 << 26
"""Elements of memory that are compared one by one."""


def chain(node: Node) -> Iterator[Node]:
    """The tensor, what it is a view of, and so on to what has the memory."""
    memory: int | None = storage(node)
    below: Node | None = node
    while below is not None:
        if isinstance(below.meta.get("val"), torch.Tensor):
            yield below
        below = next((source for source in below.all_input_nodes if storage(source) == memory), None)


def strays(graph: Graph) -> Iterator[tuple[Node, bool]]:
    """The looks into memory that the graph writes to which may see more of it than the tensor that is known to have it,
    or count from the start of a storage that is not the tensor's; and whether that is sure, or depends on sizes."""
    looking = [node for node in graph.nodes if looks_into_memory(node) and storage(node) is not None]
    if not looking:
        return
    written = {storage(target) for node in graph.nodes if mutates(node) for target in written_by(node)}
    for node in looking:
        if storage(node) not in written:
            continue
        *_, root = chain(node)
        view, whole = node.meta["val"], root.meta["val"]
        if counts_from_start(node) and expression_of(whole.storage_offset()) != 0:
            yield node, True
        elif not (inside := lies_within(view, whole)) and (inside is False or root.op != "call_function"):
            yield node, inside is False  # behind what the graph makes there is nothing: eager refuses it


def counts_from_start(node: Node) -> bool:
    """Whether a look into memory says where in the storage it begins."""
    return node_arguments(node).get("storage_offset") is not None


def reach(tensor: torch.Tensor) -> Any:
    """How many elements the last one is behind the first in memory."""
    return sum(((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride())), 0)


def lies_within(view: torch.Tensor, whole: torch.Tensor) -> bool | None:
    """Whether all elements of a view are elements of the tensor `whole` in the same storage; None where that depends on
    sizes."""
    offset = view.storage_offset() - whole.storage_offset()
    first, behind = offset >= 0, offset + reach(view) <= reach(whole)
    if is_dense(whole):
        if surely(first) and surely(behind):
            return True
        return False if surely(offset < 0) or surely(offset + reach(view) > reach(whole)) else None
    numbers = (offset, *view.shape, *view.stride(), *whole.shape, *whole.stride())
    if not all(isinstance(expression_of(number), int) for number in numbers):
        return False  # between the elements of a tensor with gaps
    if not (first and behind):
        return False
    if reach(whole) >= _LARGEST:
        return False
    taken = torch.zeros(_int(reach(whole)) + 1, dtype=torch.bool)
    _elements(taken, whole, 0).fill_(True)
    return bool(_elements(taken, view, _int(offset)).all())


def _elements(memory: torch.Tensor, tensor: torch.Tensor, start: int) -> torch.Tensor:
    """What a tensor has of a memory, from an element of that on."""
    return memory.as_strided([*map(_int, tensor.shape)], [*map(_int, tensor.stride())], start)


def _int(size: Any) -> int:
    """A size that no symbol is in; torch may have it as a SymInt."""
    return int(expression_of(size))


def disjoint(parts: Sequence[torch.Tensor]) -> bool:
    """Whether tensors in one storage surely have no element in common."""
    if not all(isinstance(part, torch.Tensor) for part in parts):
        return False
    if len({part.dtype for part in parts}) > 1:
        return False
    numbers = [
        expression_of(number)
        for part in parts
        for number in (part.storage_offset(), *part.shape, *part.stride(), reach(part))
    ]
    if all(isinstance(number, int) for number in numbers):
        return _have_no_element_in_common(parts)
    return all(_are_apart(one, other) for one, other in combinations(parts, 2))


def _have_no_element_in_common(parts: Sequence[torch.Tensor]) -> bool:
    filled = [part for part in parts if part.numel()]
    start = min((_int(part.storage_offset()) for part in filled), default=0)
    behind = max((_int(part.storage_offset() + reach(part)) + 1 for part in filled), default=0)
    if behind - start >= _LARGEST:
        return all(_are_apart(one, other) for one, other in combinations(filled, 2))
    taken = torch.zeros(behind - start, dtype=torch.bool)
    for part in filled:
        elements = _elements(taken, part, _int(part.storage_offset()) - start)
        if elements.any():
            return False
        elements.fill_(True)
    return True


def _are_apart(one: torch.Tensor, other: torch.Tensor) -> bool:
    """By where the elements begin and end; or, of parts along a dim of one tensor, where the rows of that do."""
    if surely(one.storage_offset() > other.storage_offset()):
        one, other = other, one
    step = other.storage_offset() - one.storage_offset()
    if surely(step > reach(one)):
        return True
    strides = [expression_of(stride) for stride in one.stride()]
    if strides != [expression_of(stride) for stride in other.stride()]:
        return False
    return any(_are_apart_along(dim, one, other, step) for dim in range(one.dim()))


def _are_apart_along(dim: int, one: torch.Tensor, other: torch.Tensor, step: Any) -> bool:
    stride, others = one.stride(dim), [k for k in range(one.dim()) if k != dim]
    inner = [k for k in others if surely(one.stride(k) * one.shape[k] <= stride)]
    outer = [one.stride(k) for k in others if k not in inner]
    within = sum(((one.shape[k] - 1) * one.stride(k) for k in inner), 0)
    alike = all(surely(other.shape[k] == one.shape[k]) for k in inner)
    behind = step + other.shape[dim] * stride
    return (
        alike
        and surely(within < stride)
        and surely(step >= one.shape[dim] * stride)
        and all(surely(far >= behind) for far in outer)
        and (not outer or any(all(surely(far % least == 0) for far in outer) for least in outer))
    )


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether a tensor surely has all of its memory from the first to the last element, each once, in any order of its
    dims."""
    dims = [
        (expression_of(stride), expression_of(size)) for size, stride in zip(tensor.shape, tensor.stride())
    ]
    left = [(stride, size) for stride, size in dims if size != 1]
    step: Any = 1
    while left:
        fitting = next((dim for dim in left if dim[0] == step), None)
        if fitting is None:
            return False
        left.remove(fitting)
        step = step * fitting[1]
    return True

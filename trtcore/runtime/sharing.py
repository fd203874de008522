"""Memory that two tensors of one call share, where the program writes to one of them.

A compiled program computes the new contents of what it writes to (inputs, buffers) as values, and puts them in place
at its end. That is what the model does only if no other tensor that it reads lives in the same memory.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from trtcore.errors import InputError
from trtcore.ir.graphs import attribute, written_memory

_PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
_LARGEST = 1 << 26  # bytes of memory that are compared element by element

Span = tuple[int, int]
"""(address of the first byte, address behind the last one) of a tensor."""


def span(tensor: Any) -> Span | None:
    """The memory between a tensor's first and last element; None for what has none of its own."""
    if type(tensor) not in _PLAIN or tensor.layout is not torch.strided:
        return None
    start: int = tensor.data_ptr()
    if not start:  # empty, or on the meta device
        return None
    if tensor.is_contiguous():
        return start, start + tensor.nbytes
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return start, start + (last + 1) * tensor.itemsize


def overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors have an element's memory in common. Interleaved ones have not.

    Very large ones whose memory is interleaved count as if they had.
    """
    first, second = span(a), span(b)
    if first is None or second is None or first[0] >= second[1] or second[0] >= first[1]:
        return False
    start, end = min(first[0], second[0]), max(first[1], second[1])
    if (a.is_contiguous() and b.is_contiguous()) or end - start > _LARGEST:
        return True
    taken = torch.zeros(end - start, dtype=torch.bool)
    _bytes(taken, a, start).fill_(True)
    return bool(_bytes(taken, b, start).any())


def overlaps_itself(tensor: Any) -> bool:
    """Whether two elements of a tensor are in the same memory, as in an expanded one or in overlapping windows.

    Of a very large one whose strides do not tell it counts as if they were.
    """
    memory = span(tensor)
    if memory is None or tensor.is_contiguous():
        return False
    reached = 0
    dims = sorted((stride, size) for size, stride in zip(tensor.shape, tensor.stride()) if size > 1)
    for stride, size in dims:
        if stride <= reached:
            break
        reached += (size - 1) * stride
    else:
        return False
    if dims[0][0] == 0 or memory[1] - memory[0] > _LARGEST:
        return True
    taken = torch.zeros(memory[1] - memory[0], dtype=torch.bool)
    _bytes(taken, tensor, memory[0]).fill_(True)
    return int(taken.sum()) < int(tensor.nbytes)


def _bytes(memory: torch.Tensor, tensor: torch.Tensor, start: int) -> torch.Tensor:
    """What a tensor takes of a stretch of memory that begins at `start`."""
    dims = [(size, stride * tensor.itemsize) for size, stride in zip(tensor.shape, tensor.stride()) if stride]
    shape, strides = (*(size for size, _ in dims), tensor.itemsize), (*(step for _, step in dims), 1)
    return memory.as_strided(shape, strides, tensor.data_ptr() - start)


def first_overlap(tensors: Sequence[Any], written: Iterable[int]) -> tuple[int, int] | None:
    """A tensor that is written to, and another that has memory in common with it, by their places; None if there is
    no such pair.

    Args:
        tensors: those of one call; what is no plain tensor is passed over.
        written: places of those that are written to.
    """
    spans = [(one, place) for place, tensor in enumerate(tensors) if (one := span(tensor)) is not None]
    spans.sort()
    reached = 0
    for (start, end), _ in spans:
        if start < reached:
            break
        reached = end
    else:
        return None
    for place in written:
        for _, other in spans:
            if other != place and overlap(tensors[place], tensors[other]):
                return place, other
    return None


def first_shared(tensors: Sequence[Any], written: Sequence[int]) -> tuple[int, int] | None:
    """As `first_overlap`; the same place twice where elements of a tensor that is written to share memory."""
    folded = next((place for place in written if overlaps_itself(tensors[place])), None)
    return first_overlap(tensors, written) if folded is None else (folded, folded)


class Memory:
    """The memory of tensors that stay where they are, to be asked often whether another one is in it."""

    def __init__(self, tensors: Iterable[Any]) -> None:
        merged: list[list[int]] = []
        for start, end in sorted(one for tensor in tensors if (one := span(tensor)) is not None):
            if merged and start <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([start, end])
        self._starts = [start for start, _ in merged]
        self._ends = [end for _, end in merged]

    def touches(self, tensor: Any) -> bool:
        """Whether a tensor's memory may have a part in common with it."""
        one = span(tensor)
        if one is None:
            return False
        index = bisect_left(self._starts, one[1]) - 1  # the last that begins before the tensor ends
        return index >= 0 and self._ends[index] > one[0]


@dataclass(frozen=True)
class Sharing:
    """The check of a compiled module's calls for shared memory; holds plain data only.

    Attributes:
        inputs: places of the tensor inputs that the graph reads or writes.
        attributes: buffers that it writes to and, where it writes to inputs, all that ops in torch read.
        written: which of these are written to, counted through inputs and attributes.
    """

    inputs: tuple[int, ...]
    attributes: tuple[str, ...]
    written: tuple[int, ...]

    @classmethod
    def of_graph(cls, module: GraphModule) -> Sharing | None:
        """The check for a hybrid graph; None where it writes to nothing that is there before a call."""
        written = written_memory(module.graph.nodes)
        places = {node: place for place, node in enumerate(module.graph.find_nodes(op="placeholder"))}
        held = [node for node in module.graph.find_nodes(op="get_attr") if is_held(module, node)]
        if written.isdisjoint([*places, *held]):
            return None
        inputs = [node for node in places if node.users]
        if not written.intersection(inputs):
            held = [node for node in held if node in written]
        names = tuple(dict.fromkeys(str(node.target) for node in held))
        targets = {str(node.target) for node in held if node in written}
        changed = [index for index, node in enumerate(inputs) if node in written]
        changed += [len(inputs) + index for index, name in enumerate(names) if name in targets]
        return cls(tuple(places[node] for node in inputs), names, tuple(changed))

    def check(self, module: GraphModule, leaves: Sequence[Any], names: Sequence[str]) -> None:
        """Refuse a call in which what is written is read by another name, too.

        Args:
            leaves: the flat inputs of the call.
            names: of the inputs, for people.

        Raises:
            InputError: two tensors share memory, and the program writes to one of them.
        """
        tensors = [leaves[place] for place in self.inputs]
        tensors += [attribute(module, name) for name in self.attributes]
        found = first_shared(tensors, self.written)
        if found is None:
            return
        raise shared_memory(found, [names[place] for place in self.inputs], self.attributes)


def shared_memory(found: tuple[int, int], inputs: Sequence[str], attributes: Sequence[str]) -> InputError:
    """The error for two tensors of a call that share memory.

    Args:
        found: places of the one that is written to and of the other, counted through inputs and attributes.
        inputs: names of inputs, for people.
        attributes: names of tensors that the module holds.
    """
    told = [*(f"input {name}" for name in inputs), *(f"{name} of the compiled module" for name in attributes)]
    one, other = (told[place] for place in found)
    if one == other:
        return InputError(
            f"elements of {one} share memory with others of it, and the model writes to {one}",
            advice=f"pass a copy: {inputs[found[0]]}.clone()" if found[0] < len(inputs) else None,
        )
    copied = found[1] if found[1] < len(inputs) else found[0]  # better the one that is only read
    advice = f"pass a copy of one of them: {inputs[copied]}.clone()" if copied < len(inputs) else None
    return InputError(
        f"{one} and {other} share memory, and the model writes to {one}; it was compiled for tensors that do not",
        advice=advice,
    )


def is_held(module: GraphModule, node: Node) -> bool:
    """Whether an attribute is a tensor that ops in torch use; engines' files are none."""
    if all(user.target is torch.ops.trtcore.execute_engine.default for user in node.users):
        return False
    return isinstance(attribute(module, str(node.target)), torch.Tensor)

"""Writes that torch's functionalisation refuses or gets wrong; they run in torch, on copies of the memory.

It has no right inverse of a view that overlaps itself (``expand``, ``unfold``, ``as_strided``), and takes an op of
somebody else's that writes only if its arguments have other names than torch's own functions give theirs, share no
memory, and are not returned. Such a node becomes ``trtcore::functional_write`` on the tensor whose memory it writes
to, which then is that tensor's new value; all views of it follow as of any other write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from trtcore.errors import ExportError
from trtcore.ir.aliases import storage
from trtcore.ir.graphs import is_composite, looks_into_memory, mutates, written_by
from trtcore.ir.provenance import describe
from trtcore.ir.schema import node_arguments, normalise_arguments
from trtcore.ir.strided import chain, is_dense, lies_within, strays
from trtcore.ir.symbols import expression_of
from trtcore.ir.torch_private import can_auto_functionalize, is_inplace_view, is_own
from trtcore.runtime.functional_write import Place, call_functional_write, returned_alias

_NAMES_OF_TORCH = frozenset({"_mutable_op", "_only_clone_these_tensors", "ctx", "dispatch_key", "mode"})
"""Parameters of the functions through which ``auto_functionalized`` hands on an op's arguments by name."""


@dataclass(frozen=True)
class MemoryWrite:
    """A write that runs on copies.

    Attributes:
        node: what writes.
        roots: the tensors in whose memory it does.
        places: where its arguments are in these: by name, and by position in a list or -1.
    """

    node: Node
    roots: tuple[Node, ...]
    places: Mapping[tuple[str, int], Place]

    def run(self, args: Any, kwargs: Any, value_of: Callable[[Node], torch.Tensor]) -> Any:
        """Do to the values of the roots what the node does to their memory; return what the node returns.

        Args:
            args, kwargs: what the node is given.
            value_of: the values of nodes.
        """
        op: Any = self.node.target
        given = normalise_arguments(op, args, kwargs)
        values = [self._placed(name, value) for name, value in given.items()]
        roots = list(map(value_of, self.roots))
        memory = [(one, root.meta["val"].stride()) for one, root in zip(roots, self.roots)]
        made = call_functional_write(op, values, memory)
        count = len(made) - len(roots)
        for root, new in zip(roots, made[count:]):
            root.copy_(new)
        return self._returned(op, given, made[:count])

    def _placed(self, name: str, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self.places.get((name, index), item) for index, item in enumerate(value)]
        return self.places.get((name, -1), value)

    def _returned(self, op: Any, given: Mapping[str, Any], new: list[torch.Tensor]) -> Any:
        """The node's result, of its arguments and of new tensors."""
        left = iter(new)
        returns = op._schema.returns
        value = self.node.meta.get("val")
        shapes = list(value or ()) if len(returns) > 1 else [value] * len(returns)
        results = []
        for index, shape in enumerate(shapes):
            alias = returned_alias(op, index)
            results.append(
                given[alias] if alias else pytree.tree_map_only(torch.Tensor, lambda _: next(left), shape)
            )
        return tuple(results) if len(returns) > 1 else results[0] if results else None


def find_memory_writes(graph: Graph) -> dict[Node, MemoryWrite]:
    """The nodes of a graph that have to write to copies.

    Raises:
        ExportError: one writes beyond the tensors that the model has, or returns numbers.
    """
    for node, is_sure in strays(graph):
        if is_sure:
            *_, root = chain(node)
            raise ExportError(
                f"{node.target} looks at memory of {root.name} that is no part of that tensor, or counts from the "
                "start of a storage that begins before it, and the model writes to that memory",
                where=describe(node),
                advice=f"let the model look into a tensor of its own: {root.name}.clone() first",
            )
    return {node: _memory_write(node) for node in graph.nodes if mutates(node) and _needs_memory(node)}


def _needs_memory(node: Node) -> bool:
    op: Any = node.target
    if is_inplace_view(op) or not any(storage(one) is not None for one in written_by(node)):
        return False
    if any(map(_is_hard, written_by(node))):
        return True
    if is_own(op) or is_composite(op):
        return False
    names = {argument.name for argument in op._schema.arguments}
    return bool(names & _NAMES_OF_TORCH) or not can_auto_functionalize(op) or _shares(node)


def _is_hard(node: Node) -> bool:
    """Whether a tensor is a part of a view that may overlap itself, or of one that torch does not invert: a look into
    memory it inverts as the only view of a dense tensor."""
    *views, root = chain(node)
    if any(_is_unfold(one) or _overlaps(one) for one in views):
        return True
    return any(map(looks_into_memory, views)) and (len(views) > 1 or not is_dense(root.meta["val"]))


def _is_unfold(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema is not None else []
    return names == ["self", "dimension", "size", "step"]  # what lies between its windows would become 0


def _overlaps(node: Node) -> bool:
    """Whether two elements of a view may be one in memory."""
    value = node.meta["val"]
    dims = [(expression_of(stride), expression_of(size)) for size, stride in zip(value.shape, value.stride())]
    dims = [(stride, size) for stride, size in dims if size != 1]
    if any(stride == 0 for stride, _ in dims):
        return True
    if not looks_into_memory(node):
        return False
    if not all(isinstance(part, int) for dim in dims for part in dim):
        return True
    reach = 0  # the last element of the dims so far
    for stride, size in sorted(dims):
        if stride <= reach:
            return True
        reach += stride * (size - 1)
    return False


def _shares(node: Node) -> bool:
    """Whether a node writes to memory in which another of its arguments lies too."""
    memory = [storage(one) for _, one in _tensors(node)]
    return any(memory.count(storage(one)) > 1 for one in written_by(node))


def _tensors(node: Node) -> Iterator[tuple[tuple[str, int], Node]]:
    for name, value in node_arguments(node).items():
        if isinstance(value, Node) and isinstance(value.meta.get("val"), torch.Tensor):
            yield (name, -1), value
        elif isinstance(value, (list, tuple)):
            yield from (((name, index), item) for index, item in enumerate(value) if isinstance(item, Node))


def _memory_write(node: Node) -> MemoryWrite:
    op: Any = node.target
    for index, result in enumerate(op._schema.returns):
        if "Tensor" not in str(result.type) and not returned_alias(op, index):
            raise ExportError(
                f"{op} writes to its arguments and returns a number, which no graph of values has",
                where=describe(node),
                advice="let it return a tensor",
            )
    roots: dict[int | None, Node] = {}
    for written in written_by(node):
        *_, roots[storage(written)] = chain(written)
    order = list(roots)
    places = {
        key: _place(node, tensor, order.index(storage(tensor)), roots[storage(tensor)])
        for key, tensor in _tensors(node)
        if storage(tensor) in roots
    }
    return MemoryWrite(node, tuple(roots.values()), places)


def _place(node: Node, tensor: Node, memory: int, root: Node) -> Place:
    value, whole = tensor.meta["val"], root.meta["val"]
    offset = value.storage_offset() - whole.storage_offset()
    if value.dtype != whole.dtype or lies_within(value, whole) is False:
        raise ExportError(
            f"{node.target} writes to memory of {root.name} that is no part of that tensor, or of another dtype",
            where=describe(node),
            advice="write to a tensor that the model makes: clone() first",
        )
    return Place(memory, offset, tuple(value.shape), tuple(value.stride()))

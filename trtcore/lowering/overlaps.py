"""Writes to memory of which another argument has a part, as in ``x[1:] += x[:-1]`` and ``x *= x[:, :1]``.

A trace does not look at memory, and functionalisation would compute with what was there before. torch's kernels refuse
some of these writes, give what functionalisation gives for others, and numbers that depend on the order of their loops
for the rest. Which ops do what, and of which layouts, is known to the kernels alone: so a kernel is asked, on tensors
laid out like these.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from trtcore.errors import ExportError
from trtcore.ir.aliases import storage
from trtcore.ir.exclusions import points_of
from trtcore.ir.graphs import is_copy_into, mutates, written_by
from trtcore.ir.program import SymbolRange
from trtcore.ir.provenance import describe
from trtcore.ir.symbols import expression_of, free_symbols
from trtcore.ir.torch_private import hint
from trtcore.runtime.sharing import overlap

_REFUSAL = "single memory location"
_LARGEST = 1 << 28
"""Bytes of memory in which a kernel is asked."""
_MOST_SIZES = 512
"""Combinations of sizes for which a write is looked at."""
_ORDER = (
    "reads memory that it writes at the same time: in plain torch its numbers depend on the order in which the kernel "
    "takes the elements"
)
Sizes = Mapping[str, int]
"""Values of symbols; a symbol that is not among them has the value of the capture."""


def refuse_overlaps(mutating: Iterable[Node], ranges: Mapping[str, SymbolRange]) -> None:
    """Raise for a write that torch's kernel refuses, or whose numbers depend on an order.

    Args:
        ranges: of sizes. Besides the capture's, all combinations are looked at where they are few, else some.

    Raises:
        ExportError: there is one; with the sizes.
    """
    for node in filter(_may_overlap, mutating):
        if (told := overlap_refused(node)) is not None:
            raise _error(node, told)
        symbols = [name for name in free_symbols(_sizes_of(node)) if name in ranges]
        found = [
            (sizes, told) for sizes in _points(symbols, ranges) if (told := overlap_refused(node, sizes))
        ]
        if found:
            places = {name: _place(node.graph, name) for name in symbols}
            shown = "; ".join(
                ", ".join(f"{places[k]} = {n}" for k, n in sizes.items()) for sizes, _ in found[:6]
            )
            more = f" and {len(found) - 6} more" if len(found) > 6 else ""
            raise _error(node, f"{found[0][1]} (at sizes within the range: {shown}{more})")


class Overlaps:
    """The writes of a graph that may be at fault, to be asked at the sizes of every call."""

    def __init__(self, mutating: Iterable[Node]) -> None:
        self._nodes = [(node, free_symbols(_sizes_of(node))) for node in mutating if _may_overlap(node)]
        self._known: dict[tuple[Node, tuple[int, ...]], str | None] = {}

    def told(self, size_of: Callable[[str], int]) -> str | None:
        """A sentence on the first write that is refused, or whose numbers depend on an order; None where there is none.

        Args:
            size_of: the value of a symbol in this call; raises KeyError where that is not known.
        """
        for node, symbols in self._nodes:
            sizes = {}
            for name in symbols:
                with suppress(KeyError):
                    sizes[name] = size_of(name)
            key = node, tuple(sizes.values())
            if key not in self._known:
                if len(self._known) >= _MOST_SIZES:
                    self._known.clear()
                self._known[key] = overlap_refused(node, sizes)
            if self._known[key] is not None:
                return f"{node.target} {self._known[key]}"
        return None


def _points(symbols: Sequence[str], ranges: Mapping[str, SymbolRange]) -> Iterator[Sizes]:
    if not symbols:
        return
    points, _ = points_of({name: ranges[name] for name in symbols}, _MOST_SIZES, _MOST_SIZES)
    yield from itertools.islice(points, _MOST_SIZES)


def _place(graph: Graph, symbol: str) -> str:
    """``x dimension 0``, where a size is one of an input; else the symbol."""
    for node in graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        for index, size in enumerate(value.shape if isinstance(value, torch.Tensor) else ()):
            if str(expression_of(size)) == symbol:
                return f"{node.name} dimension {index}"
    return symbol


def _error(node: Node, told: str) -> ExportError:
    written = {one: storage(one) for one in written_by(node)}
    others = [one for one in node.all_input_nodes if one not in written and storage(one) in written.values()]
    names, advice = (
        f"it writes {', '.join(one.name for one in written)}",
        "clone() what is read: x[1:] += x[:-1].clone()",
    )
    if not others and len(written) > 1:
        names, advice = (
            f"{names}, which share memory",
            "write to one after the other, each with an op of its own",
        )
    if others:
        names += f" and reads {', '.join(one.name for one in others)}, in the same memory"
    return ExportError(
        f"{node.target} {told}: {names}",
        where=describe(node),
        advice=advice,
    )


def overlap_refused(node: Node, sizes: Sizes | None = None) -> str | None:
    """What is wrong with a write for the memory that its arguments share, as a predicate; None where nothing is.

    Args:
        sizes: at which it is looked at.
    """
    if not _may_overlap(node):
        return None
    write = _Write.of(node, sizes or {})
    if write is None or not write.meets():
        return None
    if write.nbytes > _LARGEST:
        return _ORDER
    return write.ask()


def _may_overlap(node: Node) -> bool:
    op = node.target
    if not isinstance(op, torch._ops.OpOverload) or op.namespace != "aten" or not mutates(node):
        return False
    memory = [storage(source) for source in _tensors(node)]
    return any(memory.count(storage(one)) > 1 for one in written_by(node))


def _tensors(node: Node) -> list[Node]:
    """A node's tensor arguments; one tensor may be two of them."""
    return [leaf for leaf in pytree.tree_leaves((node.args, dict(node.kwargs))) if storage(leaf) is not None]


def _sizes_of(node: Node) -> Iterator[Any]:
    for source in _tensors(node):
        value: torch.Tensor = source.meta["val"]
        yield from (*value.shape, *value.stride(), value.storage_offset())


@dataclass(frozen=True)
class _Layout:
    """Where a tensor's elements are.

    Attributes:
        first, last: bytes of its memory before the first element, and up to the end of the last one.
    """

    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    first: int
    last: int

    @classmethod
    def of(cls, value: torch.Tensor, sizes: Sizes) -> _Layout:
        offset = _int(value.storage_offset(), sizes)
        size = tuple(_int(one, sizes) for one in value.shape)
        stride = tuple(_int(one, sizes) for one in value.stride())
        reach = 0 if 0 in size else 1 + sum((n - 1) * step for n, step in zip(size, stride))
        item = value.itemsize
        return cls(value.dtype, offset, size, stride, offset * item, (offset + reach) * item)

    def on(self, memory: torch.UntypedStorage) -> torch.Tensor:
        return torch.empty(0, dtype=self.dtype, device="cpu").set_(
            memory, self.offset, self.size, self.stride
        )


@dataclass(frozen=True)
class _Write:
    """One write, with the layouts of its tensors at some sizes."""

    node: Node
    layouts: Mapping[Node, _Layout]
    written: tuple[Node, ...]
    read: tuple[Node, ...]
    sizes: Sizes

    @classmethod
    def of(cls, node: Node, sizes: Sizes) -> _Write | None:
        tensors, written = _tensors(node), tuple(dict.fromkeys(written_by(node)))
        read = list(tensors)
        for one in written:
            if one not in read:  # not an argument itself
                return None
            read.remove(one)
        try:
            layouts = {one: _Layout.of(one.meta["val"], sizes) for one in tensors}
        except (TypeError, ValueError):  # a size that nobody knows
            return None
        return cls(node, layouts, written, tuple(dict.fromkeys(read)), sizes)

    @property
    def nbytes(self) -> int:
        return sum(self._needed().values())

    def _needed(self) -> dict[int | None, int]:
        needed: dict[int | None, int] = {}
        for source, layout in self.layouts.items():
            needed[storage(source)] = max(needed.get(storage(source), 0), layout.last)
        return needed

    def meets(self) -> bool:
        """Whether what is written has an element of another argument; the very same ones may be read where an op takes
        them element by element."""
        by_element = is_copy_into(self.node) or torch.Tag.pointwise in self.node.target.tags  # type: ignore[union-attr]
        pairs = [(one, other) for one in self.written for other in self.read]
        pairs += itertools.combinations(self.written, 2)
        return any(self._meet(one, other, by_element) for one, other in pairs)

    def _meet(self, one: Node, other: Node, by_element: bool) -> bool:
        a, b = self.layouts[one], self.layouts[other]
        if storage(one) != storage(other) or (by_element and a == b):
            return False
        if a.first >= b.last or b.first >= a.last:
            return False
        if max(a.last, b.last) > _LARGEST:
            return True
        memory = torch.empty(max(a.last, b.last), dtype=torch.uint8).untyped_storage()
        return overlap(a.on(memory), b.on(memory))

    def ask(self) -> str | None:
        """What torch's kernel says, or does with some numbers and not with copies of what it reads."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for fill in (_random, _ones, _repeated, _zeros):  # some ops take no numbers but zeros
                try:
                    if not self._is_as_on_copies(fill):
                        return _ORDER
                except RuntimeError as error:
                    text = str(error).partition("\n")[0]
                    if _REFUSAL in text:
                        return f"cannot write there, in plain torch neither: {text}"
                except Exception:
                    continue
        return None

    def _is_as_on_copies(self, fill: Callable[[int, torch.dtype, bool], torch.Tensor]) -> bool:
        torch.manual_seed(0)
        memory, copies = {}, {}
        for key, size in self._needed().items():
            dtype = self._dtype(key)
            written = any(storage(one) == key for one in self.written)
            numbers = fill(-(-size // dtype.itemsize), dtype, written)
            memory[key], copies[key] = numbers.untyped_storage(), numbers.clone().untyped_storage()
        self._run({one: layout.on(memory[storage(one)]) for one, layout in self.layouts.items()})
        apart = {one: layout.on(copies[storage(one)]) for one, layout in self.layouts.items()}
        own = {one: tensor.clone() for one, tensor in apart.items()}
        self._run(own)
        for one in self.written:
            apart[one].copy_(own[one])
        return all(_equal(one, copies[key], self._dtype(key)) for key, one in memory.items())

    def _dtype(self, key: int | None) -> torch.dtype:
        """That in which a memory is written, else the first one in which it is read."""
        known = (one for one in (*self.written, *self.layouts) if storage(one) == key)
        return self.layouts[next(known)].dtype

    def _run(self, tensors: Mapping[Node, torch.Tensor]) -> None:
        torch.manual_seed(1)

        def real(source: Node) -> Any:
            if source in tensors:
                return tensors[source]
            return pytree.tree_map_only(
                (torch.SymInt, torch.SymFloat), lambda one: _value(one, self.sizes), source.meta.get("val")
            )

        args, kwargs = torch.fx.map_arg((self.node.args, dict(self.node.kwargs)), real)
        self.node.target(*args, **kwargs)  # type: ignore[operator]


def _random(count: int, dtype: torch.dtype, written: bool) -> torch.Tensor:
    """Numbers near one, which most ops take; indices that are small."""
    if dtype.is_floating_point or dtype.is_complex:
        return (torch.rand(count) + 0.5).to(dtype)
    return torch.randint(0, 2, (count,)).to(dtype)


def _ones(count: int, dtype: torch.dtype, written: bool) -> torch.Tensor:
    """Numbers near one, and the same index or answer everywhere."""
    if dtype.is_floating_point or dtype.is_complex:
        return _random(count, dtype, written)
    return torch.ones(count, dtype=dtype)


def _repeated(count: int, dtype: torch.dtype, written: bool) -> torch.Tensor:
    """The first index everywhere, which is written more than once; else random numbers."""
    if written or dtype.is_floating_point or dtype.is_complex:
        return _random(count, dtype, written)
    return torch.zeros(count, dtype=dtype)


def _zeros(count: int, dtype: torch.dtype, written: bool) -> torch.Tensor:
    return torch.zeros(count).to(dtype)


def _equal(one: torch.UntypedStorage, other: torch.UntypedStorage, dtype: torch.dtype) -> bool:
    a, b = (_as(memory, dtype) for memory in (one, other))
    if not dtype.is_floating_point and not dtype.is_complex:
        return torch.equal(a, b)
    if dtype.itemsize == 1:
        a, b = a.float(), b.float()
    return torch.allclose(a, b, rtol=0.02, atol=1e-4, equal_nan=True)  # of sums in another order, too


def _as(memory: torch.UntypedStorage, dtype: torch.dtype) -> torch.Tensor:
    count = memory.nbytes() // dtype.itemsize
    return torch.empty(0, dtype=dtype).set_(memory, 0, (count,), (1,))


def _int(size: Any, sizes: Sizes) -> int:
    """A size as a number; of one that nobody knows, 0."""
    return int(_value(size, sizes) or 0) if isinstance(size, torch.SymInt) else int(size)


def _value(size: Any, sizes: Sizes) -> Any:
    expression = expression_of(size) if isinstance(size, torch.SymInt) else None
    known = {} if expression is None or isinstance(expression, int) else {
        one: sympy.Integer(sizes[one.name]) for one in expression.free_symbols if one.name in sizes
    }  # fmt: skip
    if known and len(known) == len(expression.free_symbols):  # type: ignore[union-attr]
        found = expression.xreplace(known)  # type: ignore[union-attr]
        return int(found) if found.is_Integer else None
    return hint(size)

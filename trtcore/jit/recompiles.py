"""One graph of torch.compile's and the engines built for it: when they fit a call, and when they are built again.

There is one build per set of weights and range of sizes; a weight that has changed, or a size outside of the range,
makes another (see `trtcore.runtime.weight_watch`).
"""

from __future__ import annotations

import itertools
import re
import threading
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule, Node

from trtcore.compiler import compile_program
from trtcore.engine.refit import Donors
from trtcore.ir.aliases import made_others
from trtcore.ir.graphs import mutates
from trtcore.ir.layouts import seen_in_memory
from trtcore.ir.output_views import Outputs
from trtcore.ir.program import SymbolRange
from trtcore.ir.strided import strays
from trtcore.ir.symbols import expression_of
from trtcore.ir.torch_private import bounds_of_symbol, expression, forgetting_traces, hint
from trtcore.jit.aliases import mutated_placeholders
from trtcore.jit.capture import program_of, weight_places
from trtcore.lowering.overlaps import Overlaps
from trtcore.lowering.passes import FixedSizeError
from trtcore.refit import engines_of
from trtcore.runtime.module import captured_dtypes
from trtcore.runtime.sharing import Memory, first_overlap
from trtcore.runtime.weight_watch import WeightWatch
from trtcore.settings import CompilationSettings

if TYPE_CHECKING:
    from trtcore.context import Observer
    from trtcore.report.data import Report
    from trtcore.runtime.module import CompiledModule

_GROWTH = 4
_LARGEST_SIZE = torch.iinfo(torch.int32).max
"""Of a dimension in TensorRT."""


@dataclass(frozen=True)
class GraphReport:
    """One compile of one graph that torch.compile handed over.

    Attributes:
        graph: which graph, counted from 0 in this process. Graph breaks, and calls that Dynamo's guards refuse,
            make new graphs.
        reason: "new graph"; or why engines were built again, such as "fc.weight was changed in place".
        report: what `trtcore.compile` gives as ``.report``.
    """

    graph: int
    reason: str
    report: Report

    def __str__(self) -> str:
        return f"torch.compile graph {self.graph}: {self.reason}\n{self.report}"


def reports() -> tuple[GraphReport, ...]:
    """Every compile that ``torch.compile(backend="trtcore")`` made in this process, oldest first.

    The latest 1,000 are kept; ``torch._dynamo.reset()`` forgets them.
    """
    return tuple(_reports)


def forget_reports() -> None:
    """Start `reports` anew."""
    _reports.clear()


_reports: deque[GraphReport] = deque(maxlen=1000)
_numbers = itertools.count()


@dataclass(frozen=True)
class _Bound:
    """The sizes that a symbol was compiled for, and where a call's size is read from."""

    name: str
    place: _Place
    where: str
    low: int
    high: int


@dataclass(frozen=True)
class _Build:
    """One compile of the graph: for these very weights, and for sizes within bounds."""

    module: CompiledModule
    inputs: tuple[int, ...]
    watch: WeightWatch
    bounds: tuple[_Bound, ...]
    memory: Memory
    """That of the weights, which do not move as long as the watch sees no change."""

    def obstacle(self, args: Sequence[Any], weights: Sequence[torch.Tensor]) -> str | None:
        """Why this build, which is for these weights, cannot take a call; None if it can."""
        return self.size_outside(args) or self.watch.change(weights)

    def size_outside(self, args: Sequence[Any]) -> str | None:
        """Which size of a call it is not for."""
        for bound in self.bounds:
            size = _size(args, bound.place)
            if not bound.low <= size <= bound.high:
                return f"{bound.where} is {size}, outside of {bound.low}..{bound.high}"
        return None


class CompiledGraph:
    """What Dynamo calls. Compiles again when a weight has changed or a size is out of bounds.

    Dynamo may use one graph for several modules of one class: there is one build for each module's weights.
    Threads may call it at the same time.
    """

    def __init__(
        self,
        graph_module: GraphModule,
        example_inputs: Sequence[Any],
        settings: CompilationSettings,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._source = graph_module
        self._settings = settings
        self._observers = observers
        self._number = next(_numbers)
        self._lock = threading.RLock()
        self._outputs = Outputs(graph_module)
        self._weights = weight_places(graph_module, example_inputs)
        self._places = _symbol_places(graph_module)
        mutated, placeholders = (
            mutated_placeholders(graph_module),
            graph_module.graph.find_nodes(op="placeholder"),
        )
        self._written = [place for place, node in enumerate(placeholders) if node in mutated]
        self._ints = [place for place, dim in self._places.values() if dim is None]
        self._eager = GraphModule(graph_module, graph_module.graph)
        self._told = False
        self._builds: tuple[_Build, ...] = ()
        self._folded = next((place for place in self._written if _is_folded(placeholders[place])), None)
        writing = list(filter(mutates, graph_module.graph.nodes))
        made = made_others(writing)
        self._made = next((place for place, node in enumerate(placeholders) if node in made), None)
        self._overlaps = Overlaps(writing)
        self._stray = next((node for node, _ in strays(graph_module.graph)), None)
        self._starts = _starts(graph_module)
        if self._unfit(example_inputs) is None:
            self._first_build(example_inputs)

    def __call__(self, *args: Any) -> Any:
        if (why := self._unfit(args)) is not None:
            return self._in_torch(args, why)
        build = self._build_for(args)
        with torch.no_grad():
            if self._written and (shared := self._shared(args, build)) is not None:
                one, other = map(self._name, shared)
                return self._in_torch(
                    args,
                    f"{one} and {other} share memory, and the graph writes to {one} "
                    "(pass a copy of one of them for a call by engines)",
                )
            results = build.module(*[args[index] for index in build.inputs])
            return self._outputs.restore(args, results)

    def _first_build(self, args: Sequence[Any]) -> None:
        """Build while Dynamo compiles: a size that this fixes becomes one of its guards, and no other comes again."""
        for _ in range(len(self._places)):
            try:
                self._build_for(args)
            except FixedSizeError:
                self._places = _symbol_places(self._source)
            else:
                return
        self._build_for(args)

    def _shared(self, args: Sequence[Any], build: _Build) -> tuple[int, int] | None:
        """Places of an argument that is written to, and of one that has memory in common with it."""
        if any(build.memory.touches(args[place]) for place in self._written):
            return first_overlap(args, self._written)
        found = first_overlap([args[place] for place in build.inputs], map(build.inputs.index, self._written))
        return None if found is None else (build.inputs[found[0]], build.inputs[found[1]])

    def _no_size(self, args: Sequence[Any]) -> int | None:
        """Place of an int that is no size: engines know ints as sizes alone."""
        for place in self._ints:
            if not 0 <= _size(args, (place, None)) <= _LARGEST_SIZE:
                return place
        return None

    def _unfit(self, args: Sequence[Any]) -> str | None:
        """Why no engine can take a call with these arguments."""
        if (place := self._no_size(args)) is not None:
            return f"{self._name(place)} is {args[place]}, which no size can be"
        if self._folded is not None:
            return f"the graph writes to {self._name(self._folded)}, elements of which share memory"
        if (told := self._overlaps.told(lambda name: _size(args, self._places[name]))) is not None:
            return told
        if self._made is not None:
            return f"the graph changes the shape or the memory of {self._name(self._made)}"
        if self._stray is not None:
            return f"the graph writes to memory into which {self._stray.target} looks beyond a tensor that it is given"
        for place, offset in self._starts:
            if args[place].storage_offset() != offset:
                return f"the graph looks into memory, and {self._name(place)} begins at another place of its storage"
        return None

    def _name(self, place: int) -> str:
        name: str = self._source.graph.find_nodes(op="placeholder")[place].meta["trtcore_source"]
        return name

    def _in_torch(self, args: Sequence[Any], why: str) -> Any:
        """The call with torch's own ops, in the order of the model and in place where the model writes in place."""
        if not self._told:
            self._told = True
            warnings.warn(
                f"torch.compile(backend='trtcore'): {why}; such calls run in torch",
                RuntimeWarning,
                stacklevel=3,
            )
        with torch.no_grad(), captured_dtypes():
            return self._eager(*args)

    def _build_for(self, args: Sequence[Any]) -> _Build:
        weights = [args[index] for index in self._weights]
        build, obstacle = self._find(args, weights)
        if build is not None and obstacle is None:
            return build
        with self._lock:
            build, obstacle = self._find(args, weights)
            if build is not None and obstacle is None:
                return build
            new = self._compile(args, weights, build, obstacle or self._reason())
            self._builds = (*(b for b in self._builds if b is not build and b.watch.alive()), new)
            return new

    def _find(self, args: Sequence[Any], weights: Sequence[torch.Tensor]) -> tuple[_Build | None, str | None]:
        """The build for these weights, if there is one, and what is against using it."""
        for build in self._builds:
            if build.watch.watches(weights):
                return build, build.obstacle(args, weights)
        return None, None

    def _reason(self) -> str:
        return "the graph is called with another module's weights" if self._builds else "new graph"

    def _compile(
        self, args: Sequence[Any], weights: Sequence[torch.Tensor], old: _Build | None, reason: str
    ) -> _Build:
        sizes = {name: _size(args, place) for name, place in self._places.items()}
        known = {bound.name: (bound.low, bound.high) for bound in old.bounds} if old is not None else {}
        placeholders = self._source.graph.find_nodes(op="placeholder")
        # Before anything is read: what changes while the engines are built is noticed at the next call.
        watch = WeightWatch(weights, [placeholders[index].meta["trtcore_source"] for index in self._weights])
        program, inputs = program_of(
            self._source,
            args,
            self._weights,
            _symbol_ranges(placeholders, sizes, known),
            self._outputs.results,
        )
        program = replace(program, model_name=f"Graph{self._number}")
        like = self._like(args, old)
        with forgetting_traces():
            module = compile_program(
                program,
                self._settings,
                observers=self._observers,
                donors=None if like is None else Donors(engines_of(like)),
                again=None if like is None else like.recipe,
            )
        _reports.append(GraphReport(self._number, reason, module.report))
        if module.report.backend is None:
            warnings.warn(
                "torch.compile(backend='trtcore'): the graph runs in torch, because no engine can be built: "
                + module.report.no_backend_reason,
                RuntimeWarning,
                stacklevel=2,
            )
        bounds = [
            _Bound(
                name, place, _where(placeholders, place), program.symbols[name].min, program.symbols[name].max
            )
            for name, place in self._places.items()
            if name in program.symbols
        ]
        return _Build(module, tuple(inputs), watch, tuple(bounds), Memory(weights))

    def _like(self, args: Sequence[Any], old: _Build | None) -> CompiledModule | None:
        """What was compiled for these weights before they changed, or for another module's: its engines may take these.
        Where sizes are at fault, engines for them have to be built."""
        build = old or next(iter(self._builds), None)
        return None if build is None or build.size_outside(args) is not None else build.module


def _starts(gm: GraphModule) -> list[tuple[int, Any]]:
    """Places of the tensors whose start in their storage decides what the graph looks at, which no guard of Dynamo's
    asks; and where they start."""
    seen, absolute = seen_in_memory(gm.graph)
    if not absolute:
        return []
    return [
        (place, expression_of(node.meta["val"].storage_offset()))
        for place, node in enumerate(gm.graph.find_nodes(op="placeholder"))
        if node in seen and isinstance(node.meta["val"], torch.Tensor)
    ]


def _is_folded(placeholder: Node) -> bool:
    """Whether elements of an input are one in memory, as those of an expanded tensor are."""
    value = placeholder.meta["val"]
    strides = zip(map(expression_of, value.stride()), map(expression_of, value.shape))
    return any(stride == 0 and size != 1 for stride, size in strides)


# --- sizes --------------------------------------------------------------------------------------------------

_Place = tuple[int, int | None]


def _symbol_places(gm: GraphModule) -> dict[str, _Place]:
    """Where each symbol's value can be read from the arguments: ``(index, dimension)``, or an int itself."""
    places: dict[str, _Place] = {}
    for index, node in enumerate(gm.graph.find_nodes(op="placeholder")):
        value: Any = node.meta["val"]
        if type(value) is torch.SymInt and expression(value).is_Symbol:
            places[expression(value).name] = (index, None)
        elif isinstance(value, torch.Tensor):
            for dim, size in enumerate(map(expression_of, value.shape)):
                if not isinstance(size, int) and size.is_Symbol:
                    places.setdefault(size.name, (index, dim))
    return places


def _where(placeholders: Sequence[Node], place: _Place) -> str:
    """``x dimension 0``, or the name that Dynamo gives the int."""
    index, dim = place
    name = placeholders[index].meta["trtcore_source"]
    if dim is not None:
        return f"{name} dimension {dim}"
    return re.sub(r"\.size\(\)\[(\d+)\]$", r" dimension \1", name)


def _size(args: Sequence[Any], place: _Place) -> int:
    index, dim = place
    size = args[index] if dim is None else args[index].shape[dim]
    # While Dynamo compiles, sizes are SymInts, and int() would add the guard that they never change.
    return int(hint(size) or 0) if isinstance(size, torch.SymInt) else int(size)


def _symbol_ranges(
    nodes: Sequence[Node], sizes: Mapping[str, int], known: Mapping[str, tuple[int, int]]
) -> dict[str, SymbolRange]:
    """Ranges of the size symbols.

    Args:
        nodes: the placeholders.
        sizes: the symbols' values in the call that made this compile necessary.
        known: what an earlier compile was for, which stays allowed.
    """
    ranges: dict[str, SymbolRange] = {}
    for node in nodes:
        value: Any = node.meta["val"]
        for dim in value.shape if isinstance(value, torch.Tensor) else (value,):
            if type(dim) is torch.SymInt and expression(dim).is_Symbol:
                name = expression(dim).name
                ranges[name] = _symbol_range(dim, sizes[name], known.get(name))
    return ranges


def _symbol_range(dim: torch.SymInt, size: int, known: tuple[int, int] | None) -> SymbolRange:
    symbol = expression(dim)
    lower, upper = bounds_of_symbol(dim)
    low = min(max(_finite(lower, 1), 1), size)
    if known is not None and size <= known[1]:
        high = known[1]
    else:
        high = _finite(upper, 1 << (_GROWTH * max(size, 1) - 1).bit_length())
    return SymbolRange(
        symbol.name,
        min(low, known[0]) if known is not None else low,
        size,
        max(min(high, _LARGEST_SIZE), size),
    )


def _finite(bound: Any, otherwise: int) -> int:
    """A bound as an int; infinite ones, and what torch uses for "any size", are replaced."""
    value = int(bound) if bound.is_Integer else None
    return value if value is not None and abs(value) < torch.iinfo(torch.int32).max else otherwise

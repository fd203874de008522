"""EngineRequest: everything that decides an engine, and nothing else.

A request is made of a segment of the lowered graph. In this process it stands on the segment itself; for another
process it becomes plain data: nodes by name, weights by a mapped file on one host or by their bytes, converters by the
pack that they come from or the module that they are defined in. `EngineRequest.key` names its content, the same in
every process.
"""

from __future__ import annotations

import importlib
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from trtcore.backend.base import Target
from trtcore.context import CompileContext
from trtcore.engine.key import Anatomy, Identity, function_hash, identify
from trtcore.errors import SettingsError
from trtcore.ir.graph_data import (
    FakeValues,
    FunctionRef,
    NodeData,
    OpRef,
    add_node,
    node_data,
    resolved_target,
)
from trtcore.ir.graphs import attribute, set_attribute
from trtcore.ir.program import SymbolRange
from trtcore.ir.provenance import op_name
from trtcore.ir.tensor_bytes import bytes_of
from trtcore.packs.model import Converter, Scope
from trtcore.packs.patterns import Pattern, patterns_of
from trtcore.packs.registry import ConverterRegistry
from trtcore.packs.selection import Selection, Verdict
from trtcore.partition.segment import Segment
from trtcore.settings import CompilationSettings

_ALIGNMENT = 64

# What is not for another process, and may not pickle. What matters of it is in the request's converters.
LEFT_BEHIND: Mapping[str, Any] = {
    "converters": {},
    "build_isolation": "thread",
    "build_executor": None,
    "custom_engine_cache": None,
    "engine_cache_key": None,
    "cache_built_engines": False,
    "reuse_cached_engines": False,
    "engine_cache_dir": None,
    "engine_cache_size": 5 << 30,
    "autocast_calibration_dataloader": None,
}


def portable_settings(settings: CompilationSettings) -> CompilationSettings:
    """The settings without what is for this process alone."""
    return settings.replace(**LEFT_BEHIND)


# ---- weights ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightView:
    """A weight by reference: a view of storage number `storage`; offset and stride in elements of `dtype`.

    Attributes:
        name: the model's name of it.
    """

    name: str
    storage: int
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor, storage: int) -> WeightView:
        """The tensor, as a view of its storage."""
        offset = int(tensor.storage_offset())
        return cls(name, storage, tensor.dtype, offset, tuple(tensor.shape), tensor.stride())

    def on(self, storage: torch.UntypedStorage) -> torch.Tensor:
        """The tensor again, on a storage of the same bytes."""
        return torch.empty(0, dtype=self.dtype, device=storage.device).set_(
            storage, self.offset, self.shape, self.stride
        )


class WeightFile:
    """Storages appended to a file, each once: how weights cross processes on one host.

    Keeps the storages, so that addresses stay theirs.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.file = open(path, "w+b")  # noqa: SIM115 -- until close()
        self.places: list[tuple[int, int]] = []
        self._kept: list[torch.UntypedStorage] = []
        self._known: dict[tuple[str, int], int] = {}

    def add(self, storage: torch.UntypedStorage) -> int:
        """The storage's number in the file.

        Raises:
            OSError: the file cannot take it.
        """
        key = str(storage.device), storage.data_ptr()
        number = self._known.get(key) if storage.nbytes() else None
        if number is None:
            number = self._known[key] = len(self._kept)
            self._kept.append(storage)
            self.places.append(self._write(storage))
        return number

    def _write(self, storage: torch.UntypedStorage) -> tuple[int, int]:
        start = self.file.seek(0, 2)
        start += self.file.write(b"\0" * (-start % _ALIGNMENT))
        if storage.nbytes():
            self.file.write(_bytes_of(storage))
        self.file.flush()
        return start, storage.nbytes()

    def close(self) -> None:
        """No more storages. What could not be written, of which `add` has told, is dropped."""
        with suppress(OSError):
            self.file.close()


def _bytes_of(storage: torch.UntypedStorage) -> memoryview:
    data = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    return bytes_of(data.cpu())


@dataclass(frozen=True)
class MappedStorages:
    """Storages at (start, bytes) of a file."""

    path: str
    places: tuple[tuple[int, int], ...]

    @property
    def is_here(self) -> bool:
        """Whether this process sees the file, if it needs it."""
        return os.path.exists(self.path) or not any(size for _, size in self.places)

    def open(self) -> list[torch.UntypedStorage]:
        """The storages, mapped privately: nothing is read until it is used."""
        if not any(size for _, size in self.places):
            return [torch.empty(0, dtype=torch.uint8).untyped_storage() for _ in self.places]
        with open(self.path, "rb") as file:
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return [_storage(whole, start, size) for start, size in self.places]


@dataclass(frozen=True)
class InlineStorages:
    """Storages by their bytes: how weights cross hosts."""

    data: tuple[bytes, ...]
    is_here = True

    def open(self) -> list[torch.UntypedStorage]:
        """The storages."""
        return [_storage(bytearray(data), 0, len(data)) for data in self.data]


def _storage(data: Any, start: int, size: int) -> torch.UntypedStorage:
    if not size:
        return torch.empty(0, dtype=torch.uint8).untyped_storage()
    return torch.frombuffer(data, dtype=torch.uint8, offset=start, count=size).untyped_storage()


# ---- converters ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PatternRef:
    """The target of a node that stands for several ops: a pattern, found by its converter."""

    name: str


@dataclass(frozen=True)
class ConverterReference:
    """Where another process finds a converter: in a pack, or as a module's function.

    Attributes:
        name: the converter's own.
        distribution, version, pack, order, home: of one of an installed pack; `home` is its entry point's module.
        module, function: of one outside of packs.
        code: hash of such a one's code.
        plugin: (name, deployable) of the kernel plugin that it places.
    """

    name: str
    distribution: str = ""
    version: str = ""
    pack: str = ""
    order: int = 0
    home: str = ""
    module: str = ""
    function: str = ""
    code: str = ""
    plugin: tuple[str, bool] | None = None

    @classmethod
    def identity(cls, one: Converter, target: Any = None) -> ConverterReference:
        """Who a converter is, whether or not another process can find it.

        Raises:
            TypeError: its code refers to something whose content cannot be told.
        """
        plugin = None if one.plugin is None else (one.plugin.name, bool(one.plugin.deployable))
        if one.pack is not None and one.scope is not Scope.PROCESS:  # an installed pack: loaded there too
            pack = one.pack
            return cls(
                one.name, pack.distribution, pack.version, pack.name, one.order, pack.module, plugin=plugin
            )
        return cls(one.name, code=function_hash(one.implementation), plugin=plugin)

    @classmethod
    def of(cls, one: Converter, target: Any) -> ConverterReference:
        """The reference of a converter.

        Raises:
            SettingsError: no other process can find it.
        """
        if one.pack is not None and one.scope is not Scope.PROCESS:
            return cls.identity(one)
        function = one.implementation
        module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
        found: Any = sys.modules.get(module or "")
        for part in name.split("."):
            found = getattr(found, part, None)
        if module in (None, "", "__main__") or not name or found is not function:
            raise SettingsError(
                f"the converter {one.name} of {op_name(target)} cannot be found by another process, because it is "
                "defined in a script, in a function, or made at run time",
                pack=str(one.pack) if one.pack is not None else None,
                advice="put it at the top of a module that can be imported, or in a pack; or build with "
                "build_isolation='thread' and without a build_executor",
            )
        try:
            known = cls.identity(one)
        except TypeError:  # it can be found, and has no key
            known = cls(one.name)
        return replace(known, module=str(module), function=name)

    def find(self, target: Any, registry: ConverterRegistry) -> Converter:
        """The converter, in this process.

        Raises:
            SettingsError: it is not here.
        """
        if self.module:
            value = FunctionRef(self.module, self.function).find()
            if isinstance(target, PatternRef):
                (target,) = {p for p in patterns_of(value) if p.__name__ == target.name}
            return Converter(target=target, implementation=value, name=self.name)
        if isinstance(target, PatternRef):
            candidates = tuple(one for pattern in registry.patterns for one in registry.candidates(pattern))
        else:
            candidates = registry.candidates(target)
        for one in candidates:
            if not self.distribution:  # of a script, in a file that was written for people
                if one.scope is Scope.PROCESS and one.name == self.name:
                    return one
            elif one.pack is not None and (one.pack.distribution, one.pack.name, one.order, one.name) == (
                self.distribution, self.pack, self.order, self.name,
            ):  # fmt: skip
                return one
        if not self.distribution:
            raise SettingsError(
                f"the request needs the converter {self.name} of {op_name(target)}, which a script defined",
                advice="look at the script, and import it first: trtcore replay --import script.py, or in Python an "
                "import before trtcore.debug.replay",
            )
        raise SettingsError(
            f"the building process has no converter {self.name} of {op_name(target)} in the pack "
            f"{self.distribution}:{self.pack}"
        )


# ---- the request --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RequestData:
    """A request's graph, as plain data.

    Attributes:
        weights: by the get_attr nodes' targets; of a subgraph, its own data.
        converters: by node name.
        storages: what the weights are views of; None where they stayed behind.
    """

    nodes: tuple[NodeData, ...]
    weights: Mapping[str, WeightView | RequestData]
    converters: Mapping[str, ConverterReference]
    storages: MappedStorages | InlineStorages | None = None


@dataclass(frozen=True)
class _Live:
    """A request's graph in the process that made it."""

    segment: Segment
    selections: Mapping[str, Selection]


class EngineRequest:
    """Everything that decides an engine, and nothing else; see `request_of`. Immutable.

    Attributes:
        name: "engine_0", for people: it is not part of the key.
        settings: those of the compile.
        backend, backend_version: the TensorRT flavour.
        target: what the engine is for.
        ranges: of the symbols in the segment's shapes.
        conditions: on the symbols, that the captured graph relies on (`trtcore.ir.expressions.parse_condition`).
        runtime: what the manifest says will execute the engine; not part of the key.
        weight_names: the model's name of each weight, by the get_attr nodes' targets; not part of the key.
    """

    def __init__(
        self,
        name: str,
        graph: _Live | RequestData,
        settings: CompilationSettings,
        backend: str,
        backend_version: str,
        target: Target,
        ranges: Mapping[str, SymbolRange],
        conditions: Sequence[str] = (),
        runtime: str = "reference",
        weight_names: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self.settings = settings
        self.backend = backend
        self.backend_version = backend_version
        self.target = target
        self.ranges = dict(ranges)
        self.conditions = tuple(conditions)
        self.runtime = runtime
        self.weight_names = dict(weight_names)
        self._graph = graph

    def __repr__(self) -> str:
        return f"<EngineRequest {self.name} for {self.backend} {self.backend_version}, {self.target.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        request = self if isinstance(self._graph, RequestData) else self.detached()
        return EngineRequest, (
            request.name, request._graph, request.settings, request.backend, request.backend_version, request.target,
            request.ranges, request.conditions, request.runtime, request.weight_names,
        )  # fmt: skip

    @property
    def segment(self) -> Segment | None:
        """The segment of the lowered graph, in the process that made the request."""
        return self._graph.segment if isinstance(self._graph, _Live) else None

    @cached_property
    def anatomy(self) -> Anatomy:
        """What the key covers but for the contents of the weights.

        Raises:
            TypeError: as `identity`.
        """
        return Anatomy(self)

    @cached_property
    def identity(self) -> Identity:
        """The key, and the names that are not in it in the key's order.

        Raises:
            TypeError: there is none: an argument or a converter has no form that is the same in every process.
        """
        return identify(self)

    def recognise(self, identity: Identity) -> None:
        """Take an identity over that was found in another way than by hashing."""
        self.__dict__["identity"] = identity  # where cached_property looks

    def key(self) -> str:
        """A content hash, 64 hex digits, the same in every process; equal for requests that are equal up to names.

        It covers ops, arguments, edges, dtypes, shapes, ranges, conditions, weights (by content; with
        ``immutable_weights=False`` by structure), converters with their packs' versions and code, the settings that
        matter, backend, target and kernel plugins.
        """
        return self.identity.key

    def detached(self, weights: WeightFile | None = None) -> EngineRequest:
        """The request as plain data, for another process.

        Args:
            weights: the file that takes the weights, which the other process maps; None puts their bytes into the
                request.

        Raises:
            SettingsError: no other process can find one of the converters.
        """
        if isinstance(self._graph, RequestData):
            return self
        data, storages = _as_data(self._graph, ConverterReference.of)
        if weights is None:
            data = replace(data, storages=InlineStorages(tuple(bytes(_bytes_of(s)) for s in storages)))
        else:
            numbers = [weights.add(storage) for storage in storages]
            places = tuple(weights.places[number] for number in numbers)
            data = replace(data, storages=MappedStorages(weights.path, places))
        return self._with_graph(data)

    def without_weights(self) -> EngineRequest:
        """The request as plain data whose weights stayed behind: it can be looked at, and not built.

        Raises:
            SettingsError: as `detached`.
        """
        if isinstance(self._graph, RequestData):
            return self._with_graph(replace(self._graph, storages=None))
        return self._with_graph(_as_data(self._graph, ConverterReference.of)[0])

    def _with_graph(self, data: RequestData) -> EngineRequest:
        settings = portable_settings(self.settings)
        return EngineRequest(
            self.name, data, settings, self.backend, self.backend_version, self.target, self.ranges, self.conditions,
            self.runtime, self.weight_names,
        )  # fmt: skip

    def with_segment(self, segment: Segment) -> EngineRequest:
        """The same, for a part of its segment."""
        assert isinstance(self._graph, _Live)
        live = _Live(segment, self._graph.selections)
        return EngineRequest(
            segment.name, live, self.settings, self.backend, self.backend_version, self.target, self.ranges, (),
            self.runtime, self.weight_names,
        )  # fmt: skip

    def open(self, registry: ConverterRegistry) -> tuple[Segment, Mapping[str, Selection]]:
        """The segment and the chosen converters, on FakeTensors; the segment itself where it is of this process.

        Raises:
            SettingsError: one of the converters is not here.
            ValueError: its weights stayed behind.
        """
        if isinstance(self._graph, _Live):
            return self._graph.segment, self._graph.selections
        if self._graph.storages is None:
            raise ValueError(f"{self!r} came without its weights")
        return _opened(self.name, self._graph, self.ranges, registry)

    @property
    def has_its_weights(self) -> bool:
        """Whether this process has the weights: they may lie in a file of another host."""
        if isinstance(self._graph, _Live):
            return True
        return self._graph.storages is not None and self._graph.storages.is_here

    @property
    def missing_ops(self) -> tuple[OpRef, ...]:
        """Ops that nothing in this process has registered, after importing the modules of converters."""
        if isinstance(self._graph, _Live):
            return ()
        for reference in self._graph.converters.values():
            if reference.module:
                importlib.import_module(reference.module)
        called = {op for node in self._graph.nodes for op in _ops_in((node.target, node.args, node.kwargs))}
        return tuple(op for op in called if not _exists(op))

    def described(
        self, refer: Callable[[Converter, Any], ConverterReference]
    ) -> tuple[RequestData, list[torch.UntypedStorage]]:
        """The graph as data and its storages, with the references to converters that `refer` makes.

        Raises:
            ValueError: its weights stayed behind.
        """
        if isinstance(self._graph, _Live):
            return _as_data(self._graph, refer)
        return self.plain()

    def plain(self) -> tuple[RequestData, list[torch.UntypedStorage]]:
        """The graph as data and its storages, to be hashed; it need not be fit for another process."""
        if isinstance(self._graph, _Live):
            return _as_data(self._graph, ConverterReference.identity)
        if self._graph.storages is None:
            raise ValueError(f"{self!r} came without its weights")
        return self._graph, self._graph.storages.open()


def request_of(
    segment: Segment,
    selections: Mapping[str, Selection],
    ranges: Mapping[str, SymbolRange],
    ctx: CompileContext,
    *,
    conditions: Sequence[str] = (),
    runtime: str = "reference",
    weight_names: Mapping[int, str] = MappingProxyType({}),
) -> EngineRequest:
    """The request for a segment.

    Args:
        selections: by node name; every call_function node of the segment but getitem has a chosen converter.
        ranges: of the symbols in the segment's shapes.
        conditions: on the symbols, of the captured graph.
        runtime: what will execute the engine.
        weight_names: the model's name of each weight, by the address of its storage.
    """
    names = {}
    for node in segment.graph_module.graph.find_nodes(op="get_attr") if weight_names else ():
        value = attribute(segment.graph_module, str(node.target))
        if isinstance(value, torch.Tensor):
            names[str(node.target)] = weight_names.get(value.untyped_storage().data_ptr(), "")
    assert ctx.backend is not None
    assert ctx.target is not None
    return EngineRequest(
        segment.name, _Live(segment, selections), ctx.settings, ctx.backend.name, str(ctx.backend.version), ctx.target,
        ranges, conditions, runtime, names,
    )  # fmt: skip


# ---- a graph as data, and back ------------------------------------------------------------------------------


def _encode_target(target: Any) -> Any:
    if isinstance(target, Pattern):
        return PatternRef(target.__name__)  # the other process finds it by its converter
    return FunctionRef.of(target)


def _as_data(
    live: _Live, refer: Callable[[Converter, Any], ConverterReference]
) -> tuple[RequestData, list[torch.UntypedStorage]]:
    storages: list[torch.UntypedStorage] = []
    numbers: dict[tuple[str, int], int] = {}
    data = _graph_as_data(live.segment.graph_module, live.selections, refer, storages, numbers)
    return data, storages


def _graph_as_data(
    module: GraphModule,
    selections: Mapping[str, Selection],
    refer: Callable[[Converter, Any], ConverterReference],
    storages: list[torch.UntypedStorage],
    numbers: dict[tuple[str, int], int],
) -> RequestData:
    nodes: list[NodeData] = []
    weights: dict[str, Any] = {}
    converters: dict[str, ConverterReference] = {}
    for node in module.graph.nodes:
        nodes.append(node_data(node, _encode_target))
        if node.op == "get_attr":
            value = attribute(module, str(node.target))
            if isinstance(value, torch.nn.Module):
                assert isinstance(value, GraphModule)
                weights[str(node.target)] = _graph_as_data(value, {}, refer, storages, numbers)
            else:
                number = _number(value.untyped_storage(), storages, numbers)
                weights[str(node.target)] = WeightView.of(str(node.target), value, number)
        selection = selections.get(node.name) if node.op == "call_function" else None
        if selection is not None and selection.chosen is not None:
            converters[node.name] = refer(selection.chosen, node.target)
    return RequestData(tuple(nodes), weights, converters)


def _number(
    storage: torch.UntypedStorage, storages: list[torch.UntypedStorage], numbers: dict[tuple[str, int], int]
) -> int:
    key = str(storage.device), storage.data_ptr()
    number = numbers.get(key) if storage.nbytes() else None
    if number is None:
        number = numbers[key] = len(storages)
        storages.append(storage)
    return number


def _opened(
    name: str, data: RequestData, ranges: Mapping[str, SymbolRange], registry: ConverterRegistry
) -> tuple[Segment, dict[str, Selection]]:
    assert data.storages is not None
    selections: dict[str, Selection] = {}
    module = _graph_of(data, FakeValues(ranges), data.storages.open(), registry, selections)
    outputs: Any = module.graph.output_node().args[0]
    nodes = tuple(node for node in module.graph.nodes if node.op == "call_function")
    inputs = tuple(node for node in module.graph.nodes if node.op == "placeholder")
    return Segment(name, nodes, inputs, tuple(outputs), module), selections


def _graph_of(
    data: RequestData,
    values: FakeValues,
    storages: Sequence[torch.UntypedStorage],
    registry: ConverterRegistry,
    selections: dict[str, Selection],
) -> GraphModule:
    graph, root, made = Graph(), torch.nn.Module(), dict[str, Node]()
    for node in data.nodes:
        reference = data.converters.get(node.name)
        target = resolved_target(node.target)
        chosen = reference.find(target, registry) if reference is not None else None
        if chosen is not None:
            target = chosen.target
            selections[node.name] = Selection(op_name(target), chosen, verdict=Verdict.CHOSEN)
        add_node(graph, node, target, made, values)
    for target, weight in data.weights.items():
        value: Any
        if isinstance(weight, RequestData):
            value = _graph_of(weight, values, storages, registry, selections)
        else:
            value = weight.on(storages[weight.storage])
        set_attribute(root, target, value)
    return GraphModule(root, graph)


def _ops_in(value: Any) -> Iterator[OpRef]:
    """The ops that a node calls: its target, or an argument of `auto_functionalized`."""
    if isinstance(value, OpRef):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _ops_in(item)
    elif isinstance(value, dict):
        yield from _ops_in(tuple(value.values()))


def _exists(op: OpRef) -> bool:
    try:
        return op.find() is not None
    except AttributeError:
        return False


def define_ops(missing: Sequence[OpRef]) -> None:
    """Register ops by their schemas, for a process that converts them: converters ask an op for its arguments alone."""
    for target in missing:
        namespace, _, schema = target.schema.partition("::")
        library = torch.library.Library(namespace, "FRAGMENT")  # type: ignore[no-untyped-call]
        library.define(schema)  # type: ignore[no-untyped-call]
        _defined.append(library)


_defined: list[torch.library.Library] = []  # what a library defined goes with it

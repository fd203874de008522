"""A segment as plain data, to convert and build it in another process; see `trtcore.engine.builders`.

Nodes go as names, FakeTensors as dtypes and shape expressions, weights by a file that the other process maps,
converters by the pack that they come from or by the module that they are defined in.
"""

from __future__ import annotations

import importlib
import mmap
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedRandom
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Graph, GraphModule, Node

from trtcore.errors import SettingsError, TrtcoreError
from trtcore.ir.graphs import attribute, set_attribute
from trtcore.ir.provenance import op_name
from trtcore.ir.symbols import expression_of
from trtcore.packs.declare import Converter, Scope
from trtcore.packs.patterns import Pattern, patterns_of
from trtcore.packs.registry import ConverterRegistry, Selection
from trtcore.partition.segment import Segment

if TYPE_CHECKING:
    from trtcore.artifact.snapshot import NetworkSnapshot
    from trtcore.ir.program import SymbolRange

_ALIGNMENT = 64


@dataclass(frozen=True)
class View:
    """A tensor as a view of storage number `storage`: offset and stride in elements of `dtype`."""

    storage: int
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor, storage: int) -> View:
        return cls(storage, tensor.dtype, int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride())

    def on(self, storage: torch.UntypedStorage) -> torch.Tensor:
        return torch.empty(0, dtype=self.dtype, device=storage.device).set_(
            storage, self.offset, self.shape, self.stride
        )


@dataclass(frozen=True)
class _Ref:
    name: str


@dataclass(frozen=True)
class _FakeTensor:
    dtype: torch.dtype
    shape: tuple[Any, ...]
    stride: tuple[Any, ...]
    device: str


@dataclass(frozen=True)
class _Size:
    expression: Any


@dataclass(frozen=True)
class _Op:
    name: str
    schema: str


@dataclass(frozen=True)
class _PatternName:
    name: str


@dataclass(frozen=True)
class _NodeData:
    op: str
    name: str
    target: Any
    args: Any
    kwargs: Any
    value: Any
    stack_trace: str | None
    module_stack: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ConverterReference:
    """Where to find a converter in another process: in a pack (`module` is ""), or as a module's function."""

    name: str
    distribution: str = ""
    pack: str = ""
    order: int = 0
    module: str = ""
    function: str = ""

    def find(self, target: Any, registry: ConverterRegistry) -> Converter:
        if self.module:
            value: Any = importlib.import_module(self.module)
            for part in self.function.split("."):
                value = getattr(value, part)
            if isinstance(target, _PatternName):
                (target,) = {p for p in patterns_of(value) if p.__name__ == target.name}
            return Converter(target=target, implementation=value, name=self.name)
        if isinstance(target, _PatternName):
            candidates = tuple(one for pattern in registry.patterns for one in registry.candidates(pattern))
        else:
            candidates = registry.candidates(target)
        for one in candidates:
            if one.pack is not None and (one.pack.distribution, one.pack.name, one.order, one.name) == (
                self.distribution, self.pack, self.order, self.name,
            ):  # fmt: skip
                return one
        raise SettingsError(
            f"the build process has no converter {self.name} of {op_name(target)} in the pack "
            f"{self.distribution}:{self.pack}"
        )


@dataclass(frozen=True)
class Parcel:
    """One segment, ready to be pickled.

    Attributes:
        constants: by the get_attr nodes' targets.
        converters: by node name.
        ranges: of the symbols in the segment's shapes.
    """

    name: str
    nodes: tuple[_NodeData, ...]
    constants: Mapping[str, View]
    converters: Mapping[str, ConverterReference]
    ranges: Mapping[str, SymbolRange]


# ---- weights ------------------------------------------------------------------------------------------------


class WeightFile:
    """The sending side: storages appended to a file, each once. Keeps the storages, so that addresses stay theirs."""

    def __init__(self, file: BufferedRandom) -> None:
        self.file = file
        self.storages: list[torch.UntypedStorage] = []
        self.places: list[tuple[int, int]] = []
        self._known: dict[tuple[str, int], int] = {}

    def add(self, tensor: torch.Tensor) -> View:
        storage = tensor.untyped_storage()
        key = str(tensor.device), storage.data_ptr()
        number = self._known.get(key) if storage.nbytes() else None
        if number is None:
            number = self._known[key] = len(self.storages)
            self.storages.append(storage)
            self.places.append(self._write(storage))
        return View.of(tensor, number)

    def _write(self, storage: torch.UntypedStorage) -> tuple[int, int]:
        start = self.file.seek(0, 2)
        start += self.file.write(b"\0" * (-start % _ALIGNMENT))
        if storage.nbytes():
            data = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
            self.file.write(data.cpu().numpy().data)
        self.file.flush()
        return start, storage.nbytes()

    def host(self, number: int) -> torch.UntypedStorage:
        """The storage on the host; of a GPU's storage, the file's bytes, mapped."""
        storage = self.storages[number]
        return storage if storage.device.type == "cpu" else mapped(self.file, [self.places[number]])[0]


def mapped(file: Any, places: Sequence[tuple[int, int]]) -> list[torch.UntypedStorage]:
    """A storage for each (start, bytes) of a file, mapped privately; nothing is read until it is used."""
    if not any(size for _, size in places):
        return [torch.empty(0, dtype=torch.uint8).untyped_storage() for _ in places]
    whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return [
        torch.frombuffer(whole, dtype=torch.uint8, offset=start, count=size).untyped_storage()
        if size
        else torch.empty(0, dtype=torch.uint8).untyped_storage()
        for start, size in places
    ]


# ---- a segment ----------------------------------------------------------------------------------------------


def pack_segment(
    segment: Segment,
    selections: Mapping[str, Selection],
    ranges: Mapping[str, SymbolRange],
    weights: WeightFile,
) -> Parcel:
    """A segment as plain data.

    Raises:
        SettingsError: another process cannot get at one of the converters.
    """
    nodes, constants, converters = [], {}, {}
    for node in segment.graph_module.graph.nodes:
        nodes.append(_node_data(node))
        if node.op == "get_attr":
            constants[str(node.target)] = weights.add(attribute(segment.graph_module, str(node.target)))
        selection = selections.get(node.name) if node.op == "call_function" else None
        if selection is not None and selection.chosen is not None:
            converters[node.name] = _reference(selection.chosen, node)
    return Parcel(segment.name, tuple(nodes), constants, converters, dict(ranges))


def _node_data(node: Node) -> _NodeData:
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        target = _Op(str(target), str(target._schema))
    elif isinstance(target, Pattern):
        target = _PatternName(target.__name__)  # the other process finds it by its converter
    stack = node.meta.get("nn_module_stack") or {}
    return _NodeData(
        node.op, node.name, target, _plain(node.args), _plain(dict(node.kwargs)), _spec(node.meta.get("val")),
        node.meta.get("stack_trace"), tuple((str(key), str(value[0])) for key, value in stack.items()),
    )  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, Node):
        return _Ref(value.name)
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else [_plain(v) for v in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, slice):
        return slice(_plain(value.start), _plain(value.stop), _plain(value.step))
    return value


def _spec(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _FakeTensor(
            value.dtype, tuple(map(expression_of, value.shape)), tuple(map(expression_of, value.stride())),
            str(value.device),
        )  # fmt: skip
    if isinstance(value, torch.SymInt):
        return _Size(expression_of(value))
    if isinstance(value, (list, tuple)):
        return [_spec(item) for item in value]
    return value if isinstance(value, (int, float, bool, str)) else None


def _reference(one: Converter, node: Node) -> ConverterReference:
    if one.pack is not None and one.scope is not Scope.PROCESS:  # an installed pack: loaded over there too
        return ConverterReference(one.name, one.pack.distribution, one.pack.name, one.order)
    function = one.implementation
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    found: Any = sys.modules.get(module or "")
    for part in name.split("."):
        found = getattr(found, part, None)
    if module in (None, "", "__main__") or not name or found is not function:
        raise SettingsError(
            f"build_isolation='process': the converter {one.name} of {op_name(node.target)} cannot be found by "
            "another process, because it is defined in a script, in a function, or made at run time",
            pack=str(one.pack) if one.pack is not None else None,
            advice="put it at the top of a module that can be imported, or in a pack; or build with "
            "build_isolation='thread'",
        )
    return ConverterReference(one.name, module=str(module), function=name)


def define_ops(parcel: Parcel) -> bool:
    """Register the parcel's ops that nothing here has registered, by their schemas; True if there were any.

    Converters ask an op for its arguments alone. Modules of converters come first: they may bring the op itself.
    """
    for reference in parcel.converters.values():
        if reference.module:
            importlib.import_module(reference.module)
    targets = {node.target for node in parcel.nodes if isinstance(node.target, _Op)}
    missing = [target for target in targets if not _exists(target.name)]
    for target in missing:
        namespace, _, schema = target.schema.partition("::")
        library = torch.library.Library(namespace, "FRAGMENT")  # type: ignore[no-untyped-call]
        library.define(schema)  # type: ignore[no-untyped-call]
        _defined.append(library)
    return bool(missing)


_defined: list[torch.library.Library] = []  # what a library defined goes with it


def unpack_segment(
    parcel: Parcel, storages: Sequence[torch.UntypedStorage], registry: ConverterRegistry
) -> tuple[Segment, dict[str, Selection]]:
    """The segment again, on FakeTensors of its own, and its selections."""
    make = _Values(parcel.ranges)
    graph, root, made = Graph(), torch.nn.Module(), dict[str, Node]()
    selections: dict[str, Selection] = {}
    output: Node | None = None
    for data in parcel.nodes:
        target = _op(data.target.name) if isinstance(data.target, _Op) else data.target
        chosen = (
            parcel.converters[data.name].find(target, registry) if data.name in parcel.converters else None
        )
        target = chosen.target if chosen is not None else target
        node = graph.create_node(
            data.op, target, _restored(data.args, made), _restored(data.kwargs, made), name=data.name
        )
        made[data.name] = node
        node.meta["val"] = make.value(data.value)
        node.meta["stack_trace"] = data.stack_trace
        node.meta["nn_module_stack"] = {key: (path, "") for key, path in data.module_stack}
        if chosen is not None:
            selections[data.name] = Selection(op_name(target), chosen)
        output = node
    for target, view in parcel.constants.items():
        set_attribute(root, target, view.on(storages[view.storage]))
    assert output is not None
    outputs: Any = output.args[0]
    return Segment(parcel.name, (), (), tuple(outputs), GraphModule(root, graph)), selections


def _restored(value: Any, made: Mapping[str, Node]) -> Any:
    if isinstance(value, _Ref):
        return made[value.name]
    if isinstance(value, (list, tuple)):
        return type(value)(_restored(item, made) for item in value)
    if isinstance(value, dict):
        return {name: _restored(item, made) for name, item in value.items()}
    if isinstance(value, slice):
        return slice(_restored(value.start, made), _restored(value.stop, made), _restored(value.step, made))
    return value


def _op(name: str) -> Any:
    namespace, packet, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet), overload)


def _exists(name: str) -> bool:
    try:
        return _op(name) is not None
    except AttributeError:
        return False


class _Values:
    """FakeTensors and SymInts over the symbols of one segment."""

    def __init__(self, ranges: Mapping[str, SymbolRange]) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        self.ranges = ranges
        self.env = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.env)

    def value(self, spec: Any) -> Any:
        if isinstance(spec, _FakeTensor):
            shape, stride = [self.size(d) for d in spec.shape], [self.size(s) for s in spec.stride]
            with self.mode:
                return torch.empty_strided(shape, stride, dtype=spec.dtype, device=spec.device)
        if isinstance(spec, _Size):
            return self.size(spec.expression)
        if isinstance(spec, list):
            return [self.value(item) for item in spec]
        return spec

    def size(self, expression: Any) -> Any:
        if isinstance(expression, int):
            return expression
        from torch.utils._sympy.value_ranges import ValueRanges

        values = {}
        hints: Any = getattr(self.env, "backed_var_to_val", None)
        hints = hints if hints is not None else self.env.var_to_val  # before torch 2.10
        for symbol in expression.free_symbols:
            known = self.ranges[symbol.name]
            values[symbol] = known.opt
            if symbol not in hints:
                hints[symbol] = torch.utils._sympy.functions.sympy.Integer(known.opt)
                self.env.var_to_range[symbol] = ValueRanges(known.min, known.max)
        hint = int(expression.xreplace(values))
        return self.env.create_symintnode(expression, hint=hint)


# ---- a snapshot ---------------------------------------------------------------------------------------------


def pack_snapshot(
    snapshot: NetworkSnapshot, storages: Sequence[torch.UntypedStorage], file: Any
) -> tuple[dict[str, Any], dict[str, View], list[tuple[int, int]]]:
    """Structure, constants, and where the storages are in `file` that are none of the weights'.

    A constant that is a view of a weight goes as that; others are appended to `file`, numbered after the weights.
    """
    structure, tensors = snapshot.to_json()
    numbers = {storage.data_ptr(): number for number, storage in enumerate(storages) if storage.nbytes()}
    made = WeightFile(file)
    views = {}
    for key, tensor in tensors.items():
        number = numbers.get(tensor.untyped_storage().data_ptr())
        if number is None:
            view = made.add(tensor.contiguous() if tensor.numel() else tensor)
            number = len(storages) + view.storage
        views[key] = View.of(tensor, number)
    return structure, views, made.places


def unpack_snapshot(
    structure: Mapping[str, Any], views: Mapping[str, View], storage: Callable[[int], torch.UntypedStorage]
) -> NetworkSnapshot:
    from trtcore.artifact.snapshot import NetworkSnapshot

    return NetworkSnapshot.from_json(
        structure, {key: view.on(storage(view.storage)) for key, view in views.items()}
    )


# ---- errors -------------------------------------------------------------------------------------------------


def pack_error(error: Exception) -> dict[str, Any]:
    """What `raise_error` needs to raise the like elsewhere."""
    if not isinstance(error, TrtcoreError):
        return {"kind": "", "message": f"{type(error).__name__}: {error}"}
    return {
        "kind": type(error).__name__, "message": error.message, "where": error.where, "pack": error.pack,
        "tensorrt": error.tensorrt, "advice": error.advice, "node": getattr(error, "node", None),
        "layers": error.layers,
        "others": [pack_error(other) for other in getattr(error, "others", ())],
    }  # fmt: skip


def raise_error(data: dict[str, Any]) -> None:
    """Raise what `pack_error` packed."""
    raise _error(data)


def _error(data: Mapping[str, Any]) -> TrtcoreError:
    from trtcore import errors
    from trtcore.conversion.interpreter import NodeConversionError

    data = dict(data)
    kind, node, others = data.pop("kind"), data.pop("node", None), data.pop("others", ())
    if node is not None:
        known: Any = [_error(other) for other in others]
        return NodeConversionError(data.pop("message"), node=node, others=known, **data)
    kinds: Any = getattr(errors, kind, None) or errors.EngineBuildError
    made: TrtcoreError = kinds(data.pop("message"), **data)
    return made

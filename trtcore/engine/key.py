"""The content hash of an EngineRequest: equal in every process for requests that are equal up to names."""

from __future__ import annotations

import enum
import functools
import hashlib
import importlib.util
import os
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import attrs
import sympy
import torch

from trtcore._version import __version__
from trtcore.ir.expressions import parse_condition
from trtcore.ir.graph_data import NodeData, NodeRef, OpRef, SizeSpec, TensorSpec
from trtcore.ir.tensor_bytes import bytes_of, on_threads

FORMAT = 2

# Settings that decide nothing about an engine whose ops, converters, backend and target are given.
_WITHOUT_EFFECT = frozenset(
    {
        "backend", "build_executor", "build_isolation", "cache_built_engines", "converters", "cpu_memory_budget",
        "custom_engine_cache", "device", "disabled_packs", "disabled_passes", "dryrun",
        "enable_resource_partitioning", "engine_cache_dir", "engine_cache_key", "engine_cache_size",
        "lazy_engine_init", "max_quarantine_builds", "max_segment_size", "min_block_size",
        "offload_module_to_cpu", "partitioner", "pass_through_build_failures", "pins", "require_full_compilation",
        "reuse_cached_engines", "runtime", "timing_cache_path", "torch_executed_modules", "torch_executed_ops",
        "use_distributed_mode_trace", "use_fast_partitioner", "use_python_runtime",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """What a request is, apart from what things are called in it; and what they are called, in the key's order.

    Attributes:
        key: the content hash.
        symbols: the names of its symbols; two requests with one key have as many, and each means the same.
        weights: the targets of its get_attr nodes, which name tensors, of subgraphs too; likewise.
        contents: sha256 of each weight's elements, whether or not the key covers them.
    """

    key: str
    symbols: tuple[str, ...]
    weights: tuple[str, ...]
    contents: tuple[str, ...]


def identify(request: Any) -> Identity:
    """The identity of an `EngineRequest`; see its `key`.

    Raises:
        TypeError: an argument of a node has no form that is the same in every process.
    """
    anatomy: Anatomy = request.anatomy
    return anatomy.identity(on_threads(tensor_hash, anatomy.weights))


class Anatomy:
    """What identifies a request but for the contents of its weights.

    Attributes:
        weights: in the order of `Identity.contents`.

    Raises:
        TypeError: an argument of a node has no form that is the same in every process.
    """

    def __init__(self, request: Any) -> None:
        data, storages = request.plain()
        names = _Names(request.ranges, data.nodes)
        self._by_content = bool(request.settings.immutable_weights)
        self._targets: list[str] = []
        self._numbers: dict[int, int] = {}
        self.weights: list[torch.Tensor] = []
        self._texts: list[
            bytes | tuple[Any, ...]
        ] = []  # what is hashed; a tuple is the structure of a weight
        self._feed(("trtcore", FORMAT, __version__, package_hash("trtcore"), torch.__version__))
        self._feed((request.backend, request.backend_version, request.target.name))
        self._feed(tuple(_settings(request.settings)))
        self._graph(data, storages, names)
        self._feed(tuple(sorted(names.condition(text) for text in request.conditions)))
        self._feed(names.ranges())
        self._symbols = names.symbols

    def identity(self, contents: Sequence[str]) -> Identity:
        """The identity of the request whose weights have these hashes.

        Raises:
            ValueError: there are more or fewer weights.
        """
        if len(contents) != len(self.weights):
            raise ValueError(f"{len(contents)} hashes for {len(self.weights)} weights")
        digest, left = hashlib.sha256(), iter(contents)
        for text in self._texts:
            if isinstance(text, bytes):
                digest.update(text)
            else:
                content = next(left)
                _feed(digest, (*text, content) if self._by_content else text)
        return Identity(digest.hexdigest(), self._symbols, tuple(self._targets), tuple(contents))

    @functools.cached_property
    def sampled_key(self) -> str:
        """The key with the `sample_hash` of each weight in the place of its hash."""
        return self.identity(list(map(sample_hash, self.weights))).key

    def _feed(self, value: Any) -> None:
        self._texts.append(_fed(value))

    def _graph(self, data: Any, storages: Any, names: _Names) -> None:
        for node in data.nodes:
            names.define(node.name)
            self._feed(_node(node, names))
            if node.op == "get_attr":
                weight = data.weights[node.target]
                if hasattr(weight, "nodes"):
                    self._graph(weight, storages, names)
                else:
                    self._weight(node.target, weight, storages)
            reference = data.converters.get(node.name)
            if reference is not None:
                self._feed(_converter(reference))
        self._feed("end")

    def _weight(self, target: str, view: Any, storages: Any) -> None:
        """Of a weight: where it lies in its memory counts, as refit goes by that, and which weights share theirs."""
        self._targets.append(target)
        self.weights.append(view.on(storages[view.storage]))
        number = self._numbers.setdefault(view.storage, len(self._numbers))
        self._texts.append((str(view.dtype), view.shape, view.stride, view.offset, number))


def _settings(settings: Any) -> Iterable[tuple[str, Any]]:
    for field in attrs.fields(type(settings)):
        if field.name not in _WITHOUT_EFFECT and not field.name.startswith("_"):
            value = getattr(settings, field.name)
            if callable(value) or (hasattr(value, "__iter__") and not _is_plain_collection(value)):
                continue  # calibration data acts on the graph, which is in the key as it came out
            yield field.name, _plain(value, None)


def _is_plain_collection(value: Any) -> bool:
    return isinstance(value, (str, bytes, list, tuple, set, frozenset, Mapping))


_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class _Names:
    """Names of nodes and symbols in the order in which they are met, so that what they were called does not count."""

    def __init__(self, ranges: Mapping[str, Any], nodes: Iterable[NodeData]) -> None:
        self._ranges = ranges
        # Of an engine that no tensor goes into, its very device is a part: nothing else says where it belongs.
        self.exact_devices = not any(
            node.op == "placeholder" and isinstance(node.value, TensorSpec) for node in nodes
        )
        self._nodes: dict[str, int] = {}
        self._symbols: dict[str, int] = {}
        self._texts: dict[Any, str] = {}

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols' names so far, in the order in which they were met."""
        return tuple(self._symbols)

    def device(self, text: str) -> str:
        return text if self.exact_devices else torch.device(text).type

    def define(self, node: str) -> None:
        self._nodes[node] = len(self._nodes)

    def node(self, name: str) -> int:
        return self._nodes[name]

    def symbol(self, name: str) -> str:
        return f"d{self._symbols.setdefault(name, len(self._symbols))}"

    def expression(self, value: Any) -> Any:
        if isinstance(value, int):
            return value
        text = self._texts.get(value)
        if text is None:
            # In the order of the expression's own tree, which does not depend on names where there is one symbol.
            found = sorted(value.free_symbols, key=lambda s: (s.name not in self._symbols, s.name))
            renamed = value.xreplace({s: sympy.Symbol(self.symbol(s.name), integer=True) for s in found})
            text = self._texts[value] = str(renamed)
        return text

    def condition(self, text: str) -> str:
        known = parse_condition(text).symbols
        return _IDENTIFIER.sub(lambda found: self.symbol(found[0]) if found[0] in known else found[0], text)

    def ranges(self) -> tuple[Any, ...]:
        known = (self._ranges.get(name) for name in self._symbols)
        return tuple(None if one is None else (one.min, one.opt, one.max, one.profiles) for one in known)


def _feed(digest: Any, value: Any) -> None:
    digest.update(_fed(value))


def _fed(value: Any) -> bytes:
    return repr(value).encode() + b"\n"


def _node(node: NodeData, names: _Names) -> Any:
    target = node.target
    if node.op in ("placeholder", "get_attr", "output"):
        target = None
    elif isinstance(target, OpRef):
        target = (target.name, target.schema)
    else:
        target = repr(target)
    return (node.op, target, _plain(node.args, names), _plain(node.kwargs, names), _spec(node.value, names))


def _spec(value: Any, names: _Names) -> Any:
    if isinstance(value, TensorSpec):
        shape, stride = map(names.expression, value.shape), map(names.expression, value.stride)
        return (str(value.dtype), tuple(shape), tuple(stride), names.device(value.device))
    if isinstance(value, SizeSpec):
        return ("size", names.expression(value.expression))
    if isinstance(value, list):
        return tuple(_spec(item, names) for item in value)
    return value


def _plain(value: Any, names: _Names | None) -> Any:
    """A value whose repr is the same in every process, and another for values that differ."""
    if isinstance(value, NodeRef):
        assert names is not None
        return ("node", names.node(value.name))
    if isinstance(value, OpRef):
        return ("op", value.name, value.schema)
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None), enum.Enum)):
        return value
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, *(_plain(item, names) for item in value))
    if isinstance(value, (set, frozenset)):
        return ("set", *sorted(repr(_plain(item, names)) for item in value))
    if isinstance(value, Mapping):
        return ("dict", *sorted((repr(_plain(k, names)), _plain(v, names)) for k, v in value.items()))
    if isinstance(value, slice):
        return ("slice", _plain((value.start, value.stop, value.step), names))
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format, torch.device)):
        return ("torch", str(value))
    if isinstance(value, type):
        return ("class", f"{value.__module__}.{value.__qualname__}")
    if isinstance(value, sympy.Expr):
        assert names is not None
        return ("size", names.expression(value))
    raise TypeError(f"{value!r} of {type(value)} has no form that is the same in every process")


def tensor_hash(tensor: torch.Tensor) -> str:
    """sha256 of a tensor's elements in order, as bytes."""
    if not tensor.numel():
        return ""
    return hashlib.sha256(bytes_of(tensor.detach().cpu().contiguous())).hexdigest()


_SAMPLES, _SAMPLE_BYTES = 16, 1024


def sample_hash(tensor: torch.Tensor) -> str:
    """The `tensor_hash` of a small tensor; of a large one, of a part that others may have in common with it. Equal for
    equal tensors of one layout."""
    strides = tensor.stride()
    flat = tensor.detach().permute(sorted(range(tensor.dim()), key=lambda dim: -strides[dim]))
    if tensor.nbytes <= _SAMPLES * _SAMPLE_BYTES or not flat.is_contiguous():
        return tensor_hash(tensor)
    whole = flat.resolve_conj().resolve_neg().reshape(-1).view(torch.uint8)
    step = (whole.numel() - _SAMPLE_BYTES) // (_SAMPLES - 1)
    parts = torch.cat([whole[number * step :][:_SAMPLE_BYTES] for number in range(_SAMPLES)])
    return f"{_SAMPLES} samples of {tensor_hash(parts)}"


# ---- converters: who they are, and what their code is -------------------------------------------------------


def _converter(reference: Any) -> Any:
    """Of a `ConverterReference`: the converter's identity, and its code, as versions stay while a pack is worked on."""
    if reference.distribution:
        who = (reference.distribution, reference.version, reference.pack, reference.order)
        return (*who, reference.name, reference.plugin, package_hash(reference.home))
    if not reference.code:
        raise TypeError(
            f"the code of the converter {reference.name} refers to what has no form that is the same everywhere"
        )
    return ("process", reference.name, reference.plugin, reference.code)


@functools.lru_cache(maxsize=256)
def package_hash(module: str) -> str:
    """sha256 of the sources of the package that a module lies in; "" where there are none."""
    top = module.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a module that was made at run time
        return ""
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return ""
    folder, name = os.path.split(spec.origin)
    digest = hashlib.sha256()
    for file in sorted(_sources(folder)) if name == "__init__.py" else [name]:
        digest.update(file.encode())
        with open(os.path.join(folder, file), "rb") as source:
            digest.update(source.read())
    return digest.hexdigest()


def _sources(folder: str) -> Iterator[str]:
    """The Python files below a folder, by their paths in it, with slashes."""
    for place, _, names in os.walk(folder):
        below = os.path.relpath(place, folder).replace(os.sep, "/")
        for name in names:
            if name.endswith(".py"):
                yield name if below == "." else f"{below}/{name}"


def _version(module: str) -> str:
    """A library's version; of what has none, the hash of its sources."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top == "__main__":
        return ""
    version = getattr(sys.modules.get(top), "__version__", None)
    return str(version) if version else package_hash(module)


def function_hash(function: Any) -> str:
    """sha256 of a Python function's code with what it refers to in its own module, recursively.

    Raises:
        TypeError: it refers to something whose content cannot be told, so that two of them could be taken for one.
    """
    digest = hashlib.sha256()
    _function(digest, function, set())
    return digest.hexdigest()


def _function(digest: Any, function: Any, seen: set[int]) -> None:
    if isinstance(function, functools.partial):
        _feed(digest, ("partial", _plain(function.args, None), _plain(function.keywords, None)))
        return _function(digest, function.func, seen)
    code = getattr(function, "__code__", None)
    if code is None:
        raise TypeError(f"the converter {function!r} is no Python function")
    if id(code) in seen:
        return None
    seen.add(id(code))
    _code(digest, code)
    _feed(digest, (_plain(function.__defaults__, None), _plain(function.__kwdefaults__ or {}, None)))
    for cell in function.__closure__ or ():
        _value(digest, cell.cell_contents, function, seen)
    for name in sorted(_names_in(code)):
        if name in function.__globals__:
            _feed(digest, name)
            _value(digest, function.__globals__[name], function, seen)
    return None


def _names_in(code: types.CodeType) -> set[str]:
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return set(code.co_names).union(*map(_names_in, inner))


def _code(digest: Any, code: types.CodeType) -> None:
    digest.update(code.co_code)
    _feed(digest, (code.co_names, code.co_varnames, code.co_freevars))
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            _code(digest, const)
        else:
            _feed(digest, const if not isinstance(const, frozenset) else sorted(map(repr, const)))


def _value(digest: Any, value: Any, owner: Any, seen: set[int]) -> None:
    """What a function refers to: its own module's functions by their code, others by where they come from."""
    if isinstance(value, types.ModuleType):
        return _feed(digest, ("module", value.__name__, _code_of_module(value.__name__, owner)))
    if not isinstance(value, (types.FunctionType, type)):  # functools.cache and the like
        value = getattr(value, "__dict__", {}).get("__wrapped__", value)
    if isinstance(value, types.FunctionType):
        if value.__module__ == owner.__module__:
            return _function(digest, value, seen)
        where = value.__module__, value.__qualname__
        return _feed(digest, ("function", *where, _code_of_module(value.__module__, owner)))
    if isinstance(value, torch.Tensor):
        return _feed(digest, ("tensor", str(value.dtype), tuple(value.shape), tensor_hash(value)))
    if isinstance(value, (torch._ops.OpOverload, torch._ops.OpOverloadPacket, torch._ops._OpNamespace)):
        return _feed(digest, str(value))
    module = getattr(type(value), "__module__", "")
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return _class(digest, value, owner, seen)
    if isinstance(value, torch._ops._Ops) or value is sys.modules.get(module):
        return _feed(digest, ("object", module))
    return _feed(digest, _plain(value, None))


_WITHOUT_CODE = (types.MemberDescriptorType, types.GetSetDescriptorType)  # of __slots__


def _class(digest: Any, value: Any, owner: Any, seen: set[int]) -> None:
    """A class, or what is called like a function and is none; a class of the function's own module by its code."""
    module = str(getattr(value, "__module__", None) or type(value).__module__)
    _feed(digest, ("object", module, value.__qualname__))
    if not isinstance(value, type) or module != owner.__module__:
        return _feed(digest, _code_of_module(module, owner))
    if id(value) in seen:
        return None
    seen.add(id(value))
    for name, member in sorted(vars(value).items()):
        function = getattr(member, "__func__", getattr(member, "fget", member))
        if isinstance(function, types.FunctionType):
            _feed(digest, name)
            _function(digest, function, seen)
        elif not name.startswith("__") and not isinstance(member, _WITHOUT_CODE):
            _feed(digest, name)
            _value(digest, member, owner, seen)
    return None


def _code_of_module(module: str, owner: Any) -> str:
    """A library by its version; the package that the function itself is of by its sources: it may be worked on."""
    top = module.partition(".")[0]
    own = str(owner.__module__).partition(".")[0]
    return package_hash(top) if top == own and top != "__main__" else _version(top)

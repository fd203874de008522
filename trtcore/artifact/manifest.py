"""What an engine takes and gives, as plain data: the manifest that travels with every plan.

The manifest is the ``manifest`` argument of ``trtcore::execute_engine`` and the header of a saved engine.
It holds no code: dims are ints or expressions (`trtcore.ir.expressions`), dtypes are names. Reading
one is strict, so that a damaged or foreign manifest is an `ArtifactError` and never a wrong result.
"""

from __future__ import annotations

import json
import math
import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

import torch

from trtcore.errors import ArtifactError
from trtcore.ir.expressions import MAX_INT, Expression, parse, parse_condition

FORMAT = 2
MAX_CHARACTERS = 16 << 20

Profile = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

SymbolSource = tuple[Any, ...]
"""How a symbol is known: ``("input", index, dim, scale, offset)``: dim `dim` of input `index` is
``scale * symbol + offset``; ``("size", index)``: it is size `index`; ``("output", index, dim)``: only the
engine knows, it is dim `dim` of output `index` after the run (data-dependent shapes)."""

# name -> dtype. Everything a TensorRT binding can be; the name is torch's without "torch.".
_DTYPES: Mapping[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.int32,
        torch.int8, torch.uint8, torch.bool,
    )
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_ID = re.compile(r"[0-9A-Za-z_-]{8,128}\Z")
_DEVICE = re.compile(r"(cpu|cuda(:\d{1,3})?)\Z")
_PLACE = re.compile(r"\d{1,9}\.[a-z]{1,20}\Z")
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")


@dataclass(frozen=True)
class TensorBinding:
    """A tensor input or output of an engine.

    Attributes:
        name: the network's name for it.
        dtype: torch dtype; nothing is cast.
        shape: per dim an int, or an expression over the manifest's symbols.
        profile: for an input with dynamic dims, full dims at (min, opt, max); None when all are static. With
            several optimisation profiles what spans them, and the opt of the first.
        profiles: such dims for each of several optimisation profiles; empty when there is one, or none.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]
    profile: Profile | None = None
    profiles: tuple[Profile, ...] = ()

    @staticmethod
    def of_profiles(
        name: str, dtype: torch.dtype, shape: tuple[int | str, ...], profiles: Sequence[Profile]
    ) -> TensorBinding:
        """A binding of these optimisation profiles; of none for a static one."""
        if len(profiles) < 2:
            return TensorBinding(name, dtype, shape, profiles[0] if profiles else None)
        return TensorBinding(name, dtype, shape, _span(profiles), tuple(profiles))

    @property
    def all_profiles(self) -> tuple[Profile, ...]:
        """`profiles`, or `profile` alone; empty for a static binding."""
        return self.profiles or (() if self.profile is None else (self.profile,))


@dataclass(frozen=True)
class SizeBinding:
    """A symbol that no input's shape gives: passed as an int64 shape tensor of shape (1,).

    Attributes:
        name: the network's name of the shape tensor.
        symbol: the symbol.
        min, opt, max: its values in the optimisation profile; with several what spans them, and the first's opt.
        profiles: such values for each of several optimisation profiles; empty when there is one.
    """

    name: str
    symbol: str
    min: int
    opt: int
    max: int
    profiles: tuple[tuple[int, int, int], ...] = ()

    @property
    def all_profiles(self) -> tuple[tuple[int, int, int], ...]:
        """`profiles`, or (min, opt, max) alone."""
        return self.profiles or ((self.min, self.opt, self.max),)


@dataclass(frozen=True)
class WeightRecord:
    """Where a constant of the engine comes from.

    Attributes:
        constant: its key in the network snapshot.
        name: the model's name of the weight; "" for a constant that no weight of the model is behind.
        transform: from the model's weight to the constant: ``("memory", offset)``, its memory from that element on;
            ``("view", offset, shape, stride)``, such a view of its memory, made contiguous; ``("derived",)``, computed
            in a way that was not recorded.
        sha256: of the constant's bytes; zeros while they are being written.
    """

    constant: str
    name: str
    transform: tuple[Any, ...]
    sha256: str = "0" * 64


@dataclass(frozen=True)
class EngineManifest:
    """Everything about one engine but its bytes.

    Attributes:
        id: unique per engine in a process (sha256 hex or uuid4 hex).
        name: "engine_0", for people.
        inputs, sizes, outputs: bindings; the network's inputs are `inputs`, then `sizes`.
        symbols: how to solve each symbol from a call, see `SymbolSource`.
        backend, backend_version: the TensorRT flavour that built the plan.
        target: what it was built for, plain data (``compute_capability``, ``platform``; ``device``, ``"cuda:0"``, of
            the model where the engine has no tensor inputs and the model is not on the CPU).
        runtime: "native" or "reference".
        packs: distribution, version, name and role of each pack that took part: "converter"; or that running the
            engine needs: "backend", "runtime", "kernel".
        plugins: name, distribution, version and ``deployable`` of each kernel plugin in the engine; one that is not
            deployable is a Python callback, and the engine runs only in Python, with what registers it imported.
        trtcore_version, torch_version: what wrote it.
        conditions: on the symbols, as `trtcore.ir.expressions` has them: what the captured graph relies on. Inputs for
            which one does not hold are refused.
        weights: where the constants come from.
        refittable: whether TensorRT can be given other weights for the plan.
        plan: "whole"; "refit": the engine's constants are its weights, and TensorRT is given them when it opens the
            plan, which has none or others; "none": there is no plan for these constants, only the network.
        refitted: with "refit", where the constants are others than the plan was built with: ``"12.kernel"``, number and
            role of a layer's.
        dynamic_resources: whether what a call needs beside the engine is given up after it.

    Construction checks everything that `from_json` checks, and raises `ArtifactError`.
    """

    id: str
    name: str
    inputs: tuple[TensorBinding, ...]
    sizes: tuple[SizeBinding, ...]
    outputs: tuple[TensorBinding, ...]
    symbols: Mapping[str, SymbolSource]
    backend: str
    backend_version: str
    target: Mapping[str, Any]
    runtime: Literal["native", "reference"]
    packs: tuple[Mapping[str, str], ...] = ()
    plugins: tuple[Mapping[str, Any], ...] = ()
    trtcore_version: str = ""
    torch_version: str = ""
    conditions: tuple[str, ...] = ()
    weights: tuple[WeightRecord, ...] = ()
    refittable: bool = False
    plan: Literal["whole", "refit", "none"] = "whole"
    refitted: tuple[str, ...] = ()
    dynamic_resources: bool = False
    format: int = field(default=FORMAT)

    def __post_init__(self) -> None:
        object.__setattr__(self, "symbols", MappingProxyType(dict(self.symbols)))
        _check(self)

    def __hash__(self) -> int:
        return hash(self.id)

    def packs_for(self, role: str) -> tuple[str, ...]:
        """The ids of the packs of this role."""
        return tuple(f"{pack['distribution']}:{pack['name']}" for pack in self.packs if pack["role"] == role)

    def is_of(self, engine: EngineManifest) -> bool:
        """Whether this is the manifest of that engine, by whatever name it is called and on whatever runtime."""
        return self is engine or replace(self, name=engine.name, runtime=engine.runtime) == engine

    def __reduce__(self) -> tuple[Any, ...]:
        return EngineManifest.from_json, (self.to_json(),)

    def __deepcopy__(self, memo: dict[int, Any]) -> EngineManifest:
        return self

    # ---- JSON ---------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """One line of JSON, the same text for equal manifests."""
        return self._json

    @cached_property
    def _json(self) -> str:
        document = {
            "format": self.format,
            "id": self.id,
            "name": self.name,
            "inputs": [_binding_to_json(binding) for binding in self.inputs],
            "sizes": [_size_to_json(size) for size in self.sizes],
            "outputs": [_binding_to_json(binding) for binding in self.outputs],
            "symbols": {name: list(source) for name, source in sorted(self.symbols.items())},
            "backend": self.backend,
            "backend_version": self.backend_version,
            "target": dict(sorted(self.target.items())),
            "runtime": self.runtime,
            "packs": [dict(sorted(pack.items())) for pack in self.packs],
            "plugins": [dict(sorted(plugin.items())) for plugin in self.plugins],
            "trtcore_version": self.trtcore_version,
            "torch_version": self.torch_version,
            "conditions": list(self.conditions),
            "weights": [[w.constant, w.name, list(w.transform), w.sha256] for w in self.weights],
        }
        for name, otherwise in _OPTIONAL.items():
            if (value := getattr(self, name)) != otherwise:
                document[name] = list(value) if isinstance(value, tuple) else value
        return json.dumps(document, separators=(",", ":"), allow_nan=False)

    @staticmethod
    def from_json(text: str) -> EngineManifest:
        """Read a manifest; one object per text.

        Raises:
            ArtifactError: not JSON, not a manifest of this format, or a value that makes no sense.
        """
        known = _known.get(text) if isinstance(text, str) else None
        return known or _known.setdefault(text, _parse(text))

    # ---- profiles -----------------------------------------------------------------------------------

    @property
    def network_inputs(self) -> tuple[TensorBinding | SizeBinding, ...]:
        """The network's inputs in its order: `inputs`, then `sizes`."""
        return (*self.inputs, *self.sizes)

    @cached_property
    def profile_count(self) -> int:
        """Number of optimisation profiles; 0 for an engine whose inputs are all static."""
        return max((len(binding.all_profiles) for binding in self.network_inputs), default=0)

    # ---- shapes -------------------------------------------------------------------------------------

    def solve(self, shapes: Sequence[Sequence[Any]], sizes: Sequence[Any]) -> dict[str, Any]:
        """Value of every symbol that inputs and sizes give.

        Args:
            shapes: shape of each tensor input, ints or SymInts, of the manifest's ranks.
            sizes: the sizes, ints or SymInts.

        Symbols known only from an output are left out.
        """
        values: dict[str, Any] = {}
        for name, source in self._sources:
            if source[0] == "size":
                values[name] = sizes[source[1]]
            elif source[0] == "input":
                _, index, dim, scale, offset = source
                value = shapes[index][dim]
                if offset:
                    value = value - offset
                values[name] = value if scale == 1 else value // scale
        return values

    @cached_property
    def _sources(self) -> tuple[tuple[str, SymbolSource], ...]:
        return tuple(self.symbols.items())

    @cached_property
    def input_dims(self) -> tuple[tuple[Expression, ...], ...]:
        """Per input, its dims ready to evaluate."""
        return tuple(_dims(binding) for binding in self.inputs)

    @cached_property
    def output_dims(self) -> tuple[tuple[Expression, ...], ...]:
        """Per output, its dims ready to evaluate."""
        return tuple(_dims(binding) for binding in self.outputs)

    @cached_property
    def static_outputs(self) -> tuple[tuple[int, ...] | None, ...]:
        """Per output, its shape if all dims are ints, else None."""
        return tuple(
            tuple(d for d in b.shape if isinstance(d, int))
            if not any(isinstance(d, str) for d in b.shape)
            else None
            for b in self.outputs
        )

    @cached_property
    def output_symbols(self) -> tuple[tuple[str, int, int], ...]:
        """(symbol, output index, dim) of the symbols that are known only after a run."""
        return tuple((name, s[1], s[2]) for name, s in self._sources if s[0] == "output")

    def output_shapes(self, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Shape of every output for these symbol values (see `solve`); ints, or SymInts for SymInt values."""
        return [
            static if static is not None else tuple(dim.evaluate(values) for dim in dims)
            for static, dims in zip(self.static_outputs, self.output_dims)
        ]


def _dims(binding: TensorBinding) -> tuple[Expression, ...]:
    return tuple(parse(str(dim)) for dim in binding.shape)


# ---- reading --------------------------------------------------------------------------------------------


# A manifest is there once, as long as somebody has it: the op looks it up at every call.
_known: weakref.WeakValueDictionary[str, EngineManifest] = weakref.WeakValueDictionary()


def _parse(text: str) -> EngineManifest:
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
        raise ArtifactError("an engine manifest must be a JSON text of at most 16 Mi characters")
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"the engine manifest is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ArtifactError(f"the engine manifest is a {type(document).__name__}, not an object")
    if document.get("format") != FORMAT or isinstance(document.get("format"), bool):
        raise ArtifactError(
            f"the engine manifest has format {document.get('format')!r}; this trtcore reads {FORMAT}",
            advice="compile the model again with this version, or install the version that wrote it",
        )
    missing, unknown = _KEYS - document.keys(), document.keys() - _KEYS - _OPTIONAL.keys()
    if missing or unknown:
        parts = [f"lacks {sorted(missing)}"] * bool(missing) + [f"has unknown {sorted(unknown)}"] * bool(
            unknown
        )
        raise ArtifactError(f"the engine manifest {' and '.join(parts)}")
    try:
        return EngineManifest(
            id=document["id"],
            name=document["name"],
            inputs=tuple(_binding_from_json(b) for b in _list(document["inputs"], "inputs")),
            sizes=tuple(_size_from_json(s) for s in _list(document["sizes"], "sizes")),
            outputs=tuple(_binding_from_json(b) for b in _list(document["outputs"], "outputs")),
            symbols={
                n: tuple(_list(s, "a symbol")) for n, s in _dict(document["symbols"], "symbols").items()
            },
            backend=document["backend"],
            backend_version=document["backend_version"],
            target=_dict(document["target"], "target"),
            runtime=document["runtime"],
            packs=tuple(_dict(p, "a pack") for p in _list(document["packs"], "packs")),
            plugins=tuple(_dict(p, "a plugin") for p in _list(document["plugins"], "plugins")),
            trtcore_version=document["trtcore_version"],
            torch_version=document["torch_version"],
            conditions=tuple(_list(document["conditions"], "conditions")),
            weights=tuple(_weight_from_json(w) for w in _list(document["weights"], "weights")),
            **{name: _optional(name, document[name]) for name in _OPTIONAL if name in document},
        )
    except ArtifactError:
        raise
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise ArtifactError(f"the engine manifest makes no sense: {error}") from None


_KEYS = frozenset(
    {
        "format", "id", "name", "inputs", "sizes", "outputs", "symbols", "backend", "backend_version",
        "target", "runtime", "packs", "plugins", "trtcore_version", "torch_version",
        "conditions", "weights",
    }
)  # fmt: skip


# Written where they are not this, so that most manifests are as they were before there was such a field.
_OPTIONAL: Mapping[str, Any] = {
    "refittable": False,
    "plan": "whole",
    "refitted": (),
    "dynamic_resources": False,
}


def _optional(name: str, value: Any) -> Any:
    return tuple(_list(value, name)) if name == "refitted" else value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ArtifactError(f"engine manifest: {what} must be a list, not {type(value).__name__}")
    return value


def _dict(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ArtifactError(f"engine manifest: {what} must be an object, not {type(value).__name__}")
    return value


# Several profiles come after what a manifest with one holds, which so stays readable either way.


def _binding_to_json(binding: TensorBinding) -> list[Any]:
    profile = None if binding.profile is None else [list(dims) for dims in binding.profile]
    several = [[[list(dims) for dims in one] for one in binding.profiles]] if binding.profiles else []
    return [binding.name, _NAMES[binding.dtype], list(binding.shape), profile, *several]


def _binding_from_json(value: Any) -> TensorBinding:
    name, dtype, shape, profile, *several = _list(value, "a binding")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ArtifactError(f"engine manifest: {dtype!r} is not the dtype of a binding")
    return TensorBinding(
        name,
        _DTYPES[dtype],
        tuple(_list(shape, "a shape")),
        None if profile is None else _profile_from_json(profile),
        tuple(_profile_from_json(one) for one in _several(several)),
    )


def _profile_from_json(value: Any) -> Profile:
    low, opt, high = (tuple(_list(dims, "profile dims")) for dims in _list(value, "a profile"))
    return low, opt, high


def _size_to_json(size: SizeBinding) -> list[Any]:
    several = [[list(one) for one in size.profiles]] if size.profiles else []
    return [size.name, size.symbol, size.min, size.opt, size.max, *several]


def _size_from_json(value: Any) -> SizeBinding:
    name, symbol, low, opt, high, *several = _list(value, "a size")
    profiles = (_list(one, "a size's profile") for one in _several(several))
    return SizeBinding(name, symbol, low, opt, high, tuple((a, b, c) for a, b, c in profiles))


def _weight_from_json(value: Any) -> WeightRecord:
    constant, name, (kind, *numbers), digest = _list(value, "a weight")
    if kind == "view" and len(numbers) == 3:
        offset, shape, stride = numbers
        return WeightRecord(constant, name, (kind, offset, tuple(shape), tuple(stride)), digest)
    return WeightRecord(constant, name, (kind, *numbers), digest)


def _several(rest: list[Any]) -> list[Any]:
    if not rest:
        return []
    (profiles,) = rest
    _need(profiles, "an empty list of profiles")
    return _list(profiles, "profiles")


# ---- checks ---------------------------------------------------------------------------------------------


def _check(m: EngineManifest) -> None:
    _need(m.format == FORMAT, f"format {m.format!r}")
    _need(isinstance(m.id, str) and _ID.match(m.id), f"id {m.id!r}")
    for what in ("name", "backend", "backend_version", "trtcore_version", "torch_version"):
        value = getattr(m, what)
        _need(isinstance(value, str) and len(value) < 4096 and value.isprintable(), f"{what} {value!r}")
    _need(m.runtime in ("native", "reference"), f"runtime {m.runtime!r}")
    _need(isinstance(m.target, Mapping) and _is_plain(dict(m.target), 0), "target (it must be plain data)")
    device = m.target.get("device", "cpu")
    _need(isinstance(device, str) and _DEVICE.match(device), f"device {device!r} of the target")
    for pack in m.packs:
        _need(
            set(pack) == {"distribution", "version", "name", "role"}
            and all(isinstance(v, str) and len(v) < 4096 and v.isprintable() for v in pack.values()),
            f"pack {dict(pack)!r}",
        )
    for plugin in m.plugins:
        kinds = {name: type(value) for name, value in plugin.items()}
        wanted = {"name": str, "distribution": str, "version": str, "deployable": bool}
        _need(kinds == wanted, f"plugin {dict(plugin)!r}")
    for binding in (*m.inputs, *m.outputs):
        _check_binding(binding)
    for binding in m.outputs:
        _need(binding.profile is None, f"a profile at output {binding.name!r}")
    for size in m.sizes:
        _need(isinstance(size.name, str) and isinstance(size.symbol, str), f"size {size!r}")
        _need(all(_is_dim(v) for v in (size.min, size.opt, size.max)), f"range of size {size.name!r}")
        _need(size.min <= size.opt <= size.max, f"range of size {size.name!r}")
        _check_size_profiles(size)
    counts = {len(binding.all_profiles) for binding in m.network_inputs} - {0}
    _need(len(counts) <= 1, f"inputs with different numbers of profiles ({sorted(counts)})")
    names = [b.name for b in m.inputs] + [s.name for s in m.sizes]
    _need(len(set(names)) == len(names), "two inputs of one name")
    _check_symbols(m)
    for condition in m.conditions:
        _need(isinstance(condition, str), f"condition {condition!r}")
        unknown = set(parse_condition(condition).symbols) - set(m.symbols)
        _need(not unknown, f"condition {condition!r}: nothing gives {sorted(unknown)}")
    for weight in m.weights:
        _check_weight(weight)
    for name in ("refittable", "dynamic_resources"):
        _need(isinstance(getattr(m, name), bool), f"{name} {getattr(m, name)!r}")
    _need(m.plan in ("whole", "refit", "none"), f"plan {m.plan!r}")
    for place in m.refitted:
        _need(isinstance(place, str) and _PLACE.match(place), f"the place {place!r} of a weight")


def _check_weight(weight: WeightRecord) -> None:
    texts = (weight.constant, weight.name, weight.sha256)
    _need(all(isinstance(text, str) and len(text) < 4096 for text in texts), f"weight {weight!r}")
    _need(_SHA256.match(weight.sha256), f"hash of weight {weight.constant!r}")
    kind, *numbers = weight.transform or ("",)
    if kind == "view" and len(numbers) == 3:
        offset, shape, stride = numbers
        good = len(shape) == len(stride) and all(_is_dim(n) for n in (offset, *shape, *stride))
    else:
        good = (kind == "memory" and len(numbers) == 1 and _is_dim(numbers[0])) or weight.transform == (
            "derived",
        )
    _need(good, f"transform {weight.transform!r} of weight {weight.constant!r}")


def _check_binding(binding: TensorBinding) -> None:
    _need(isinstance(binding.name, str) and 0 < len(binding.name) < 4096, f"binding name {binding.name!r}")
    _need(binding.dtype in _NAMES, f"dtype {binding.dtype} of {binding.name!r}")
    _need(len(binding.shape) <= 8, f"rank {len(binding.shape)} of {binding.name!r} (TensorRT has 8)")
    for dim in binding.shape:
        _need(isinstance(dim, str) or _is_dim(dim), f"dim {dim!r} of {binding.name!r}")
        if isinstance(dim, str):
            parse(dim)
    if binding.profile is None:
        _need(not binding.profiles, f"profiles of {binding.name!r}")
        return
    for profile in (binding.profile, *binding.profiles):
        _check_profile(binding, profile)
    if binding.profiles:
        good = len(binding.profiles) > 1 and _span(binding.profiles) == binding.profile
        _need(good, f"profiles of {binding.name!r}")


def _check_size_profiles(size: SizeBinding) -> None:
    for row in size.profiles:
        _need(all(_is_dim(v) for v in row) and row[0] <= row[1] <= row[2], f"profiles of size {size.name!r}")
    if size.profiles:
        lows, opts, highs = zip(*size.profiles)
        good = len(size.profiles) > 1 and (min(lows), opts[0], max(highs)) == (size.min, size.opt, size.max)
        _need(good, f"profiles of size {size.name!r}")


def _span(profiles: Sequence[Profile]) -> Profile:
    """(min, opt, max) dims that span the profiles; opt is the first's."""
    lows, opts, highs = zip(*profiles)
    return tuple(map(min, *lows)), opts[0], tuple(map(max, *highs))


def _check_profile(binding: TensorBinding, profile: Profile) -> None:
    _need(len(profile) == 3, f"profile of {binding.name!r}")
    for dims in profile:
        _need(
            len(dims) == len(binding.shape) and all(_is_dim(d) for d in dims), f"profile of {binding.name!r}"
        )
    for dim, *row in zip(binding.shape, *profile):
        _need(row[0] <= row[1] <= row[2], f"profile of {binding.name!r} ({row[0]} <= {row[1]} <= {row[2]})")
        _need(
            isinstance(dim, str) or set(row) == {dim}, f"profile of {binding.name!r} at its fixed dim {dim}"
        )


def _check_symbols(m: EngineManifest) -> None:
    for name, source in m.symbols.items():
        _need(isinstance(name, str) and _SYMBOL.match(name), f"symbol name {name!r}")
        kind, *numbers = source or ("",)
        _need(all(type(n) is int and abs(n) <= MAX_INT for n in numbers), f"symbol {name!r}: {source!r}")
        if kind == "input" and len(numbers) == 4:
            index, dim, scale, _ = numbers
            good = 0 <= index < len(m.inputs) and 0 <= dim < len(m.inputs[index].shape) and scale >= 1
        elif kind == "output" and len(numbers) == 2:
            index, dim = numbers
            good = 0 <= index < len(m.outputs) and 0 <= dim < len(m.outputs[index].shape)
        else:
            good = kind == "size" and len(numbers) == 1 and 0 <= numbers[0] < len(m.sizes)
            good = good and m.sizes[numbers[0]].symbol == name
        _need(good, f"symbol {name!r}: {source!r}")
    known = set(m.symbols)
    for binding in m.outputs:  # an input's dim may be in symbols that nothing else needs
        for dim in binding.shape:
            if isinstance(dim, str):
                unknown = set(parse(dim).symbols) - known
                _need(not unknown, f"dim {dim!r} of {binding.name!r}: nothing gives {sorted(unknown)}")


def _need(condition: Any, what: str) -> None:
    if not condition:
        raise ArtifactError(f"engine manifest: {what} makes no sense")


def _is_dim(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_INT


def _is_plain(value: Any, depth: int) -> bool:
    if depth > 8:
        return False
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v, depth + 1) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(v, depth + 1) for v in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (str, int, bool))

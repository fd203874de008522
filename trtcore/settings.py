"""CompilationSettings: what a user can choose about a compile; frozen, validated, documented per field."""

# ruff: noqa: RUF009  (`_setting` is dataclasses.field with a check and a text)

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch

from trtcore.errors import SettingsError

_K = TypeVar("_K")
_V = TypeVar("_V")

# Settings whose feature this version has not got. The field exists with its default; any other value is a
# SettingsError. A feature that gets built takes its line out.
NOT_BUILT: Mapping[str, str] = {
    "strict_numerics": "exact NaN, infinity and signed-zero behaviour",
    "use_fast_partitioner": "the global partitioner (use_fast_partitioner=False)",
    "timing_cache_path": "the timing cache",
    "cache_built_engines": "the engine cache",
    "reuse_cached_engines": "the engine cache",
    "engine_cache_dir": "the engine cache",
    "engine_cache_size": "the engine cache",
    "custom_engine_cache": "the engine cache",
    "immutable_weights": "refit",
    "strip_engine_weights": "weightless plans",
    "refit_identical_engine_weights": "weightless plans",
    "enable_weight_streaming": "weight streaming",
    "enable_cross_compile_for_windows": "cross compiling for Windows",
    "lazy_engine_init": "lazy engine initialisation",
    "offload_module_to_cpu": "moving the model's weights off the GPU before the build",
    "use_distributed_mode_trace": "tracing of DTensor and tensor-parallel models",
    "build_executor": "building segments in an executor",
}


class FrozenMapping(Mapping[_K, _V]):
    """A mapping that cannot change, hashes by its items and pickles."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[_K, _V] | Iterable[tuple[_K, _V]] = ()) -> None:
        object.__setattr__(self, "_items", dict(items))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a FrozenMapping cannot change")

    def __getitem__(self, key: _K) -> _V:
        return self._items[key]  # type: ignore[no-any-return,attr-defined]

    def __iter__(self) -> Iterator[_K]:
        return iter(self._items)  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self._items)  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return repr(self._items)  # type: ignore[attr-defined]

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenMapping, (dict(self._items),)  # type: ignore[attr-defined]


class SettingDoc(NamedTuple):
    """One row of the settings table: name, type as written, default, text, and what of it is not built."""

    name: str
    type: str
    default: Any
    doc: str
    not_built: str | None


def _setting(default: Any, check: Callable[[str, Any], Any], doc: str) -> Any:
    return field(default=default, metadata={"check": check, "doc": " ".join(doc.split())})


# -- checks: (field name, value) -> the normalised value, or SettingsError -------------------------------


def _refuse(name: str, value: Any, wanted: str, advice: str | None = None) -> SettingsError:
    return SettingsError(f"{name}={value!r}: it must be {wanted}", advice=advice)


def _bool(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _refuse(name, value, "True or False")
    return value


def _int(least: int, most: int | None = None, none: bool = False) -> Callable[[str, Any], Any]:
    wanted = f"an int of at least {least}" if most is None else f"an int from {least} to {most}"

    def check(name: str, value: Any) -> int | None:
        if value is None and none:
            return None
        number = isinstance(value, int) and not isinstance(value, bool)
        if not number or value < least or (most is not None and value > most):
            raise _refuse(name, value, wanted + (" or None" if none else ""))
        return int(value)

    return check


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise _refuse(name, value, "a number above 0")
    return value


def _choice(*values: str) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        text = getattr(value, "name", value)  # trt.EngineCapability.STANDARD and the like
        text = text.lower() if isinstance(text, str) else text
        if text not in values:
            raise _refuse(name, value, "one of " + ", ".join(map(repr, values)))
        return str(text)

    return check


def _power_of_two(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 4096 or value & (value - 1):
        raise _refuse(name, value, "a power of two of at least 4096 bytes")
    return value


def _name(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _refuse(name, value, "a non-empty string")
    return value


def _name_or_none(name: str, value: Any) -> str | None:
    return None if value is None else _name(name, value)


def _path_or_none(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike):
        raise _refuse(name, value, "a path or None")
    return os.fspath(value)


def _anything(name: str, value: Any) -> Any:
    return value


def _collection(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise _refuse(name, value, "a collection", advice=f"write {name}=[{value!r}]")
    return tuple(value)


def _names(name: str, value: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_name(name, item) for item in _collection(name, value)))


def _name_set(name: str, value: Any) -> frozenset[str]:
    return frozenset(_names(name, value))


def _regexes(name: str, value: Any) -> tuple[str, ...]:
    patterns = _names(name, value)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise SettingsError(f"{name}: {pattern!r} is not a regular expression: {error}") from None
    return patterns


_DTYPE_NAMES = {
    "float": torch.float32,
    "fp32": torch.float32,
    "half": torch.float16,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.int8,
    "fp8": torch.float8_e4m3fn,
    "fp4": getattr(torch, "float4_e2m1fn_x2", None),
}


def _dtype(name: str, value: Any) -> torch.dtype:
    found = value
    if isinstance(value, str):
        found = _DTYPE_NAMES.get(value, getattr(torch, value, None))
    if not isinstance(found, torch.dtype):
        raise _refuse(name, value, "a torch dtype, or its name")
    return found


def _dtype_or_none(name: str, value: Any) -> torch.dtype | None:
    return None if value is None else _dtype(name, value)


def _dtypes(name: str, value: Any) -> frozenset[torch.dtype]:
    dtypes = frozenset(_dtype(name, item) for item in _collection(name, value))
    if not dtypes:
        raise _refuse(name, value, "a non-empty set of dtypes")
    return dtypes


_FP4 = _DTYPE_NAMES["fp4"]
_AUTOCAST = (torch.float16, torch.bfloat16)
_PRECISIONS = (torch.float32, *_AUTOCAST, torch.int8, torch.float8_e4m3fn, *([_FP4] if _FP4 else []))


def _precisions(name: str, value: Any) -> frozenset[torch.dtype]:
    dtypes = _dtypes(name, value)
    for dtype in dtypes:
        if dtype not in _PRECISIONS:
            raise _refuse(name, dtype, "of " + ", ".join(map(str, _PRECISIONS)))
    return dtypes


def _autocast_type(name: str, value: Any) -> torch.dtype | None:
    dtype = _dtype_or_none(name, value)
    if dtype is not None and dtype not in _AUTOCAST:
        raise _refuse(name, value, "torch.float16, torch.bfloat16 or None")
    return dtype


def _modules(name: str, value: Any) -> tuple[str | type, ...]:
    found: list[str | type] = []
    for item in _collection(name, value):
        is_class = isinstance(item, type) and issubclass(item, torch.nn.Module)
        if not is_class and not (isinstance(item, str) and item.strip()):
            raise _refuse(name, item, "module paths (strings) or nn.Module classes")
        found.append(item)
    return tuple(dict.fromkeys(found))


def _device(name: str, value: Any) -> torch.device | tuple[int, int] | None:
    """None, a CUDA device, or a compute capability ("sm_89", "8.9", (8, 9))."""
    wanted = 'a CUDA device ("cuda:0"), or a compute capability ("sm_89", (8, 9)), or None'
    if value is None:
        return None
    if isinstance(value, tuple | list):
        ok = len(value) == 2 and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in value)
        if not ok:
            raise _refuse(name, value, wanted)
        return (int(value[0]), int(value[1]))
    if isinstance(value, str):
        if match := re.fullmatch(r"sm_?(\d{1,2})(\d)", value, re.IGNORECASE):
            return (int(match[1]), int(match[2]))
        if match := re.fullmatch(r"(\d{1,2})\.(\d)", value):
            return (int(match[1]), int(match[2]))
        try:
            value = torch.device(value)
        except RuntimeError:
            raise _refuse(name, value, wanted) from None
    if not isinstance(value, torch.device) or value.type != "cuda":
        raise _refuse(
            name, value, wanted, advice="on a machine without a GPU, leave it None or name an sm_XY"
        )
    return value


def _dryrun(name: str, value: Any) -> bool | str:
    if isinstance(value, bool):
        return value
    if isinstance(value, str | os.PathLike) and os.fspath(value):
        return os.fspath(value)
    raise _refuse(name, value, "True, False or a file name")


def _python_runtime(name: str, value: Any) -> bool:
    if _bool(name, value):
        return True
    raise SettingsError(
        "use_python_runtime=False: the C++ runtime is not offered",
        advice="use trtcore.dynamo.convert_exported_program_to_serialized_trt_engine and run the engine "
        "that it returns with TensorRT's own C++ API",
    )


def op_name(value: Any) -> str:
    """The canonical name of a torch op: "aten.gelu" for all its overloads, "aten.gelu.default" for one.

    Args:
        value: an OpOverload or OpOverloadPacket, or a name: "ns.op", "ns.op.overload", "ns::op", each with or
            without "torch.ops." before it.

    Raises:
        SettingsError: torch knows no such op; the message has the nearest names.
    """
    if isinstance(value, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return str(value)
    if not isinstance(value, str):
        raise SettingsError(
            f"{value!r} is not a torch op", advice="write its name, like 'aten.gelu', or give the op object"
        )
    text = value.strip().removeprefix("torch.ops.").replace("::", ".")
    parts = text.split(".")
    if len(parts) in (2, 3):
        packet = getattr(getattr(torch.ops, parts[0]), parts[1], None)
        if isinstance(packet, torch._ops.OpOverloadPacket):
            if len(parts) == 2:
                return text
            if parts[2] in _overload_names(packet):
                return text
            near = [f"{parts[0]}.{parts[1]}.{overload}" for overload in _overload_names(packet)]
            raise SettingsError(f"torch has no op {value!r}", advice="its overloads are " + ", ".join(near))
    raise SettingsError(f"torch has no op {value!r}", advice=_nearest_ops(text))


def _overload_names(packet: Any) -> list[str]:
    return list(packet.overloads())


def _nearest_ops(text: str) -> str:
    known = sorted({n.split(".")[0].replace("::", ".") for n in torch._C._dispatch_get_all_op_names()})
    near = difflib.get_close_matches(text, known, n=3)
    if not near and "." not in text:
        near = difflib.get_close_matches(f"aten.{text}", known, n=3)
    if near:
        return "did you mean " + " or ".join(map(repr, near)) + "?"
    return "write namespace and name, like 'aten.gelu'; import the module that registers a custom op first"


def _ops(name: str, value: Any) -> frozenset[str]:
    items = _collection(name, value)
    try:
        return frozenset(op_name(item) for item in items)
    except SettingsError as error:
        raise SettingsError(f"{name}: {error.message}", advice=error.advice) from None


def _overloads(name: str, key: Any) -> list[Any]:
    """The overloads (or the Python callable) that a key of `converters` stands for."""
    key = getattr(key, "_opoverload", key)  # what torch.library.custom_op returned
    if callable(key) and not isinstance(key, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return [key]
    try:
        parts = op_name(key).split(".")
    except SettingsError as error:
        raise SettingsError(f"{name}: {error.message}", advice=error.advice) from None
    packet = getattr(getattr(torch.ops, parts[0]), parts[1])
    names = parts[2:] or _overload_names(packet)
    return [getattr(packet, overload) for overload in names]


def _converters(name: str, value: Any) -> FrozenMapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise _refuse(name, value, "a mapping from ops to converter functions")
    found: dict[Any, Any] = {}
    for key, function in value.items():
        if not callable(getattr(function, "implementation", function)):  # a Converter holds its function
            raise SettingsError(
                f"{name}[{key!s}]={function!r} is neither a function nor a Converter",
                advice="give a function that is called as the op is, after ctx: def convert(ctx, x): ...",
            )
        found.update(dict.fromkeys(_overloads(name, key), function))
    return FrozenMapping(found)


def _pins(name: str, value: Any) -> FrozenMapping[str, str]:
    if not isinstance(value, Mapping):
        raise _refuse(name, value, 'a mapping from ops to packs, {"aten.gelu.default": "pack:name"}')
    found: dict[str, str] = {}
    for key, pack in value.items():
        if not isinstance(pack, str) or not pack:
            raise SettingsError(f"{name}[{key!s}]={pack!r}: it must be the name of a pack")
        try:
            found[op_name(key)] = pack
        except SettingsError as error:
            raise SettingsError(f"{name}: {error.message}", advice=error.advice) from None
    return FrozenMapping(found)


def _executor(name: str, value: Any) -> Any:
    if value is not None and not hasattr(value, "submit"):
        raise _refuse(name, value, "a concurrent.futures.Executor or None")
    return value


_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class CompilationSettings:
    """What a user can choose about a compile. Each field's text is in its `metadata["doc"]`; see `describe`.

    Values are checked and normalised when the object is made: collections become immutable, op names and
    devices take their canonical form. `explicit` is the set of names that the user gave.

    Raises:
        SettingsError: an unknown name (with the nearest ones), a value that does not fit, a contradiction,
            or a feature that this version has not got (`NOT_BUILT`).
    """

    # precision
    enabled_precisions: frozenset[torch.dtype] = _setting(
        frozenset({torch.float32}),
        _precisions,
        """Dtypes that engines may compute in. float16 and bfloat16 come from autocast, and need
        use_explicit_typing=False; int8, float8 and float4 come from quantise and dequantise ops in the graph.""",
    )
    use_explicit_typing: bool = _setting(
        True,
        _bool,
        """Dtypes come from the graph. False with float16 or bfloat16 in enabled_precisions means autocast to it.
        Networks are strongly typed either way.""",
    )
    enable_autocast: bool = _setting(
        False, _bool, "Rule-based autocast of float32 nodes to `autocast_low_precision_type`."
    )
    autocast_low_precision_type: torch.dtype | None = _setting(
        None,
        _autocast_type,
        "What autocast casts to: float16 or bfloat16; None: the one in enabled_precisions.",
    )
    autocast_excluded_nodes: tuple[str, ...] = _setting(
        (),
        _regexes,
        """Regular expressions; nodes whose name, or the path of whose module, begins with a match stay in
        float32.""",
    )
    autocast_excluded_ops: frozenset[str] = _setting(frozenset(), _ops, "Ops that stay in float32.")
    autocast_max_output_threshold: float = _setting(
        512, _positive, "Nodes with larger absolute outputs in the calibration data stay in float32."
    )
    autocast_max_depth_of_reduction: int | None = _setting(
        None,
        _int(1, none=True),
        "Products, convolutions and reductions that sum more elements than this stay in float32.",
    )
    autocast_calibration_dataloader: Any = _setting(
        None,
        _anything,
        """Batches of model inputs for `autocast_max_output_threshold`: tensors, tuples of the positional inputs, or
        dicts of the inputs by name. None skips that rule.""",
    )
    use_fp32_acc: bool = _setting(
        False, _bool, "float16 matrix products accumulate in float32 (casts around them)."
    )
    disable_tf32: bool = _setting(
        False, _bool, "Clears the builder's TF32 flag: float32 math on tensor cores is exact."
    )
    strict_numerics: bool = _setting(
        False,
        _bool,
        "NaN, infinities and signed zeros as torch has them, at a price; refused where impossible.",
    )
    truncate_double: bool = _setting(
        False,
        _bool,
        "float64 inputs and weights become float32 inside engines; else float64 nodes stay in torch.",
    )

    # partitioning
    min_block_size: int = _setting(5, _int(1), "Segments with fewer converted ops than this run in torch.")
    torch_executed_ops: frozenset[str] = _setting(
        frozenset(),
        _ops,
        """Ops forced to torch: "aten.gelu" (all overloads), "aten.gelu.default", or the op objects. Kept as
        canonical names.""",
    )
    fused_ops: frozenset[str] = _setting(
        frozenset(),
        _ops,
        """Ops that go into generated Triton kernels although a converter would take them, and on the CPU too; written
        like torch_executed_ops. What no converter takes is fused without being named where it helps.""",
    )
    torch_executed_modules: tuple[str | type, ...] = _setting(
        (),
        _modules,
        'Modules forced to torch, with all below them: paths like "encoder.layer.0", or classes.',
    )
    require_full_compilation: bool = _setting(
        False,
        _bool,
        "Anything left in torch is an error that lists it. Excludes torch_executed_ops and _modules.",
    )
    pass_through_build_failures: bool = _setting(
        False, _bool, "A failed build raises, instead of the node going back to torch."
    )
    use_fast_partitioner: bool = _setting(
        True, _bool, "True: the fast partitioner. False: the global one, with the fewest segments."
    )
    partitioner: str | None = _setting(
        None, _name_or_none, "A partitioner by name, from any pack; None chooses."
    )
    max_segment_size: int | None = _setting(
        None,
        _int(1, none=True),
        "The most ops in one segment; None: the partitioner's. TensorRT's build is quadratic in layers.",
    )
    max_quarantine_builds: int = _setting(
        16, _int(0), "How often a segment is rebuilt to find a failing node, before all of it goes to torch."
    )

    # conversion
    enable_experimental_decompositions: bool = _setting(
        False, _bool, "All core ATen decompositions instead of the selected set."
    )
    decompose_attention: bool = _setting(
        False, _bool, "Attention as matmuls and a softmax instead of TensorRT's attention layer."
    )
    assume_dynamic_shape_support: bool = _setting(
        False, _bool, "Treats every converter as supporting dynamic shapes."
    )
    fallback_data_dependent_ops: bool = _setting(
        False, _bool, "Ops whose output shape depends on values run in torch."
    )
    converters: Mapping[Any, Callable[..., Any]] = _setting(
        FrozenMapping(),
        _converters,
        "Converters for this compile: {op: function or Converter}. They come before all others.",
    )
    pins: Mapping[str, str] = _setting(
        FrozenMapping(), _pins, 'Which converter an op takes: {"aten.gelu.default": "distribution:pack"}.'
    )
    disabled_packs: tuple[str, ...] = _setting(
        (), _names, 'Packs that are off for this compile: "name", "distribution" or "distribution:name".'
    )
    disabled_passes: frozenset[str] = _setting(
        frozenset(), _name_set, "Lowering passes that are off, by name."
    )

    # target
    device: torch.device | tuple[int, int] | None = _setting(
        None,
        _device,
        """The GPU to build for: None (the current one, or the backend's portable default without one), a CUDA
        device, or a compute capability: "sm_89" or (8, 9). The latter works without a GPU.""",
    )
    backend: str = _setting(
        "auto", _name, 'Which TensorRT: "tensorrt", "tensorrt_rtx", a pack\'s, or "auto".'
    )
    runtime: str = _setting(
        "auto",
        _choice("auto", "native", "reference"),
        """"native" runs plans on a GPU, "reference" evaluates the network in torch on any device, "auto"
        takes native where the engine can run.""",
    )
    use_python_runtime: bool = _setting(
        True, _python_runtime, "For compatibility. The C++ runtime is not offered: False is an error."
    )

    # builder
    workspace_size: int = _setting(
        0, _int(0), "Bytes of GPU memory that layers may use as scratch; 0: no limit."
    )
    dla_sram_size: int = _setting(_MIB, _power_of_two, "Bytes of software-managed SRAM that a DLA may use.")
    dla_local_dram_size: int = _setting(
        1024 * _MIB, _power_of_two, "Bytes of host memory DLA layers share data in."
    )
    dla_global_dram_size: int = _setting(
        512 * _MIB, _power_of_two, "Bytes of host memory for a DLA's weights."
    )
    max_aux_streams: int | None = _setting(
        None, _int(0, none=True), "The most helper streams an engine may use; None leaves it to TensorRT."
    )
    optimization_level: int | None = _setting(
        None, _int(0, 5, none=True), "Builder optimisation level 0 to 5; None is TensorRT's default (3)."
    )
    num_avg_timing_iters: int = _setting(
        1, _int(1), "How many runs the builder averages when it times a kernel."
    )
    tiling_optimization_level: str = _setting(
        "none",
        _choice("none", "fast", "moderate", "full"),
        "How hard the builder looks for tiling across layers.",
    )
    l2_limit_for_tiling: int = _setting(
        -1, _int(-1), "Bytes of L2 cache for tiling; -1 leaves it to TensorRT."
    )
    sparse_weights: bool = _setting(False, _bool, "Lets the builder use kernels for 2:4 sparse weights.")
    version_compatible: bool = _setting(False, _bool, "Plans that later TensorRT versions can load.")
    hardware_compatible: bool = _setting(False, _bool, "Plans that run on every GPU from Ampere on.")
    engine_capability: str = _setting(
        "standard",
        _choice("standard", "safety", "dla_standalone"),
        "Which restrictions the engine is built under.",
    )
    profiling_verbosity: str = _setting(
        "layer_names_only",
        _choice("layer_names_only", "detailed", "none"),
        "How much the plan says about its layers to the inspector and to profilers.",
    )
    timing_cache_path: str | None = _setting(
        None,
        _path_or_none,
        "File of the timing cache, loaded before and merged after a build; None: user cache.",
    )

    # engine cache
    cache_built_engines: bool = _setting(False, _bool, "Built engines go into the engine cache.")
    reuse_cached_engines: bool = _setting(False, _bool, "Engines are taken from the engine cache.")
    engine_cache_dir: str | None = _setting(None, _path_or_none, "Folder or fsspec URL of the engine cache.")
    engine_cache_size: int = _setting(
        5 << 30, _int(0), "Bytes the engine cache may hold; least recently used go."
    )
    custom_engine_cache: Any = _setting(None, _anything, "An engine cache object of your own.")

    # weights
    immutable_weights: bool = _setting(True, _bool, "False builds engines whose weights can be refitted.")
    strip_engine_weights: bool = _setting(
        False, _bool, "Plans without weights; needs immutable_weights=False."
    )
    refit_identical_engine_weights: bool = _setting(
        False, _bool, "Plans to be refitted with the same weights only; needs immutable_weights=False."
    )
    enable_weight_streaming: bool = _setting(False, _bool, "Engines that can stream weights from the host.")

    # how the compile runs
    enable_cross_compile_for_windows: bool = _setting(
        False, _bool, "Builds for Windows on Linux; only through cross_compile_for_windows."
    )
    lazy_engine_init: bool = _setting(False, _bool, "Engines are set up after all are built.")
    offload_module_to_cpu: bool = _setting(
        False, _bool, "The model's weights leave the GPU before the build."
    )
    use_distributed_mode_trace: bool = _setting(
        False, _bool, "Traces through AOTAutograd, for DTensor and tensor-parallel models."
    )
    dryrun: bool | str = _setting(
        False, _dryrun, "Everything up to conversion, and the report; a file name writes the report there."
    )
    build_executor: Any = _setting(
        None,
        _executor,
        "A concurrent.futures.Executor that converts and builds segments; None: one after another.",
    )
    build_isolation: str = _setting(
        "thread",
        _choice("thread", "process"),
        """Where segments are converted and built: "thread" (a thread with a large stack), or "process": a crash
        of TensorRT or of a converter is then an error with a reason. Converters must be in installed packs, or at the
        top of modules.""",
    )

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = item.metadata["check"](item.name, getattr(self, item.name))
            object.__setattr__(self, item.name, value)
        self._refuse_what_is_not_built()
        self._refuse_contradictions()

    def _refuse_what_is_not_built(self) -> None:
        for item in dataclasses.fields(self):
            if item.name in NOT_BUILT and getattr(self, item.name) != item.default:
                raise SettingsError(
                    f"{item.name}={getattr(self, item.name)!r}: {NOT_BUILT[item.name]} is not built "
                    f"yet in this version of trtcore; the only value that works is {item.default!r}"
                )

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """What float32 nodes are cast to: float16 or bfloat16; None where autocast is off."""
        lower = [dtype for dtype in _AUTOCAST if dtype in self.enabled_precisions]
        if not self.enable_autocast and (self.use_explicit_typing or not lower):
            return None
        return self.autocast_low_precision_type or (lower[0] if lower else None)

    def _refuse_precisions(self) -> None:
        """Precisions and autocast settings that contradict each other."""
        lower = [dtype for dtype in _AUTOCAST if dtype in self.enabled_precisions]
        other = self.enabled_precisions - {torch.float32, _FP4}
        chosen = self.autocast_low_precision_type
        if self.use_explicit_typing and other:
            names = ", ".join(sorted(map(str, other)))
            raise SettingsError(
                f"enabled_precisions has {names}, and with use_explicit_typing=True dtypes come from the graph",
                advice="convert the model (model.half()), or set use_explicit_typing=False for autocast, or "
                "enable_autocast=True with autocast_low_precision_type and enabled_precisions left alone",
            )
        if chosen is not None and lower and chosen not in lower:
            raise SettingsError(
                f"autocast_low_precision_type={chosen} is not in enabled_precisions={set(self.enabled_precisions)}"
            )
        if (self.enable_autocast or not self.use_explicit_typing) and chosen is None and len(lower) > 1:
            raise SettingsError(
                "enabled_precisions has float16 and bfloat16, and autocast casts to one",
                advice="name it: autocast_low_precision_type=torch.float16 (or torch.bfloat16)",
            )
        if self.autocast_dtype is None:
            self._refuse_idle_autocast()

    def _refuse_idle_autocast(self) -> None:
        if self.enable_autocast:
            raise SettingsError(
                "enable_autocast=True: autocast to what?",
                advice="set autocast_low_precision_type to torch.float16 or torch.bfloat16",
            )
        for item in dataclasses.fields(self):
            if item.name.startswith("autocast_") and getattr(self, item.name) != item.default:
                raise SettingsError(
                    f"{item.name} has no effect without autocast", advice="set enable_autocast=True"
                )

    def _refuse_contradictions(self) -> None:
        self._refuse_precisions()
        if self.require_full_compilation:
            for name in ("torch_executed_ops", "torch_executed_modules"):
                if forced := getattr(self, name):
                    raise SettingsError(
                        f"require_full_compilation=True contradicts {name}="
                        f"{sorted(str(item) for item in forced)}: what it names is left in torch",
                        advice=f"drop one of the two: require_full_compilation or {name}",
                    )

    # -- making --------------------------------------------------------------------------------------------

    @property
    def explicit(self) -> frozenset[str]:
        """The names that the user gave a value for, the default value included."""
        return self.__dict__.get("_explicit", frozenset())  # type: ignore[no-any-return]

    @classmethod
    def from_kwargs(cls, settings: CompilationSettings | None = None, **kwargs: Any) -> CompilationSettings:
        """Settings from the keyword arguments of an entry point.

        Args:
            settings: a ready object to start from; `kwargs` change it.
            kwargs: fields by name; deprecated names are mapped with a DeprecationWarning.

        Raises:
            SettingsError: an unknown name, an old and a new name for one thing, or a bad value.
        """
        kwargs = _map_deprecated(kwargs)
        _refuse_unknown(kwargs)
        return cls(**kwargs) if settings is None else settings.replace(**kwargs)

    def replace(self, **changes: Any) -> CompilationSettings:
        """A copy with some fields changed. `explicit` grows by their names."""
        _refuse_unknown(changes)
        kept = {name: getattr(self, name) for name in self.explicit}
        return type(self)(**{**kept, **changes})

    __replace__ = replace

    # -- reading -------------------------------------------------------------------------------------------

    def changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults, in the order of the class."""
        return {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if getattr(self, item.name) != item.default
        }

    def fingerprint(self, names: Iterable[str] | None = None) -> str:
        """A SHA-256 hex digest of the values of `names` (None: all); the same in every process."""
        chosen = sorted(names) if names is not None else [item.name for item in dataclasses.fields(self)]
        _refuse_unknown(dict.fromkeys(chosen))
        plain = {name: _plain(getattr(self, name)) for name in chosen}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    @classmethod
    def describe(cls) -> tuple[SettingDoc, ...]:
        """Every setting with its type, default and text, in the order of the class."""
        return tuple(
            SettingDoc(
                item.name, str(item.type), item.default, item.metadata["doc"], NOT_BUILT.get(item.name)
            )
            for item in dataclasses.fields(cls)
        )

    def __getstate__(self) -> dict[str, Any]:
        # torch's op objects do not pickle; their names do
        state = dict(self.__dict__)
        state["converters"] = [(_op_or_name(op), function) for op, function in self.converters.items()]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__dict__["converters"] = _converters("converters", dict(state["converters"]))


def _op_or_name(op: Any) -> Any:
    return str(op) if isinstance(op, torch._ops.OpOverload) else op


def _plain(value: Any) -> Any:
    """A JSON value that stands for a setting's value, the same in every process."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return sorted([str(key), _plain(item)] for key, item in value.items())
    if isinstance(value, frozenset):
        return sorted(json.dumps(_plain(item)) for item in value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, torch.dtype | torch.device | torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return str(value)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if dataclasses.is_dataclass(value):  # a Converter given at the call site
        fields = {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
        return [type(value).__qualname__, fields]
    if callable(value):
        return _plain_function(value)
    raise SettingsError(f"a setting of type {type(value).__name__} has no fingerprint")


def _plain_function(function: Any) -> list[Any]:
    """Where a function is defined, and its code: another body is another fingerprint."""
    if isinstance(function, functools.partial):
        return [_plain_function(function.func), _plain(function.args), _plain(function.keywords)]
    module = getattr(function, "__module__", "")
    name = getattr(function, "__qualname__", type(function).__qualname__)
    code = getattr(function, "__code__", None)
    return [f"{module}.{name}", _code_digest(code) if code is not None else ""]


def _code_digest(code: Any) -> str:
    constants = [_constant(value) for value in code.co_consts]
    text = repr((code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars))
    return hashlib.sha256(text.encode()).hexdigest()


def _constant(value: Any) -> str:
    if hasattr(value, "co_code"):
        return _code_digest(value)
    if isinstance(value, frozenset):  # its order changes with the process's hash seed
        return repr(sorted(map(_constant, value)))
    return repr(value)


# -- names: unknown and deprecated ones ------------------------------------------------------------------


class _Deprecated(NamedTuple):
    new: str
    convert: Callable[[Any], Any]
    text: str
    removed_in: str


# Names that people coming from Torch-TensorRT still write. A test fails when one outlives `removed_in`.
DEPRECATED: Mapping[str, _Deprecated] = {
    "truncate_long_and_double": _Deprecated("truncate_double", lambda v: v, "truncate_double", "0.4"),
    "refit": _Deprecated("immutable_weights", lambda v: not v, "immutable_weights (its opposite)", "0.4"),
    "make_refittable": _Deprecated(
        "immutable_weights", lambda v: not v, "immutable_weights (its opposite)", "0.4"
    ),
    "debug": _Deprecated(
        "", lambda v: v, 'trtcore.Debugger, or logging.getLogger("trtcore").setLevel("DEBUG")', "0.4"
    ),
}


def _map_deprecated(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in kwargs.items() if name not in DEPRECATED}
    used: dict[str, str] = {}
    for old, value in kwargs.items():
        if old not in DEPRECATED:
            continue
        rule = DEPRECATED[old]
        if rule.new and rule.new in used | found:
            other = used.get(rule.new, rule.new)
            raise SettingsError(f"{old} and {other} set the same thing; give {rule.new} only")
        if not isinstance(value, bool):
            raise _refuse(old, value, "True or False")
        warnings.warn(
            f"{old} is deprecated and goes away in trtcore {rule.removed_in}: use {rule.text}",
            DeprecationWarning,
            stacklevel=4,
        )
        if rule.new:
            used[rule.new] = old
            found[rule.new] = rule.convert(value)
        elif value:
            import logging

            logging.getLogger("trtcore").setLevel(logging.DEBUG)
    return found


_NAMES = tuple(item.name for item in dataclasses.fields(CompilationSettings))


def _refuse_unknown(names: Mapping[str, Any]) -> None:
    for name in names:
        if name in _NAMES:
            continue
        near = difflib.get_close_matches(name, (*_NAMES, *DEPRECATED), n=3, cutoff=0.5)
        raise SettingsError(
            f"there is no setting {name!r}",
            advice=f"did you mean {' or '.join(near)}?" if near else "see CompilationSettings.describe()",
        )


def _recording_init(generated: Callable[..., None]) -> Callable[..., None]:
    """The dataclass's __init__, which also keeps the names that were given."""

    @functools.wraps(generated)
    def __init__(self: CompilationSettings, **kwargs: Any) -> None:
        _refuse_unknown(kwargs)
        given = frozenset(kwargs)
        if len(given) == len(_NAMES):  # dataclasses.replace before Python 3.13 passes every field
            given = frozenset(
                item.name for item in dataclasses.fields(self) if kwargs[item.name] != item.default
            )
        object.__setattr__(self, "_explicit", given)
        generated(self, **kwargs)

    return __init__


CompilationSettings.__init__ = _recording_init(CompilationSettings.__init__)  # type: ignore[method-assign]

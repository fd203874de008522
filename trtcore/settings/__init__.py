"""CompilationSettings: what a user can choose about a compile. One table of fields; frozen, checked, documented.

A field's line has its type, its default, what makes a value canonical (`values`: converters), what looks at it
(`values`: checks), and its text, by category. What contradicts what is in `rules`, old and misspelt names in `names`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs
import torch

from trtcore.settings import rules, values
from trtcore.settings.fingerprint import digest
from trtcore.settings.names import DEPRECATED, map_deprecated, refuse_unknown
from trtcore.settings.values import FrozenMapping, op_name

__all__ = ["DEPRECATED", "NOT_BUILT", "CompilationSettings", "FrozenMapping", "SettingDoc", "op_name"]


class SettingDoc(NamedTuple):
    """One row of the settings table: name, type as written, default, text, what of it is not built, category."""

    name: str
    type: str
    default: Any
    doc: str
    not_built: str | None
    category: str


def _row(category: str, doc: str, *, not_built: str | None = None) -> dict[str, Any]:
    """A field's metadata.

    Args:
        category: heading that it stands under.
        doc: what it does, a sentence or two.
        not_built: the feature, where this version has not got it: the field exists, and any value but the default
            is a SettingsError. A feature that gets built takes its words out.
    """
    return {"category": category, "doc": " ".join(doc.split()), "not_built": not_built}


_precision = functools.partial(_row, "precision")
_partitioning = functools.partial(_row, "partitioning")
_conversion = functools.partial(_row, "conversion")
_target = functools.partial(_row, "target")
_builder = functools.partial(_row, "builder")
_cache = functools.partial(_row, "engine cache")
_weights = functools.partial(_row, "weights")
_running = functools.partial(_row, "how the compile runs")

_MIB = 1 << 20


@attrs.frozen(kw_only=True, slots=False, field_transformer=values.named)
class CompilationSettings:
    """What a user can choose about a compile; `describe` lists the fields, as `trtcore settings` does.

    Values are checked and made canonical when the object is made: collections become immutable, op names and
    devices take one form. `explicit` is the set of names that the user gave.

    Raises:
        SettingsError: an unknown name (with the nearest ones), a value that does not fit, a contradiction,
            or a feature that this version has not got (`NOT_BUILT`).
    """

    # precision
    enabled_precisions: frozenset[torch.dtype] = attrs.field(
        default=frozenset({torch.float32}),
        converter=values.precisions,
        metadata=_precision(
            "Dtypes that engines may compute in. float16 and bfloat16 come from autocast, and need "
            "use_explicit_typing=False; int8, float8 and float4 come from quantise and dequantise ops in the "
            "graph."
        ),
    )
    use_explicit_typing: bool = attrs.field(
        default=True,
        validator=values.flag,
        metadata=_precision(
            "Dtypes come from the graph. False with float16 or bfloat16 in enabled_precisions means autocast "
            "to it. Networks are strongly typed either way."
        ),
    )
    enable_autocast: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_precision("Rule-based autocast of float32 nodes to `autocast_low_precision_type`."),
    )
    autocast_low_precision_type: torch.dtype | None = attrs.field(
        default=None,
        converter=values.autocast_type,
        metadata=_precision(
            "What autocast casts to: float16 or bfloat16; None: the one in enabled_precisions."
        ),
    )
    autocast_excluded_nodes: tuple[str, ...] = attrs.field(
        default=(),
        converter=values.regexes,
        metadata=_precision(
            "Regular expressions; nodes whose name, or the path of whose module, begins with a match stay in "
            "float32."
        ),
    )
    autocast_excluded_ops: frozenset[str] = attrs.field(
        default=frozenset(), converter=values.ops, metadata=_precision("Ops that stay in float32.")
    )
    autocast_max_output_threshold: float = attrs.field(
        default=512,
        validator=values.positive,
        metadata=_precision("Nodes with larger absolute outputs in the calibration data stay in float32."),
    )
    autocast_max_depth_of_reduction: int | None = attrs.field(
        default=None,
        validator=values.integer(1, none=True),
        metadata=_precision(
            "Products, convolutions and reductions that sum more elements than this stay in float32."
        ),
    )
    autocast_calibration_dataloader: Any = attrs.field(
        default=None,
        metadata=_precision(
            "Batches of model inputs for `autocast_max_output_threshold`: tensors, tuples of the positional "
            "inputs, or dicts of the inputs by name. None skips that rule."
        ),
    )
    use_fp32_acc: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_precision("float16 matrix products accumulate in float32 (casts around them)."),
    )
    disable_tf32: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_precision("Clears the builder's TF32 flag: float32 math on tensor cores is exact."),
    )
    strict_numerics: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_precision(
            "NaN, infinities, signed zeros as torch has them: an op goes into an engine if its converter is known "
            "to keep them, written with more layers where that is needed; the others run in torch.",
        ),
    )
    truncate_double: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_precision(
            "float64 inputs and weights become float32 inside engines; else float64 nodes stay in torch."
        ),
    )

    # partitioning
    min_block_size: int = attrs.field(
        default=5,
        converter=values.block_size,
        validator=values.integer(1),
        metadata=_partitioning("Segments with fewer converted ops than this run in torch."),
    )
    torch_executed_ops: frozenset[str] = attrs.field(
        default=frozenset(),
        converter=values.ops,
        metadata=_partitioning(
            'Ops forced to torch: "aten.gelu" (all overloads), "aten.gelu.default", or the op objects. Kept '
            "as canonical names."
        ),
    )
    fused_ops: frozenset[str] = attrs.field(
        default=frozenset(),
        converter=values.ops,
        metadata=_partitioning(
            "Ops that go into generated Triton kernels although a converter would take them, and on the CPU "
            "too; written like torch_executed_ops. What no converter takes is fused without being named where "
            "it helps."
        ),
    )
    torch_executed_modules: tuple[str | type, ...] = attrs.field(
        default=(),
        converter=values.modules,
        metadata=_partitioning(
            'Modules forced to torch, with all below them: paths like "encoder.layer.0", or classes.'
        ),
    )
    require_full_compilation: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_partitioning(
            "Anything left in torch is an error that lists it. Excludes torch_executed_ops and _modules."
        ),
    )
    pass_through_build_failures: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_partitioning("A failed build raises, instead of the node going back to torch."),
    )
    use_fast_partitioner: bool = attrs.field(
        default=True,
        validator=values.flag,
        metadata=_partitioning(
            "True: the fast partitioner. False: the global one: ops that may be computed early or late go where that "
            "leaves fewer segments, then fewer ops lost to min_block_size, then fewer tensors between segments.",
        ),
    )
    partitioner: str | None = attrs.field(
        default=None,
        validator=values.name_or_none,
        metadata=_partitioning("A partitioner by name, from any pack; None chooses."),
    )
    max_segment_size: int | None = attrs.field(
        default=None,
        validator=values.integer(1, none=True),
        metadata=_partitioning(
            "The most ops in one segment; None: the partitioner's. TensorRT's build is quadratic in layers."
        ),
    )
    max_quarantine_builds: int = attrs.field(
        default=16,
        validator=values.integer(0),
        metadata=_partitioning(
            "How often a segment is rebuilt to find a failing node, before all of it goes to torch."
        ),
    )

    # conversion
    enable_experimental_decompositions: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_conversion("All core ATen decompositions instead of the selected set."),
    )
    decompose_attention: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_conversion("Attention as matmuls and a softmax instead of TensorRT's attention layer."),
    )
    use_complex_decomposition: bool = attrs.field(
        default=True,
        validator=values.flag,
        metadata=_conversion(
            "Complex numbers as pairs of real ones, where all that is computed with them can be written so."
        ),
    )
    assume_dynamic_shape_support: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_conversion("Treats every converter as supporting dynamic shapes."),
    )
    fallback_data_dependent_ops: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_conversion("Ops whose output shape depends on values run in torch."),
    )
    converters: Mapping[Any, Callable[..., Any]] = attrs.field(
        default=values.FrozenMapping(),
        converter=values.converters,
        metadata=_conversion(
            "Converters for this compile: {op: function or Converter}. They come before all others."
        ),
    )
    pins: Mapping[str, str] = attrs.field(
        default=values.FrozenMapping(),
        converter=values.pins,
        metadata=_conversion('Which converter an op takes: {"aten.gelu.default": "distribution:pack"}.'),
    )
    disabled_packs: tuple[str, ...] = attrs.field(
        default=(),
        converter=values.names,
        metadata=_conversion(
            'Packs that are off for this compile: "name", "distribution" or "distribution:name".'
        ),
    )
    disabled_passes: frozenset[str] = attrs.field(
        default=frozenset(),
        converter=values.name_set,
        metadata=_conversion("Lowering passes that are off, by name."),
    )

    # target
    device: torch.device | tuple[int, int] | None = attrs.field(
        default=None,
        converter=values.device,
        metadata=_target(
            "The GPU to build for: None (the current one, or the backend's portable default without one), a "
            'CUDA device, or a compute capability: "sm_89" or (8, 9). The latter works without a GPU.'
        ),
    )
    backend: str = attrs.field(
        default="auto",
        validator=values.name,
        metadata=_target('Which TensorRT: "tensorrt", "tensorrt_rtx", a pack\'s, or "auto".'),
    )
    runtime: str = attrs.field(
        default="auto",
        converter=values.word,
        validator=values.choice("auto", "native", "reference"),
        metadata=_target(
            '"native" runs plans on a GPU, "reference" evaluates the network in torch on any device, "auto" '
            "takes native where the engine can run."
        ),
    )
    use_python_runtime: bool = attrs.field(
        default=True,
        validator=values.python_runtime,
        metadata=_target("For compatibility. The C++ runtime is not offered: False is an error."),
    )

    # builder
    workspace_size: int = attrs.field(
        default=0,
        validator=values.integer(0),
        metadata=_builder("Bytes of GPU memory that layers may use as scratch; 0: no limit."),
    )
    dla_sram_size: int = attrs.field(
        default=_MIB,
        validator=values.power_of_two,
        metadata=_builder("Bytes of software-managed SRAM that a DLA may use."),
    )
    dla_local_dram_size: int = attrs.field(
        default=1024 * _MIB,
        validator=values.power_of_two,
        metadata=_builder("Bytes of host memory DLA layers share data in."),
    )
    dla_global_dram_size: int = attrs.field(
        default=512 * _MIB,
        validator=values.power_of_two,
        metadata=_builder("Bytes of host memory for a DLA's weights."),
    )
    max_aux_streams: int | None = attrs.field(
        default=None,
        validator=values.integer(0, none=True),
        metadata=_builder("The most helper streams an engine may use; None leaves it to TensorRT."),
    )
    optimization_level: int | None = attrs.field(
        default=None,
        validator=values.integer(0, 5, none=True),
        metadata=_builder("Builder optimisation level 0 to 5; None is TensorRT's default (3)."),
    )
    num_avg_timing_iters: int = attrs.field(
        default=1,
        validator=values.integer(1),
        metadata=_builder("How many runs the builder averages when it times a kernel."),
    )
    tiling_optimization_level: str = attrs.field(
        default="none",
        converter=values.word,
        validator=values.choice("none", "fast", "moderate", "full"),
        metadata=_builder("How hard the builder looks for tiling across layers."),
    )
    l2_limit_for_tiling: int = attrs.field(
        default=-1,
        validator=values.integer(-1),
        metadata=_builder("Bytes of L2 cache for tiling; -1 leaves it to TensorRT."),
    )
    sparse_weights: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_builder("Lets the builder use kernels for 2:4 sparse weights."),
    )
    version_compatible: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_builder("Plans that later TensorRT versions can load."),
    )
    hardware_compatible: bool = attrs.field(
        default=False, validator=values.flag, metadata=_builder("Plans that run on every GPU from Ampere on.")
    )
    engine_capability: str = attrs.field(
        default="standard",
        converter=values.word,
        validator=values.choice("standard", "safety", "dla_standalone"),
        metadata=_builder("Which restrictions the engine is built under."),
    )
    profiling_verbosity: str = attrs.field(
        default="layer_names_only",
        converter=values.word,
        validator=values.choice("layer_names_only", "detailed", "none"),
        metadata=_builder("How much the plan says about its layers to the inspector and to profilers."),
    )
    timing_cache_path: str | None = attrs.field(
        default=None,
        converter=values.path_or_none,
        metadata=_builder(
            "File of the timing cache, loaded before a build and merged with what it measured after; None: one of "
            "this TensorRT's and GPU's in the user's cache folder."
        ),
    )

    # engine cache
    cache_built_engines: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_cache("Built engines go into the engine cache."),
    )
    reuse_cached_engines: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_cache("Engines are taken from the engine cache, where it has one for the same request."),
    )
    engine_cache_dir: str | None = attrs.field(
        default=None,
        converter=values.path_or_none,
        metadata=_cache(
            "Folder or fsspec URL (s3://bucket/engines) of the engine cache; None: `trtcore cache path`."
        ),
    )
    engine_cache_size: int = attrs.field(
        default=5 << 30,
        validator=values.integer(0),
        metadata=_cache("Bytes the engine cache may hold; least recently used engines go."),
    )
    custom_engine_cache: Any = attrs.field(
        default=None,
        validator=values.engine_cache,
        metadata=_cache(
            "An engine cache of your own, with save(hash, blob) and load(hash): `trtcore.EngineCache`."
        ),
    )
    engine_cache_key: values.Secret | None = attrs.field(
        default=None,
        converter=values.secret,
        metadata=_cache(
            "A secret that seals entries, which are found and taken only by who has it; None: the environment's "
            "TRTCORE_ENGINE_CACHE_KEY, or no seal."
        ),
    )

    # weights
    immutable_weights: bool = attrs.field(
        default=True,
        validator=values.flag,
        metadata=_weights(
            "False builds plans that TensorRT can be given other weights for (`dynamo.refit_module_weights`, "
            "`MutableModule`). The reference runtime takes other weights either way."
        ),
    )
    strip_engine_weights: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_weights(
            "Plans without weights, which TensorRT is given when the engine is opened; needs immutable_weights=False."
        ),
    )
    refit_identical_engine_weights: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_weights(
            "Plans that may be given the weights they were built with and no others, so that TensorRT may choose by "
            "their values; needs immutable_weights=False."
        ),
    )
    enable_weight_streaming: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_weights(
            "Engines that can stream weights from the host; `trtcore.runtime.weight_streaming` sets the budget."
        ),
    )

    # how the compile runs
    enable_cross_compile_for_windows: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_running(
            "Builds for Windows on Linux; only through `trtcore.dynamo.cross_compile_for_windows`.",
        ),
    )
    lazy_engine_init: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_running(
            "Native engines are opened by their first call, instead of at the end of the compile. The reference "
            "runtime sets engines up at their first call either way."
        ),
    )
    offload_module_to_cpu: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_running(
            "The model's own parameters and buffers move to the CPU before engines are built, and stay there: the "
            "GPU's memory is the build's. Buffers that the model writes to stay where they are."
        ),
    )
    enable_resource_partitioning: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_running(
            "Segments are cut so that building one, with all weights in memory, takes no more than `cpu_memory_budget`."
        ),
    )
    cpu_memory_budget: int | None = attrs.field(
        default=None,
        validator=values.integer(1, none=True),
        metadata=_running(
            "Bytes of the process's own memory that a compile may take, with enable_resource_partitioning=True; None: "
            "what is in use and what the machine has left as the compile begins."
        ),
    )
    dynamically_allocate_resources: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_running(
            "Engines give up execution contexts, and copies of constants on the GPU, after every call: less memory "
            "between calls, slower calls."
        ),
    )
    use_distributed_mode_trace: bool = attrs.field(
        default=False,
        validator=values.flag,
        metadata=_running(
            "Traces through AOTAutograd, for DTensor and tensor-parallel models.",
        ),
    )
    dryrun: bool | str = attrs.field(
        default=False,
        converter=values.flag_or_path,
        metadata=_running(
            "Everything up to conversion, and the report; a file name writes the report there."
        ),
    )
    build_executor: Any = attrs.field(
        default=None,
        validator=values.executor,
        metadata=_running(
            "A concurrent.futures.Executor (threads, processes, Dask's, Ray's: `trtcore.executors`) whose workers "
            "convert and build segments; None: one after another. A converter defined in a script is refused but for "
            "threads."
        ),
    )
    build_isolation: str = attrs.field(
        default="thread",
        converter=values.word,
        validator=values.choice("thread", "process"),
        metadata=_running(
            'Where segments are converted and built: "thread" (a thread with a large stack), or "process": a '
            "crash of TensorRT or of a converter is then an error with a reason. Converters must be in "
            "installed packs, or at the top of modules."
        ),
    )

    if not TYPE_CHECKING:  # for type checkers the constructor has the fields

        def __init__(self, **given: Any) -> None:
            refuse_unknown(given, _NAMES)
            kept = frozenset(given)
            if len(kept) == len(_NAMES):  # attrs.evolve passes every field
                kept = frozenset(item.name for item in _FIELDS if given[item.name] != item.default)
            object.__setattr__(self, "_explicit", kept)
            self.__attrs_init__(**given)

    def __attrs_post_init__(self) -> None:
        rules.refuse_contradictions(self)

    # -- making --------------------------------------------------------------------------------------------

    @classmethod
    def from_kwargs(cls, settings: CompilationSettings | None = None, **kwargs: Any) -> CompilationSettings:
        """Settings from the keyword arguments of an entry point.

        Args:
            settings: a ready object to start from; `kwargs` change it.
            kwargs: fields by name; deprecated names are mapped with a DeprecationWarning.

        Raises:
            SettingsError: an unknown name, an old and a new name for one thing, or a bad value.
        """
        kwargs = map_deprecated(kwargs, stacklevel=3)
        rules.refuse_crossing(kwargs)
        return cls(**kwargs) if settings is None else settings.replace(**kwargs)

    def replace(self, **changes: Any) -> CompilationSettings:
        """A copy with some fields changed. `explicit` grows by their names."""
        kept = {name: getattr(self, name) for name in self.explicit}
        return type(self)(**{**kept, **changes})

    __replace__ = replace

    # -- reading -------------------------------------------------------------------------------------------

    @property
    def explicit(self) -> frozenset[str]:
        """The names that the user gave a value for, the default value included."""
        return self.__dict__.get("_explicit", frozenset())  # type: ignore[no-any-return]

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """What float32 nodes are cast to: float16 or bfloat16; None where autocast is off."""
        return rules.autocast_dtype(self)

    def changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults, in the order of the class."""
        return {
            item.name: getattr(self, item.name)
            for item in _FIELDS
            if getattr(self, item.name) != item.default
        }

    def fingerprint(self, names: Iterable[str] | None = None) -> str:
        """A SHA-256 hex digest of the values of `names` (None: all); the same in every process."""
        chosen = sorted(_NAMES if names is None else names)
        refuse_unknown(chosen, _NAMES)
        return digest({name: getattr(self, name) for name in chosen})

    @classmethod
    def describe(cls) -> tuple[SettingDoc, ...]:
        """Every setting with its type, default and text, in the order of the class."""
        return tuple(
            SettingDoc(
                item.name,
                str(item.type),
                item.default,
                item.metadata["doc"],
                item.metadata["not_built"],
                item.metadata["category"],
            )
            for item in _FIELDS
        )

    def __getstate__(self) -> dict[str, Any]:
        # torch's op objects do not pickle; their names do
        state = dict(self.__dict__)
        state["converters"] = [(_op_or_name(op), function) for op, function in self.converters.items()]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__dict__["converters"] = values.converters(dict(state["converters"]))


def _op_or_name(op: Any) -> Any:
    return str(op) if isinstance(op, torch._ops.OpOverload | torch._ops.HigherOrderOperator) else op


_FIELDS: tuple[attrs.Attribute[Any], ...] = attrs.fields(CompilationSettings)
_NAMES = tuple(item.name for item in _FIELDS)

NOT_BUILT: Mapping[str, str] = {
    item.name: item.metadata["not_built"] for item in _FIELDS if item.metadata["not_built"]
}
"""Settings whose feature this version has not got, and the feature."""

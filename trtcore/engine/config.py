"""From settings to a builder config, and from dynamic shapes to optimisation profiles.

A setting that the backend lacks, refuses or ignores is a SettingsError that says so: what the user asked
for is either done or refused, never dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trtcore.errors import EngineBuildError, InputError, SettingsError

if TYPE_CHECKING:
    from trtcore.artifact.manifest import SizeBinding, TensorBinding
    from trtcore.backend.base import Backend, Target
    from trtcore.backend.logger import CollectingLogger
    from trtcore.settings import CompilationSettings

_DLA_POOLS = {
    "dla_sram_size": "DLA_MANAGED_SRAM",
    "dla_local_dram_size": "DLA_LOCAL_DRAM",
    "dla_global_dram_size": "DLA_GLOBAL_DRAM",
}

# Settings that need a feature of the backend (a name `Backend.can` knows) when they are not at a value that
# asks for nothing.
_NEEDS: Mapping[str, Callable[[CompilationSettings], str | None]] = {
    "version_compatible": lambda s: "version_compatible" if s.version_compatible else None,
    "hardware_compatible": lambda s: "hardware_compatible" if s.hardware_compatible else None,
    "sparse_weights": lambda s: "flag:SPARSE_WEIGHTS" if s.sparse_weights else None,
    "engine_capability": lambda s: _engine_capability_feature(s.engine_capability),
    "max_aux_streams": lambda s: "max_aux_streams" if s.max_aux_streams else None,
    "tiling_optimization_level": lambda s: "tiling" if s.tiling_optimization_level != "none" else None,
    "l2_limit_for_tiling": lambda s: "tiling" if s.l2_limit_for_tiling != -1 else None,
    "immutable_weights": lambda s: _refit_feature(s) if s.runtime != "reference" else None,
    "strip_engine_weights": lambda s: "flag:STRIP_PLAN" if s.strip_engine_weights else None,
    "refit_identical_engine_weights": lambda s: (
        _refit_feature(s) if s.refit_identical_engine_weights else None
    ),
    "enable_weight_streaming": lambda s: "flag:WEIGHT_STREAMING" if s.enable_weight_streaming else None,
    **dict.fromkeys(_DLA_POOLS, lambda s: "dla"),
    "timing_cache_path": lambda s: "timing_cache" if s.timing_cache_path is not None else None,
    "enable_cross_compile_for_windows": lambda s: (
        "platform:WINDOWS" if s.enable_cross_compile_for_windows else None
    ),
}

# What to do where one cannot be had, for those for which there is more to say than to leave it out.
_ADVICE: Mapping[str, str] = {
    "immutable_weights": 'refit on the reference runtime, which needs no such plan: runtime="reference"; or build '
    "where TensorRT has a GPU and its driver",
    "enable_cross_compile_for_windows": "compile on Windows: torch.export.save(exported_program, path) here, and "
    "trtcore.dynamo.compile(torch.export.load(path)) there",
    "strip_engine_weights": "leave strip_engine_weights out, or build where TensorRT has a GPU and its driver",
}


def _refit_feature(settings: CompilationSettings) -> str | None:
    if settings.immutable_weights:
        return None
    return f"flag:{_refit_flag(settings)}"


def _refit_flag(settings: CompilationSettings) -> str:
    return "REFIT_IDENTICAL" if settings.refit_identical_engine_weights else "REFIT"


def is_refittable(backend: Backend, settings: CompilationSettings, target: Target) -> bool:
    """Whether the plans of a compile can be given other weights: asked for, and possible.

    It is not possible, and no error, on the reference runtime alone: that one takes new constants.
    """
    feature = _refit_feature(settings)
    return feature is not None and backend.can(feature, target).ok


def _engine_capability_feature(value: str) -> str | None:
    return None if value == "standard" else f"engine_capability:{value.upper()}"


# What each of `_NEEDS` may ask for: for tables of what backends can do.
FEATURES: Mapping[str, tuple[str, ...]] = {
    "version_compatible": ("version_compatible",),
    "hardware_compatible": ("hardware_compatible",),
    "sparse_weights": ("flag:SPARSE_WEIGHTS",),
    "engine_capability": ("engine_capability:SAFETY", "engine_capability:DLA_STANDALONE"),
    "max_aux_streams": ("max_aux_streams",),
    "tiling_optimization_level": ("tiling",),
    "l2_limit_for_tiling": ("tiling",),
    "immutable_weights": ("flag:REFIT",),
    "strip_engine_weights": ("flag:STRIP_PLAN",),
    "refit_identical_engine_weights": ("flag:REFIT_IDENTICAL",),
    "enable_weight_streaming": ("flag:WEIGHT_STREAMING",),
    **dict.fromkeys(_DLA_POOLS, ("dla",)),
    "timing_cache_path": ("timing_cache",),
    "enable_cross_compile_for_windows": ("platform:WINDOWS",),
}


def support(backend: Backend, target: Target, setting: str) -> str:
    """Whether a backend can do what a setting asks for: "yes", "no: " with its words, or "" where it is not asked."""
    answers = [(feature, backend.can(feature, target)) for feature in FEATURES.get(setting, ())]
    refused = [f"{feature.rpartition(':')[2]}: {one.message}" for feature, one in answers if not one.ok]
    if not answers:
        return ""
    return "no: " + "; ".join(text.splitlines()[0] for text in refused) if refused else "yes"


def check_settings(backend: Backend, settings: CompilationSettings, target: Target) -> None:
    """Refuse what the user set and the backend lacks, refuses or ignores for this target.

    Cheap after the first time (`Backend.can` keeps its answers); `make_config` does it too.

    Raises:
        SettingsError: names the setting, the backend and TensorRT's own message.
    """
    for name, need in _NEEDS.items():
        if name not in settings.explicit:
            continue
        feature = need(settings)
        if feature is None:
            continue
        capability = backend.can(feature, target)
        if not capability.ok:
            raise SettingsError(
                f"{name}={getattr(settings, name)!r} cannot be done by {backend.name} {backend.version} "
                f"for {target.name}",
                tensorrt=[capability.message] if capability.message else [],
                advice=_ADVICE.get(name, f"leave {name} out, or use another backend"),
            )


def make_config(
    backend: Backend, builder: Any, settings: CompilationSettings, target: Target, logger: CollectingLogger
) -> Any:
    """A `trt.IBuilderConfig` for these settings and this target.

    Args:
        backend: whose bindings `builder` comes from.
        builder: a `trt.Builder`.
        settings: every builder setting acts, at its default as well.
        target: for TensorRT-RTX, sets the compute capability; for TensorRT, must be the current GPU.
        logger: the builder's own.

    Raises:
        SettingsError: a setting, or the target, that the backend cannot do; with TensorRT's lines.
    """
    check_settings(backend, settings, target)
    config = builder.create_builder_config()
    if config is None:
        raise EngineBuildError("TensorRT made no builder config", tensorrt=logger.errors())
    if not (settings.immutable_weights or is_refittable(backend, settings, target)):
        settings = settings.replace(
            immutable_weights=True
        )  # for the reference runtime, which needs no such plan
    for name, apply in _APPLY.items():
        mark = logger.mark()
        try:
            problem = apply(backend.trt, config, settings)
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            problem = repr(error)
        lines = logger.errors(mark)
        if problem or lines:
            raise SettingsError(
                f"{name}={getattr(settings, name)!r} is refused by {backend.name} {backend.version}"
                + (f": {problem}" if problem else ""),
                tensorrt=lines,
            )
    backend.set_target(config, target, logger)
    return config


# -- one function per setting: (trt, config, settings) -> None, or what is wrong -------------------------


def _flag(name: str, wanted: Callable[[CompilationSettings], bool]) -> Callable[..., str | None]:
    def apply(trt: Any, config: Any, settings: CompilationSettings) -> str | None:
        if not hasattr(trt.BuilderFlag, name):
            return f"there is no builder flag {name}" if wanted(settings) else None
        flag = getattr(trt.BuilderFlag, name)
        on = wanted(settings)
        if on == config.get_flag(flag):
            return None
        (config.set_flag if on else config.clear_flag)(flag)
        return None if config.get_flag(flag) == on else f"the flag {name} did not change"

    return apply


def _attribute(attribute: str, value: Callable[[Any, CompilationSettings], Any]) -> Callable[..., str | None]:
    """Sets a config attribute; a None value leaves TensorRT's own."""

    def apply(trt: Any, config: Any, settings: CompilationSettings) -> str | None:
        wanted = value(trt, settings)
        if wanted is None:
            return None
        if not hasattr(config, attribute):
            return f"there is no IBuilderConfig.{attribute}"
        if getattr(config, attribute) == wanted:
            return None
        setattr(config, attribute, wanted)
        found = getattr(config, attribute)
        return (
            None if found == wanted else f"IBuilderConfig.{attribute} is {found} after setting it to {wanted}"
        )

    return apply


def _workspace(trt: Any, config: Any, settings: CompilationSettings) -> str | None:
    if settings.workspace_size == 0:
        return None
    return _pool(trt, config, "WORKSPACE", settings.workspace_size)


def _dla_pool(setting: str, pool: str) -> Callable[..., str | None]:
    def apply(trt: Any, config: Any, settings: CompilationSettings) -> str | None:
        if setting not in settings.explicit:
            return None
        return _pool(trt, config, pool, getattr(settings, setting))

    return apply


def _pool(trt: Any, config: Any, name: str, size: int) -> str | None:
    pool = getattr(trt.MemoryPoolType, name)
    config.set_memory_pool_limit(pool, size)
    found = config.get_memory_pool_limit(pool)
    return None if found == size else f"the memory pool {name} is {found} bytes after setting it to {size}"


def _hardware_level(trt: Any, settings: CompilationSettings) -> Any:
    return trt.HardwareCompatibilityLevel.AMPERE_PLUS if settings.hardware_compatible else None


def _windows(trt: Any, settings: CompilationSettings) -> Any:
    return trt.RuntimePlatform.WINDOWS_AMD64 if settings.enable_cross_compile_for_windows else None


def _tiling_level(trt: Any, settings: CompilationSettings) -> Any:
    if settings.tiling_optimization_level == "none":
        return None
    return getattr(trt.TilingOptimizationLevel, settings.tiling_optimization_level.upper())


_APPLY: Mapping[str, Callable[..., str | None]] = {
    "disable_tf32": _flag("TF32", lambda s: not s.disable_tf32),
    "sparse_weights": _flag("SPARSE_WEIGHTS", lambda s: s.sparse_weights),
    "immutable_weights": _flag(
        "REFIT", lambda s: not s.immutable_weights and not s.refit_identical_engine_weights
    ),
    "refit_identical_engine_weights": _flag("REFIT_IDENTICAL", lambda s: s.refit_identical_engine_weights),
    "strip_engine_weights": _flag("STRIP_PLAN", lambda s: s.strip_engine_weights),
    "enable_weight_streaming": _flag("WEIGHT_STREAMING", lambda s: s.enable_weight_streaming),
    "version_compatible": _flag("VERSION_COMPATIBLE", lambda s: s.version_compatible),
    "hardware_compatible": _attribute("hardware_compatibility_level", _hardware_level),
    "optimization_level": _attribute("builder_optimization_level", lambda trt, s: s.optimization_level),
    "num_avg_timing_iters": _attribute("avg_timing_iterations", lambda trt, s: s.num_avg_timing_iters),
    "max_aux_streams": _attribute("max_aux_streams", lambda trt, s: s.max_aux_streams),
    "tiling_optimization_level": _attribute("tiling_optimization_level", _tiling_level),
    "l2_limit_for_tiling": _attribute(
        "l2_limit_for_tiling", lambda trt, s: s.l2_limit_for_tiling if s.l2_limit_for_tiling >= 0 else None
    ),
    "engine_capability": _attribute(
        "engine_capability", lambda trt, s: getattr(trt.EngineCapability, s.engine_capability.upper())
    ),
    "profiling_verbosity": _attribute(
        "profiling_verbosity", lambda trt, s: getattr(trt.ProfilingVerbosity, s.profiling_verbosity.upper())
    ),
    "enable_cross_compile_for_windows": _attribute("runtime_platform", _windows),
    "workspace_size": _workspace,
    **{setting: _dla_pool(setting, pool) for setting, pool in _DLA_POOLS.items()},
}


# -- optimisation profiles --------------------------------------------------------------------------------


def add_profiles(
    builder: Any, config: Any, network: Any, bindings: Iterable[TensorBinding | SizeBinding]
) -> int:
    """Add the optimisation profiles of a network's dynamic inputs to its config, in the bindings' order.

    TensorRT is silent about most mistakes here (opt above max), or speaks up in the middle of the build, so
    everything is checked first.

    Args:
        bindings: the engine's inputs and sizes, with equally many profiles; those of static shape need none.

    Returns:
        how many were added; 0 when no input is dynamic and none is needed.

    Raises:
        InputError: names the input whose ranges do not fit the network's, or that has none.
        EngineBuildError: TensorRT refused a profile; with its lines.
    """
    by_name = {binding.name: binding for binding in bindings}
    dynamic = []
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        binding = by_name.pop(tensor.name, None)
        if (binding is not None and hasattr(binding, "symbol")) or -1 in tuple(tensor.shape):
            dynamic.append((tensor, binding, _profiles_of(tensor, binding)))
    unknown = [name for name in by_name if hasattr(by_name[name], "symbol")]
    if unknown:
        raise InputError(f"the network has no input {unknown[0]!r}, but the engine's bindings name it")
    counts = {tensor.name: len(profiles) for tensor, _, profiles in dynamic}
    if len(set(counts.values())) > 1:
        raise InputError(f"the inputs have different numbers of optimisation profiles: {counts}")
    count = max(counts.values(), default=0)
    for number in range(count):
        profile = builder.create_optimization_profile()
        for tensor, binding, profiles in dynamic:
            set_range = _set_size if hasattr(binding, "symbol") else _set_shape
            set_range(profile, tensor, binding, profiles[number])
        _add_profile(builder, config, profile, number)
    return count


def _add_profile(builder: Any, config: Any, profile: Any, number: int) -> None:
    logger = builder.logger
    mark = logger.mark() if hasattr(logger, "mark") else 0
    if config.add_optimization_profile(profile) != number:
        lines = logger.since(mark) if hasattr(logger, "since") else ()
        raise EngineBuildError(f"TensorRT refused the optimisation profile {number}", tensorrt=lines)


def _profiles_of(tensor: Any, binding: Any) -> Sequence[Any]:
    profiles: Sequence[Any] = () if binding is None else binding.all_profiles
    if not profiles:
        raise InputError(
            f"input {tensor.name!r} has dynamic dims {tuple(tensor.shape)}, but no range for them",
            advice="give Input(min_shape=, opt_shape=, max_shape=), or an ExportedProgram with Dim ranges",
        )
    return profiles


def _set_shape(profile: Any, tensor: Any, binding: Any, rows: Any) -> None:
    dims = tuple(tensor.shape)
    shapes = tuple(tuple(int(size) for size in shape) for shape in rows)
    if len(shapes) != 3 or any(len(shape) != len(dims) for shape in shapes):
        raise InputError(f"input {tensor.name!r} has dims {dims}; its profile {shapes} does not fit")
    for axis, (dim, *range_) in enumerate(zip(dims, *shapes, strict=True)):
        low, opt, high = range_
        if not 0 <= low <= opt <= high:
            raise InputError(
                f"input {tensor.name!r}, dim {axis}: min {low} <= opt {opt} <= max {high} does not hold"
            )
        if dim != -1 and (low, opt, high) != (dim, dim, dim):
            raise InputError(f"input {tensor.name!r}, dim {axis} is {dim}; its profile says {low}..{high}")
    profile.set_shape(tensor.name, *shapes)


def _set_size(profile: Any, tensor: Any, binding: Any, row: Any) -> None:
    low, opt, high = map(int, row)
    if not low <= opt <= high:
        raise InputError(f"size {binding.symbol!r}: min {low} <= opt {opt} <= max {high} does not hold")
    if tuple(tensor.shape) != (1,):
        raise InputError(f"size {binding.symbol!r} must be an input of shape (1,), not {tuple(tensor.shape)}")
    profile.set_shape_input(tensor.name, [low], [opt], [high])


def builder_settings() -> frozenset[str]:
    """The names of the settings that change an engine's build through its config."""
    return frozenset(_APPLY) | {"device"}

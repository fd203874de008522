"""`SettingsDict`: the settings as keyword arguments, as type checkers and editors see them: what a user may write.

`CompilationSettings` is the table; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Executor
from os import PathLike
from typing import Any, Literal, TypedDict

import torch

from trtcore.settings.values import Op


class SettingsDict(TypedDict, total=False):
    """Keyword arguments of `trtcore.compile` and every other entry point; `trtcore settings` says what each does.

    Example:
        >>> fast: SettingsDict = {"min_block_size": 1, "build_isolation": "process"}
        >>> compiled = trtcore.compile(model, inputs, **fast)  # doctest: +SKIP
    """

    # precision
    enabled_precisions: Collection[torch.dtype | str]
    use_explicit_typing: bool
    enable_autocast: bool
    autocast_low_precision_type: torch.dtype | str | None
    autocast_excluded_nodes: Collection[str]
    autocast_excluded_ops: Collection[Op]
    autocast_max_output_threshold: float
    autocast_max_depth_of_reduction: int | None
    autocast_calibration_dataloader: Iterable[Any] | None
    use_fp32_acc: bool
    disable_tf32: bool
    strict_numerics: bool
    truncate_double: bool
    # partitioning
    min_block_size: float
    torch_executed_ops: Collection[Op]
    fused_ops: Collection[Op]
    torch_executed_modules: Collection[str | type[torch.nn.Module]]
    require_full_compilation: bool
    pass_through_build_failures: bool
    use_fast_partitioner: bool
    partitioner: str | None
    max_segment_size: int | None
    max_quarantine_builds: int
    # conversion
    enable_experimental_decompositions: bool
    decompose_attention: bool
    use_complex_decomposition: bool
    assume_dynamic_shape_support: bool
    fallback_data_dependent_ops: bool
    converters: Mapping[Any, Callable[..., Any]]
    pins: Mapping[Any, str]
    disabled_packs: Collection[str]
    disabled_passes: Collection[str]
    # target
    device: torch.device | str | tuple[int, int] | None
    backend: str
    runtime: Literal["auto", "native", "reference"]
    use_python_runtime: bool
    # builder
    workspace_size: int
    dla_sram_size: int
    dla_local_dram_size: int
    dla_global_dram_size: int
    max_aux_streams: int | None
    optimization_level: Literal[0, 1, 2, 3, 4, 5] | None
    num_avg_timing_iters: int
    tiling_optimization_level: Literal["none", "fast", "moderate", "full"]
    l2_limit_for_tiling: int
    sparse_weights: bool
    version_compatible: bool
    hardware_compatible: bool
    engine_capability: Literal["standard", "safety", "dla_standalone"]
    profiling_verbosity: Literal["layer_names_only", "detailed", "none"]
    timing_cache_path: str | PathLike[str] | None
    # engine cache
    cache_built_engines: bool
    reuse_cached_engines: bool
    engine_cache_dir: str | PathLike[str] | None
    engine_cache_size: int
    custom_engine_cache: Any  # a `trtcore.EngineCache`, which a room above defines
    engine_cache_key: str | bytes | None
    # weights
    immutable_weights: bool
    strip_engine_weights: bool
    refit_identical_engine_weights: bool
    enable_weight_streaming: bool
    # how the compile runs
    enable_cross_compile_for_windows: bool
    lazy_engine_init: bool
    offload_module_to_cpu: bool
    enable_resource_partitioning: bool
    cpu_memory_budget: int | None
    dynamically_allocate_resources: bool
    use_distributed_mode_trace: bool
    dryrun: bool | str | PathLike[str]
    build_executor: Executor | None
    build_isolation: Literal["thread", "process"]

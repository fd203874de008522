"""The defaults of settings, by their old names."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from trtcore_contrib_torch_tensorrt._Device import Device
from trtcore_contrib_torch_tensorrt._enums import EngineCapability, dtype

_FOLDER = os.path.join(tempfile.gettempdir(), "torch_tensorrt_engine_cache")

DEFAULTS: dict[str, Any] = {
    "enabled_precisions": frozenset({dtype.f32}),
    "workspace_size": 0,
    "min_block_size": 5,
    "torch_executed_ops": frozenset(),
    "pass_through_build_failures": False,
    "max_aux_streams": None,
    "version_compatible": False,
    "optimization_level": None,
    "use_python_runtime": False,
    "truncate_double": False,
    "use_fast_partitioner": True,
    "enable_experimental_decompositions": False,
    "device": None,
    "require_full_compilation": False,
    "disable_tf32": False,
    "assume_dynamic_shape_support": False,
    "sparse_weights": False,
    "engine_capability": EngineCapability.STANDARD,
    "num_avg_timing_iters": 1,
    "dla_sram_size": 1 << 20,
    "dla_local_dram_size": 1 << 30,
    "dla_global_dram_size": 1 << 29,
    "dryrun": False,
    "hardware_compatible": False,
    "timing_cache_path": os.path.join(_FOLDER, "timing_cache.bin"),
    "lazy_engine_init": False,
    "cache_built_engines": False,
    "reuse_cached_engines": False,
    "use_explicit_typing": True,
    "use_fp32_acc": False,
    "refit_identical_engine_weights": False,
    "strip_engine_weights": False,
    "immutable_weights": True,
    "enable_weight_streaming": False,
    "enable_cross_compile_for_windows": False,
    "tiling_optimization_level": "none",
    "l2_limit_for_tiling": -1,
    "use_distributed_mode_trace": False,
    "offload_module_to_cpu": False,
    "enable_autocast": False,
    "autocast_low_precision_type": None,
    "autocast_excluded_nodes": frozenset(),
    "autocast_excluded_ops": frozenset(),
    "autocast_max_output_threshold": 512,
    "autocast_max_depth_of_reduction": None,
    "autocast_calibration_dataloader": None,
    "enable_resource_partitioning": False,
    "cpu_memory_budget": None,
    "dynamically_allocate_resources": False,
    "decompose_attention": False,
    "attn_bias_is_causal": True,
}
"""The 51 settings and their old defaults."""

ARGUMENTS: dict[str, Any] = {
    "engine_cache_dir": _FOLDER,
    "engine_cache_size": 5 << 30,
    "custom_engine_cache": None,
    "fallback_data_dependent_ops": False,
    "use_complex_decomposition": False,
}
"""What compiles take beside them, and newer settings."""

DEBUG_LOGGING_DIR = os.path.join(tempfile.gettempdir(), "torch_tensorrt_debug_logs")
SUPPORTED_KERNEL_PRECISIONS = {dtype.f32, dtype.f16, dtype.bf16, dtype.i8, dtype.f8, dtype.f4}


def default_device() -> Device:
    """The current GPU."""
    return Device._current_device()


def __getattr__(name: str) -> Any:
    for table in (DEFAULTS, ARGUMENTS):
        if name.isupper() and name.lower() in table:
            return table[name.lower()]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

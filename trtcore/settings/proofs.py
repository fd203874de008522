"""How each setting is proved: what shows that it acts, and the test that shows it. `trtcore settings NAME` prints it.

A test keeps this table whole: every field has a row, and every row a test that is there and speaks of the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Proof(NamedTuple):
    """What shows that a setting acts.

    Attributes:
        effect: one of `EFFECTS`.
        test: ``file::function`` under ``tests/``.
    """

    effect: str
    test: str


EFFECTS: Mapping[str, str] = {
    "plan": "another plan, or TensorRT's own answer while it builds",
    "network": "other layers in the network",
    "graph": "another partition or lowered graph, or another report of it",
    "file": "what is in files afterwards",
    "behaviour": "what the compile or the call does",
    "call": "the value read back from the real IBuilderConfig; the effect on a GPU has not been seen",
    "calls": "the calls, in their order, on a recorder of the API; not run",
    "error": "the error that a user gets, with TensorRT's words: it cannot be done here",
}

_PRECISION = "converters/test_precision_passes.py::"
_CONFIG = "engine/test_config.py::test_a_setting_reaches_the_builder_config"
_REFUSED = "engine/test_config.py::test_what_the_backend_would_refuse_or_ignore_is_an_error"

PROOFS: Mapping[str, Proof] = {
    "enabled_precisions": Proof("graph", _PRECISION + "test_autocast_of_a_model_on_the_whole"),
    "use_explicit_typing": Proof("graph", _PRECISION + "test_autocast_of_a_model_on_the_whole"),
    "enable_autocast": Proof("graph", _PRECISION + "test_autocast"),
    "autocast_low_precision_type": Proof("graph", _PRECISION + "test_autocast"),
    "autocast_excluded_nodes": Proof("graph", _PRECISION + "test_nodes_that_stay_in_float32"),
    "autocast_excluded_ops": Proof("graph", _PRECISION + "test_nodes_that_stay_in_float32"),
    "autocast_max_output_threshold": Proof("graph", _PRECISION + "test_calibration_above_the_threshold_only"),
    "autocast_max_depth_of_reduction": Proof("graph", _PRECISION + "test_nodes_that_stay_in_float32"),
    "autocast_calibration_dataloader": Proof("graph", _PRECISION + "test_calibration"),
    "use_fp32_acc": Proof("network", _PRECISION + "test_accumulation_in_the_network"),
    "disable_tf32": Proof("call", _CONFIG),
    "strict_numerics": Proof("network", "converters/test_strict.py::test_the_price_is_paid_only_when_asked"),
    "truncate_double": Proof("graph", _PRECISION + "test_float64_is_float32_inside"),
    "min_block_size": Proof("graph", "test_api.py::test_small_segments_go_to_torch_and_the_report_says_so"),
    "torch_executed_ops": Proof("graph", "test_api.py::test_what_is_forced_to_torch_stays_there"),
    "fused_ops": Proof("graph", "plugins/codegen/test_fuse.py::test_the_report_says_so"),
    "torch_executed_modules": Proof("graph", "test_api.py::test_what_is_forced_to_torch_stays_there"),
    "require_full_compilation": Proof(
        "error", "engine/test_isolation.py::test_a_crash_of_tensorrt_is_an_error_when_asked"
    ),
    "pass_through_build_failures": Proof(
        "error", "engine/test_isolation.py::test_a_crashing_converter_is_an_error_when_asked"
    ),
    "use_fast_partitioner": Proof("graph", "partition/test_fewest.py::test_as_a_setting"),
    "partitioner": Proof("behaviour", "test_settings_effects.py::test_a_partitioner_by_name"),
    "max_segment_size": Proof("graph", "test_graph_edges.py::test_max_segment_size_splits"),
    "max_quarantine_builds": Proof(
        "behaviour", "engine/test_quarantine.py::test_the_limit_gives_the_whole_segment_to_torch"
    ),
    "enable_experimental_decompositions": Proof("graph", _PRECISION + "test_all_core_decompositions"),
    "decompose_attention": Proof(
        "network", "converters/test_decomposed_attention.py::test_the_setting_leaves_it_apart"
    ),
    "use_complex_decomposition": Proof(
        "graph", "converters/test_complex.py::test_the_setting_leaves_them_complex"
    ),
    "assume_dynamic_shape_support": Proof("graph", "packs/test_registry.py::test_dynamic_shapes"),
    "fallback_data_dependent_ops": Proof(
        "graph", "test_settings_effects.py::test_data_dependent_ops_stay_in_torch_if_asked"
    ),
    "converters": Proof("network", "test_settings_effects.py::test_a_converter_of_the_call"),
    "pins": Proof("graph", "packs/test_registry.py::test_a_pin_names_pack_distribution_or_converter"),
    "disabled_packs": Proof("behaviour", "packs/test_pack_loading.py::test_a_blocked_pack_is_not_imported"),
    "disabled_passes": Proof("graph", "test_api.py::test_passes_can_be_turned_off"),
    "device": Proof("plan", "test_settings_effects.py::test_the_device_is_in_the_plans_manifest"),
    "backend": Proof("error", "test_settings_effects.py::test_a_backend_or_a_runtime_that_is_not_there"),
    "runtime": Proof("error", "test_settings_effects.py::test_a_backend_or_a_runtime_that_is_not_there"),
    "use_python_runtime": Proof(
        "error", "test_settings.py::test_use_python_runtime_false_names_the_alternative"
    ),
    "workspace_size": Proof(
        "plan", "engine/test_config.py::test_a_workspace_too_small_is_the_builders_error"
    ),
    "dla_sram_size": Proof("error", _REFUSED),
    "dla_local_dram_size": Proof("error", _REFUSED),
    "dla_global_dram_size": Proof("error", _REFUSED),
    "max_aux_streams": Proof("call", _CONFIG),
    "optimization_level": Proof("call", _CONFIG),
    "num_avg_timing_iters": Proof("call", _CONFIG),
    "tiling_optimization_level": Proof("call", _CONFIG),
    "l2_limit_for_tiling": Proof("call", _CONFIG),
    "sparse_weights": Proof("call", _CONFIG),
    "version_compatible": Proof("error", _REFUSED),
    "hardware_compatible": Proof("error", _REFUSED),
    "engine_capability": Proof("error", _REFUSED),
    "profiling_verbosity": Proof("call", _CONFIG),
    "timing_cache_path": Proof(
        "calls", "engine/test_timing.py::test_what_another_process_measured_meanwhile_is_kept"
    ),
    "cache_built_engines": Proof("file", "engine/test_cache.py::test_each_half_by_itself"),
    "reuse_cached_engines": Proof("behaviour", "engine/test_cache.py::test_each_half_by_itself"),
    "engine_cache_dir": Proof("file", "engine/test_cache.py::test_an_engine_is_built_once"),
    "engine_cache_size": Proof("file", "engine/test_cache.py::test_an_engine_larger_than_the_cache_is_told"),
    "custom_engine_cache": Proof("behaviour", "engine/test_cache.py::test_a_custom_cache"),
    "engine_cache_key": Proof("file", "engine/test_cache.py::test_a_key_makes_what_others_wrote_invisible"),
    "immutable_weights": Proof(
        "error", "test_refit.py::test_tensorrt_rtx_without_a_driver_builds_no_refittable_plan"
    ),
    "strip_engine_weights": Proof("call", "test_refit.py::test_the_flags_on_the_real_builder_config"),
    "refit_identical_engine_weights": Proof(
        "call", "test_refit.py::test_the_flags_on_the_real_builder_config"
    ),
    "enable_weight_streaming": Proof("call", _CONFIG),
    "enable_cross_compile_for_windows": Proof(
        "error", "archive/test_windows.py::test_enable_cross_compile_for_windows_is_tensorrts_own_error"
    ),
    "use_distributed_mode_trace": Proof(
        "behaviour", "jit/test_distributed.py::test_a_plain_model_goes_the_same_way"
    ),
    "lazy_engine_init": Proof(
        "behaviour", "test_memory_settings.py::test_native_engines_are_opened_by_the_compile_unless_lazy"
    ),
    "offload_module_to_cpu": Proof(
        "behaviour", "test_memory_settings.py::test_the_models_weights_leave_the_gpu_before_engines_are_built"
    ),
    "enable_resource_partitioning": Proof(
        "graph", "test_memory_settings.py::test_segments_are_cut_so_that_their_weights_fit"
    ),
    "cpu_memory_budget": Proof(
        "graph", "test_memory_settings.py::test_segments_are_cut_so_that_their_weights_fit"
    ),
    "dynamically_allocate_resources": Proof(
        "behaviour", "test_memory_settings.py::test_what_a_call_needs_is_given_up_after_it"
    ),
    "dryrun": Proof("behaviour", "test_api.py::test_a_dry_run_converts_and_builds_nothing"),
    "build_executor": Proof(
        "behaviour", "engine/test_executor.py::test_every_segment_is_built_by_the_executor"
    ),
    "build_isolation": Proof("behaviour", "engine/test_isolation.py::test_several_segments_in_one_child"),
}

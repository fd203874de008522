"""make_config: every builder setting reaches the real IBuilderConfig, or is refused with TensorRT's words."""

from __future__ import annotations

import pytest

from trtcore.backend.base import Target
from trtcore.engine.build import build_plan
from trtcore.engine.config import _APPLY, _NEEDS, check_settings
from trtcore.errors import SettingsError
from trtcore.settings import CompilationSettings

MIB = 1 << 20


def flag(name):
    return lambda trt, config: config.get_flag(getattr(trt.BuilderFlag, name))


def pool(name):
    return lambda trt, config: config.get_memory_pool_limit(getattr(trt.MemoryPoolType, name))


def attribute(name):
    return lambda trt, config: getattr(config, name)


def plain(value):
    return getattr(value, "name", value)


# setting, how to read it back, what is read at the default, values, what is read then
CASES = [
    ("disable_tf32", flag("TF32"), True, {True: False}),
    ("sparse_weights", flag("SPARSE_WEIGHTS"), False, {True: True}),
    ("optimization_level", attribute("builder_optimization_level"), 3, {0: 0, 5: 5}),
    ("num_avg_timing_iters", attribute("avg_timing_iterations"), 1, {4: 4}),
    ("max_aux_streams", attribute("max_aux_streams"), -1, {0: 0}),
    ("tiling_optimization_level", attribute("tiling_optimization_level"), "NONE",
     {"full": "FULL", "fast": "FAST"}),
    ("l2_limit_for_tiling", attribute("l2_limit_for_tiling"), 0, {4 * MIB: 4 * MIB}),
    ("engine_capability", attribute("engine_capability"), "STANDARD", {"standard": "STANDARD"}),
    ("profiling_verbosity", attribute("profiling_verbosity"), "LAYER_NAMES_ONLY",
     {"detailed": "DETAILED", "none": "NONE"}),
    ("workspace_size", pool("WORKSPACE"), None, {0: None, 64 * MIB: 64 * MIB}),
    ("enable_weight_streaming", flag("WEIGHT_STREAMING"), False, {True: True}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "read", "default", "values"), CASES, ids=[case[0] for case in CASES])
def test_a_setting_reaches_the_builder_config(made, name, read, default, values):
    trt = made.backend.trt
    assert default is None or plain(read(trt, made.config())) == default
    for value, expected in values.items():
        found = plain(read(trt, made.config(**{name: value})))
        assert found == (
            expected if expected is not None else read(trt, made.builder.create_builder_config())
        )


def test_a_built_engine_with_all_of_them(made):
    config = made.config(
        disable_tf32=True,
        sparse_weights=True,
        optimization_level=1,
        num_avg_timing_iters=2,
        max_aux_streams=0,
        tiling_optimization_level="fast",
        l2_limit_for_tiling=MIB,
        profiling_verbosity="detailed",
        workspace_size=256 * MIB,
    )
    assert build_plan(made.backend, made.builder, made.network, config, made.logger).numel() > 100


def test_a_workspace_too_small_is_the_builders_error(made):
    """The limit acts: TensorRT finds no kernel within it."""
    from trtcore.errors import EngineBuildError

    config = made.config(workspace_size=MIB)
    with pytest.raises(EngineBuildError, match="workspace limit"):
        build_plan(made.backend, made.builder, made.network, config, made.logger)


# what TensorRT-RTX on a machine without a GPU lacks, refuses or ignores, with a piece of its message
REFUSED = [
    ("version_compatible", True, "libnvinfer_lean"),
    ("hardware_compatible", True, "unsupported in TensorRT-RTX"),
    ("engine_capability", "safety", "Could not find any implementation"),
    ("engine_capability", "dla_standalone", "without DLA"),
    ("dla_sram_size", 2 * MIB, "DLA disabled"),
    ("dla_sram_size", MIB, "DLA disabled"),  # the default value: the user set it
    ("dla_local_dram_size", 2 * MIB, "DLA disabled"),
    ("dla_global_dram_size", 2 * MIB, "DLA disabled"),
    ("immutable_weights", False, "CUDA"),  # no driver, or none for its GPU
    ("strip_engine_weights", True, "CUDA"),
    ("refit_identical_engine_weights", True, "CUDA"),
]
NEED = {
    name: {"immutable_weights": False, "runtime": "reference"}
    for name in ("strip_engine_weights", "refit_identical_engine_weights")
}


@pytest.mark.parametrize(("name", "value", "message"), REFUSED)
def test_what_the_backend_would_refuse_or_ignore_is_an_error(made, name, value, message):
    with pytest.raises(SettingsError, match=message) as caught:
        made.config(**{name: value, **NEED.get(name, {})})
    assert f"{name}={value!r} cannot be done by tensorrt_rtx" in str(caught.value)
    assert caught.value.tensorrt


def test_helper_streams_are_refused_where_tensorrt_disables_them(made):
    capability = made.backend.can("max_aux_streams", Target())
    if capability.ok:
        assert made.config(max_aux_streams=3).max_aux_streams == 3
    else:
        assert "Multi stream is disabled" in capability.message
        with pytest.raises(SettingsError, match="Multi stream is disabled"):
            made.config(max_aux_streams=3)


def test_settings_at_rest_ask_nothing_of_the_backend(backend):
    check_settings(backend, CompilationSettings(), Target())
    check_settings(
        backend,
        CompilationSettings(
            version_compatible=False,
            hardware_compatible=False,
            max_aux_streams=0,
            engine_capability="standard",
        ),
        Target(),
    )


def test_every_builder_setting_is_a_setting():
    names = {item.name for item in CompilationSettings.describe()}
    assert set(_APPLY) <= names
    assert set(_NEEDS) - {"timing_cache_path"} <= set(_APPLY)  # tests/engine/test_timing.py
    tested = {case[0] for case in CASES} | {case[0] for case in REFUSED}
    assert tested | {"enable_cross_compile_for_windows"} == set(_APPLY)  # tests/archive/test_windows.py


@pytest.mark.parametrize("capability", [(8, 6), (8, 9), (12, 0)])
def test_the_target_reaches_the_builder_config(made, capability):
    config = made.config(target=Target(capability))
    assert config.num_compute_capabilities == 1
    assert config.get_compute_capability(0).name == f"SM{capability[0]}{capability[1]}"
    assert build_plan(made.backend, made.builder, made.network, config, made.logger).numel() > 100


def test_another_target_is_another_plan(made):
    """Plans for two GPUs differ in more than the one byte that rebuilds differ in."""
    plans = []
    for capability in ((8, 0), (12, 0)):
        config = made.config(target=Target(capability))
        plans.append(build_plan(made.backend, made.builder, made.network, config, made.logger))
    a, b = plans
    assert a.numel() != b.numel() or int((a != b).sum()) > 8


def test_a_target_the_backend_does_not_know_is_refused(made):
    with pytest.raises(SettingsError, match=r"cannot build for compute capability 9\.0"):
        made.config(target=Target((9, 0)))


def test_a_setting_that_tensorrt_drops_is_an_error(made, monkeypatch):
    """Whatever the reason: what is read back is not what was set."""

    class Config:
        def __init__(self, config):
            object.__setattr__(self, "config", config)

        def __getattr__(self, name):
            return getattr(self.config, name)

        def __setattr__(self, name, value):
            if name != "builder_optimization_level":
                setattr(self.config, name, value)

    class Builder:
        def create_builder_config(self):
            return Config(made.builder.create_builder_config())

    from trtcore.engine.config import make_config

    settings = CompilationSettings(optimization_level=5)
    with pytest.raises(SettingsError, match=r"optimization_level=5 is refused.*is 3 after setting it to 5"):
        make_config(made.backend, Builder(), settings, Target(), made.logger)

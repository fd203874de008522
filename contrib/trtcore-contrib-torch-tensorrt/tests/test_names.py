"""Every public name of the other project works, or tells what to use: walked from the list that is in the docs."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import types
from typing import Any

import pytest
import torch
import trtcore_contrib_torch_tensorrt as torch_tensorrt
from trtcore_contrib_torch_tensorrt import NotHereError
from trtcore_contrib_torch_tensorrt._old_paths import OLD_PATHS
from trtcore_contrib_torch_tensorrt._told import Told
from trtcore_contrib_torch_tensorrt.names import BY_NAME, HELPERS, NAMES, TELLS, TOLD, WORKS

import trtcore

FUSED = "dynamo.lowering.passes.fuse_distributed_ops"
X = torch.ones(1)


def found(name: str) -> Any:
    """What a name is here, by attributes and, as `import` does, by modules."""
    value: Any = torch_tensorrt
    path = torch_tensorrt.__name__
    for part in name.split("."):
        path = f"{path}.{part}"
        try:
            value = getattr(value, part)
        except AttributeError:
            value = importlib.import_module(path)
    return value


def names(status: str) -> list[str]:
    return [row.name for row in NAMES if row.status == status]


def test_the_list_is_whole() -> None:
    assert len(NAMES) == len(BY_NAME) > 250
    assert {row.status for row in NAMES} == {WORKS, TELLS, TOLD}
    assert all(row.new for row in NAMES)
    assert all(row.why for row in NAMES if row.status != WORKS)


@pytest.mark.parametrize("name", names(WORKS))
def test_a_name_that_works_is_there(name: str) -> None:
    assert not isinstance(found(name), Told)


@pytest.mark.parametrize("name", names(TOLD))
def test_a_name_that_is_not_here_can_be_imported_and_tells_when_it_is_used(name: str) -> None:
    value = found(name)
    assert isinstance(value, Told)
    for use in (
        lambda: value(1, a=2),
        lambda: value.anything,
        lambda: value["a"],
        lambda: list(value),
        lambda: types.new_class("Sub", (value,)),
        lambda: value.__enter__(),
    ):
        with pytest.raises(NotHereError) as told:
            use()
        assert f"torch_tensorrt.{name} is not here: {BY_NAME[name].why}" in str(told.value)
        assert f"what to do: {BY_NAME[name].new}" in str(told.value)
    assert name in repr(value)


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("runtime.set_cudagraphs_mode", lambda f: f(True)),
        ("runtime.set_runtime_backend", lambda f: f("cpp")),
        ("dynamo.conversion._ConverterRegistry.ConverterRegistry", lambda f: f([{}])),
        *(
            (f"dynamo._engine_cache.BaseEngineCache.{name}", lambda f: f(b""))
            for name in ("get_hash", "pack", "unpack")
        ),
        *(
            (f"{FUSED}.tensorrt_fused_nccl_{name}_op", lambda f: f(X, *range(f.__code__.co_argcount - 1)))
            for name in ("all_gather", "all_reduce", "all_to_all", "gather", "reduce_scatter", "scatter")
        ),
        ("_features.needs_cross_compile", lambda f: f(lambda: 1)()),
        ("_features.needs_torch_tensorrt_runtime", lambda f: f(lambda: 1)()),
        ("_features.needs_trtllm_for_nccl", lambda f: f(lambda: 1)()),
    ],
)
def test_a_name_that_tells(name: str, use: Any) -> None:
    assert BY_NAME[name].status == TELLS
    with pytest.raises(NotHereError) as told:
        use(found(name))
    assert "what to do: " in str(told.value)


def test_every_name_that_tells_is_tested() -> None:
    (mark,) = [mark for mark in test_a_name_that_tells.pytestmark if mark.name == "parametrize"]
    assert {row[0] for row in mark.args[1]} == set(names(TELLS))


def test_a_name_that_nobody_knows_is_an_attribute_error_with_the_nearest() -> None:
    with pytest.raises(AttributeError, match=r"did you mean runtime\.enable_cudagraphs"):
        torch_tensorrt.runtime.enable_cudagraph  # noqa: B018
    assert not hasattr(torch_tensorrt, "no_such_name")


@pytest.mark.parametrize("name", HELPERS)
def test_a_helper_has_its_parameters(name: str) -> None:
    value = found(name)
    assert found(f"dynamo.conversion.{name}") is value
    if inspect.isfunction(value):
        assert tuple(inspect.signature(value).parameters) == HELPERS[name]
        assert value.__doc__


@pytest.mark.parametrize(
    ("old", "home"),
    [(f"{package}.{old}", home) for package, paths in OLD_PATHS.items() for old, home in paths.items()],
)
def test_an_old_module_is_its_home(old: str, home: str) -> None:
    module = importlib.import_module(f"trtcore_contrib_torch_tensorrt.{old}")
    assert module is importlib.import_module(f"trtcore_contrib_torch_tensorrt.{home}")
    assert module.__name__ == f"trtcore_contrib_torch_tensorrt.{home}"
    assert found(old) is module


def test_every_helper_is_in_the_list() -> None:
    impl, utils = torch_tensorrt.impl, torch_tensorrt.converter_utils
    there = {f"impl.{home}.{name}" for home in impl.__all__ for name in getattr(impl, home).__all__}
    assert there | {f"converter_utils.{name}" for name in utils.__all__} == set(HELPERS)


FAMILIES = (
    "activation", "addmm", "arange", "attention", "cast", "cat", "condition", "conv", "deconv", "elementwise",
    "embedding", "embedding_bag", "full", "grid", "linalg", "linear", "matmul", "nccl_ops", "normalization", "pad",
    "permutation", "pool", "prelu", "quantize", "reduce", "select", "shape", "shuffle", "slice", "split", "squeeze",
    "topk", "unary", "unsqueeze", "upsample",
)  # fmt: skip


def test_old_paths_of_helpers_import() -> None:
    assert set(FAMILIES) <= set(torch_tensorrt.impl.__all__)
    home = "trtcore_contrib_torch_tensorrt.dynamo.conversion.impl"
    for family in FAMILIES:
        assert importlib.import_module(f"{home}.{family}") is getattr(torch_tensorrt.impl, family)
    for old in ("elementwise.base", "unary.base", "slice.ops", "normalization.ops", "activation.ops"):
        assert importlib.import_module(f"{home}.{old}") is getattr(torch_tensorrt.impl, old.partition(".")[0])


# Settings -----------------------------------------------------------------------------------------------

SETTINGS = torch_tensorrt._defaults.DEFAULTS


def test_there_are_51_settings_and_every_one_has_a_default_and_goes_to_trtcore() -> None:
    assert len(SETTINGS) == 51
    ours = {doc.name for doc in trtcore.CompilationSettings.describe()}
    assert set(SETTINGS) - ours <= {"attn_bias_is_causal"}
    made = torch_tensorrt.dynamo.CompilationSettings()
    for name, value in SETTINGS.items():
        assert getattr(made, name) == value, name


@pytest.mark.parametrize(
    "name", sorted(set(SETTINGS) - {"device", "timing_cache_path", "enabled_precisions"})
)
def test_a_settings_default_is_taken(name: str) -> None:
    given = torch_tensorrt._settings.as_settings({name: SETTINGS[name]})
    trtcore.CompilationSettings.from_kwargs(**given)


OTHERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "enabled_precisions": (
        {torch_tensorrt.dtype.half, torch.float32},
        {"enabled_precisions", "use_explicit_typing"},
    ),
    "precision": (torch.float16, {"enabled_precisions", "use_explicit_typing"}),
    "engine_capability": (torch_tensorrt.EngineCapability.DLA_STANDALONE, {"engine_capability"}),
    "use_python_runtime": (False, set()),
    "attn_bias_is_causal": (False, set()),
    "torch_executed_ops": ({torch.ops.aten.relu.default}, {"torch_executed_ops"}),
    "make_refitable": (False, {"immutable_weights"}),
    "truncate_long_and_double": (True, {"truncate_double"}),
    "use_strong_types": (True, {"use_explicit_typing"}),
    "min_block_size": (3, {"min_block_size"}),
    "device": ("sm_89", {"device"}),
    "cache_built_engines": (True, {"cache_built_engines", "engine_cache_dir", "engine_cache_size"}),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", OTHERS)
def test_a_setting_by_its_old_name(name: str) -> None:
    value, changed = OTHERS[name]
    given = torch_tensorrt._settings.as_settings({name: value})
    made = trtcore.CompilationSettings.from_kwargs(**given)
    assert set(made.explicit) == set(changed)


def test_lower_precisions_mean_autocast_unless_typing_is_asked_to_be_explicit() -> None:
    made = trtcore.CompilationSettings.from_kwargs(
        **torch_tensorrt._settings.as_settings({"enabled_precisions": {torch.half}})
    )
    assert made.autocast_dtype is torch.float16
    explicit = {"enabled_precisions": {torch.half}, "use_explicit_typing": True}
    with pytest.raises(trtcore.errors.SettingsError, match="use_explicit_typing"):
        trtcore.CompilationSettings.from_kwargs(**torch_tensorrt._settings.as_settings(explicit))


def test_autocast_by_its_old_names() -> None:
    given = {"enable_autocast": True, "autocast_low_precision_type": torch_tensorrt.dtype.bf16}
    made = trtcore.CompilationSettings.from_kwargs(**torch_tensorrt._settings.as_settings(given))
    assert made.autocast_dtype is torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_weights_that_change_need_no_plan_for_it_without_a_gpu() -> None:
    with pytest.warns(UserWarning, match="without which TensorRT builds no plan"):
        assert torch_tensorrt._settings.as_settings({"immutable_weights": False}) == {}
    native = {"immutable_weights": False, "runtime": "native"}
    assert torch_tensorrt._settings.as_settings(native) == native


def test_settings_objects_have_old_names_alone() -> None:
    with pytest.raises(trtcore.errors.SettingsError, match="did you mean min_block_size"):
        torch_tensorrt.dynamo.CompilationSettings(min_block_sizes=3)
    settings = torch_tensorrt.dynamo.CompilationSettings(min_block_size=3)
    settings.optimization_level = 2
    assert settings.changed() == {"min_block_size": 3, "optimization_level": 2}


def test_a_value_that_is_not_here_tells() -> None:
    with pytest.raises(NotHereError, match="weight_streaming_budget=3 is not here"):
        torch_tensorrt._settings.as_settings({"weight_streaming_budget": 3})


# dtype, Device, Input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "of_torch", [torch.float32, torch.float16, torch.int64, torch.bool, torch.uint8, torch.bfloat16]
)
def test_dtypes_go_to_and_fro(of_torch: torch.dtype) -> None:
    import numpy as np

    made = torch_tensorrt.dtype._from(of_torch)
    assert made.to(torch.dtype) is of_torch
    assert torch_tensorrt.dtype._from(made.to(torch_tensorrt.trt.DataType)) is made
    if of_torch is not torch.bfloat16:  # which NumPy has not
        assert torch_tensorrt.dtype._from(made.to(np.dtype)) is made
        assert torch_tensorrt.dtype._from(made.to(np.dtype).type) is made
    else:
        with pytest.raises(TypeError):
            made.to(np.dtype)
        assert made.to(np.dtype, use_default=True) == np.float32
    assert torch_tensorrt.dtype.half is torch_tensorrt.dtype.f16
    with pytest.raises(TypeError, match="no dtype of"):
        torch_tensorrt.dtype._from("nonsense!")


def test_memory_formats_and_capabilities() -> None:
    fmt, trt = torch_tensorrt.memory_format, torch_tensorrt.trt
    assert fmt._from(torch.channels_last) is fmt.hwc is fmt.channels_last
    assert fmt.hwc.to(torch.memory_format) is torch.channels_last
    assert fmt.linear.to(trt.TensorFormat) == trt.TensorFormat.LINEAR
    capability = torch_tensorrt.EngineCapability
    assert capability._from(trt.EngineCapability.STANDARD) is capability.STANDARD
    assert capability.SAFETY.to(trt.EngineCapability) == trt.EngineCapability.SAFETY
    assert torch_tensorrt.DeviceType.GPU.to(trt.DeviceType) == trt.DeviceType.GPU
    assert torch_tensorrt.Platform.current_platform() in torch_tensorrt.Platform


def test_devices() -> None:
    device = torch_tensorrt.Device
    assert device("cuda:1").gpu_id == device(gpu_id=1).gpu_id == device(torch.device("cuda", 1)).gpu_id == 1
    dla = device("dla:1", gpu_id=0, allow_gpu_fallback=True)
    assert (dla.device_type, dla.dla_core) == (torch_tensorrt.DeviceType.DLA, 1)
    assert device("cuda:1").to(torch.device) == torch.device("cuda:1")
    with pytest.raises(trtcore.errors.InputError, match="is no device"):
        device("tpu")
    with pytest.raises(trtcore.errors.SettingsError, match="takes GPUs"):
        torch_tensorrt._settings.as_settings({"device": dla})


def test_inputs() -> None:
    make = torch_tensorrt.Input
    assert make((1, 3)).as_trtcore() == make(shape=[1, 3]).as_trtcore() == trtcore.Input((1, 3))
    ranged = make(
        min_shape=(1, 8), opt_shape=(2, 8), max_shape=(4, 8), dtype=torch_tensorrt.dtype.half, name="x"
    )
    assert ranged.as_trtcore().max_shape == (4, 8)
    assert ranged.as_trtcore().dtype is torch.float16
    assert ranged.shape == {"min_shape": (1, 8), "opt_shape": (2, 8), "max_shape": (4, 8)}
    assert ranged.example_tensor("max_shape").shape == (4, 8)
    with pytest.raises(trtcore.errors.InputError, match="example_tensor"):
        ranged.example_tensor()
    domain = make((64,), tensor_domain=(3, 4)).example_tensor()
    assert bool(((domain >= 3) & (domain < 4)).all())
    image = torch.randn(1, 3, 4, 4).to(memory_format=torch.channels_last)
    assert make.from_tensor(image).format is torch_tensorrt.memory_format.channels_last
    assert [one.shape for one in make.from_tensors([image, image])] == [(1, 3, 4, 4)] * 2
    with pytest.raises(NotHereError, match="is_shape_tensor"):
        make((2,), is_shape_tensor=True)
    with pytest.raises(trtcore.errors.InputError):
        make(1, 3, 224, 224)


# The backend's names ------------------------------------------------------------------------------------

CHECK = """
import sys
import trtcore_contrib_torch_tensorrt
assert "torch._dynamo" not in sys.modules, "Dynamo takes seconds to import"
import torch
from torch._dynamo.backends.registry import list_backends, lookup_backend
assert {"torch_tensorrt", "tensorrt"} <= set(list_backends())
assert lookup_backend("tensorrt").__module__.startswith("trtcore_contrib_torch_tensorrt")
"""


@pytest.mark.slow
def test_the_backends_names_are_entered_when_dynamo_comes() -> None:
    run = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr

"""Targets, data types, and which backend `resolve_backend` takes."""

from __future__ import annotations

import copy

import pytest
import torch

from trtcore.backend import base
from trtcore.backend.base import Availability, Capability, Target, host_platform, resolve_backend
from trtcore.errors import BackendUnavailableError, ConversionError, SettingsError
from trtcore.settings import CompilationSettings
from trtcore_backends.pack import backends
from trtcore_backends.probed import ProbedBackend
from trtcore_backends.tensorrt import TensorRTBackend
from trtcore_backends.tensorrt_rtx import RtxBackend


class Fake(ProbedBackend):
    """A backend that loads, or does not."""

    def __init__(self, name, reason="", fix=""):
        super().__init__()
        self.name = name
        self.reason, self.fix = reason, fix

    def _load(self):
        if self.reason:
            raise BackendUnavailableError(self.reason, advice=self.fix)
        return object()

    def distributions(self):
        return (("fake", "1.0"),)

    def compute_capabilities(self):
        return ((8, 9),)

    def native_runtime(self):
        return Capability(False, "fake")


@pytest.fixture(scope="module")
def rtx():
    return RtxBackend()


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU")


# -- resolve_backend ---------------------------------------------------------------------------------------


def test_auto_takes_rtx_without_a_gpu(no_gpu):
    fakes = [Fake("tensorrt"), Fake("tensorrt_rtx")]
    assert resolve_backend("auto", fakes).name == "tensorrt_rtx"


def test_auto_takes_tensorrt_with_a_gpu(a_gpu):
    fakes = [Fake("tensorrt_rtx"), Fake("tensorrt")]
    assert resolve_backend("auto", fakes).name == "tensorrt"


def test_auto_takes_rtx_where_tensorrt_does_not_load(a_gpu):
    fakes = [Fake("tensorrt", "no libraries", "pip install tensorrt"), Fake("tensorrt_rtx")]
    assert resolve_backend("auto", fakes).name == "tensorrt_rtx"


def test_auto_takes_a_packs_own_backend_last(no_gpu):
    fakes = [Fake("mine"), Fake("tensorrt_rtx", "broken", "fix it")]
    assert resolve_backend("auto", fakes).name == "mine"


def test_auto_lists_every_reason_and_command(no_gpu):
    fakes = [
        Fake("tensorrt", "no tensorrt here", "pip install tensorrt"),
        Fake("tensorrt_rtx", "no rtx here", "pip install tensorrt-rtx"),
    ]
    with pytest.raises(BackendUnavailableError) as caught:
        resolve_backend("auto", fakes)
    text = str(caught.value)
    for part in ("no tensorrt here", "no rtx here", "pip install tensorrt-rtx", "pip install tensorrt or"):
        assert part in text


def test_auto_says_why_tensorrt_cannot_build_without_a_gpu(no_gpu):
    with pytest.raises(BackendUnavailableError, match="builds on a GPU only"):
        resolve_backend("auto", [Fake("tensorrt")])


def test_with_no_backend_at_all_the_pack_is_named():
    with pytest.raises(BackendUnavailableError, match="trtcore:backends"):
        resolve_backend("auto", [])


def test_a_backend_by_name():
    fakes = [Fake("a"), Fake("b", "broken", "pip install b")]
    assert resolve_backend("a", fakes).name == "a"
    with pytest.raises(BackendUnavailableError, match="'b' cannot be used here: broken") as caught:
        resolve_backend("b", fakes)
    assert "pip install b" in str(caught.value)
    with pytest.raises(SettingsError, match=r"'c' is not one of the backends.*a, b"):
        resolve_backend("c", fakes)


def test_availability_never_raises():
    class Broken(Fake):
        def _load(self):
            raise ZeroDivisionError("what")

    available = Broken("x").availability()
    assert not available
    assert "ZeroDivisionError" in available.reason
    assert Fake("y").availability() == Availability(True)


def test_choosing_a_backend_reads_no_packages_metadata():
    """There may be hundreds of packages, and a backend is chosen in every compile."""

    class Slow(Fake):
        def distributions(self):
            raise AssertionError("asked for the metadata")

    slow = Slow("x")
    assert resolve_backend("auto", [slow]) is slow
    assert resolve_backend("x", [slow]) is slow


def test_the_pack_gives_both_backends_always_the_same():
    assert [type(b) for b in backends()] == [TensorRTBackend, RtxBackend]
    assert [id(b) for b in backends()] == [id(b) for b in backends()]
    assert copy.deepcopy(backends()[0]) is backends()[0]


# -- targets -----------------------------------------------------------------------------------------------


def test_target_names():
    assert Target().name == "portable-linux_x86_64"
    assert Target((8, 9)).name == "sm_89-linux_x86_64"
    assert Target((12, 0), "windows_x86_64").name == "sm_120-windows_x86_64"
    assert hash(Target((8, 9))) == hash(Target((8, 9)))


def test_without_a_gpu_the_target_is_the_portable_default(rtx, no_gpu):
    assert rtx.default_target(CompilationSettings()) == Target(None, host_platform(), None)


def test_a_compute_capability_needs_no_gpu(rtx, no_gpu):
    assert rtx.default_target(CompilationSettings(device="sm_89")) == Target((8, 9), host_platform(), None)


def test_an_unknown_compute_capability_lists_the_known(rtx):
    with pytest.raises(SettingsError, match=r"cannot build for compute capability 9\.0") as caught:
        rtx.default_target(CompilationSettings(device="sm_90"))
    for name in ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120", "sm_121"):
        assert name in str(caught.value)


def test_a_gpu_that_is_not_there(rtx, no_gpu):
    with pytest.raises(SettingsError, match=r"settings\.device is 'cuda:0', but torch"):
        rtx.default_target(CompilationSettings(device="cuda:0"))


def test_with_a_gpu_the_target_is_that_gpu(rtx, a_gpu):
    target = rtx.default_target(CompilationSettings())
    assert (target.compute_capability, target.device) == ((8, 9), torch.device("cuda", 0))
    target = rtx.default_target(CompilationSettings(device="cuda:1"))
    assert target.device == torch.device("cuda", 1)
    with pytest.raises(SettingsError, match=r"has 2 GPU\(s\)"):
        rtx.default_target(CompilationSettings(device="cuda:2"))


def test_a_gpu_the_backend_cannot_build_for(rtx, a_gpu, monkeypatch):
    """An H200 is no RTX GPU: portable engines, and the native runtime says why they do not run here."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    target = rtx.default_target(CompilationSettings())
    assert (target.compute_capability, target.device) == (None, torch.device("cuda", 0))
    native = rtx.native_runtime()
    assert not native
    assert native.message == "TensorRT-RTX runs on compute capability 8.0, 8.6, 8.9 and 12.x; a GPU has 9.0"


@pytest.mark.parametrize(
    ("capability", "runs"),
    [((7, 5), False), ((8, 0), True), ((8, 6), True), ((8, 9), True), ((9, 0), False), ((10, 0), False),
     ((12, 0), True), ((12, 1), True)],
)  # fmt: skip
def test_where_rtx_engines_run(rtx, a_gpu, monkeypatch, capability, runs):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    assert rtx.native_runtime().ok == runs


def test_without_a_gpu_nothing_runs_natively(rtx, no_gpu):
    native = rtx.native_runtime()
    assert not native
    assert native.message == base.no_gpu_reason()
    assert "torch" in native.message


# -- data types --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.float32, "FLOAT"),
        (torch.float16, "HALF"),
        (torch.bfloat16, "BF16"),
        (torch.int8, "INT8"),
        (torch.uint8, "UINT8"),
        (torch.int32, "INT32"),
        (torch.int64, "INT64"),
        (torch.bool, "BOOL"),
        (torch.float8_e4m3fn, "FP8"),
    ],
)
def test_data_types(rtx, dtype, name):
    assert rtx.trt_dtype(dtype) == getattr(rtx.trt.DataType, name)
    assert rtx.torch_dtype(rtx.trt_dtype(dtype)) is dtype
    assert rtx.supports_dtype(dtype)


def test_every_data_type_of_the_bindings_has_a_torch_dtype(rtx):
    for member in rtx.trt.DataType.__members__.values():
        assert isinstance(rtx.torch_dtype(member), torch.dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.int16])
def test_what_tensorrt_has_no_data_type_for(rtx, dtype):
    assert not rtx.supports_dtype(dtype)
    with pytest.raises(ConversionError, match=f"no data type for {dtype}"):
        rtx.trt_dtype(dtype)


def test_what_is_no_data_type(rtx):
    with pytest.raises(ConversionError, match="no dtype"):
        rtx.torch_dtype("nothing")

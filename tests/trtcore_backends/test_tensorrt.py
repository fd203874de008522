"""TensorRT proper: what its absence says, and, where it is installed, that it builds."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from trtcore.backend.base import Target
from trtcore.errors import BackendUnavailableError, SettingsError
from trtcore_backends.tensorrt import TensorRTBackend


@pytest.fixture
def absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)


def fake(version, **attributes):
    module = ModuleType("tensorrt")
    module.__spec__ = object()
    if version is not None:
        module.__version__ = version
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def test_absent(absent):
    available = TensorRTBackend().availability()
    assert not available
    assert "`tensorrt` is not installed" in available.reason
    assert 'pip install "tensorrt>=10.3,<12" --extra-index-url https://pypi.nvidia.com' in available.fix


def test_absent_it_has_no_native_runtime(absent):
    native = TensorRTBackend().native_runtime()
    assert not native
    assert "not installed" in native.message


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (fake("9.2.0", Builder=object), r"tensorrt 9\.2\.0 is installed; trtcore works with"),
        (fake("12.0.0", Builder=object), r"tensorrt 12\.0\.0 is installed; trtcore works with"),
        (fake("10.3.0"), "is not NVIDIA's"),
        (fake(None, Builder=object), "is not NVIDIA's"),
    ],
)
def test_what_is_no_tensorrt_we_know(monkeypatch, module, reason):
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    with pytest.raises(BackendUnavailableError, match=reason) as caught:
        _ = TensorRTBackend().trt
    assert "pip install" in str(caught.value)


def test_bindings_without_libraries(monkeypatch, tmp_path):
    """The meta package is there, the libraries from NVIDIA's index are not."""
    (tmp_path / "tensorrt.py").write_text(
        "raise ImportError('libnvinfer.so.10: cannot open shared object file')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    available = TensorRTBackend().availability()
    assert not available
    assert "libnvinfer.so.10" in available.reason
    assert "pypi.nvidia.com" in available.fix


@pytest.mark.parametrize("version", ["10.3.0", "10.16.1.11", "11.4.0.106"])
def test_versions_that_fit(monkeypatch, version):
    monkeypatch.setitem(sys.modules, "tensorrt", fake(version, Builder=object))
    backend = TensorRTBackend()
    assert backend.availability().ok
    assert str(backend.version) == version
    assert backend.has_plugins


def test_it_builds_for_the_gpu_here_only(monkeypatch):
    """TensorRT's IBuilderConfig has no compute capabilities to set."""
    monkeypatch.setitem(sys.modules, "tensorrt", fake("10.3.0", Builder=object))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    backend = TensorRTBackend()
    assert backend.compute_capabilities() == ((9, 0),)
    assert backend.native_runtime().ok
    backend.set_target(object(), Target((9, 0)), logger=None)
    with pytest.raises(SettingsError, match="GPU of this machine only"):
        backend.set_target(object(), Target((8, 9)), logger=None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 0))
    assert "7.5 and more" in backend.native_runtime().message


@pytest.mark.tensorrt
@pytest.mark.gpu
def test_a_real_network_builds():
    backend = TensorRTBackend()
    for feature in ("layer:add_unary", "layer:add_matrix_multiply", "network:plugins", "flag:REFIT"):
        capability = backend.can(feature, Target())
        assert capability.ok, (feature, capability.message)

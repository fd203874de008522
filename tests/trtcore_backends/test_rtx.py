"""Finding TensorRT-RTX: what is there, what is missing, what does not fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

from trtcore.errors import BackendUnavailableError
from trtcore_backends import tensorrt_rtx as rtx
from trtcore_backends.tensorrt_rtx import RtxBackend


def test_it_loads_and_says_what_it_is_made_of():
    backend = RtxBackend()
    available = backend.availability()
    assert available.ok, available.reason
    names = {name.lower().replace("_", "-") for name, _ in backend.distributions()}
    assert "tensorrt-rtx-cu13-bindings" in names
    assert backend.version == Version(backend.trt.__version__)
    assert backend.trt is rtx.load()  # idempotent
    assert not backend.has_plugins


class _Installed:
    """A distribution whose metadata lies in a folder of this name."""

    version = "1.7.1"

    def __init__(self, folder, name):
        self._path, self.name, self.parsed = Path(folder), name, False

    @property
    def metadata(self):
        self.parsed = True
        return {"Name": self.name}


def test_the_metadata_of_other_distributions_is_not_parsed(monkeypatch):
    found = [
        _Installed("tensorrt_rtx_cu13_bindings-1.7.1.dist-info", "tensorrt_rtx_cu13_bindings"),
        _Installed("tensorrt_rtx.egg-info", "tensorrt-rtx"),
        _Installed(
            "onnxruntime_ep_nv_tensorrt_rtx_cu13-0.5.0.dist-info", "onnxruntime-ep-nv-tensorrt-rtx-cu13"
        ),
        _Installed("EGG-INFO", "tensorrt.rtx"),  # an egg's folder does not say
    ]
    others = [_Installed("torch-2.9.dist-info", "torch"), _Installed("tensorrt-10.3.dist-info", "tensorrt")]
    monkeypatch.setattr(rtx.importlib.metadata, "distributions", lambda: iter(found + others))
    assert {name for name, _ in RtxBackend().distributions()} == {one.name for one in found}
    assert not any(one.parsed for one in others)


def test_compute_capabilities_are_those_of_the_bindings():
    assert RtxBackend().compute_capabilities() == ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))


def test_making_a_backend_loads_nothing():
    code = (
        "import sys; from trtcore_backends.pack import backends; backends(); "
        "print([m for m in sys.modules if m.startswith(('tensorrt', 'onnxruntime'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_bindings():
    """A None in sys.modules is a module that is not installed."""
    code = (
        "import sys; sys.modules['tensorrt_rtx'] = sys.modules['tensorrt_rtx_bindings'] = None\n"
        "from trtcore_backends.tensorrt_rtx import RtxBackend\n"
        "a = RtxBackend().availability(); print(a.ok, a.reason, a.fix)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False the TensorRT-RTX bindings (tensorrt_rtx_bindings) are not installed")
    assert "pip install tensorrt-rtx-cu13-bindings==1.7.1.116" in done.stdout


def test_without_the_libraries(monkeypatch):
    monkeypatch.setattr(rtx, "_LIBRARY_PACKAGES", ("no_such_package",))
    with pytest.raises(BackendUnavailableError, match=r"the libraries are not.*no_such_package") as caught:
        rtx._load_pieces([])
    assert "pip install" in str(caught.value)
    assert "onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0" in str(caught.value)


def test_libraries_of_another_version(monkeypatch):
    monkeypatch.setattr(rtx, "_bindings_version", lambda: Version("1.8.0.5"))
    with pytest.raises(BackendUnavailableError, match=r"bindings are of version 1\.8\.0\.5, but.*1\.7\.1"):
        rtx._load_pieces([])


def test_a_library_that_does_not_load(monkeypatch, tmp_path):
    (tmp_path / "libtensorrt_rtx.so.1.7.1").write_bytes(b"\x7fELF" + b"x" * 5000)
    monkeypatch.setattr(rtx, "_LIBRARY_PACKAGES", ("broken",))
    monkeypatch.setattr(rtx, "_package_folder", lambda package: tmp_path)
    with pytest.raises(BackendUnavailableError, match=r"loading libtensorrt_rtx\.so\.1\.7\.1 raised"):
        rtx._load_pieces([])


def test_the_newest_library_of_a_folder(tmp_path):
    for name in ("libtensorrt_rtx.so.1.7.1", "libtensorrt_rtx.so.1.10.0", "libtensorrt_rtx.so.1"):
        (tmp_path / name).write_bytes(b"x" * 5000)
    (tmp_path / "libtensorrt_rtx.so.2.0.0").write_bytes(b"a text shim")
    found = rtx._library(tmp_path, "tensorrt_rtx")
    assert found is not None
    assert found.name == "libtensorrt_rtx.so.1.10.0"
    assert rtx._library_version(found) == Version("1.10.0")
    assert rtx._library(tmp_path, "tensorrt_onnxparser_rtx") is None


def test_bindings_that_raise(monkeypatch):
    def broken(name):
        raise RuntimeError("undefined symbol")

    monkeypatch.setattr(rtx.importlib, "import_module", broken)
    with pytest.raises(
        BackendUnavailableError, match=r"importing tensorrt_rtx_bindings raised.*undefined symbol"
    ):
        rtx._load_pieces([])


def test_a_damaged_module_is_said(monkeypatch):
    from types import ModuleType

    module = ModuleType("tensorrt_rtx")
    module.Builder = object
    monkeypatch.setattr(rtx, "load", lambda: module)
    available = RtxBackend().availability()
    assert not available
    assert "lacks INetworkDefinition" in available.reason

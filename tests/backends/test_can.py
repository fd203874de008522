"""Backend.can: real probes on TensorRT-RTX, and the file that keeps their answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest
import torch

from trtcore.backend.base import Capability, Target
from trtcore_backends.probes import _DTYPES, _FLAGS, _LAYERS, PROBES
from trtcore_backends.store import CapabilityStore, cache_directory
from trtcore_backends.tensorrt_rtx import RtxBackend, load

ANY, ADA, AMPERE = Target(), Target((8, 9)), Target((8, 6))


@pytest.fixture(scope="module")
def backend():
    return RtxBackend()


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A backend object and a cache of this test's own."""
    monkeypatch.setenv("TRTCORE_CACHE_DIR", str(tmp_path))
    return RtxBackend()


def files(folder):
    return sorted(p for p in (folder / "capabilities").glob("*.json"))


# -- the probes --------------------------------------------------------------------------------------------


def test_every_layer_method_of_the_network_has_a_probe():
    methods = {name for name in dir(load().INetworkDefinition) if name.startswith("add_")} - {"add_input"}
    assert methods <= set(_LAYERS)
    for method in _LAYERS:
        for dtype in _DTYPES:
            assert f"layer:{method}:{dtype}" in PROBES


def test_every_builder_flag_has_a_probe():
    assert set(load().BuilderFlag.__members__) <= set(_FLAGS)


# Measured on TensorRT-RTX 1.7.1, without a GPU: what builds though it might not be expected to ...
BUILDS = [
    "layer:add_activation",
    "layer:add_assertion",
    "layer:add_attention:float16",
    "layer:add_attention_v2:float16",
    "layer:add_attention_v2:bfloat16",
    "layer:add_attention_v2:decomposable",
    "layer:add_cumulative:int64",
    "layer:add_cumulative:float16",
    "layer:add_deconvolution_nd:strided",
    "layer:add_deconvolution_nd:dilated",
    "layer:add_dynamic_quantize",
    "layer:add_if_conditional",
    "layer:add_kv_cache_update",
    "layer:add_loop",
    "layer:add_normalization_v2",
    "layer:add_quantize:int8",
    "layer:add_rotary_embedding",
    "layer:add_topk:int64",
    "flag:SPARSE_WEIGHTS",
    "flag:WEIGHT_STREAMING",
]
# ... and what the API has and TensorRT refuses or ignores, with a piece of its message.
REFUSES = {
    "layer:add_attention_v2:float32": "Attention operation was",
    "layer:add_attention:float32": "Attention operation was",
    "layer:add_deconvolution_nd:strided_dilated": "Strided & Dilated Deconv",
    "layer:add_matrix_multiply:int32": "must have type",
    "layer:add_moe": "moe_lowering",
    "layer:add_nms": "has no runners",
    "layer:add_non_zero": "has no runners",
    "layer:add_quantize:zero_point": "zero_point",
    "layer:add_reduce:bool": "must have type",
    "flag:VERSION_COMPATIBLE": "libnvinfer_lean",
    "version_compatible": "libnvinfer_lean",
    "hardware_compatible": "unsupported in TensorRT-RTX",
    "timing_cache": "no-ops in TensorRT-RTX",
    "platform:WINDOWS": "does not support building engines on platforms other",
    "dla": "DLA disabled",
    "engine_capability:DLA_STANDALONE": "without DLA",
    "network:plugins": "has no INetworkDefinition.add_plugin_v3",
    "layer:add_plugin_v3": "has no INetworkDefinition.add_plugin_v3",
}


@pytest.mark.parametrize("feature", BUILDS)
def test_what_builds(backend, feature):
    assert backend.can(feature, ANY) == Capability(True, "")


@pytest.mark.parametrize(("feature", "message"), REFUSES.items())
def test_what_is_refused_says_why(backend, feature, message):
    capability = backend.can(feature, ANY)
    assert not capability
    assert message in capability.message
    assert "catchCudaError" not in capability.message


@pytest.mark.skipif(torch.cuda.is_available(), reason="refit needs a CUDA context, and there is one")
@pytest.mark.parametrize("flag", ["REFIT", "REFIT_IDENTICAL", "REFIT_INDIVIDUAL", "STRIP_PLAN"])
def test_refit_needs_a_gpu(backend, flag):
    capability = backend.can(f"flag:{flag}", ANY)
    assert not capability
    assert "CUDA_SUCCESS" in capability.message


def test_the_target_decides(backend):
    """fp8 is there from compute capability 8.9 on, fp32 matmuls from 8.0 on; wherever it is built."""
    assert backend.can("layer:add_quantize:fp8", ADA)
    assert not backend.can("layer:add_quantize:fp8", AMPERE)
    assert backend.can("layer:add_matrix_multiply", AMPERE)
    turing = backend.can("layer:add_matrix_multiply", Target((7, 5)))
    assert not turing
    assert "SM75" in turing.message


@pytest.mark.slow
def test_every_probe_gives_an_answer(backend):
    """An answer is TensorRT's: a refusal has its words, and no probe is broken Python."""
    for feature in backend.features():
        capability = backend.can(feature, ANY)
        assert capability.ok or capability.message, feature
        assert "Error: " not in capability.message.split("Error Code")[0], (feature, capability.message)


@pytest.mark.parametrize(
    "feature", ["layer:add_nonzero", "layer:add_unary:float99", "flag:NOTHING", "", "refit"]
)
def test_an_unknown_feature_lists_the_known(backend, feature):
    with pytest.raises(ValueError, match="there is no feature") as caught:
        backend.can(feature, ANY)
    assert "layer:add_non_zero" in str(caught.value)
    assert "hardware_compatible" in str(caught.value)


def test_a_layer_newer_than_the_probes_is_there_by_its_name(fresh, monkeypatch):
    class Network(fresh.trt.INetworkDefinition):
        def add_future(self):
            """Of a later version."""

    class Bindings:
        __name__ = "future"
        __version__ = "9.9"
        INetworkDefinition = Network

    fresh._trt = Bindings()
    assert fresh.can("layer:add_future", ANY).ok


# -- the file ----------------------------------------------------------------------------------------------


def test_answers_are_kept(fresh, tmp_path, monkeypatch):
    asked = []
    from trtcore_backends import probed

    real = probed.probe
    monkeypatch.setattr(probed, "probe", lambda *args: asked.append(args[1]) or real(*args))
    refused = fresh.can("layer:add_non_zero", ANY)
    assert fresh.can("layer:add_non_zero", ANY) == refused
    assert fresh.can("layer:add_unary", ANY).ok
    other = RtxBackend()  # as in another process
    assert other.can("layer:add_non_zero", ANY) == refused
    assert other.can("layer:add_unary", ANY).ok
    assert asked == ["layer:add_non_zero", "layer:add_unary"]
    (file,) = files(tmp_path)
    assert file.name.startswith("tensorrt_rtx-1.7.1.116-portable-linux_x86_64-")
    answers = json.loads(file.read_text())["answers"]
    assert answers["layer:add_unary"] == {"ok": True, "message": ""}
    assert "no runners" in answers["layer:add_non_zero"]["message"]


def test_each_target_has_a_file(fresh, tmp_path):
    fresh.can("layer:add_unary", ADA)
    fresh.can("layer:add_unary", ANY)
    assert [("sm_89" in p.name) for p in files(tmp_path)] == [False, True]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b'{"format": 1}',
        b'{"format": 1, "probes": "REVISION", "answers": [1]}',
        b'{"format": 1, "probes": "REVISION", "answers": {"layer:add_unary": {"ok": "yes", "message": ""}}}',
        b'{"format": 1, "probes": "REVISION", "answers": {"layer:add_unary": 1}}',
    ],
)
def test_a_damaged_file_is_rebuilt_with_a_warning(fresh, tmp_path, damage):
    from trtcore_backends.probes import revision

    fresh.can("layer:add_unary", ANY)
    (file,) = files(tmp_path)
    file.write_bytes(damage.replace(b"REVISION", revision().encode()))
    with pytest.warns(RuntimeWarning, match="is damaged.*it is rebuilt"):
        assert RtxBackend().can("layer:add_unary", ANY).ok
    assert json.loads(file.read_text())["answers"] == {"layer:add_unary": {"ok": True, "message": ""}}


def test_answers_of_other_probes_are_asked_again(fresh, tmp_path, recwarn):
    fresh.can("layer:add_unary", ANY)
    (file,) = files(tmp_path)
    document = json.loads(file.read_text())
    document["probes"] = "another"
    document["answers"]["layer:add_unary"] = {"ok": False, "message": "stale"}
    file.write_text(json.dumps(document))
    assert RtxBackend().can("layer:add_unary", ANY).ok
    assert not [w for w in recwarn if "damaged" in str(w.message)]


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRTCORE_CACHE_DIR", str(tmp_path / "file"))
    backend = RtxBackend()
    with pytest.warns(RuntimeWarning, match="TRTCORE_CACHE_DIR"):
        assert backend.can("layer:add_unary", ANY).ok
    assert backend.can("layer:add_identity", ANY).ok  # in memory, without another warning


def test_two_stores_merge(tmp_path):
    path = tmp_path / "a.json"
    first, second = CapabilityStore(path, "r"), CapabilityStore(path, "r")
    yes, no = Capability(True), Capability(False, "no")
    first.get("a", lambda: yes)
    second.get("a", lambda: pytest.fail("it is kept"))
    first.get("b", lambda: no)
    second.get("c", lambda: yes)
    assert set(json.loads(path.read_text())["answers"]) == {"a", "b", "c"}
    assert second.get("b", lambda: pytest.fail("it is kept")) == no
    assert [p.suffix for p in tmp_path.iterdir()].count(".tmp") == 0


def test_threads_share_a_store(tmp_path):
    path = tmp_path / "a.json"
    stores = [CapabilityStore(path, "r") for _ in range(4)]

    def work(number):
        for index in range(5):
            stores[number].get(f"{number}-{index}", lambda: Capability(True))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(json.loads(path.read_text())["answers"]) == 20


def test_processes_share_a_file(tmp_path):
    code = (
        "import sys; from trtcore_backends.store import CapabilityStore; "
        "from trtcore.backend.base import Capability; from pathlib import Path\n"
        "s = CapabilityStore(Path(sys.argv[1]), 'r')\n"
        "for i in range(5): s.get(f'{sys.argv[2]}-{i}', lambda: Capability(True))"
    )
    path = tmp_path / "a.json"
    running = [subprocess.Popen([sys.executable, "-c", code, str(path), str(n)]) for n in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    assert len(json.loads(path.read_text())["answers"]) == 10


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TRTCORE_CACHE_DIR", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("TRTCORE_CACHE_DIR")
    assert cache_directory().name == "trtcore"
    assert os.fspath(cache_directory()) != os.fspath(tmp_path)

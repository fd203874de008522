"""EngineArtifact: round trips, what other readers see, and files that are not what they should be."""

from __future__ import annotations

import json
import os
import struct
import uuid

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trtcore.artifact.engine_file import EngineArtifact
from trtcore.artifact.manifest import EngineManifest, TensorBinding
from trtcore.conversion.readback import take_snapshot
from trtcore.errors import ArtifactError
from trtcore_backends.tensorrt_rtx import RtxBackend


def make_manifest(**changes) -> EngineManifest:
    values = {
        "id": uuid.uuid4().hex,
        "name": "engine_0",
        "inputs": (TensorBinding("x", torch.float32, ("s0", 4), ((1, 4), (2, 4), (8, 4))),),
        "sizes": (),
        "outputs": (TensorBinding("y", torch.float32, ("s0", 4)),),
        "symbols": {"s0": ("input", 0, 0, 1, 0)},
        "backend": "tensorrt_rtx",
        "backend_version": "1.7.1.116",
        "target": {"compute_capability": None, "platform": "linux_x86_64"},
        "runtime": "reference",
        "packs": ({"distribution": "d", "version": "1", "name": "n", "role": "converter"},),
        "trtcore_version": "0.1.0",
        "torch_version": "2.13.0",
    }
    return EngineManifest(**{**values, **changes})


@pytest.fixture(scope="module")
def snapshot():
    """A matmul with a tied weight (used twice), a bias in half, a bool constant and a bf16 one."""
    backend = RtxBackend()
    trt = backend.trt
    builder = backend.make_builder(backend.make_logger())
    network = backend.create_network(builder)
    weight, half = torch.arange(16.0).reshape(4, 4), torch.ones(4, dtype=torch.float16)
    brain, mask = torch.full((4,), 1.5, dtype=torch.bfloat16), torch.tensor([True, False, True, True])
    constants = [weight, weight, half, brain, mask]
    none = trt.MatrixOperation.NONE
    x = network.add_input("x", trt.float32, (-1, 4))
    for tensor in constants:
        pointer = trt.Weights(backend.trt_dtype(tensor.dtype), tensor.data_ptr(), tensor.numel())
        layer = network.add_constant(tuple(tensor.shape), pointer)
        if tensor is weight:
            x = network.add_matrix_multiply(x, none, layer.get_output(0), none).get_output(0)
        else:
            network.mark_output(layer.get_output(0))
    network.mark_output(x)
    order = iter(constants)
    recorded: dict[int, torch.Tensor] = {}
    for index in range(network.num_layers):
        if network.get_layer(index).type == trt.LayerType.CONSTANT:
            recorded[index] = next(order)
    return take_snapshot(trt, network, lambda index, role: recorded.get(index))


@pytest.fixture
def artifact(snapshot):
    plan = torch.arange(1001, dtype=torch.int64).to(torch.uint8)  # an odd length: alignment matters
    return EngineArtifact(plan, make_manifest(), snapshot)


def constants_of(snapshot):
    return [tensor for layer in snapshot.layers for tensor in layer.constants.values()]


def test_round_trip_through_a_file(artifact, tmp_path):
    path = tmp_path / "a.engine"
    artifact.to_file(path)
    read = EngineArtifact.from_file(path)
    assert torch.equal(read.plan, artifact.plan)
    assert read.manifest == artifact.manifest
    assert read.snapshot is not None
    expected, got = constants_of(artifact.snapshot), constants_of(read.snapshot)
    assert len(expected) == len(got) == 5
    for a, b in zip(expected, got, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    assert got[0].data_ptr() == got[1].data_ptr()  # tied weights stay tied
    assert [layer.type for layer in read.snapshot.layers] == [
        layer.type for layer in artifact.snapshot.layers
    ]
    assert os.listdir(tmp_path) == ["a.engine"]


def test_round_trip_through_a_tensor(artifact):
    data = artifact.to_tensor()
    read = EngineArtifact.from_tensor(data)
    assert torch.equal(read.plan, artifact.plan)
    start, end = data.data_ptr(), data.data_ptr() + data.numel()
    assert start <= read.plan.data_ptr() < end  # a view, not a copy
    assert all(start <= c.data_ptr() < end for c in constants_of(read.snapshot))


def test_without_the_reference(artifact, tmp_path):
    artifact.to_file(tmp_path / "a.engine", reference=False)
    read = EngineArtifact.from_file(tmp_path / "a.engine")
    assert read.snapshot is None
    assert torch.equal(read.plan, artifact.plan)
    with safetensors.safe_open(tmp_path / "a.engine", "pt") as file:
        assert list(file.keys()) == ["plan"]


def test_other_readers_of_safetensors_can_read_it(artifact, tmp_path):
    path = tmp_path / "a.engine"
    artifact.to_file(path)
    tensors = safetensors.torch.load_file(path)
    assert torch.equal(tensors["plan"], artifact.plan)
    assert len(tensors) == 1 + 4  # the plan, and four storages
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["trtcore"] == "1"
    assert json.loads(metadata["manifest"])["name"] == "engine_0"
    assert b"\x80\x04" not in path.read_bytes()[:2000]


def test_what_safetensors_writes_can_be_read(artifact, tmp_path):
    path = tmp_path / "b.engine"
    metadata = {"trtcore": "1", "manifest": artifact.manifest.to_json()}
    safetensors.torch.save_file({"plan": artifact.plan}, path, metadata)
    assert torch.equal(EngineArtifact.from_file(path).plan, artifact.plan)


def test_dtypes_that_safetensors_has_no_name_for(artifact):
    class Holder:
        tensors = {"a": torch.arange(4, dtype=torch.uint8).view(torch.float8_e8m0fnu)}

        def to_json(self):
            return {"x": 1}, self.tensors

    from trtcore.artifact import engine_file as module

    data = EngineArtifact(artifact.plan, artifact.manifest, Holder()).to_tensor()
    metadata, tensors = module._parse(data)
    assert json.loads(metadata["dtypes"]) == {"snapshot.a": "float8_e8m0fnu"}
    assert tensors["snapshot.a"].tolist() == [0, 1, 2, 3]


def test_an_old_file_stays_when_writing_fails(artifact, tmp_path, monkeypatch):
    path = tmp_path / "a.engine"
    artifact.to_file(path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EngineArtifact, "_write", full)
    with pytest.raises(ArtifactError, match="No space left"):
        artifact.to_file(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.engine"]


def test_a_folder_that_is_not_there(artifact, tmp_path):
    with pytest.raises(ArtifactError, match="cannot be written"):
        artifact.to_file(tmp_path / "no" / "a.engine")
    with pytest.raises(ArtifactError, match="cannot be read"):
        EngineArtifact.from_file(tmp_path / "no.engine")


@pytest.mark.parametrize(
    "plan",
    [torch.zeros(4), torch.zeros(2, 2, dtype=torch.uint8), torch.empty(4, dtype=torch.uint8, device="meta")],
)
def test_a_plan_is_one_dimension_of_bytes(plan):
    with pytest.raises(ArtifactError, match="a plan must be"):
        EngineArtifact(plan, make_manifest())


def container(header: object, body: bytes = b"", length: int | None = None) -> torch.Tensor:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    data = struct.pack("<Q", len(text) if length is None else length) + text + body
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())


META = {"trtcore": "1", "manifest": make_manifest().to_json()}
PLAN = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}


def changed(**changes):
    return {"__metadata__": META, "plan": {**PLAN, **changes}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(3, dtype=torch.uint8), "not an engine file"),
        (torch.zeros(64, dtype=torch.uint8), "not an engine file"),
        (torch.full((64,), 255, dtype=torch.uint8), "not an engine file"),
        (container(b"\x80\x04pickle", b""), "not an engine file"),
        (container([1, 2]), "not an engine file"),
        (container({"plan": PLAN}, b"abcd"), "not an engine file"),
        (container({"__metadata__": {"a": "b"}, "plan": PLAN}, b"abcd"), "not an engine file"),
        (container({"__metadata__": META}), "not an engine file"),
        (container({"__metadata__": META, "plan": PLAN}, b"abc"), "truncated"),
        (container({"__metadata__": META, "plan": PLAN}, b"", length=10_000), "truncated"),
        (container({"__metadata__": META, "plan": PLAN}, b"abcde"), "1 bytes after"),
        (container(changed(data_offsets=[1, 5]), b"abcde"), "wrong place or size"),
        (container(changed(shape=[5]), b"abcd"), "wrong place or size"),
        (container(changed(shape=[2**40, 2**40]), b"abcd"), "wrong place or size"),
        (container(changed(shape=[-4]), b"abcd"), "the numbers"),
        (container(changed(shape=[4.0]), b"abcd"), "the numbers"),
        (container(changed(shape=[1] * 9 + [4]), b"abcd"), "the numbers"),
        (container(changed(data_offsets=[4, 0]), b"abcd"), "the numbers"),
        (container(changed(data_offsets=[0]), b"abcd"), "entry for 'plan'"),
        (container(changed(dtype="X9"), b"abcd"), "entry for 'plan'"),
        (container({"__metadata__": META, "plan": 3}, b"abcd"), "entry for 'plan'"),
        (container({"__metadata__": {"trtcore": 1}, "plan": PLAN}, b"abcd"), "metadata is damaged"),
        (container(b'{"a": 1, "a": 2}'), "not an engine file"),
        (container({"__metadata__": {**META, "trtcore": "2"}, "plan": PLAN}, b"abcd"), "up to 1"),
        (container({"__metadata__": {**META, "trtcore": "0"}, "plan": PLAN}, b"abcd"), "never was"),
        (container({"__metadata__": {**META, "trtcore": "x"}, "plan": PLAN}, b"abcd"), "no number"),
        (container({"__metadata__": {**META, "manifest": "{}"}, "plan": PLAN}, b"abcd"), "manifest"),
        (
            container({"__metadata__": {**META, "snapshot": "[1]"}, "plan": PLAN}, b"abcd"),
            "snapshot is a list",
        ),
        (container({"__metadata__": {**META, "snapshot": "{"}, "plan": PLAN}, b"abcd"), "not JSON"),
        (
            container({"__metadata__": {**META, "snapshot": "{}"}, "plan": PLAN}, b"abcd"),
            "snapshot of format",
        ),
        (
            container(
                {"__metadata__": META, "plan": PLAN, "x": {**PLAN, "data_offsets": [4, 8]}}, b"abcdefgh"
            ),
            "nothing names",
        ),
        (torch.zeros(16), "contiguous uint8"),
    ],
)
def test_what_is_no_engine_file_is_refused(data, message):
    with pytest.raises(ArtifactError, match=message):
        EngineArtifact.from_tensor(data)


def test_a_newer_format_says_what_to_do(tmp_path):
    data = container({"__metadata__": {**META, "trtcore": "7"}, "plan": PLAN}, b"abcd")
    (tmp_path / "a.engine").write_bytes(data.numpy().tobytes())
    with pytest.raises(ArtifactError, match=r"a\.engine: the engine file has format 7") as caught:
        EngineArtifact.from_file(tmp_path / "a.engine")
    assert "newer trtcore" in str(caught.value)


def test_every_truncation_is_refused(artifact):
    data = artifact.to_tensor()
    for end in [*range(64), *range(64, data.numel(), 97), data.numel() - 1]:
        with pytest.raises(ArtifactError):
            EngineArtifact.from_tensor(data[:end].clone())


@settings(max_examples=150, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_changed_header_byte_is_refused_or_read(at, value):
    """Whatever the byte: an artifact or an ArtifactError, and nothing else."""
    plan = torch.arange(40, dtype=torch.uint8)
    data = EngineArtifact(plan, make_manifest()).to_tensor().clone()
    (length,) = struct.unpack("<Q", data[:8].numpy().tobytes())
    data[int(at * (8 + length))] = value
    try:
        read = EngineArtifact.from_tensor(data)
    except ArtifactError:
        return
    assert torch.equal(read.plan, plan)

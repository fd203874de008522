"""The reference runtime against outputs of a real TensorRT (see README.md in this folder)."""

from __future__ import annotations

import json

import golden
import pytest
import torch

from trtcore.artifact.snapshot import NetworkSnapshot
from trtcore_reference import compile_snapshot
from trtcore_reference.schedule import host_tensors

NAMES = [case["name"] for case in golden.CASES]


def test_all_cases_are_here():
    assert len(NAMES) == len(set(NAMES)) == 504
    assert set(golden.WAIVED) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_case(name: str):
    """Equal to what TensorRT returned, up to the case's own tolerance and its named waiver."""
    network = golden.snapshot(name)
    module = compile_snapshot(network)
    assert not golden.mismatches(name, module, network)


@pytest.mark.parametrize("name", NAMES)
def test_json_round_trip(name: str):
    """A snapshot survives JSON and runs to the same bits."""
    network = golden.snapshot(name)
    structure, tensors = network.to_json()
    text = json.dumps(structure, allow_nan=False)
    again = NetworkSnapshot.from_json(json.loads(text), tensors)
    assert again.tensors == network.tensors
    assert (again.inputs, again.outputs, again.name) == (network.inputs, network.outputs, network.name)
    for one, other in zip(network.layers, again.layers, strict=True):
        assert one.attributes == other.attributes
        assert (one.type, one.name, one.inputs, one.outputs) == (other.type, other.name, other.inputs, other.outputs)
        assert set(one.constants) == set(other.constants)
    waiver = golden.WAIVED.get(name)
    if waiver and waiver.raises:
        return
    inputs = golden.inputs_of(name)
    first = golden.run(compile_snapshot(network), network, inputs)
    second = golden.run(compile_snapshot(again), again, inputs)
    for key, value in first.items():
        assert second[key].tobytes() == value.tobytes()
        assert (second[key].dtype, second[key].shape) == (value.dtype, value.shape)


@pytest.mark.parametrize("name", sorted(golden.WAIVED))
def test_waiver_is_needed(name: str):
    """A case that passes without its waiver must lose it."""
    network = golden.snapshot(name)
    module = compile_snapshot(network)
    try:
        problems = golden.mismatches(name, module, network, waive=False)
    except Exception as error:
        problems = [repr(error)]
    assert problems, f"{name} agrees with TensorRT now: remove its waiver"


#: What a device without data cannot run: these look at values.
LOOKS = ("scatter", "non_zero", "nms")


@pytest.mark.parametrize(
    "name", [n for n in NAMES if golden.BY_NAME[n]["group"] not in LOOKS and n != "loop.while"]
)
def test_data_stays_on_its_device(name: str):
    """With inputs on the meta device, which refuses to meet CPU tensors, all outputs are there too."""
    network = golden.snapshot(name)
    host = host_tensors(network)
    inputs = [
        tensor if index in host else tensor.to("meta")
        for index, tensor in ((i, torch.from_numpy(golden.array(name, network, i))) for i in network.inputs)
    ]
    outputs = compile_snapshot(network)(*inputs)
    expected = "meta" if any(tensor.device.type == "meta" for tensor in inputs) else "cpu"
    for index, output in zip(network.outputs, outputs, strict=True):
        stored = golden.TENSORS[f"{name}/out/{network.tensors[index].name}"]
        assert (output.device.type, tuple(output.shape)) == (expected, stored.shape)


@pytest.mark.gpu
def test_cases_on_a_gpu():
    """The reference runtime on CUDA tensors, without TF32."""
    problems = {}
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for name in NAMES:
            if name not in golden.WAIVED:
                network = golden.snapshot(name)
                problems[name] = golden.mismatches(name, compile_snapshot(network), network, device="cuda")
    assert not {name: found for name, found in problems.items() if found}

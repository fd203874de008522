"""Reading networks back."""

from __future__ import annotations

import json
import pathlib
import sys
import time

import pytest
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "runtime"))
from reference_networks import Network, messages, trt

from trtcore.artifact.snapshot import LAYER_TYPES, NetworkSnapshot
from trtcore.conversion.readback import LAYER_CLASSES, take_snapshot
from trtcore.errors import ArtifactError, ConversionError


def out(layer):
    return layer.get_output(0)


@pytest.fixture
def attention():
    n = Network()
    q, k, v = (n.net.add_input(name, trt.float16, (1, 2, -1, 8)) for name in "qkv")
    mask = n.net.add_input("mask", trt.bool, (1, 2, -1, -1))
    layer = n.net.add_attention_v2(q, k, v, trt.AttentionNormalizationOp.SOFTMAX, trt.CausalMaskKind.NONE)
    layer.mask, layer.decomposable = mask, True
    return n.snapshot(layer.get_output(0))


def test_layer_table_covers_the_bindings():
    """Every LayerType of the bindings is readable but for plugins and distribution."""
    missing = set(trt.LayerType.__members__) - set(LAYER_CLASSES)
    assert missing == {"PLUGIN", "PLUGIN_V2", "PLUGIN_V3", "DIST_COLLECTIVE"}
    assert set(LAYER_CLASSES) == LAYER_TYPES  # what is read can be loaded again, and nothing else
    for kind, name in LAYER_CLASSES.items():
        assert issubclass(getattr(trt, name), trt.ILayer), kind


def test_attention_shows_its_operands(attention):
    names = {i: t.name for i, t in enumerate(attention.tensors)}
    first, last = attention.layers
    assert (first.type, last.type) == ("ATTENTION_INPUT", "ATTENTION_OUTPUT")
    assert [None if i is None else names[i] for i in last.inputs] == ["q", "k", "v", "mask", None, None, None]
    assert last.attributes["norm_op"] == "SOFTMAX"
    assert last.attributes["causal_kind"] == "NONE"
    assert last.attributes["decomposable"] is True
    assert attention.tensors[0].shape == (1, 2, -1, 8)
    assert attention.tensors[0].dtype is torch.float16


def test_reading_is_silent():
    """Getters of what is unset log warnings and errors in TensorRT; none of them is called."""
    n = Network()
    x = n.input(torch.zeros(4, 6))
    dims = n.input(torch.tensor([4, 6]))
    shuffle, slicing = n.net.add_shuffle(x), n.net.add_slice(x, (0, 0), (1, 1), (1, 1))
    shuffle.set_input(1, dims)
    slicing.set_input(2, dims)
    fill = n.net.add_fill((1, 1), trt.FillOperation.LINSPACE, trt.float32)
    fill.set_input(0, dims)
    fill.set_input(1, n.constant(0.0))
    fill.set_input(2, n.constant([1.0, 2.0]))
    resize, fixed = n.net.add_resize(x), n.net.add_resize(x)
    resize.set_input(1, dims)
    fixed.shape = (8, 8)
    quantized = n.net.add_quantize(x, n.constant(1.0), trt.int8)
    outputs = [out(layer) for layer in (shuffle, slicing, fill, resize, fixed, quantized)]
    del messages.lines[:]
    n.snapshot(*outputs)
    assert not messages.lines


def test_activation_type_is_not_the_layer_type():
    """IActivationLayer.type shadows ILayer.type, also on a wrapper that the converter still holds."""
    n = Network()
    held = n.net.add_activation(n.input(torch.zeros(2)), trt.ActivationType.TANH)
    (layer,) = n.snapshot(out(held)).layers
    assert layer.type == "ACTIVATION"
    assert layer.attributes["type"] == "TANH"


def test_constants_come_from_the_callback_by_reference():
    n = Network()
    weight = torch.randn(2, 2, dtype=torch.bfloat16)
    (layer,) = n.snapshot(n.constant(weight)).layers
    assert layer.constants["weights"].data_ptr() == weight.data_ptr()
    assert layer.constants["weights"].shape == (2, 2)


def test_bfloat16_without_the_callback_names_the_layer():
    n = Network()
    made = n.constant(torch.randn(2, dtype=torch.bfloat16))
    n.net.get_layer(0).name = "model.embeddings/weight"
    n.net.mark_output(made)
    with pytest.raises(ConversionError, match=r"weights of layer 'model.embeddings/weight'.*BF16"):
        take_snapshot(trt, n.net)


def test_constants_are_copied_without_the_callback():
    n = Network()
    weight = torch.randn(3)
    n.net.mark_output(n.constant(weight))
    snapshot = take_snapshot(trt, n.net)
    before = weight.clone()
    weight.zero_()
    assert torch.equal(snapshot.layers[0].constants["weights"], before)


def test_tied_weights_are_stored_once():
    n = Network()
    table = torch.randn(10, 4)
    x = n.input(torch.zeros(4, 4))
    outputs = []
    for view in (table, table, table[2:6]):
        index = n.net.num_layers
        outputs.append(
            out(
                n.net.add_constant(tuple(view.shape), trt.Weights(trt.float32, view.data_ptr(), view.numel()))
            )
        )
        n.weights[index, "weights"] = view
    outputs.append(
        out(n.net.add_matrix_multiply(x, trt.MatrixOperation.NONE, outputs[2], trt.MatrixOperation.NONE))
    )
    snapshot = n.snapshot(*outputs)
    structure, tensors = snapshot.to_json()
    assert sum(t.numel() for t in tensors.values()) == table.numel()
    again = NetworkSnapshot.from_json(json.loads(json.dumps(structure)), tensors)
    first, second, third = (layer.constants["weights"] for layer in again.layers[:3])
    assert first.data_ptr() == second.data_ptr()
    assert third.data_ptr() == first.data_ptr() + 2 * 4 * 4
    assert torch.equal(third, table[2:6])


def test_only_the_used_part_of_a_buffer_is_stored():
    n = Network()
    buffer = torch.randn(1000)
    part = buffer[10:14]
    index = n.net.num_layers
    made = out(n.net.add_constant((4,), trt.Weights(trt.float32, part.data_ptr(), 4)))
    n.weights[index, "weights"] = part
    _, tensors = n.snapshot(made).to_json()
    (stored,) = tensors.values()
    assert torch.equal(stored, part)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s, t: s.update(format=99), "format 99"),
        (lambda s, t: s["layers"][0].update(type="NO_SUCH"), "unknown type 'NO_SUCH'"),
        (lambda s, t: s["layers"][0]["inputs"].append(77), "tensor it does not hold"),
        (lambda s, t: s["tensors"][0].__setitem__(1, "float99"), "unknown dtype"),
        (lambda s, t: s.pop("outputs"), "damaged"),
        (lambda s, t: s["layers"][0]["constants"]["weights"].update(shape=[1000]), "reaches 999 of 3"),
        (lambda s, t: s["layers"][0]["constants"]["weights"].update(offset=-1), "offset -1"),
        (lambda s, t: t.clear(), "damaged"),
    ],
)
def test_damaged_structure(damage, message):
    n = Network()
    structure, tensors = n.snapshot(n.constant([1.0, 2.0, 3.0])).to_json()
    structure = json.loads(json.dumps(structure))
    damage(structure, tensors)
    with pytest.raises(ArtifactError, match=message):
        NetworkSnapshot.from_json(structure, tensors)


def test_infinities_survive_strict_json():
    n = Network()
    layer = n.net.add_activation(n.input(torch.zeros(2)), trt.ActivationType.CLIP)
    layer.alpha, layer.beta = float("-inf"), float("inf")
    snapshot = n.snapshot(out(layer))
    structure, tensors = snapshot.to_json()
    again = NetworkSnapshot.from_json(json.loads(json.dumps(structure, allow_nan=False)), tensors)
    assert again.layers[0].attributes == snapshot.layers[0].attributes


def test_reading_is_linear_and_fast():
    """About 50 us a layer; the bound leaves room for a slow, shared machine."""

    def seconds(layers: int) -> float:
        n = Network()
        x = n.input(torch.zeros(4, 4))
        for _ in range(layers):
            x = out(n.net.add_unary(x, trt.UnaryOperation.ABS))
        n.net.mark_output(x)
        start = time.perf_counter()
        take_snapshot(trt, n.net)
        return time.perf_counter() - start

    seconds(10)
    assert min(seconds(400) for _ in range(3)) / 400 < 500e-6

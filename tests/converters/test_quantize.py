"""Quantise and dequantise ops, symmetric, as layers; and whole models through torchao's PT2E flow."""

from __future__ import annotations

import pytest
import torch
from pass_helpers import after, compiled_layers, network, types
from torch import nn

import trtcore
from trtcore.testing import assert_converts, assert_refuses
from trtcore_converters.quantize import ops as qops

FP8 = torch.float8_e4m3fn


class PerTensor(nn.Module):
    def __init__(self, scale=0.05, zero=0, low=-128, high=127, dtype=torch.int8):
        super().__init__()
        self.given = (scale, zero, low, high, dtype)

    def forward(self, x):
        q = qops.quantize_per_tensor(x, *self.given)
        return qops.dequantize_per_tensor(q, *self.given)


class PerChannel(nn.Module):
    def __init__(self, axis, low=-128):
        super().__init__()
        self.axis, self.low = axis, low
        self.register_buffer("scales", torch.tensor([0.01, 0.05, 0.02]))
        self.register_buffer("zeros", torch.zeros(3, dtype=torch.int64))

    def forward(self, x):
        given = (self.scales, self.zeros, self.axis, self.low, 127, torch.int8)
        return qops.dequantize_per_channel(qops.quantize_per_channel(x, *given), *given)


# 0.0625 is a power of two: x / scale and x * (1 / scale), which torch computes, are the same number
@pytest.mark.parametrize(("low", "high"), [(-128, 127), (-127, 127), (-8, 7)])
def test_per_tensor(low, high):
    x = torch.cat([torch.randn(4, 15) * 4, torch.full((4, 1), -1000.0)], 1)
    assert_converts(PerTensor(0.0625, low=low, high=high), (x,), dynamic={0: {0: (1, 4, 8)}})


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("low", [-128, -127])
def test_per_channel(axis, low):
    x = torch.randn(3, 3, 3)
    module = PerChannel(axis % 3, low)
    module.scales.copy_(torch.tensor([0.0625, 0.03125, 0.25]))
    assert_converts(module, (x,))


def test_ties_go_to_the_even_number():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 300.0, -300.0])
    compiled = trtcore.compile(PerTensor(1.0), inputs=[x], min_block_size=1, runtime="reference")
    assert compiled(x).tolist() == [0, 2, 2, 0, -2, 127, -128]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (PerTensor(zero=3), "TensorRTQuantizer"),
        (PerTensor(zero=128, low=0, high=255, dtype=torch.uint8), "quantised to uint8"),
    ],
)
def test_what_is_not_symmetric_is_refused_with_advice(module, message):
    assert_refuses(module, (torch.randn(4),), message)


def test_zero_points_and_scales_that_vary_are_refused():
    class Dynamic(nn.Module):
        def forward(self, x):
            scale, zero = x.abs().max() / 127, torch.zeros((), dtype=torch.int64)
            return qops.quantize_per_tensor(x, scale, zero, -128, 127, torch.int8).float()

    assert_refuses(Dynamic(), (torch.randn(4),), "scale is computed when the model runs")
    channels = PerChannel(0)
    channels.zeros[1] = 5
    assert_refuses(channels, (torch.randn(3, 2),), "zero point that is not 0")


def test_fp8_of_a_constant_is_dequantised_in_the_engine():
    class Weight(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.randn(4, 4).to(FP8))

        def forward(self, x):
            return x @ qops.dequantize_per_tensor(self.weight, 0.5, 0, -448, 448, FP8)

    x = torch.randn(2, 4)
    report = trtcore.explain(Weight(), inputs=[x], min_block_size=1)
    assert report.fully_converted, str(report)


def test_weights_are_int8_constants():
    class Unfolded(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, 4)
            self.register_buffer("scales", torch.full((4,), 0.01))
            self.register_buffer("zeros", torch.zeros(4, dtype=torch.int64))

        def forward(self, x):
            given = (self.scales, self.zeros, 0, -128, 127, torch.int8)
            weight = qops.dequantize_per_channel(
                qops.quantize_per_channel(self.linear.weight, *given), *given
            )
            return (torch.nn.functional.linear(x, weight, self.linear.bias),)

    left = after("constant_folding", Unfolded(), torch.randn(2, 16))
    assert left["quantized_decomposed.quantize_per_channel"] == 0
    assert left["quantized_decomposed.dequantize_per_channel"] == 1
    found = network(Unfolded(), torch.randn(2, 16))
    assert types(found.layers)["QUANTIZE"] == 0
    constants = [layer for layer in found.layers if layer.type == "CONSTANT"]
    assert torch.int8 in {found.tensors[i].dtype for layer in constants for i in layer.outputs}


# ---- torchao's flow ----------------------------------------------------------------------------------------


class Convnet(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
        )  # fmt: skip

    def forward(self, x):
        return self.body(x)


class Block(nn.Module):
    """A transformer's block with its attention written out."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.norm = nn.Linear(32, 96), nn.Linear(32, 32), nn.LayerNorm(32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1)
        x = x + self.out((scores @ v).transpose(1, 2).flatten(2))
        return x + self.mlp(x)


def quantised(model, example, **options):
    """The model through PT2E with our quantizer."""
    pytest.importorskip("torchao", reason="the extra `quantize` is not installed")
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    from trtcore_converters.quantizer import TensorRTQuantizer

    prepared = prepare_pt2e(torch.export.export(model, (example,)).module(), TensorRTQuantizer(**options))
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        prepared(torch.randn(example.shape, generator=generator))
    return convert_pt2e(prepared)


@pytest.mark.parametrize(
    ("build", "shape", "weights", "products"), [(Convnet, (2, 3, 16, 16), 3, 0), (Block, (2, 6, 32), 4, 2)]
)
def test_a_model_quantised_with_our_quantizer_is_one_engine(build, shape, weights, products):
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(shape)
    converted = quantised(model, x)
    want = converted(x)
    exported = torch.export.export(converted, (x,))
    compiled = trtcore.dynamo.compile(
        exported, arg_inputs=[x], runtime="reference", min_block_size=1, require_full_compilation=True
    )
    got = compiled(x)
    step = float((want - model(x)).abs().max())  # how far the quantisation itself takes the model
    assert 0 < step < 0.2
    assert float((got - want).abs().max()) < step / 2
    formats = {node.computes for node in compiled.report.nodes if node.computes}
    assert formats == {"int8"}, (
        "each product's inputs and weights come from dequantise layers, nothing in between"
    )
    from pass_helpers import snapshots

    (snapshot,) = snapshots(compiled)
    found = types(snapshot.layers)
    assert found["QUANTIZE"] >= weights + products
    assert found["DEQUANTIZE"] >= found["QUANTIZE"] + weights, "weights are constants that are dequantised"
    kept = [i for layer in snapshot.layers if layer.type == "CONSTANT" for i in layer.outputs]
    assert sum(snapshot.tensors[i].dtype == torch.int8 for i in kept) == weights


def test_what_the_quantizer_leaves_alone():
    model, x = Convnet().eval(), torch.randn(2, 3, 16, 16)
    converted = quantised(model, x, excluded_modules=("body.7",), per_channel=False)
    names = [str(node.target) for node in converted.graph.nodes if node.op == "call_function"]
    assert sum("quantize_per_channel" in name for name in names) == 0
    (linear,) = [node for node in converted.graph.nodes if "linear" in str(node.target)]
    assert not any("quantize" in str(source.target) for source in linear.all_input_nodes)


def test_a_quantised_product_is_between_layers():
    layers = compiled_layers(
        lambda x, y: PerTensor(0.0625)(x) @ PerTensor(0.0625)(y), torch.randn(2, 4, 8), torch.randn(2, 8, 4)
    )
    assert types(layers)["QUANTIZE"] == types(layers)["DEQUANTIZE"] == 2

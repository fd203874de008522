"""Weights that are stored quantised: torchao's tensor subclasses, its op, casts; and products of int8."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from pass_helpers import after
from torch import nn

import trtcore
from trtcore.testing import assert_converts


def compiled_of(module, *inputs, **settings):
    settings = {"min_block_size": 1, "require_full_compilation": True, "runtime": "reference", **settings}
    return trtcore.compile(module, inputs=list(inputs), **settings)


def formats(compiled):
    return {node.computes for node in compiled.report.nodes if node.computes}


class Stored(nn.Module):
    """``x @ (weight * scale)`` with the weight in one byte."""

    def __init__(self, dtype=torch.int8, scale=(1, 64), result=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        weight = torch.randint(-127, 128, (32, 64)).to(dtype)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", None if scale is None else torch.rand(scale) / 64 + 0.01)
        self.result = result

    def forward(self, x):
        weight = self.weight.to(torch.float32)
        if self.scale is not None:
            weight = weight * self.scale
        return x @ weight.to(self.result)


@pytest.mark.parametrize("scale", [None, (), (1, 64), (32, 1)])
@pytest.mark.parametrize(("dtype", "name"), [(torch.int8, "int8"), (torch.float8_e4m3fn, "float8")])
def test_a_cast_of_a_weight_is_a_dequantise_layer(dtype, name, scale):
    module, x = Stored(dtype, scale), torch.randn(4, 32)
    compiled = compiled_of(module, x)
    assert formats(compiled) == {f"float32, weights {name}"}
    assert [node.op for node in compiled.report.nodes] == [
        "trtcore_quantize.dequantize.default",
        "aten.matmul.default",
    ]
    torch.testing.assert_close(compiled(x), module(x))


def test_a_weight_in_half_precision_is_rounded_once():
    module, x = Stored(result=torch.float16), torch.randn(4, 32).half()
    compiled = compiled_of(module, x)
    assert formats(compiled) == {"float16, weights int8"}
    torch.testing.assert_close(compiled(x), module(x))


def test_what_is_no_scale_stays_a_product():
    module, x = Stored(scale=(32, 64)), torch.randn(4, 32)
    compiled = compiled_of(module, x)
    torch.testing.assert_close(compiled(x), module(x))
    assert "aten.mul.Tensor" in {node.op for node in compiled.report.nodes}


def test_where_weights_stay_replaceable_nothing_is_done():
    found = after(
        "quantised_weights", Stored(), torch.randn(4, 32), immutable_weights=False, runtime="reference"
    )
    assert found["trtcore_quantize.dequantize"] == 0


def test_products_of_int8():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.randint(-128, 128, (64, 32), dtype=torch.int8))

        def forward(self, x):
            return torch._int_mm((x * 30).round().clamp(-128, 127).to(torch.int8), self.weight)

    assert_converts(Product(), (torch.randn(20, 64),))
    assert formats(compiled_of(Product(), torch.randn(20, 64))) == {"int8"}


@pytest.mark.torch_since("2.13", "torch._int_mm takes int8 alone")
def test_products_of_uint8_are_refused_with_the_reason():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.randint(-128, 128, (64, 32), dtype=torch.int8))

        def forward(self, x):
            return torch._int_mm((x + 128).to(torch.uint8), self.weight)

    report = trtcore.explain(Product(), inputs=[torch.randn(20, 64)], min_block_size=1)
    assert any("a product of uint8" in str(group) for group in report.fallbacks())


# ---- torchao ----------------------------------------------------------------------------------------------


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(128, 128), nn.Linear(128, 64)

    def forward(self, x):
        return self.down(self.up(x).relu())


@pytest.fixture(scope="module")
def torchao():
    logging.disable(logging.WARNING)  # it tells of kernels that this machine cannot load
    try:
        found = pytest.importorskip("torchao.quantization", reason="the extra `quantize` is not installed")
    finally:  # also where it is not installed
        logging.disable(logging.NOTSET)
    return found


def quantised(torchao, name, dtype=torch.float32, **options):
    torch.manual_seed(0)
    model = Mlp().eval().to(dtype)
    if options.pop("int4", False):
        options = {"weight_dtype": torch.int4, "granularity": torchao.PerGroup(32), **options}
    torchao.quantize_(model, getattr(torchao, name)(**options))
    return model


CONFIGS = [
    ("Int8WeightOnlyConfig", {}, "int8"),
    ("Float8WeightOnlyConfig", {}, "float8"),
    ("IntxWeightOnlyConfig", {}, "int8"),
    ("IntxWeightOnlyConfig", {"int4": True}, "int4"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "options", "form"), CONFIGS)
def test_models_that_torchao_quantised(torchao, name, options, form, dtype):
    model, x = quantised(torchao, name, dtype, **options), torch.randn(4, 128).to(dtype)
    batch = trtcore.Input(min_shape=(1, 128), opt_shape=(4, 128), max_shape=(8, 128), dtype=dtype)
    compiled = compiled_of(model, batch)
    assert formats(compiled) == {f"{str(dtype).removeprefix('torch.')}, weights {form}"}
    with torch.no_grad():
        want = model(x)
    close = {} if dtype is torch.float32 else {"rtol": 0.02, "atol": 0.01}
    torch.testing.assert_close(compiled(x), want, **close)


def test_a_program_that_was_decomposed(torchao):
    """`run_decompositions` unwraps the subclasses as well."""
    model, x = quantised(torchao, "IntxWeightOnlyConfig", int4=True), torch.randn(4, 128)
    exported = torch.export.export(model, (x,)).run_decompositions({})
    compiled = trtcore.dynamo.compile(exported, arg_inputs=[x], min_block_size=1, runtime="reference")
    assert formats(compiled) == {"float32, weights int4"}
    torch.testing.assert_close(compiled(x), model(x))


def test_activations_that_are_quantised_in_the_call(torchao):
    model, x = quantised(torchao, "Int8DynamicActivationIntxWeightConfig"), torch.randn(4, 128)
    compiled = compiled_of(model, x)
    torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=0.01)


def test_the_weights_of_subclasses_are_the_models(torchao):
    """A second model of the same class has its own."""
    model, x = quantised(torchao, "Int8WeightOnlyConfig"), torch.randn(4, 128)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.up.bias.add_(1)
    assert not torch.allclose(compiled_of(model, x)(x), compiled_of(other, x)(x))


def test_a_zero_point_is_dequantised_and_told(torchao):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.randint(-8, 8, (16, 64), dtype=torch.int8))
            self.register_buffer("scale", torch.rand(16, 2) + 0.1)
            self.register_buffer("zero", torch.randint(-3, 4, (16, 2), dtype=torch.int8))

        def forward(self, x):
            weight = torch.ops.torchao.dequantize_affine(
                self.weight, [1, 32], self.scale, self.zero, torch.int8, -8, 7, output_dtype=torch.float32
            )
            return nn.functional.linear(x, weight)

    module, x = Shifted(), torch.randn(3, 64)
    compiled = compiled_of(module, x)
    torch.testing.assert_close(compiled(x), module(x))
    assert "a zero point that is not 0; quantise symmetrically" in str(compiled.report)

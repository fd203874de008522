"""Fake quantisation as Q/DQ layers: every format, on weights and activations, with the numbers of the formulas."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from pass_helpers import snapshots
from torch import nn

import trtcore
from trtcore.pack import load_packs
from trtcore.testing import assert_converts, assert_refuses
from trtcore_converters import quantize_ops as formulas

load_packs()
ops = torch.ops.trtcore_quantize
INT4 = getattr(torch, "int4")  # noqa: B009
HALF = [
    pytest.param(torch.float16, marks=pytest.mark.slow),
    pytest.param(torch.bfloat16, marks=pytest.mark.slow),
]
FP8, FP4 = torch.float8_e4m3fn, torch.float4_e2m1fn_x2


class Activation(nn.Module):
    def __init__(self, amax, to="int8", narrow=False, blocks=()):
        super().__init__()
        self.register_buffer("amax", torch.as_tensor(amax))
        self.given = (to, narrow, list(blocks))

    def forward(self, x):
        return ops.fake_quantize(x, self.amax, *self.given)


class Linear(nn.Module):
    """x @ fake_quantize(weight).T, on inputs that may be quantised too."""

    def __init__(
        self, to, amax, blocks=(), narrow=False, activation=None, shape=(16, 64), dtype=torch.float32
    ):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(shape, dtype=dtype), requires_grad=False)
        self.register_buffer("amax", amax(self.weight.float()))
        self.given, self.activation = (to, narrow, list(blocks)), activation

    def forward(self, x):
        if self.activation is not None:
            x = self.activation(x)
        return nn.functional.linear(x, ops.fake_quantize(self.weight, self.amax, *self.given))


class Blocks(nn.Module):
    """NVFP4 or MXFP8, of the weight and of the activation."""

    def __init__(self, to, activations=True, shape=(16, 64), dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(shape, dtype=dtype), requires_grad=False)
        self.form, self.activations = to, activations
        self.register_buffer("weight_amax", self.weight.abs().max().float())
        self.register_buffer("input_amax", torch.tensor(4.0))

    def forward(self, x):
        nvfp4 = self.form == "nvfp4"
        if self.activations:
            x = ops.fake_quantize_blocks(x, self.input_amax if nvfp4 else None, self.form)
        weight = ops.fake_quantize_blocks(self.weight, self.weight_amax if nvfp4 else None, self.form)
        return nn.functional.linear(x, weight)


def whole(weight):
    return weight.abs().max()


def rows(weight):
    return weight.abs().amax(1, keepdim=True)


def in_blocks(*blocks):
    """The largest value of each block."""

    def amax(weight):
        a, b = blocks
        padded = nn.functional.pad(weight, (0, -weight.shape[1] % b, 0, -weight.shape[0] % a))
        return padded.unflatten(1, (-1, b)).unflatten(0, (-1, a)).abs().amax((1, 3))

    return amax


def compiled_of(module, *inputs, **settings):
    settings = {"min_block_size": 1, "require_full_compilation": True, "runtime": "reference", **settings}
    return trtcore.compile(module, inputs=list(inputs), **settings)


def dequantised(compiled):
    """Layer types, and for each DEQUANTIZE the dtype of what it reads."""
    (snapshot,) = snapshots(compiled)
    types = Counter(layer.type for layer in snapshot.layers)
    read = [
        snapshot.tensors[layer.inputs[0]].dtype for layer in snapshot.layers if layer.type == "DEQUANTIZE"
    ]
    return types, read


# a power of two as scale: x / scale and x * (1 / scale) are the same number
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize(("to", "amax"), [("int8", 127 / 16), ("fp8", 448 / 64), ("int4", 7 / 4)])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_activations(to, amax, narrow, dtype):
    x = torch.cat([torch.randn(4, 14) * 4, torch.full((4, 1), -1000.0), torch.zeros(4, 1)], 1).to(dtype)
    assert_converts(Activation(amax, to, narrow), (x,), dynamic={0: {0: (1, 4, 8)}})


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("to", ["int8", "fp8"])
def test_activations_by_channel(to, axis):
    steps = torch.tensor([0.0625, 0.03125, 0.25]) * formulas.LARGEST[to]
    amax = steps.reshape([3 if dim == axis else 1 for dim in range(3)])
    module, x = Activation(amax, to), torch.randn(3, 3, 3)
    assert_converts(module, (x,))
    types, _ = dequantised(compiled_of(module, x))
    assert types["QUANTIZE"] == types["DEQUANTIZE"] == 1


def test_a_tensor_in_which_nothing_was_seen_becomes_zeros():
    x = torch.randn(2, 8)
    for to in ("int8", "int4"):
        assert_converts(Activation(0.0, to), (x,))
        assert compiled_of(Activation(0.0, to), x)(x).abs().max() == 0


@pytest.mark.parametrize(
    ("to", "amax", "blocks", "stored"),
    [
        ("int8", whole, (), torch.int8),
        ("int8", rows, (), torch.int8),
        ("int8", in_blocks(1, 32), (1, 32), torch.int8),
        ("fp8", whole, (), FP8),
        ("fp8", rows, (), FP8),
        ("fp8", in_blocks(8, 32), (8, 32), FP8),
        ("int4", whole, (), INT4),
        ("int4", rows, (), INT4),
        ("int4", in_blocks(1, 32), (1, 32), INT4),
        ("int4", in_blocks(2, 1), (2, 1), INT4),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, HALF[0]])
def test_weights_are_constants_of_the_format(to, amax, blocks, stored, dtype):
    module = Linear(to, amax, blocks, narrow=to != "fp8", dtype=dtype)
    x = torch.randn(3, 64, dtype=dtype)
    compiled = compiled_of(module, x)
    types, read = dequantised(compiled)
    assert (types["QUANTIZE"], read) == (0, [stored])
    # TensorRT takes scales of 4-bit weights in the weight's own type
    close = {"rtol": 0, "atol": 0.05} if dtype is torch.float16 else {}
    torch.testing.assert_close(compiled(x), module(x), **close)


@pytest.mark.parametrize(
    ("to", "amax", "blocks", "shape"),
    [
        ("int4", in_blocks(1, 48), (1, 48), (16, 64)),  # the last block is not full
        ("int8", in_blocks(1, 48), (1, 48), (16, 64)),
        ("int4", whole, (), (16, 63)),
        ("int8", lambda weight: weight.abs(), (), (16, 64)),  # a scale for each element
    ],
)
def test_weights_that_no_layer_dequantises_are_in_floating_point(to, amax, blocks, shape):
    module, x = Linear(to, amax, blocks, shape=shape), torch.randn(3, shape[1])
    compiled = compiled_of(module, x)
    types, _ = dequantised(compiled)
    assert types["DEQUANTIZE"] == 0
    torch.testing.assert_close(compiled(x), module(x))


def test_both_sides_of_a_product():
    module = Linear("int8", rows, activation=Activation(4.0))
    x = torch.randn(3, 64)
    compiled = compiled_of(module, x)
    types, read = dequantised(compiled)
    assert (types["QUANTIZE"], read) == (1, [torch.int8, torch.int8])
    torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.parametrize("activations", [False, True])
@pytest.mark.parametrize("to", ["nvfp4", "mxfp8"])
@pytest.mark.parametrize("dtype", [torch.float32, HALF[0]])
def test_blocks_with_scales_of_their_own(to, activations, dtype):
    module = Blocks(to, activations, dtype=dtype)
    x = torch.randn(2, 3, 64, dtype=dtype)
    if dtype is torch.float32:
        assert_converts(module, (x,), dynamic={0: {0: (1, 2, 4)}})
    compiled = compiled_of(module, x)
    # TensorRT takes scales of 4-bit numbers in the type that comes out
    torch.testing.assert_close(
        compiled(x), module(x), rtol=0.01, atol=1e-5 if dtype is torch.float32 else 0.02
    )
    types, read = dequantised(compiled)
    assert types["DYNAMIC_QUANTIZE"] == activations
    assert read.count(FP4) == (to == "nvfp4") * (1 + activations)
    assert read.count(FP8) >= 1


def test_weights_in_blocks_that_are_not_full_are_in_floating_point():
    module, x = Blocks("nvfp4", activations=False, shape=(16, 40)), torch.randn(3, 40)
    compiled = compiled_of(module, x)
    assert dequantised(compiled)[0]["DEQUANTIZE"] == 0
    torch.testing.assert_close(compiled(x), module(x))


def test_scales_of_the_call():
    class PerToken(nn.Module):
        def __init__(self, to):
            super().__init__()
            self.form = to

        def forward(self, x):
            return ops.fake_quantize(x, x.abs().amax(-1, keepdim=True), self.form, False, [])

    x = torch.randn(4, 16)
    for to in ("int8", "fp8", "int4"):
        compiled = compiled_of(PerToken(to), x)
        step = x.abs().amax() / formulas.LARGEST[to]  # a value on a tie may go to either side
        torch.testing.assert_close(compiled(x), PerToken(to)(x), rtol=0, atol=1.01 * float(step))
        assert (compiled(x) - PerToken(to)(x)).abs().gt(1e-5).sum() <= 1


def test_a_target_without_the_format():
    """Weights are dequantised on the host; activations are refused with what to do."""
    settings = {"device": "sm_86", "require_full_compilation": False}
    x = torch.randn(3, 64)
    compiled = compiled_of(Linear("fp8", rows), x, **settings)
    assert dequantised(compiled)[0]["DEQUANTIZE"] == 0
    torch.testing.assert_close(compiled(x), Linear("fp8", rows)(x))
    (group,) = trtcore.explain(
        Activation(4.0, "fp8"), inputs=[x], min_block_size=1, device="sm_86"
    ).fallbacks()
    assert "FP8 activations, and tensorrt_rtx has none for sm_86" in group.reason
    assert "quantise to int8" in group.reason


@pytest.mark.parametrize(
    ("module", "x", "message"),
    [
        (Activation(4.0, "int3"), torch.randn(2, 4), "quantises to int3"),
        (Activation(-1.0), torch.randn(2, 4), "calibrate the model again"),
        (Activation(torch.ones(3)), torch.randn(2, 4), "do not fit"),
        (Blocks("nvfp4", shape=(16, 40)), torch.randn(2, 40), "no multiple of it"),
    ],
)
def test_refusals(module, x, message):
    if message == "do not fit":  # torch cannot run it either
        report = trtcore.explain(module, inputs=[x], min_block_size=1)
        assert message in report.fallbacks()[0].reason
        return
    module.eval()
    report = trtcore.explain(module, inputs=[x], min_block_size=1)
    assert any(message in group.reason for group in report.fallbacks()), str(report)


def test_what_the_model_writes_to_is_no_scale():
    class Blocked(nn.Module):
        def forward(self, x):
            return ops.fake_quantize(x, x.abs().amax(-1, keepdim=True), "int8", False, [1, 8])

    assert_refuses(Blocked(), (torch.randn(2, 16),), "computed when the model runs")


# ---- ModelOpt's ops -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tensorrt_ops():
    """ModelOpt registers them when it is imported; here by their schemas alone, with our formulas as kernels."""
    if hasattr(torch.ops.tensorrt, "quantize_op"):
        yield torch.ops.tensorrt
        return
    library = torch.library.Library("tensorrt", "FRAGMENT")
    library.define(
        "quantize_op(Tensor input, Tensor amax, int num_bits, int exponent_bits, bool unsigned, bool narrow_range) "
        "-> Tensor"
    )
    numbers = "int num_bits, int exponent_bits, int scale_num_bits, int scale_exponent_bits"
    library.define(
        f"dynamic_block_quantize_op(Tensor input, int block_size, Tensor amax, {numbers}) -> Tensor"
    )
    library.define(
        f"dynamic_block_quantize_op.overload(Tensor input, int block_size, None amax, {numbers}) -> Tensor"
    )

    def quantize_op(x, amax, bits, exponent, unsigned, narrow):
        return ops.fake_quantize(x, amax, "fp8" if exponent else f"int{bits}", narrow, [])

    library.impl("quantize_op", quantize_op, "CompositeExplicitAutograd")
    library.impl(
        "dynamic_block_quantize_op",
        lambda x, block, amax, *numbers: ops.fake_quantize_blocks(x, amax, "nvfp4"),
        "CompositeExplicitAutograd",
    )
    yield torch.ops.tensorrt
    library._destroy()


class ModelOpt(nn.Module):
    def __init__(self, *given):
        super().__init__()
        self.register_buffer("amax", torch.tensor(4.0))
        self.given = given

    def forward(self, x):
        if self.given[0] == "blocks":
            return torch.ops.tensorrt.dynamic_block_quantize_op(x, self.given[1], self.amax, *self.given[2:])
        return torch.ops.tensorrt.quantize_op(x, self.amax, *self.given)


@pytest.mark.parametrize(
    "given", [(8, 0, False, False), (8, 0, False, True), (8, 4, False, False), ("blocks", 16, 4, 2, 8, 4)]
)
def test_ops_of_modelopts_own_export(tensorrt_ops, given):
    ours = {(8, 0): "int8", (8, 4): "fp8"}.get(given[:2])
    amax, x = torch.tensor(4.0), torch.randn(4, 32)
    want = (
        ops.fake_quantize(x, amax, ours, given[3], []) if ours else ops.fake_quantize_blocks(x, amax, "nvfp4")
    )
    torch.testing.assert_close(compiled_of(ModelOpt(*given), x)(x), want)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((8, 0, True, False), "unsigned"),
        ((6, 0, False, False), "6 bits"),
        (("blocks", 32, 4, 2, 8, 4), "blocks of 32"),
    ],
)
def test_modelopts_formats_that_are_refused(tensorrt_ops, given, message):
    report = trtcore.explain(ModelOpt(*given), inputs=[torch.randn(4, 32)], min_block_size=1)
    assert any(message in group.reason for group in report.fallbacks()), str(report)


# ---- the report -----------------------------------------------------------------------------------------------


def test_the_report_says_which_products_are_in_which_format():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.both = Linear("int8", rows, activation=Activation(4.0), shape=(64, 64))
            self.weights = Linear("int4", in_blocks(1, 32), (1, 32), shape=(64, 64))
            self.plain = nn.Linear(64, 64)
            self.fallen = Linear("int4", in_blocks(1, 48), (1, 48), shape=(64, 64))

        def forward(self, x):
            return self.fallen(self.plain(self.weights(self.both(x))))

    x = torch.randn(3, 64)
    report = compiled_of(Net().eval(), x).report
    assert {node.module_path: node.computes for node in report.nodes if node.computes} == {
        "both": "int8",
        "weights": "float32, weights int4",
        "plain": "float32",
        "fallen": "float32",
    }
    (group,) = report.noted()
    assert group.nodes[0].module_path == "fallen"
    assert "dequantised when the engine was built: its blocks (1, 48) do not divide (64, 64)" in str(group)
    text = str(report)
    assert "1 x aten.linear.default: float32, weights int4; first at weights" in text
    assert "Computed in another way" in text
    assert trtcore.Report.from_json(report.to_json()) == report


def test_the_report_of_a_plain_model_says_nothing_of_formats():
    report = compiled_of(nn.Linear(8, 4).eval(), torch.randn(2, 8)).report
    assert [node.computes for node in report.nodes] == ["float32"]
    assert "Number formats" not in str(report)

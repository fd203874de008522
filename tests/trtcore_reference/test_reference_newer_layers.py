"""Layers and dtypes that the golden set does not have, against their documented formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from reference_networks import Network, run, trt
from torch.testing import assert_close

from trtcore.errors import ConversionError, InputError
from trtcore_reference import EVALUATORS, compile_snapshot

INF, NAN = math.inf, math.nan
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def out(layer):
    return layer.get_output(0)


# -- unary, activation, cast ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_isinf_isnan(dtype):
    x = torch.tensor([0.0, INF, -INF, NAN, 1.0], dtype=dtype)
    inf, nan = run(
        lambda n, a: (
            out(n.net.add_unary(a, trt.UnaryOperation.ISINF)),
            out(n.net.add_unary(a, trt.UnaryOperation.ISNAN)),
        ),
        x,
    )
    assert inf.tolist() == [False, True, True, False, False]
    assert nan.tolist() == [False, False, False, True, False]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", ["GELU_ERF", "GELU_TANH"])
def test_gelu(kind, dtype):
    x = torch.linspace(-6, 6, 101, dtype=dtype)
    found = run(lambda n, a: out(n.net.add_activation(a, getattr(trt.ActivationType, kind))), x)
    y = x.double()
    inner = (
        torch.erf(y / 2**0.5)
        if kind == "GELU_ERF"
        else torch.tanh((2 / math.pi) ** 0.5 * (y + 0.044715 * y**3))
    )
    assert_close(found.double(), 0.5 * y * (1 + inner), rtol=1e-5 if dtype is FLOATS[0] else 1e-2, atol=2e-3)


@pytest.mark.parametrize("to", [torch.int32, torch.int64])
def test_float_to_integer_saturates(to):
    x = torch.tensor([2.7, -2.7, 1e30, -1e30, INF, -INF, NAN, 16777217.0, 2.0**31, 2.0**62])
    found = run(lambda n, a: out(n.net.add_cast(a, trt.int32 if to is torch.int32 else trt.int64)), x)
    low, high = torch.iinfo(to).min, torch.iinfo(to).max
    big = [2**31 - 1, 2**31 - 1] if to is torch.int32 else [2**31, 2**62]
    assert found.tolist() == [2, -2, high, low, high, low, 0, 16777216, *big]


def test_bfloat16_arithmetic_and_constants():
    x = torch.randn(3, 4, dtype=torch.bfloat16)
    w = torch.randn(1, 4, dtype=torch.bfloat16)
    found = run(lambda n, a: out(n.net.add_elementwise(a, n.constant(w), trt.ElementWiseOperation.PROD)), x)
    assert torch.equal(found, x * w)


@pytest.mark.parametrize("op", ["SUM", "SUB", "PROD", "DIV", "FLOOR_DIV", "MAX", "MIN"])
def test_int64_elementwise(op):
    big = 2**62
    a = torch.tensor([7, -7, 7, -7, big, -(2**63), 5])
    b = torch.tensor([2, 2, -2, -2, 4, -1, 5])
    found = run(lambda n, x, y: out(n.net.add_elementwise(x, y, getattr(trt.ElementWiseOperation, op))), a, b)
    want = {
        "SUM": lambda p, q: p + q,
        "SUB": lambda p, q: p - q,
        "PROD": lambda p, q: p * q,
        "DIV": lambda p, q: abs(p) // abs(q) * (1 if (p < 0) == (q < 0) else -1),
        "FLOOR_DIV": lambda p, q: p // q,
        "MAX": max,
        "MIN": min,
    }[op]
    exact = [want(p, q) for p, q in zip(a.tolist(), b.tolist(), strict=True)]
    assert found.tolist() == [(v + 2**63) % 2**64 - 2**63 for v in exact]


def test_integer_division_by_zero_raises():
    x = torch.tensor([1, 2])
    with pytest.raises(RuntimeError, match="ZeroDivision"):
        run(
            lambda n, a, b: out(n.net.add_elementwise(a, b, trt.ElementWiseOperation.DIV)),
            x,
            torch.tensor([1, 0]),
        )


def test_integer_power():
    a = torch.tensor([2, -2, 3, 1, -1, -1, 7], dtype=torch.int32)
    b = torch.tensor([10, 3, 0, -5, -4, -3, -1], dtype=torch.int32)
    found = run(lambda n, x, y: out(n.net.add_elementwise(x, y, trt.ElementWiseOperation.POW)), a, b)
    assert found.tolist() == [1024, -8, 1, 1, 1, -1, 0]


# -- shapes ---------------------------------------------------------------------------------------


def test_squeeze_unsqueeze():
    x = torch.randn(2, 1, 3, 1)
    squeezed, unsqueezed = run(
        lambda n, a: (
            out(n.net.add_squeeze(a, n.constant([1, -1], torch.int64))),
            out(n.net.add_unsqueeze(a, n.constant([0, 3, -1], torch.int64))),
        ),
        x,
    )
    assert torch.equal(squeezed, x.reshape(2, 3))
    assert torch.equal(unsqueezed, x.reshape(1, 2, 1, 1, 3, 1, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_slice_by_expand(dtype):
    """Stride 0 repeats, as converters write expand."""
    x = torch.arange(6).reshape(2, 1, 3).to(dtype)
    found = run(lambda n, a: out(n.net.add_slice(a, (0, 0, 1), (2, 4, 2), (1, 0, 1))), x)
    assert torch.equal(found, x.expand(2, 4, 3)[:, :, 1:3])


def test_slice_out_of_bounds_raises():
    def build(n, a, start):
        layer = n.net.add_slice(a, (0,), (3,), (1,))
        layer.set_input(1, start)
        return out(layer)

    x = torch.arange(5.0)
    start = torch.tensor([2])
    assert run(build, x, start).tolist() == [2, 3, 4]
    with pytest.raises(InputError, match="elements 3 to 5 of axis 0, which has 5"):
        run(build, x, torch.tensor([3]))


@pytest.mark.parametrize("operation", ["RANDOM_UNIFORM", "RANDOM_NORMAL"])
def test_random_fill(operation):
    def build(n, a):
        layer = n.net.add_fill((4000,), getattr(trt.FillOperation, operation), trt.float32)
        layer.alpha, layer.beta = 2.0, 3.0
        return out(layer), out(n.net.add_identity(a))

    first, _ = run(build, torch.zeros(1))
    if operation == "RANDOM_UNIFORM":
        assert 2 <= first.min() < 2.01
        assert 2.99 < first.max() <= 3
    else:
        assert abs(first.mean() - 2) < 0.3
        assert abs(first.std() - 3) < 0.3


# -- reductions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int32, torch.int64])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_cumulative(dtype, exclusive, reverse):
    x = torch.randint(-9, 9, (3, 5, 2)).to(dtype)

    def build(n, a):
        axis = n.constant(1, torch.int32)
        return out(n.net.add_cumulative(a, axis, trt.CumulativeOperation.SUM, exclusive, reverse))

    want = torch.zeros_like(x)
    for i in range(5):
        chosen = [j for j in range(5) if ((j >= i if reverse else j <= i) and not (exclusive and j == i))]
        want[:, i] = x[:, chosen].sum(1).to(dtype)
    assert torch.equal(run(build, x), want)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axes", [(2,), (1, 2), (0, 2)])
@pytest.mark.parametrize("version", ["add_normalization", "add_normalization_v2"])
def test_normalization(version, axes, dtype):
    x = torch.randn(3, 4, 8).to(dtype) * 3 + 1
    shape = tuple(n if i in axes else 1 for i, n in enumerate(x.shape))
    scale, bias = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)

    def build(n, a):
        layer = getattr(n.net, version)(a, n.constant(scale), n.constant(bias), sum(1 << i for i in axes))
        layer.epsilon = 1e-3
        return out(layer)

    y = x.double()
    mean, variance = y.mean(axes, keepdim=True), y.var(axes, correction=0, keepdim=True)
    want = (y - mean) / (variance + 1e-3).sqrt() * scale.double() + bias.double()
    tolerance = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]
    assert_close(run(build, x).double(), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("version", ["add_normalization", "add_normalization_v2"])
def test_group_normalization(version):
    """v1 scales per group, v2 per channel (TensorRT's operator reference)."""
    x = torch.randn(2, 6, 4, 5)
    width = 3 if version == "add_normalization" else 6
    scale, bias = torch.randn(1, width, 1, 1), torch.randn(1, width, 1, 1)

    def build(n, a):
        layer = getattr(n.net, version)(a, n.constant(scale), n.constant(bias), 0b1100)
        layer.num_groups = 3
        layer.epsilon = 1e-5
        return out(layer)

    repeat = 6 // width
    per_channel = scale.repeat_interleave(repeat, 1), bias.repeat_interleave(repeat, 1)
    want = F.group_norm(x, 3, eps=1e-5) * per_channel[0] + per_channel[1]
    assert_close(run(build, x), want, rtol=1e-5, atol=1e-5)


def test_instance_normalization():
    x = torch.randn(2, 3, 4, 5)
    scale, bias = torch.randn(1, 3, 1, 1), torch.randn(1, 3, 1, 1)
    found = run(
        lambda n, a: out(n.net.add_normalization_v2(a, n.constant(scale), n.constant(bias), 0b1100)), x
    )
    assert_close(found, F.instance_norm(x, weight=scale.view(3), bias=bias.view(3)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.int64])
def test_topk_with_k_at_run_time(dtype):
    x = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]]).to(dtype)

    network = Network()
    layer = network.net.add_topk(network.input(x), trt.TopKOperation.MAX, 1, 2)
    layer.set_input(1, network.input(torch.tensor(0, dtype=torch.int32)))
    module = compile_snapshot(network.snapshot(layer.get_output(0), layer.get_output(1)))
    for count in (1, 2, 5):
        values, indices = module(x, torch.tensor(count, dtype=torch.int32))
        want = x.sort(descending=True, stable=True)
        assert torch.equal(values, want.values[:, :count])
        assert torch.equal(indices, want.indices[:, :count].int())


# -- attention ------------------------------------------------------------------------------------


def attention(n, q, k, v, mask=None, kind="NONE", op="SOFTMAX"):
    layer = n.net.add_attention_v2(
        q, k, v, getattr(trt.AttentionNormalizationOp, op), getattr(trt.CausalMaskKind, kind)
    )
    layer.decomposable = True
    if mask is not None:
        layer.mask = mask
    return layer.get_output(0)


def formula(q, k, v, mask=None, kind="NONE"):
    """Softmax in double precision, a masked score counting as -inf."""
    q, k, v = q.double(), k.double(), v.double()
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    scores = q @ k.mT
    rows, columns = scores.shape[-2:]
    if kind != "NONE":
        last = torch.arange(rows)[:, None] + (0 if kind == "UPPER_LEFT" else columns - rows)
        scores = scores.masked_fill(torch.arange(columns) > last, -INF)
    if mask is not None:
        scores = scores.masked_fill(~mask, -INF) if mask.dtype is torch.bool else scores + mask.double()
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", ["NONE", "UPPER_LEFT", "LOWER_RIGHT"])
@pytest.mark.parametrize("heads", [4, 2, 1])
def test_attention(kind, heads, dtype):
    q = torch.randn(2, 4, 5, 8).to(dtype)
    k, v = torch.randn(2, heads, 7, 8).to(dtype), torch.randn(2, heads, 7, 8).to(dtype)
    found = run(lambda n, *qkv: attention(n, *qkv, kind=kind), q, k, v)
    tolerance = 1e-5 if dtype is torch.float32 else 3e-2
    assert_close(found.double(), formula(q, k, v, kind=kind), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(2, 4, 5, 7), (1, 1, 5, 7), (2, 1, 1, 7)])
@pytest.mark.parametrize("additive", [False, True])
def test_attention_mask(shape, additive):
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 7, 8), torch.randn(2, 4, 7, 8)
    mask = torch.rand(shape) > 0.4
    mask[..., 0] = True
    if additive:
        mask = torch.where(mask, torch.randn(shape), -INF)
    found = run(lambda n, *x: attention(n, *x[:3], mask=x[3]), q, k, v, mask)
    assert_close(found.double(), formula(q, k, v, mask), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("additive", [False, True])
def test_attention_row_with_nothing_to_attend_to_is_nan(additive):
    """A softmax over no element is NaN in TensorRT; torch's attention gives 0."""
    q, k, v = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8)
    mask = torch.ones(1, 1, 3, 4, dtype=torch.bool)
    mask[0, 0, 1] = False
    if additive:
        mask = torch.where(mask, 0.0, -INF)
    found = run(lambda n, *x: attention(n, *x[:3], mask=x[3]), q, k, v, mask)
    assert found[:, :, 1].isnan().all()
    assert not found[:, :, [0, 2]].isnan().any()


def test_attention_without_softmax():
    q, k, v = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8)
    found = run(lambda n, *x: attention(n, *x, op="NONE"), q, k, v)
    assert_close(found, q @ k.mT @ v)


# -- sequences ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "sequence"), [(0, 1), (1, 0), (2, 0)])
def test_reverse_sequence(batch, sequence):
    x = torch.randn(3, 4, 5)
    lengths = torch.randint(0, x.shape[sequence] + 1, (x.shape[batch],), dtype=torch.int64)

    def build(n, a, b):
        layer = n.net.add_reverse_sequence(a, b)
        layer.batch_axis, layer.sequence_axis = batch, sequence
        return out(layer)

    want = x.clone()
    for i, length in enumerate(lengths.tolist()):
        row = x.select(batch, i)
        axis = sequence - (sequence > batch)
        parts = row.split([length, row.shape[axis] - length], axis)
        want.select(batch, i).copy_(torch.cat((parts[0].flip(axis), parts[1]), axis))
    assert torch.equal(run(build, x, lengths), want)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("width", [0, 4])
@pytest.mark.parametrize("positions", [False, True])
def test_rotary_embedding(interleaved, width, positions):
    x = torch.randn(2, 3, 5, 8)
    half = (width or 8) // 2
    angles = torch.randn(9, half) if positions else torch.randn(2, 5, half)
    places = torch.randint(0, 9, (2, 5))

    def build(n, a, cos, sin, ids):
        layer = n.net.add_rotary_embedding(a, cos, sin, interleaved, width)
        if positions:
            layer.set_input(3, ids)
        return out(layer), out(n.net.add_identity(ids))

    found, _ = run(build, x, angles.cos(), angles.sin(), places)
    turn = angles[places] if positions else angles
    want = x.clone()
    for i in range(half):
        one, two = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
        cos, sin = turn[:, None, :, i].cos(), turn[:, None, :, i].sin()
        want[..., one] = x[..., one] * cos - x[..., two] * sin
        want[..., two] = x[..., one] * sin + x[..., two] * cos
    assert_close(found, want)


def test_kv_cache_update():
    cache, update = torch.randn(2, 3, 8, 4), torch.randn(2, 3, 2, 4)
    indices = torch.tensor([1, 6], dtype=torch.int32)

    def build(n, a, b, i):
        return out(n.net.add_kv_cache_update(a, b, i, trt.KVCacheMode.LINEAR))

    want = cache.clone()
    want[0, :, 1:3], want[1, :, 6:8] = update[0], update[1]
    assert torch.equal(run(build, cache, update, indices), want)
    with pytest.raises(InputError, match="places 1 to 8 of a cache of length 8"):
        run(build, cache, update, torch.tensor([1, 7], dtype=torch.int32))


# -- quantisation ---------------------------------------------------------------------------------


def test_fp8_round_trip():
    x = torch.tensor([[0.3, -1000.0, 448.0, 17.0, NAN, 0.001]])

    def build(n, a):
        scale = n.constant(0.5)
        quantized = n.net.add_quantize(a, scale, trt.fp8)
        return out(n.net.add_dequantize(out(quantized), scale, trt.float32))

    want = (x / 0.5).clamp(-448, 448).to(torch.float8_e4m3fn).float() * 0.5
    assert_close(run(build, x), want, equal_nan=True, rtol=0, atol=0)


def test_nvfp4():
    """Double quantisation: FP8 block scales times one fp32 scale, FP4 values."""
    x = torch.randn(4, 32)
    outer = 0.01

    def build(n, a):
        layer = n.net.add_dynamic_quantize(a, 1, 16, trt.fp4, trt.fp8)
        layer.set_input(1, n.constant(outer))
        scale = out(n.net.add_dequantize(layer.get_output(1), n.constant(outer), trt.float32))
        return out(n.net.add_dequantize(layer.get_output(0), scale, trt.float32))

    found = run(build, x)
    step = found.reshape(4, 2, 16).abs().amax(-1, keepdim=True) / 6
    levels = found.reshape(4, 2, 16) / step
    near = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    assert (levels.abs()[..., None] - near).abs().amin(-1).max() < 1e-5
    assert_close(found, x, rtol=0, atol=float(step.max()) * 1.2)


# -- refusals -------------------------------------------------------------------------------------


def test_layer_without_evaluator_is_named():
    network = Network()
    layer = network.net.add_softmax(network.input(torch.zeros(2, 3)))
    layer.name = "attention/softmax"
    evaluators = {kind: evaluator for kind, evaluator in EVALUATORS.items() if kind != "SOFTMAX"}
    with pytest.raises(ConversionError, match="no evaluator for layer 'attention/softmax' of type SOFTMAX"):
        compile_snapshot(network.snapshot(out(layer)), evaluators)


def test_scatter_out_of_range_raises():
    x, i, u = torch.zeros(5), torch.tensor([7]), torch.ones(1)

    def build(n, a, b, c):
        layer = n.net.add_scatter(a, b, c, trt.ScatterMode.ELEMENT)
        layer.axis = 0
        return out(layer)

    with pytest.raises(InputError, match="index outside an axis of 5"):
        run(build, x, i, u)

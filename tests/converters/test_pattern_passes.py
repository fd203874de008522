"""Passes that recover what a model means: on the graph before and after, on numbers, and on the network."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from pass_helpers import after, captured, compiled_layers, ops, types
from torch import nn
from torch.export import Dim

aten = torch.ops.aten
LOWEST = torch.finfo(torch.float32).min


class Weights(nn.Module):
    """Tensors by name, and a function of them and the inputs."""

    def __init__(self, run, **tensors):
        super().__init__()
        self.run = run
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, *inputs):
        return self.run(self, *inputs)


# ---- simplify_views ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "left"),
    [
        (lambda x: (x.transpose(1, 2).transpose(-1, -2) + 1,), {"add": 1}),
        (lambda x: (x.permute(2, 0, 1).permute(1, 2, 0) + 1,), {"add": 1}),
        (lambda x: (x.permute(2, 0, 1).transpose(0, 1) + 1,), {"permute": 1, "add": 1}),
        (lambda x: (x.transpose(0, 1).mT.transpose(0, 2) + 1,), {"permute": 1, "add": 1}),
        (lambda x: (x.view(6, 4).view(2, 12) + 1,), {"reshape": 1, "add": 1}),
        (lambda x: (x.reshape(24).unflatten(0, (2, 3, 4)) + 1,), {"add": 1}),
        (lambda x: (x.unsqueeze(1).squeeze(1) + 1,), {"add": 1}),
        (lambda x: (x.flatten(1).view(2, -1, 2) + 1,), {"reshape": 1, "add": 1}),
        (lambda x: (x[:, :1].expand(2, 3, 4).expand(5, 2, -1, 4) + 1,), {"slice": 1, "expand": 1, "add": 1}),
    ],
)
def test_views_of_views(run, left):
    assert after("simplify_views", run, torch.randn(2, 3, 4)) == left


def test_views_that_are_returned_or_that_others_read_stay():
    def run(x):
        y = x.transpose(0, 1)
        return y.transpose(0, 1), y + 1

    assert after("simplify_views", run, torch.randn(2, 3)) == {"transpose": 2, "add": 1}


def test_views_with_sizes_that_vary():
    def run(x):
        return (x.view(x.shape[0], -1).view(x.shape[0] * 3, 4) + 1,)

    left = after("simplify_views", run, torch.randn(2, 3, 4), dynamic=[({0: Dim("n", min=2, max=8)},)],
                 calls=[(torch.randn(5, 3, 4),)])  # fmt: skip
    assert left["view"] + left["reshape"] == 1


def test_views_that_rely_on_a_copy_stay_good():
    def run(x):
        y = x.t().reshape(-1).view(4, 3).unsqueeze(0)
        return y.view(-1) + 1, x.t().reshape(-1).view(3, 4).unsqueeze(0).view(2, 6) + 1

    left = after("simplify_views", run, torch.randn(3, 4))
    assert left["reshape"] + left["view"] >= 3


# ---- fuse_linear -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "left"),
    [
        (lambda m, x: (x @ m.w.t(),), {"linear": 1}),
        (lambda m, x: (torch.mm(x.flatten(0, 1), m.w.t()),), {"flatten": 1, "linear": 1}),
        (lambda m, x: (x @ m.w.t() + m.b,), {"linear": 1}),
        (lambda m, x: (m.b + torch.matmul(x, m.w.mT),), {"linear": 1}),
        (lambda m, x: (torch.addmm(m.b, x[0], m.v),), {"select": 1, "linear": 1}),
        (lambda m, x: (torch.addmm(m.b, x[0], m.w.t(), alpha=2),), {"select": 1, "addmm": 1}),
        (lambda m, x: (torch.add(x @ m.v, m.b, alpha=2),), {"linear": 1, "add": 1}),
        (lambda m, x: (x @ m.v + x[..., :1],), {"linear": 1, "slice": 1, "add": 1}),
        (lambda m, x: (x @ x.mT,), {"mT": 1, "matmul": 1}),
    ],
)
def test_products_with_weights(run, left):
    module = Weights(run, w=torch.randn(5, 4), v=torch.randn(4, 5), b=torch.randn(5))
    found = after(("fuse_linear", "fold_recovered"), module, torch.randn(2, 3, 4), rtol=1e-4)
    assert {"mT" if op == "numpy_T" else op: count for op, count in found.items()} == left


def test_a_product_that_is_to_run_in_torch_stays():
    module = Weights(lambda m, x: (x @ m.v,), v=torch.randn(4, 5))
    left = after("fuse_linear", module, torch.randn(2, 4), torch_executed_ops={"aten.matmul"})
    assert left == {"matmul": 1}


def test_a_linear_network_is_a_product_and_a_sum():
    module = Weights(lambda m, x: x @ m.v + m.b, v=torch.randn(4, 5), b=torch.randn(5))
    found = types(compiled_layers(module, torch.randn(2, 4)))
    assert (found["MATRIX_MULTIPLY"], found["ELEMENTWISE"], found["SHUFFLE"]) == (1, 1, 0)


# ---- fold_batch_norm, fold_padding -------------------------------------------------------------------------


def trained(norm):
    with torch.no_grad():
        for tensor, low, high in ((norm.running_mean, -1, 1), (norm.running_var, 0.5, 2)):
            tensor.uniform_(low, high)
        if norm.affine:
            norm.weight.uniform_(-2, 2)
            norm.bias.uniform_(-1, 1)
    return norm


CONVOLUTIONS = [
    (nn.Conv1d(4, 6, 3, groups=2), nn.BatchNorm1d(6), (2, 4, 9)),
    (nn.Conv2d(4, 6, 3, bias=False, padding=1), nn.BatchNorm2d(6), (2, 4, 7, 7)),
    (nn.Conv2d(4, 6, 3, padding="same", dilation=2), nn.BatchNorm2d(6, affine=False), (2, 4, 7, 7)),
    (nn.Conv3d(2, 4, 2, stride=2), nn.BatchNorm3d(4, eps=0.1), (1, 2, 4, 4, 4)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), (2, 4, 5, 5)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=False), nn.BatchNorm2d(6), (2, 4, 5, 5)),
]


@pytest.mark.parametrize(("convolution", "norm", "shape"), CONVOLUTIONS)
def test_batch_norm_goes_into_the_convolution(convolution, norm, shape):
    module = nn.Sequential(convolution, trained(norm))
    left = (
        after("fold_batch_norm", Weights(lambda m, x: (m.run_all(x),)), torch.randn(shape)) if False else None
    )
    left = after("fold_batch_norm", Returning(module), torch.randn(shape), rtol=1e-4, atol=1e-5)
    assert len(left) == 1
    assert "conv" in next(iter(left))


class Returning(nn.Module):
    """A module whose result is a tuple."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *inputs):
        return (self.module(*inputs),)


def test_batch_norm_stays_where_it_may_not_move():
    convolution, norm = nn.Conv2d(3, 4, 3), trained(nn.BatchNorm2d(4))

    class Used(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.norm = convolution, norm

        def forward(self, x):
            y = self.convolution(x)
            return self.norm(y), y.relu()

    x = torch.randn(1, 3, 8, 8)
    assert after("fold_batch_norm", Used(), x)["batch_norm"] == 1, "the convolution is read twice"
    module = Returning(nn.Sequential(convolution, norm))
    kept = {"torch_executed_ops": {"aten.batch_norm"}}
    assert after("fold_batch_norm", module, x, **kept)["batch_norm"] == 1
    tiny = trained(nn.BatchNorm2d(4, eps=1e-12)).half()
    tiny.running_var.fill_(1e-7)
    huge = Returning(nn.Sequential(nn.Conv2d(3, 4, 3).half(), tiny))
    with torch.no_grad():
        huge.module[0].weight.fill_(60000.0)
    graph_module = captured(huge, x.half())
    from trtcore_converters.passes.convolution import fold_batch_norm

    fold_batch_norm(graph_module, settings_context())
    assert ops(graph_module)["batch_norm"] == 1, "the new weight would be infinite in float16"


SCALED = [(7, 3, 3, 3), (300, 33, 3, 3), (2, 40000, 1, 1), (64, 513), (5, 4, 2, 2, 2), (0, 4, 1, 1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", SCALED)
def test_weights_are_scaled_in_float64_and_rounded_once(shape, dtype):
    from trtcore_converters.passes.convolution import _scaled

    torch.manual_seed(0)
    weight = (torch.randn(shape) * 10.0 ** torch.randint(-6, 4, shape)).to(dtype)
    per_row = torch.randn(shape[0], *[1] * (len(shape) - 1), dtype=torch.float64)
    per_element = torch.randn(shape[0], shape[1], *[1] * (len(shape) - 2), dtype=torch.float64)
    for factor in (per_row, per_element):
        made = _scaled(weight, factor)
        assert made.dtype == dtype
        assert torch.equal(made, (weight.double() * factor).to(dtype))


def test_scaled_weights_keep_their_memory_format_and_leave_the_model_alone():
    from trtcore_converters.passes.convolution import _scaled

    weight = torch.randn(96, 48, 3, 3).contiguous(memory_format=torch.channels_last)
    before, factor = weight.clone(), torch.randn(96, 1, 1, 1, dtype=torch.float64)
    made = _scaled(weight, factor)
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(made, (weight.double() * factor).float())
    assert torch.equal(weight, before)
    expanded = torch.randn(1, 48, 3, 3).expand(96, -1, -1, -1)  # rows that share their memory
    assert torch.equal(_scaled(expanded, factor), (expanded.double() * factor).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_infinite_element_is_noticed_and_a_large_sum_is_not_taken_for_one(dtype):
    from trtcore_converters.passes.convolution import _scaled

    values, factor = torch.ones(2, 70000, dtype=dtype), torch.ones(2, 1, dtype=torch.float64)
    assert _scaled(values, factor) is not None, "the sum is too large for float16, the values are not"
    for bad in (float("inf"), float("-inf"), float("nan")):
        values[1, 69999] = bad
        assert _scaled(values, factor) is None
    values[1, 69998] = float("inf")
    assert _scaled(values, factor) is None, "infinities of both signs"


def test_two_batch_norms_in_a_row_go_into_the_convolution():
    module = Returning(
        nn.Sequential(nn.Conv2d(3, 4, 3), trained(nn.BatchNorm2d(4)), trained(nn.BatchNorm2d(4)))
    )
    assert set(after("fold_batch_norm", module, torch.randn(1, 3, 8, 8), rtol=1e-4, atol=1e-5)) == {"conv2d"}


def settings_context(**settings):
    from trtcore.compiler import make_context
    from trtcore.settings import CompilationSettings

    return make_context(CompilationSettings(**settings))


def test_a_normalised_convolution_is_one_layer():
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), trained(nn.BatchNorm2d(4)))
    assert types(compiled_layers(module, torch.randn(1, 3, 8, 8))) == {"CONVOLUTION": 1}


F = nn.functional
PADS = [
    (lambda m, x: (F.conv2d(F.pad(x, (1, 1, 2, 2)), m.w),), True),
    (lambda m, x: (F.conv2d(F.pad(x, (1, 1)), m.w, padding=1, stride=2),), True),
    (lambda m, x: (F.conv2d(F.pad(x, (1, 1, 1, 1), value=0.0), m.w, dilation=2),), True),
    (lambda m, x: (F.conv2d(F.pad(x, (0, 1, 0, 1)), m.w),), False),
    (lambda m, x: (F.conv2d(F.pad(x, (1, 1, 1, 1), value=1.0), m.w),), False),
    (lambda m, x: (F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), m.w),), False),
    (lambda m, x: (F.conv2d(F.pad(x, (-1, -1, 1, 1)), m.w),), False),
    (lambda m, x: (F.conv2d(F.pad(x, (0, 0, 0, 0, 1, 1))[:, :3], m.w),), False),
]


@pytest.mark.parametrize(("run", "folds"), PADS)
def test_zeros_around_an_image(run, folds):
    left = after("fold_padding", Weights(run, w=torch.randn(4, 3, 3, 3)), torch.randn(2, 3, 8, 8), rtol=1e-4)
    assert left["conv2d"] == 1
    assert (left["pad"] == 0) is folds


def test_a_padded_convolution_is_one_layer():
    module = nn.Sequential(nn.ZeroPad2d((2, 2, 1, 1)), nn.Conv2d(3, 4, 3))
    (layer,) = compiled_layers(module, torch.randn(1, 3, 8, 8))
    assert layer.type == "CONVOLUTION"


# ---- recover_rms_norm --------------------------------------------------------------------------------------


def rms(x, eps=1e-6):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def llama_norm(m, x):
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return (m.w * wide.to(x.dtype),)


@pytest.mark.parametrize(
    ("run", "left"),
    [
        (lambda m, x: (rms(x),), {"rms_norm": 1}),
        (lambda m, x: (rms(x) * m.w,), {"rms_norm": 1}),
        (lambda m, x: (m.w * rms(x, 0.1),), {"rms_norm": 1}),
        (lambda m, x: (x * torch.rsqrt((x * x).mean((1, 2), keepdim=True) + 1e-3),), {"rms_norm": 1}),
        (lambda m, x: (torch.rsqrt(1e-3 + x.square().mean(-1, keepdim=True)) * x,), {"rms_norm": 1}),
        (lambda m, x: (rms(x) * m.s,), {"rms_norm": 1, "mul": 1}),
        (llama_norm, {"rms_norm": 1}),
        (lambda m, x: (x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6),), None),
        (lambda m, x: (x * torch.rsqrt(x.pow(4).mean(-1, keepdim=True) + 1e-6),), None),
        (lambda m, x: ((x + 1) * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),), None),
        (lambda m, x: (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) - 1e-6),), None),
        (lambda m, x: (x * torch.rsqrt(torch.add(x.pow(2).mean(-1, keepdim=True), 1e-6, alpha=2)),), None),
    ],
)
def test_rms_norm(run, left):
    module = Weights(run, w=torch.randn(8), s=torch.randn(3, 1))
    found = after("recover_rms_norm", module, torch.randn(2, 3, 8))
    assert found == left if left is not None else found["rms_norm"] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rms_norm_rounds_where_the_model_does(dtype):
    module = Weights(llama_norm, w=torch.randn(64)).to(dtype)
    x = torch.randn(4, 64).to(dtype)
    left = after("recover_rms_norm", module, x, rtol=0, atol=0)
    assert left == {"rms_norm": 1, "mul": 1}, "the weight is multiplied after the rounding"


def test_rms_norm_with_statistics_that_others_read_stays():
    def run(x):
        mean = x.pow(2).mean(-1, keepdim=True)
        return x * torch.rsqrt(mean + 1e-6), mean + 1

    assert after("recover_rms_norm", run, torch.randn(2, 8))["rms_norm"] == 0


# ---- recover_attention -------------------------------------------------------------------------------------


def heads(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(len(shape))
    return tuple(torch.randn(shape, generator=generator).to(dtype) for _ in range(3))


def soft(scores, v):
    return (scores.softmax(-1) @ v,)


CAUSAL = torch.ones(6, 6, dtype=torch.bool).tril()
ATTENTIONS = {
    "plain": lambda m, q, k, v: soft(q @ k.mT, v),
    "divided": lambda m, q, k, v: soft(q @ k.transpose(2, 3) / math.sqrt(8), v),
    "divided by a tensor": lambda m, q, k, v: soft(q @ k.mT / torch.full([], 8**0.5), v),
    "multiplied": lambda m, q, k, v: soft(0.3 * (q @ k.mT), v),
    "keys permuted": lambda m, q, k, v: soft(torch.matmul(q, k.permute(0, 1, 3, 2)) * 0.3, v),
    "finite mask": lambda m, q, k, v: soft(q @ k.mT * 0.3 + torch.where(m.causal, 0.0, LOWEST), v),
    "mask first": lambda m, q, k, v: soft(m.bias + q @ k.mT * 0.3, v),
    "mask of one row": lambda m, q, k, v: soft(q @ k.mT + torch.where(m.causal[:1], 0.0, LOWEST), v),
    "constant with infinities": lambda m, q, k, v: soft(q @ k.mT + m.infinite, v),
    "filled": lambda m, q, k, v: soft((q @ k.mT * 0.3).masked_fill(~m.causal, LOWEST), v),
    "filled with infinity": lambda m, q, k, v: soft((q @ k.mT).masked_fill(~m.causal, -math.inf), v),
    "where": lambda m, q, k, v: soft(torch.where(m.causal, q @ k.mT * 0.3, LOWEST), v),
    "float softmax": lambda m, q, k, v: (
        torch.softmax(q @ k.mT * 0.3, -1, dtype=torch.float32).to(q.dtype) @ v,
    ),
}


def masks(**more):
    zero = torch.zeros(6, 6)
    return {
        "causal": CAUSAL,
        "infinite": zero.masked_fill(~CAUSAL, -math.inf),
        "bias": torch.randn(4, 6, 6),
        **more,
    }


@pytest.mark.parametrize("run", ATTENTIONS.values(), ids=ATTENTIONS)
def test_attention(run):
    found = after(
        ("recover_attention", "simplify_views", "fold_recovered"), Weights(run, **masks()), *heads(2, 4, 6, 8)
    )
    assert found == {"scaled_dot_product_attention": 1}


def test_attention_with_casts_of_decompositions():
    cast = torch.ops.prims.convert_element_type.default

    def run(q, k, v):
        weights = torch.softmax(cast(q @ k.mT, torch.float32), -1)
        return (cast(weights, torch.float16) @ v,)

    inputs = heads(2, 4, 6, 8, dtype=torch.float16)
    found = after(("plain_casts", "recover_attention"), run, *inputs, rtol=1e-2, atol=1e-2)
    assert found["scaled_dot_product_attention"] == 1


def test_attention_of_three_dims():
    found = after("recover_attention", Weights(ATTENTIONS["finite mask"], **masks()), *heads(4, 6, 8))
    assert found["scaled_dot_product_attention"] == 1
    assert found["softmax"] == found["matmul"] == 0


DEAD = torch.cat([torch.zeros(1, 6, dtype=torch.bool), CAUSAL[1:]])
LEFT = {
    "probabilities used": lambda m, q, k, v: (lambda p: (p @ v, p + 1))((q @ k.mT).softmax(-1)),
    "scores used": lambda m, q, k, v: (lambda s: (s.softmax(-1) @ v, s + 1))(q @ k.mT),
    "other dim": lambda m, q, k, v: ((q @ k.mT).softmax(-2) @ v,),
    "mask of the caller": lambda m, q, k, v: soft(q @ k.mT + q[..., :1], v),
    "infinite rows": lambda m, q, k, v: soft(q @ k.mT + m.dead_infinite, v),
    "filled rows of infinity": lambda m, q, k, v: soft((q @ k.mT).masked_fill(~m.dead, -math.inf), v),
    "filled with little": lambda m, q, k, v: soft((q @ k.mT).masked_fill(~m.causal, -10.0), v),
    "sum of two lowest": lambda m, q, k, v: soft(
        q @ k.mT + (torch.where(m.dead, 0.0, LOWEST) + torch.where(m.dead, 0.0, LOWEST)), v
    ),
    "heads broadcast": lambda m, q, k, v: soft(q @ k[:, :1].mT, v),
    "softmax in float16": lambda m, q, k, v: ((q @ k.mT).half().softmax(-1).float() @ v,),
    "scores in float16": lambda m, q, k, v: (torch.softmax((q @ k.mT).half(), -1, dtype=torch.float32) @ v,),
    "twice the same": lambda m, q, k, v: (lambda p: (p @ p,))((q @ k.mT).softmax(-1)),
}


@pytest.mark.parametrize("run", LEFT.values(), ids=LEFT)
def test_what_is_not_the_same_as_attention_stays(run):
    constants = masks(dead=DEAD, dead_infinite=torch.zeros(6, 6).masked_fill(~DEAD, -math.inf))
    module = Weights(run, **constants)
    assert after("recover_attention", module, *heads(2, 4, 6, 8))["scaled_dot_product_attention"] == 0


def test_a_row_without_keys_is_the_mean_of_the_values():
    """As in the model: a finite mask leaves a row of equal scores, and infinities none at all."""
    constants = masks(dead=DEAD)
    run = lambda m, q, k, v: soft((q @ k.mT).masked_fill(~m.dead, LOWEST), v)  # noqa: E731
    found = after("recover_attention", Weights(run, **constants), *heads(2, 4, 6, 8))
    assert found["scaled_dot_product_attention"] == 1
    half = after("recover_attention", Weights(half_dead, dead=DEAD), *heads(2, 4, 6, 8, dtype=torch.float16),
                 rtol=1e-2, atol=1e-2)  # fmt: skip
    assert half["scaled_dot_product_attention"] == 0, "float16's lowest number does not swallow the scores"


def half_dead(m, q, k, v):
    return soft((q @ k.mT).masked_fill(~m.dead, torch.finfo(torch.float16).min), v)


def test_masks_from_the_caller_that_can_only_be_finite():
    def run(m, q, k, v, allowed):
        mask = (1.0 - allowed[:, None, None, :].to(q.dtype)) * LOWEST
        return soft(q @ k.mT * 0.3 + mask, v)

    allowed = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    found = after("recover_attention", Weights(run), *heads(2, 4, 6, 8), allowed)
    assert found["scaled_dot_product_attention"] == 1


def test_no_attention_where_it_is_to_be_decomposed_or_to_run_in_torch():
    module = Weights(ATTENTIONS["plain"])
    for settings in ({"decompose_attention": True}, {"torch_executed_ops": {"aten.softmax"}}):
        assert after("recover_attention", module, *heads(2, 4, 6, 8), **settings)["softmax"] == 1


def test_values_that_may_be_replaced_prove_nothing():
    module = Weights(ATTENTIONS["mask first"], **masks())
    left = after("recover_attention", module, *heads(2, 4, 6, 8))
    assert left["scaled_dot_product_attention"] == 1
    from trtcore_converters.passes.attention import recover_attention

    graph_module = captured(module, *heads(2, 4, 6, 8))
    settings = SimpleNamespace(
        decompose_attention=False, immutable_weights=False, torch_executed_ops=(), torch_executed_modules=()
    )
    recover_attention(graph_module, SimpleNamespace(settings=settings))
    assert ops(graph_module)["scaled_dot_product_attention"] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_attention_becomes_the_layer(dtype):
    module = Weights(lambda m, q, k, v: ATTENTIONS["float softmax"](m, q, k, v)[0])
    tolerance = {} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
    layers = compiled_layers(module, *heads(2, 4, 6, 8, dtype=dtype), **tolerance)
    assert types(layers)["ATTENTION_INPUT"] == 1
    assert types(layers)["MATRIX_MULTIPLY"] == 0
    turned_off = compiled_layers(
        module, *heads(2, 4, 6, 8, dtype=dtype), disabled_passes={"recover_attention"}, **tolerance
    )
    assert types(turned_off)["MATRIX_MULTIPLY"] == 2


# ---- group_heads -------------------------------------------------------------------------------------------


def repeat(x, times):
    batch, own, length, size = x.shape
    return x[:, :, None].expand(batch, own, times, length, size).reshape(batch, own * times, length, size)


def attend(q, k, v, **given):
    return (F.scaled_dot_product_attention(q, k, v, **given),)


@pytest.mark.parametrize(
    ("run", "grouped"),
    [
        (lambda q, k, v: attend(q, repeat(k, 2), repeat(v, 2)), True),
        (
            lambda q, k, v: attend(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), is_causal=True),
            True,
        ),
        (lambda q, k, v: attend(q, repeat(k, 2), v.repeat(1, 2, 1, 1)), False),
        (lambda q, k, v: attend(q, k.repeat(1, 2, 1, 1), v.repeat(1, 2, 1, 1)), False),
    ],
)
def test_repeated_heads(run, grouped):
    q, k, v = heads(2, 4, 6, 8)
    found = after("group_heads", run, q, k[:, :2], v[:, :2])
    assert (found == {"scaled_dot_product_attention": 1}) is grouped


# ---- recover_rotary ----------------------------------------------------------------------------------------


def swapped(x):
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), -1)


class Rotary(nn.Module):
    """Llama's rotary embedding, with angles computed from positions."""

    def __init__(self, agree=True):
        super().__init__()
        self.agree = agree
        self.register_buffer("frequencies", 1.0 / 10000 ** (torch.arange(0, 8, 2) / 8))

    def forward(self, x, positions):
        angles = positions[..., None].float() * self.frequencies
        whole = torch.cat((angles, angles if self.agree else angles + 1), -1)
        cosines, sines = (f(whole) * 1.5 for f in (torch.cos, torch.sin))
        cosines, sines = (angle.to(x.dtype).unsqueeze(1) for angle in (cosines, sines))
        return (x * cosines + swapped(x) * sines,)


def test_rotary():
    x, positions = torch.randn(2, 4, 6, 8), torch.arange(6).expand(2, 6)
    found = after("recover_rotary", Rotary(), x, positions)
    assert found["onnx.RotaryEmbedding"] == 1
    assert found["neg"] == 0


@pytest.mark.parametrize("batch", [1, 2])
def test_rotary_becomes_the_layer(batch):
    class Whole(Rotary):
        def forward(self, x, positions):
            return super().forward(x, positions)[0]

    x, positions = torch.randn(2, 4, 6, 8), torch.arange(6).expand(batch, 6).contiguous()
    assert types(compiled_layers(Whole(), x, positions))["ROTARY_EMBEDDING"] == 1
    off = compiled_layers(Whole(), x, positions, disabled_passes={"recover_rotary"})
    assert types(off)["ROTARY_EMBEDDING"] == 0


@pytest.mark.parametrize(
    "run",
    [
        Rotary(agree=False),
        lambda x, p: (x * p[:, None, :, None] + swapped(x) * p[:, None, :, None],),
        lambda x, p: (x * CONSTANT + torch.cat((x[..., 4:], x[..., :4]), -1) * CONSTANT,),
        lambda x, p: (x * CONSTANT + torch.cat((-x[..., 3:], x[..., :3]), -1) * CONSTANT,),
    ],
    ids=["angles differ", "angles unknown", "not negated", "not halves"],
)
def test_what_is_not_a_rotation_stays(run):
    found = after("recover_rotary", run, torch.randn(2, 4, 6, 8), torch.arange(6).expand(2, 6).float())
    assert found["onnx.RotaryEmbedding"] == 0
    assert found["add"] >= 1


CONSTANT = torch.rand(1, 1, 6, 4).repeat(1, 1, 1, 2)

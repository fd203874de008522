"""Scaled dot-product attention: the layer, and its composition."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

import trtcore
from trtcore.testing import assert_converts, assert_refuses

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
BATCH = (1, 2, 4)
LENGTH = (2, 6, 9)
COMPOSED = {"decompose_attention": True}
BOTH = pytest.mark.parametrize("settings", [{}, COMPOSED], ids=["layer", "composed"])


def qkv(keys=6, heads=4, size=8):
    return torch.randn(2, 4, 6, size), torch.randn(2, heads, keys, size), torch.randn(2, heads, keys, size)


def _plain(q, k, v):
    """Several attentions of one query: TensorRT-RTX 1.7.1 crashes where they share a query times a number."""
    return sdpa(q, k, v), sdpa(q, k, v, is_causal=True), sdpa(q, k, v, scale=0.3), sdpa(q, k, v, scale=1.0)


@BOTH
def test_without_mask(settings):
    assert_converts(_plain, qkv(), dtypes=DTYPES, settings=settings)
    assert_converts(_plain, qkv(keys=5, size=5), settings=settings)
    dims = {0: BATCH, 2: LENGTH}
    assert_converts(_plain, qkv(), dynamic={0: dims, 1: dims, 2: dims}, settings=settings)


def test_one_query_for_two_sets_of_keys():
    """As image-prompt adapters have it."""

    def run(q, k, v):
        return sdpa(q, k, v) + sdpa(q, k + 1, v), sdpa(
            q.transpose(1, 2), k.mT.mT.transpose(1, 2), v.transpose(1, 2)
        )

    assert_converts(run, qkv(size=64), dtypes=(torch.float32, torch.float16))


def _shared_product(q, k, v):
    """The query's product is the model's own, and others read it."""
    p = q * 0.125
    return sdpa(p, k, v, scale=1.0) + sdpa(p, k + 1, v, scale=1.0), p


def _shared_quotient(q, k, v):
    p = (q / 8).reshape(q.shape).contiguous()
    return sdpa(p, k, v, scale=0.5), sdpa(p, p, v, scale=1.0)


def _product_beside_the_layers_own(q, k, v):
    return sdpa(q, k, v), sdpa(q * 0.125, k + 1, v, scale=1.0), q * 0.125


def _shared_key(q, k, v):
    p = 0.25 * k
    return sdpa(q, p, v), sdpa(q + 1, p, v), p - 1


def _scale_in_a_buffer():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.tensor([0.125]))

        def forward(self, q, k, v):
            p = q * self.scale
            return sdpa(p, k, v, scale=1.0), sdpa(p, k + 1, v, scale=1.0)

    return Model()


class _Module(torch.nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, q, k, v):
        return self.run(q, k, v)


@pytest.mark.parametrize(
    ("isolation", "run"),
    [
        pytest.param("process", _shared_product, marks=pytest.mark.slow),
        ("thread", _shared_product),
        ("thread", _shared_quotient),
        ("thread", _product_beside_the_layers_own),
        ("thread", _shared_key),
        ("thread", _scale_in_a_buffer()),
    ],
    ids=["process", "product", "quotient", "beside", "key", "buffer"],
)
def test_products_that_others_read_too(isolation, run):
    """TensorRT-RTX 1.7.1 crashes on these when the product is with a number; the process goes first, so as to tell."""
    dtypes = (torch.float32, torch.float16) if isolation == "process" else (torch.float32,)
    given = qkv(size=64)
    for dtype in dtypes:
        model = run.to(dtype) if isinstance(run, torch.nn.Module) else _Module(run)
        inputs = [x.to(dtype) for x in given]
        compiled = trtcore.compile(model, inputs, min_block_size=1, build_isolation=isolation)
        assert len(compiled.report.engines) == 1, str(compiled.report)
        assert not compiled.report.quarantined
        assert not compiled.report.in_torch
        for want, got in zip(model(*inputs), compiled(*inputs)):
            torch.testing.assert_close(got, want, rtol=2e-3 if dtype == torch.float16 else 1e-5, atol=2e-3)


def _masked(q, k, v, mask):
    return (
        sdpa(q, k, v, mask),
        sdpa(q, k, v, mask[:, :, :1]),
        sdpa(q, k, v, mask[0, 0]),
        sdpa(q, k, v, mask[:1]),
    )


@BOTH
@pytest.mark.parametrize("kind", ["bool", "additive"])
def test_masks(settings, kind):
    mask = torch.rand(2, 1, 6, 6) > 0.3
    mask[..., 0] = True
    if kind == "additive":
        mask = torch.zeros(2, 1, 6, 6).masked_fill(~mask, -math.inf) + torch.randn(2, 1, 6, 6)
    assert_converts(_masked, (*qkv(), mask), dtypes=DTYPES, settings=settings)
    dims = {0: BATCH, 2: LENGTH}
    assert_converts(
        lambda q, k, v, mask: sdpa(q, k, v, mask[..., : q.shape[2]]),
        (*qkv(), mask[..., :1].expand(-1, -1, -1, 9).clone()),
        dynamic={0: dims, 1: dims, 2: dims, 3: dims},
        settings=settings,
    )


@BOTH
def test_rows_with_nothing_to_attend_to_are_zero(settings):
    mask = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    mask[1, 0, 2:4] = False
    additive = torch.zeros(2, 1, 6, 6).masked_fill(~mask, -math.inf)

    def run(q, k, v, mask, additive):
        return sdpa(q, k, v, mask), sdpa(q, k, v, additive)

    assert_converts(run, (*qkv(), mask, additive), dtypes=DTYPES, settings=settings)

    class Constant(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", mask)

        def forward(self, q, k, v):
            return sdpa(q, k, v, self.mask)

    assert_converts(Constant(), qkv(), settings=settings)


@BOTH
@pytest.mark.parametrize("heads", [1, 2])
def test_grouped_heads(settings, heads):
    def run(q, k, v):
        return sdpa(q, k, v, enable_gqa=True), sdpa(q, k, v, enable_gqa=True, is_causal=True)

    dims = {0: BATCH, 2: LENGTH}
    assert_converts(run, qkv(heads=heads), dtypes=DTYPES, settings=settings)
    assert_converts(run, qkv(heads=heads), dynamic={0: dims, 1: dims, 2: dims}, settings=settings)


def test_one_head_of_keys_for_all_queries():
    proof = assert_converts(sdpa, qkv(heads=1), dtypes=DTYPES)
    assert {node.converter for node in proof.report.converted} == {"attention_layer"}


def test_what_the_layer_does_not_take_is_composed():
    q, k, v = qkv()
    assert_converts(sdpa, (q, k, torch.randn(2, 4, 6, 3)))
    assert_converts(sdpa, (q[0], k[0], v[0]), dtypes=DTYPES)
    assert_converts(sdpa, (q[0, 0], k[0, 0], v[0, 0]))
    assert_converts(sdpa, (q, k[:1], v[:1]))
    assert_converts(sdpa, (q[None], k[None], v[None]))
    proof = assert_converts(lambda q, k, v: sdpa(q, k, v, is_causal=True), (q[0], k[0, :, :4], v[0, :, :4]))
    assert {node.converter for node in proof.report.converted} == {"attention_composed"}


def test_the_layer_is_used():
    proof = assert_converts(sdpa, qkv())
    assert {node.converter for node in proof.report.converted} == {"attention_layer"}


def test_refusals():
    def dropping(q, k, v):
        return sdpa(q, k, v, dropout_p=0.5) * 0

    assert_refuses(dropping, qkv(), "random")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float32_that_was_widened(dtype):
    """TensorRT-RTX 1.7.1 crashes on it in its attention layer: the composed converter takes it."""

    def run(q, k, v):
        wide = [x.float() for x in (q, k, v)]
        moved = k.transpose(1, 2).contiguous().float().transpose(1, 2)
        return torch.cat([sdpa(*wide).to(dtype), sdpa(wide[0], moved, wide[2], scale=1.0).to(dtype)])

    proof = assert_converts(run, qkv(), dtypes=(dtype,))
    names = {node.converter.split()[0] for node in proof.report.nodes if "attention" in node.op}
    assert names == {"attention_composed"}

"""Attention that ``run_decompositions`` took apart is attention again."""

from __future__ import annotations

import math

import pytest
import torch
from pass_helpers import Function, after

import trtcore

F = torch.nn.functional
aten = torch.ops.aten


def heads(dtype=torch.float32):
    """Queries, keys and values as projections of (batch, length, heads * size) are."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 6, 4, 8, generator=generator).to(dtype).transpose(1, 2) for _ in range(3))


MASK = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
MASK[2] = -math.inf


def every(q, k, v, mask):
    return (
        F.scaled_dot_product_attention(q, k, v, scale=0.3),
        F.scaled_dot_product_attention(q, k, v, mask),
        F.scaled_dot_product_attention(q, k, v, mask > 0),
        F.scaled_dot_product_attention(q, k, v, is_causal=True),
        F.scaled_dot_product_attention(q[0], k[0], v[0]),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("dynamic", [False, True])
def test_every_form(dtype, dynamic):
    inputs = (*heads(dtype), MASK.to(dtype))
    shapes = {"inputs": ({0: torch.export.Dim("n", min=2, max=8)},) * 3 + (None,)} if dynamic else None
    exported = torch.export.export(Function(every), inputs, dynamic_shapes=shapes).run_decompositions()
    compiled = trtcore.compile(exported, min_block_size=1, runtime="reference")
    assert compiled.report.in_torch == ()
    names = [node.op for node in compiled.report.nodes]
    assert names.count("aten.scaled_dot_product_attention.default") == 5
    assert not any("softmax" in name for name in names)
    rtol = 1e-5 if dtype == torch.float32 else 1e-2
    for want, got in zip(every(*inputs), compiled(*inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=rtol, atol=rtol)


# ---- what is none ------------------------------------------------------------------------------------------


def safe(scores):
    weights = aten._softmax(scores, -1, False)
    alive = aten.any.dim(aten.logical_not(aten.eq.Scalar(scores, -math.inf)), -1, True)
    return aten.where.self(aten.logical_not(alive), aten.full_like(weights, 0), weights)


def product(q, k):
    return aten.bmm(q, k.transpose(1, 2))


FORMS = {
    "attention": (lambda q, k, v, m: aten.bmm(safe(product(q, k) + m), v), 1),
    "a mask that counts": (lambda q, k, v, m: aten.bmm(safe(product(q, k) + (m > 0)), v), 0),
    "a number in its place": (lambda q, k, v, m: aten.bmm(safe(product(q, k) + 1.0), v), 0),
    "weights that are read": (lambda q, k, v, m: (w := safe(product(q, k)), aten.bmm(w, v)), 0),
    "scores of one row": (lambda q, k, v, m: aten.bmm(safe(product(q[:, :1], k) + m), v), 0),
    "other scores": (
        lambda q, k, v, m: aten.bmm(
            aten.where.self(
                aten.logical_not(aten.any.dim(aten.logical_not(aten.eq.Scalar(m, -math.inf)), -1, True)),
                aten.full_like(product(q, k), 0),
                aten._softmax(product(q, k) + m, -1, False),
            ),
            v,
        ),
        0,
    ),
}


@pytest.mark.parametrize(("run", "count"), FORMS.values(), ids=FORMS)
def test_only_attention_is_recovered(run, count):
    def several(*inputs):
        result = run(*inputs)
        return result if isinstance(result, tuple) else (result,)

    inputs = tuple(x[0] for x in heads())
    found = after("recover_decomposed_attention", several, *inputs, MASK)
    assert found["scaled_dot_product_attention"] == count


def test_the_setting_leaves_it_apart():
    run, _ = FORMS["attention"]
    inputs = tuple(x[0] for x in heads())
    found = after(
        "recover_decomposed_attention", lambda *x: (run(*x),), *inputs, MASK, decompose_attention=True
    )
    assert found["scaled_dot_product_attention"] == 0

"""Ops that are rewritten: our own decompositions, and a few of torch's that models use."""

from __future__ import annotations

import torch

from trtcore.testing import assert_converts, assert_refuses

BOTH = {0: {0: (1, 2, 4)}, 1: {0: (1, 2, 4)}}


def test_ours():
    def run(a, b):
        return (
            torch.hypot(a, b),
            torch.copysign(a, b),
            torch.hypot(a * 1e25, b * 1e25),
            torch.cdist(a, b),
            torch.copysign(a, -0.0),
        )

    assert_converts(run, (torch.randn(2, 4), torch.randn(2, 4)), dynamic=BOTH)
    assert_converts(run, (torch.tensor([[0.0, -0.0, 1.0]]), torch.tensor([[0.0, -2.0, -1.0]])))


def test_distances_of_batches_of_different_rank():
    def run(a, b):
        return (torch.cdist(a, b), torch.cdist(b, a, 1.0), torch.cdist(a, b[None, None], float("inf")))

    ranges = {0: {0: (1, 2, 4), 2: (2, 3, 6)}, 1: {0: (2, 5, 9)}}
    assert_converts(run, (torch.randn(2, 3, 3, 4), torch.randn(5, 4)), dynamic=ranges)
    assert_converts(run, (torch.randn(2, 1, 3, 4), torch.randn(7, 5, 4)))
    deep = torch.randn(1, 1, 1, 1, 1, 1, 3, 4)
    assert_converts(torch.cdist, (deep[0], torch.randn(5, 4)))
    assert_refuses(torch.cdist, (deep, torch.randn(5, 4)), "at most 8 dims, and this has 9")


def test_buckets():
    def run(x, edges):
        return torch.bucketize(x, edges), torch.bucketize(x, edges, right=True, out_int32=True)

    values = (torch.tensor([[-1.0, 0.0, 0.5, 1.0, 1.5, 9.0]]), torch.tensor([0.0, 1.0, 1.5, 3.0]))
    assert_converts(run, values, dynamic={0: {1: (2, 6, 8)}})


def test_products():
    values = (torch.randn(3, 5), torch.randn(2, 3, 4), torch.randn(2, 4, 5))
    assert_converts(lambda x, a, b: (torch.addbmm(x, a, b), torch.addbmm(x, a, b, beta=0.5, alpha=2)), values)


def test_bilinear():
    def run(a, b, weight, bias):
        return torch.nn.functional.bilinear(a, b, weight, bias), torch.nn.functional.bilinear(
            a[0], b[0], weight
        )

    values = (torch.randn(3, 4), torch.randn(3, 5), torch.randn(2, 4, 5), torch.randn(2))
    assert_converts(run, values, dynamic={0: {0: (1, 3, 4)}, 1: {0: (1, 3, 4)}})


def test_torchs():
    def run(a, b):
        return (
            torch.lerp(a, b, 0.3), torch.addcmul(a, a, b, value=2), torch.addcdiv(a, a, b, value=0.5), torch.logaddexp(a, b), torch.square(a),
            torch.nn.functional.pixel_shuffle(a, 2), torch.special.expit(a), torch.logit(a.sigmoid()), torch.nn.functional.mse_loss(a, b),
            torch.tril(a[0, 0]), torch.frac(a), a.new_tensor([1.0, 2.0]) * a[..., :1], torch.nn.functional.normalize(a, dim=1), torch.nan_to_num(a),
            torch.nn.functional.one_hot(b[0, 0].abs().long().clamp(0, 3), 4), torch.meshgrid(a[0, 0, 0], b[0, 0, 0], indexing="ij")[1],
        )  # fmt: skip

    assert_converts(run, (torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3) + 3))


def test_random_ops_stay_in_torch():
    assert_refuses(lambda x: torch.rand_like(x) * 0 + x.exp(), (torch.randn(3),), "rand")
    assert_refuses(lambda x: torch.native_dropout(x, 0.5, True)[0] * 0, (torch.randn(3),), "dropout")
    assert_converts(lambda x: torch.native_dropout(x, 0.5, False), (torch.randn(3),))

"""Reductions: axes, keepdim, dtypes, integers beyond float32, empty and 0-d tensors."""

from __future__ import annotations

import math

import pytest
import torch

from trtcore.testing import assert_converts

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
DYNAMIC = {0: {0: (1, 3, 4), 1: (2, 4, 6), 2: (2, 5, 8)}}
X = torch.linspace(-2, 2, 60)[torch.randperm(60, generator=torch.Generator().manual_seed(0))].reshape(3, 4, 5)
INTS = torch.tensor([[[2**40 + 1, -5, 7], [0, 3, -(2**33)]], [[1, 1, 0], [16777217, -2, 9]]])


def sums(x):
    return (
        x.sum(), x.sum(1), x.sum((0, -1), keepdim=True), x.sum([]), x.sum(1, dtype=torch.float32),
        torch.count_nonzero(x), torch.count_nonzero(x, (0, 1)),
    )  # fmt: skip


def extremes(x):
    return (
        x.amax(1), x.amin((0, 2), keepdim=True), x.amax(()), x.max(), x.min(), x.max(1).values, *x.max(-1, keepdim=True),
        *x.min(0), x.min(1)[1], x.argmax(), x.argmin(None, keepdim=True), x.argmax(1), x.argmin(-1, keepdim=True),
    )  # fmt: skip


def logic(x):
    return x.any(), x.any(1), x.any((0, 2), keepdim=True), x.all(), x.all(-1, keepdim=True), x.all((0, 1))


def means(x):
    return (
        x.mean(), x.mean(-1), x.mean((0, 2), keepdim=True), x.mean(1, dtype=torch.float32), x.prod(), x.prod(1),
        x.prod(-1, keepdim=True), *torch.aminmax(x, dim=1), *torch.aminmax(x), torch.logsumexp(x, (0, 2)),
        torch.logsumexp(x, -1, keepdim=True),
    )  # fmt: skip


def deviations(x):
    return (
        x.var(), x.std(), x.var(1), x.std((0, 2), keepdim=True), x.var(1, unbiased=False), x.std(-1, correction=2),
        *torch.var_mean(x, (1, 2)), *torch.std_mean(x, 0, keepdim=True),
    )  # fmt: skip


def norms(x):
    orders = (2, 1, 0, 3, 2.5, math.inf, -math.inf)
    return (
        *(torch.linalg.vector_norm(x, order, dim=(0, 2)) for order in orders), torch.linalg.vector_norm(x),
        *(torch.norm(x, order, 1, True) for order in orders), torch.norm(x), torch.norm(x, p="fro", dim=(1, 2)),
    )  # fmt: skip


@pytest.mark.parametrize("run", [sums, extremes, logic, means, deviations, norms])
def test_floats(run):
    assert_converts(run, (X,), dtypes=FLOATS)
    assert_converts(run, (X,), dynamic=DYNAMIC)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_integers_are_exact(dtype):
    """TensorRT 8.5 reduced int32 in floating point; these need 41 bits, or 25."""
    x = INTS if dtype == torch.int64 else (INTS % (1 << 30)).int()
    assert_converts(sums, (x,))
    assert_converts(extremes, (x,))
    assert_converts(logic, (x,))
    assert_converts(lambda x: (x.prod(2), x.prod(1, keepdim=True)), (x % 1000,))


def test_bools():
    x = X > 0
    assert_converts(sums, (x,), dynamic=DYNAMIC)
    assert_converts(logic, (x,))
    assert_converts(lambda x: (x.amax(1), x.amin(1), x.max(), *x.max(1), x.prod(1)), (x,))


def test_no_dims():
    def run(x):
        return (
            x.sum(),
            x.mean(),
            x.amax(),
            x.prod(),
            x.any(),
            x.argmax(),
            *x.max(0),
            torch.linalg.vector_norm(x),
            x.sum(0),
        )

    assert_converts(run, (torch.tensor(-1.5),))


def test_no_elements():
    def run(x):
        return x.sum(0), x.sum(), x.prod(0), x.any(0), x.all(0), x.all(), x.sum(1), x.amax(1)

    assert_converts(run, (torch.randn(0, 3),))
    assert_converts(run, (torch.randint(3, (0, 3)),))


def test_one_element_has_no_variance():
    """NaN, as in torch."""
    assert_converts(lambda x: (x.var(0), x.std(1)), (torch.randn(1, 3),), dynamic={0: {1: (2, 3, 4)}})


def test_halves_whose_sum_is_large():
    """A sum in fp16 would stop at 2048."""
    assert_converts(
        lambda x: (x.sum(1), x.mean(1)), (torch.ones(2, 5000),), dtypes=(torch.float16,), rtol=1e-3
    )


def test_ties_take_the_first():
    x = torch.tensor([[3.0, 1, 3, 1], [2, 2, 2, 2]])
    assert_converts(lambda x: (x.argmax(1), x.argmin(1), *x.max(0)), (x,))

"""Comparisons, logic, where."""

from __future__ import annotations

import math

import pytest
import torch

from trtcore.testing import assert_converts

aten = torch.ops.aten


def _all(x, y):
    return x == y, x != y, x < y, x <= y, x > y, x >= y, x == 1, x != 1, x < 1, x <= 1, x > 1, x >= 1


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool]
)
def test_comparisons(dtype):
    x = torch.tensor([[-1, 0, 1, 2], [1, 1, 2, 0]]).to(dtype)
    y = torch.tensor([[0, 0, 1, 1]]).to(dtype)
    assert_converts(_all, (x, y), dynamic={0: {0: (1, 2, 4)}})


def test_comparisons_of_nan_and_mixed_dtypes():
    x = torch.tensor([math.nan, 1.0, math.inf, -math.inf, 1.5])
    y = torch.tensor([math.nan, 1.0, math.inf, 2.0, 1.5])

    def run(x, y, i):
        return (
            *_all(x, y),
            *_all(i, y),
            i == 1.5,
            i > 0.5,
            i < True,
            x == 0.1,
            x.half() == 0.1,
            torch.tensor(1) < i,
        )

    assert_converts(run, (x, y, torch.tensor([0, 1, 2, 3, 1])))


def test_kinds_of_numbers():
    x = torch.tensor([[math.nan, 1.0, math.inf], [-math.inf, 0.0, -2.5]])

    def run(x, i):
        return x.isnan(), x.isinf(), x.isfinite(), i.isnan(), i.isinf(), i.isfinite(), x.half().isnan()

    assert_converts(run, (x, torch.tensor([[1, 2, 3]])), dynamic={0: {0: (1, 2, 3)}})


def test_logic():
    a = torch.tensor([[True, True, False, False]])
    b = torch.tensor([[True], [False]])

    def run(a, b, x, i):
        return (
            a & b, a | b, a ^ b, ~a, a.logical_and(b), a.logical_or(b), a.logical_xor(b), a.logical_not(), a & True,
            x.logical_and(i), x.logical_or(a), x.logical_not(), i.logical_xor(x), ~i, i << 2, i >> 1,
            aten.__and__.Tensor(a, b), aten.__or__.Scalar(a, False), aten.__xor__.Tensor(a, b),
        )  # fmt: skip

    values = (a, b, torch.tensor([[0.0, 1.0, -0.0, math.nan]]), torch.tensor([[0, 5, -3, -8]]))
    assert_converts(run, values, dynamic={1: {0: (1, 2, 4)}})


def test_where_and_masked_fill():
    c = torch.tensor([[True, False, True]])

    def run(c, x, y, i):
        return (
            torch.where(c, x, y), torch.where(c, x, 0.0), torch.where(c, 1, x), torch.where(c, 1.0, 2.0), torch.where(c, i, x),
            torch.where(x > 0, x, -x), torch.where(c, c, x > 0), x.masked_fill(c, -math.inf), i.masked_fill(c, 7),
            x.masked_fill(c, y[0, 0]), torch.where(c, x, y[0, 0]),
        )  # fmt: skip

    values = (c, torch.randn(2, 3), torch.randn(2, 1), torch.tensor([[1, 2, 3]]))
    assert_converts(run, values, dtypes=(torch.float32, torch.float16))
    assert_converts(run, values, dynamic={1: {0: (1, 2, 4)}, 2: {0: (1, 2, 4)}})


def test_where_with_one_tensor_in_both_branches():
    def run(c, d, x):
        return (
            torch.where(c.unsqueeze(-2), x, x),
            torch.where(d > 0, x, x),
            torch.where(x > 0, x, x),
            torch.where(d > 0, c, c),
        )

    values = (torch.tensor([[True], [False], [True]]), torch.randn(3, 1), torch.randn(3, 5))
    assert_converts(run, values, dtypes=(torch.float32, torch.float16, torch.bfloat16))
    assert_converts(run, values, dynamic={2: {1: (1, 5, 9)}})


def test_scalars_and_empty():
    def run(x, e):
        return x > 1, x == x, torch.where(x > 1, x, 0.0), e > 0, e.isnan(), torch.where(e > 0, e, x)

    assert_converts(run, (torch.tensor(1.5), torch.zeros(0, 2)))

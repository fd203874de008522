"""Running sums."""

from __future__ import annotations

import torch

from trtcore.testing import assert_converts

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def run(x):
    return x.cumsum(1), x.cumsum(-1), x.cumsum(0, dtype=torch.float32)


def test_cumsum():
    assert_converts(run, (torch.randn(3, 4, 5),), dtypes=FLOATS)
    assert_converts(run, (torch.randn(3, 4, 5),), dynamic={0: {0: (1, 3, 4), 1: (2, 4, 6)}})


def test_integers_and_bools():
    x = torch.randint(-(2**40), 2**40, (3, 4, 5))
    assert_converts(lambda x: (x.cumsum(1), x.cumsum(-1)), (x,))
    assert_converts(lambda x: (x.cumsum(1), x.cumsum(-1, dtype=torch.int32)), ((x % 1000).int(),))
    assert_converts(lambda x: x.cumsum(1), (x > 0,))


def test_few_dims_and_no_elements():
    assert_converts(lambda x: x.cumsum(0), (torch.tensor(2.0),))
    assert_converts(lambda x: x.cumsum(0), (torch.randn(5),))
    assert_converts(lambda x: x.cumsum(0), (torch.randn(0, 3),))


def test_halves_whose_sum_is_large():
    """A running sum in fp16 would stop at 2048."""
    assert_converts(lambda x: x.cumsum(0), (torch.ones(3000, 1),), dtypes=(torch.float16,), rtol=1e-3)

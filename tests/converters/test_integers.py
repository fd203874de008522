"""Divisors of integers, against eager: any sizes, signs and zeros, and the pairs that take longest."""

from __future__ import annotations

import pytest
import torch

from trtcore.testing import assert_converts

SLOWEST = {torch.int32: (1836311903, 1134903170), torch.int64: (7540113804746346429, 4660046610375530309)}
"""Neighbours in Fibonacci's sequence."""


def run(a, b):
    return torch.gcd(a, b), torch.lcm(a, b), torch.gcd(a.reshape(-1, 1), b)


@pytest.mark.parametrize("dtype", SLOWEST)
def test_divisors(dtype):
    a = torch.tensor([0, 0, 12, -12, 18, 7, 1 << 20, SLOWEST[dtype][0]], dtype=dtype)
    b = torch.tensor([0, 5, 18, 8, -12, 0, 3 << 10, SLOWEST[dtype][1]], dtype=dtype)
    assert_converts(run, (a, b))
    assert_converts(run, (a[:4], b[:4]), dynamic={0: {0: (1, 4, 6)}, 1: {0: (1, 4, 6)}})
    assert_converts(lambda a, b: torch.gcd(a, b), (a[2], b[2]))

"""Bitwise operations and shifts, at the ends of the integer types."""

from __future__ import annotations

import operator

import pytest
import torch

from trtcore.testing import assert_converts

LIMITS = {torch.int32: torch.iinfo(torch.int32), torch.int64: torch.iinfo(torch.int64)}


def _edges(dtype):
    limit = LIMITS[dtype]
    known = [
        0,
        1,
        -1,
        2,
        15,
        16,
        -16,
        255,
        -256,
        limit.max,
        limit.min,
        limit.max - 1,
        limit.min + 1,
        limit.max // 3,
    ]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(limit.min, limit.max, (18,), generator=generator, dtype=dtype)
    return torch.cat([torch.tensor(known, dtype=dtype), drawn])


@pytest.mark.parametrize("operation", [operator.and_, operator.or_, operator.xor])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_integers(operation, dtype):
    x = _edges(dtype)
    assert_converts(operation, (x[:, None], x[None, :]))


def test_a_number_and_a_dynamic_size():
    assert_converts(lambda x: (x & 12) | (3 ^ x), (_edges(torch.int64),), dynamic={0: {0: (1, 8, 40)}})


def test_bools_and_not():
    x = torch.tensor([True, False])
    assert_converts(lambda a, b: (a & b, a | b, a ^ b, ~a), (x[:, None], x[None, :]))
    assert_converts(lambda a: ~a, (_edges(torch.int64),))


@pytest.mark.parametrize("operation", [torch.bitwise_left_shift, torch.bitwise_right_shift])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_shifts(operation, dtype):
    shifts = torch.tensor([0, 1, 4, 30, 31, 32, 33, 62, 63, 64, -1], dtype=dtype)
    assert_converts(operation, (_edges(dtype)[:, None], shifts[None, :]))


def test_shifts_by_a_number():
    assert_converts(lambda x: (x << 3, x >> 2), (_edges(torch.int32),))

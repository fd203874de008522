"""Arithmetic: promotion, scalars, alpha, rounding modes, broadcasting, empty and 0-d tensors."""

from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import trtcore
from trtcore.testing import assert_converts, assert_refuses

aten = torch.ops.aten

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
DYNAMIC = {0: {0: (1, 2, 5)}, 1: {0: (1, 2, 5)}}


def positive(*shape):
    return torch.rand(*shape) + 0.5


def test_floats_with_tensors_and_broadcasting():
    def run(x, y):
        row = y[:, :1]
        return (
            x + y, torch.add(x, row, alpha=2.5), x - y, torch.sub(x, row, alpha=3), x * row, x / y,
            torch.rsub(x, y, alpha=2), torch.maximum(x, row), torch.minimum(x, y), torch.fmax(x, y), torch.fmin(x, row),
            torch.div(x, y, rounding_mode="trunc"), torch.pow(y, x),
        )  # fmt: skip

    assert_converts(run, (torch.randn(2, 3, 4), positive(2, 3, 4)), dtypes=FLOATS)
    assert_converts(run, (torch.randn(2, 3, 4), positive(2, 3, 4)), dynamic=DYNAMIC)


def test_floats_with_numbers():
    def run(x):
        return (
            x + 1, 2.5 - x, x * 3, x / 3, 1 / x, x**2, x**3, x**0.5, x**-1, x**-0.5, x**0, x**1.7, 2.0**x, x**-2,
            aten.add.Scalar(x, 2, 3), aten.sub.Scalar(x, 2, 3), aten.rsub.Scalar(x, 2, 0.5), torch.fmod(x, 0.5),
            x // 0.5, x % 2, torch.div(x, 4, rounding_mode="floor"), torch.remainder(x, -1),
        )  # fmt: skip

    assert_converts(run, (positive(2, 3, 4),), dtypes=FLOATS, dynamic={0: {1: (1, 3, 6)}})


def test_numbers_that_a_low_precision_cannot_hold():
    """1e5 is infinity in float16, and torch multiplies in float32."""

    def run(x):
        return x * 1e5, x / 1e6, x + 1e-8, (x + 1e5) * 1e-3

    assert_converts(run, (torch.rand(2, 3) * 0.1,), dtypes=(torch.float16, torch.bfloat16))


def test_remainders_of_negative_numbers():
    x = torch.tensor([-3.5, -2.0, -0.25, 0.0, 0.25, 2.0, 3.5, 7.75])

    def run(x):
        return (
            x % 2,
            x % -2,
            torch.fmod(x, 2),
            torch.fmod(x, -2),
            x // 2,
            x // -2,
            torch.div(x, 2, rounding_mode="trunc"),
        )

    assert_converts(run, (x,), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_integers(dtype):
    x = torch.tensor([[-7, -6, -1, 0], [1, 5, 6, 7]], dtype=dtype)
    y = torch.tensor([[3, -3, 2, 5], [-2, 4, -4, 3]], dtype=dtype)

    def run(x, y):
        return (
            x + y, torch.add(x, y, alpha=3), x - y, x * y, x / y, torch.rsub(x, y), x // y, x % y, torch.fmod(x, y),
            torch.div(x, y, rounding_mode="trunc"), torch.div(x, y, rounding_mode="floor"), torch.maximum(x, y),
            x + 1, x * 2.5, x / 2, x // 2, x % 3, x**2, x**3, x**0, x**2.0, 2.0**x, torch.clamp(x, -2, 3), torch.clamp(x, min=0.5),
            torch.floor_divide(x, y[0]), 10 - x,
        )  # fmt: skip

    assert_converts(run, (x, y), dynamic={0: {0: (1, 2, 4)}, 1: {0: (1, 2, 4)}})


def test_promotion():
    ints = torch.tensor([[1, 2, 3]])
    half = torch.rand(2, 1, dtype=torch.float16)
    scalar = torch.tensor(2.5)
    flags = torch.tensor([[True, False, True]])

    def run(ints, half, scalar, flags):
        return (
            ints + half, ints.int() * half, ints * scalar, half * scalar, half + ints.float(), flags + ints, flags * half,
            ints + True, flags + 1, flags * 2.0, ints.int() + ints, ints / 2, half.bfloat16() + half, scalar + ints[0, 0],
            flags + flags, flags * flags, torch.maximum(flags, flags), ints.int() + 2**20,
        )  # fmt: skip

    assert_converts(run, (ints, half, scalar, flags))


def test_clamp():
    def run(x, low, high):
        return (
            x.clamp(-0.5, 0.5), x.clamp(min=0), x.clamp(max=0.25), x.clamp(low, high), x.clamp(min=low), x.clip(high, low),
            aten.clamp_min.default(x, 0.1), aten.clamp_max.default(x, 0.1), aten.clamp_min.Tensor(x, low), x.clamp(0.5, -0.5),
            aten.clamp_max.Tensor(x, high),
        )  # fmt: skip

    values = (torch.randn(3, 4), torch.full((4,), -0.3), torch.full((3, 1), 0.4))
    assert_converts(run, values, dtypes=FLOATS)
    assert_converts(run, values, dynamic={0: {0: (1, 3, 5)}, 2: {0: (1, 3, 5)}})


def test_scalars_and_empty():
    def run(x, empty):
        return x + 1, x * x, x / 3, x**2, empty * 2, empty + x, empty - empty

    assert_converts(run, (torch.tensor(1.5), torch.zeros(0, 3)))


def test_symbolic_operands():
    def run(x, ids):
        n = x.shape[0]
        return x * n, x / n, ids + n, n - ids.int(), ids * n + x.shape[1], torch.add(ids, 1, alpha=n)

    values = (torch.randn(3, 2), torch.arange(6).reshape(3, 2))
    assert_converts(run, values, dynamic={0: {0: (1, 3, 6)}, 1: {0: (1, 3, 6)}})


def test_angles():
    y = torch.tensor([[1.0, -1.0, 0.0, 0.0, 2.0, -2.0, 0.5], [0.0, 1e-3, -3.0, 1.0, -1.0, 0.0, -0.0]])
    x = torch.tensor([[1.0, -1.0, 1.0, -1.0, 0.0, 0.0, -1e-3], [0.0, 5.0, -1e3, 1e-6, -1.0, -2.0, 2.0]])
    x[1, 0], x[1, 6] = 3.0, 1.0
    assert_converts(torch.atan2, (y, x), dtypes=FLOATS, dynamic=DYNAMIC)
    assert_converts(lambda y, x: torch.atan2(y.int(), x), (y, x))


def test_refusals():
    assert_refuses(
        lambda x, y: x**y, (torch.tensor([2, 3], dtype=torch.int16), torch.tensor([2, 3])), "int16"
    )
    assert_refuses(lambda x: x + x, (torch.tensor([2, 3], dtype=torch.uint8),), "no arithmetic on uint8")


# ---- exact remainders --------------------------------------------------------------------------------------


def divisions(x, y):
    return (
        torch.fmod(x, y),
        x % y,
        x // y,
        torch.div(x, y, rounding_mode="floor"),
        x % 0.1,
        torch.fmod(x, -0.3),
    )


def test_remainders_of_floats():
    x = torch.tensor([1.0, 0.7, -1.0, 77.0, -5.3, 0.3, 1e4, -0.0, 6.0])
    y = torch.tensor([0.1, 0.1, 0.1, -0.3, 0.7, 0.1, 0.7, 3.0, -1.5])
    assert_converts(divisions, (x, y), dtypes=FLOATS, rtol=0.0, atol=0.0)
    row = (x[:8].reshape(4, 2), y[:2])
    assert_converts(lambda x, y: x % y, row, dynamic={0: {0: (1, 4, 6)}}, rtol=0.0, atol=0.0)
    assert_converts(lambda x, y: x % y, (torch.tensor(5.3), torch.tensor(0.1)))


@pytest.fixture(scope="module")
def compiled_divisions():
    class Module(torch.nn.Module):
        def forward(self, a, b):
            return torch.fmod(a, b), torch.remainder(a, b), torch.floor_divide(a, b)

    sample = torch.ones(64)
    return trtcore.compile(
        Module(), inputs=[sample, sample.clone()], min_block_size=1, require_full_compilation=True
    )


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=512, max_size=512), st.integers(-50, 50))
def test_remainders_are_exact(trt_backend, compiled_divisions, bits, times):
    """Against C's fmod: torch's vectorised one gives NaN where the quotient is huge."""
    a, b = torch.frombuffer(bytearray(bits), dtype=torch.float32).reshape(2, 64)
    for size in (a, b * times):
        with numpy.errstate(all="ignore"):
            left = torch.from_numpy(numpy.fmod(size.numpy(), b.numpy()))
        other_side = (left != 0) & ((left < 0) != (b < 0))
        found = compiled_divisions(size, b)
        expected = (left, torch.where(other_side, left + b, left), torch.floor_divide(size, b))
        for got, want in zip(found, expected):
            torch.testing.assert_close(got, want, rtol=0.0, atol=0.0, equal_nan=True)


# ---- powers of integers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_powers_of_integers(dtype):
    base = torch.tensor([3, -3, 0, 1, -1, 2, 7, -1, 0, 46341], dtype=dtype)
    exponent = torch.tensor([13, 5, 0, -4, -3, 31, 63, 1000001, -1, 2], dtype=dtype)

    def run(x, y):
        return x**y, torch.pow(3, y), x**0, x**70, x[:2].reshape(2, 1) ** y

    assert_converts(run, (base, exponent))
    assert_converts(
        lambda x, y: x**y, (base[:4], exponent[:4]), dynamic={0: {0: (1, 4, 6)}, 1: {0: (1, 4, 6)}}
    )

"""Functions of one tensor: domains, promotion of integers, precision near 0, 0-d and empty tensors."""

from __future__ import annotations

import math

import pytest
import torch

from trtcore.testing import assert_converts, assert_refuses

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
DYNAMIC = {0: {0: (0, 3, 6), 1: (1, 5, 7)}}


def each(*names):
    functions = [getattr(torch, name) for name in names]
    return lambda x: tuple(function(x) for function in functions)


ANY = each(
    "exp", "exp2", "expm1", "sin", "cos", "tan", "sinh", "cosh", "atan", "asinh", "erf", "abs", "neg", "sign", "sgn",
    "ceil", "floor", "round", "trunc", "frac", "fix", "square", "reciprocal", "signbit", "deg2rad", "rad2deg",
)  # fmt: skip
POSITIVE = each("log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal")
INSIDE = each("asin", "acos", "atanh", "log1p")
ABOVE_ONE = each("acosh")
DOMAINS = [
    (ANY, lambda x: x + x.sign() * 0.1),
    (POSITIVE, lambda x: x.abs() + 0.1),
    (INSIDE, lambda x: x.tanh() * 0.95),
    (ABOVE_ONE, lambda x: x.abs() + 1.1),
]


@pytest.mark.parametrize("case", range(len(DOMAINS)))
def test_floats(case):
    run, domain = DOMAINS[case]
    x = domain(torch.randn(3, 5))
    assert_converts(run, (x,), dtypes=FLOATS)
    assert_converts(run, (x,), dynamic={0: {0: (1, 3, 6)}})
    assert_converts(run, (x[0, 0],))
    assert_converts(run, (x[:0],))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_integers(dtype):
    x = torch.tensor([[-70000, -3, -1], [1, 2, 70000]], dtype=dtype)
    keeping = each(
        "abs", "neg", "sign", "sgn", "ceil", "floor", "round", "trunc", "square", "signbit", "nan_to_num"
    )
    assert_converts(lambda x: keeping(x // 10), (x,))
    assert_converts(
        each("sin", "atan", "sinh", "exp", "erf", "reciprocal", "expm1", "exp2"), (x.clamp(-3, 3),)
    )
    assert_converts(each("log", "sqrt", "rsqrt", "log2", "log10", "log1p", "acosh"), (x.abs(),))


def test_bools_become_numbers():
    assert_converts(each("exp", "sqrt", "sin", "erf", "log1p"), (torch.tensor([True, False]),))
    assert_refuses(torch.signbit, (torch.tensor([True, False]),), "bool")


def test_relative_precision_near_zero():
    """``exp(x) - 1`` and ``log(1 + x)`` lose every digit here."""
    small = torch.tensor([1e-30, 1e-12, 1e-8, -1e-8, 3e-7, -1e-6, 1e-4, 0.0])
    assert_converts(each("expm1", "log1p"), (small,), rtol=1e-6, atol=0)


def test_wide_ranges():
    assert_converts(torch.expm1, (torch.tensor([-200.0, -90, -80, -50, -1, 1, 50, 80, 88]),), rtol=1e-5)
    assert_converts(torch.log1p, (torch.tensor([-1, -0.999999, -0.5, 1, 1e6, 1e30, math.inf]),), rtol=1e-5)


def test_spherical_bessel_j0():
    x = torch.cat(
        [
            torch.linspace(-40.0, 40.0, 997),
            torch.tensor([0.0, 1e-30, 0.4999, 0.5, math.inf, -math.inf, math.nan]),
        ]
    )
    j0 = torch.special.spherical_bessel_j0
    assert_converts(j0, (x,), rtol=2e-6, atol=1e-6, dynamic={0: {0: (0, len(x), 2000)}})
    assert_converts(j0, (torch.tensor([[-3, 0], [1, 40]]),))
    assert_converts(j0, (torch.tensor(True),))


def test_halves_round_to_even():
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 1e7 + 1])
    assert_converts(lambda x: (torch.round(x), torch.trunc(x), torch.floor(x)), (x,), rtol=0, atol=0)


def test_decimals():
    def run(x):
        return torch.round(x, decimals=2), torch.round(x * 1000, decimals=-1), torch.round(x, decimals=0)

    assert_converts(run, (torch.randn(3, 5),), dtypes=FLOATS)


def test_nan_to_num_and_logit():
    x = torch.tensor([1.0, math.nan, math.inf, -math.inf])
    assert_converts(lambda x: (torch.nan_to_num(x), torch.nan_to_num(x, 1.0, 2.0, 3.0)), (x,), dtypes=FLOATS)
    inside = torch.rand(3, 4) * 0.9 + 0.05
    assert_converts(lambda x: (torch.logit(x), torch.logit(x, eps=0.2)), (inside,), dtypes=FLOATS)


def test_dtypes_that_tensorrt_only_stores():
    assert_refuses(torch.abs, (torch.tensor([-1, 2], dtype=torch.int8),), "int8")


def test_mantissas_and_exponents():
    powers = 2.0 ** torch.arange(-126, 128)
    x = torch.cat(
        [powers, torch.nextafter(powers, torch.tensor(0.0)), -3.7 * powers[:-4], torch.tensor([0.0, -0.0])]
    )
    assert_converts(torch.frexp, (x,), rtol=0.0, atol=0.0, dynamic={0: {0: (1, len(x), 1000)}})
    low = torch.tensor([1.0, -0.75, 6e-8, 6e4, 0.0])
    assert_converts(torch.frexp, (low,), dtypes=(torch.float16, torch.bfloat16), rtol=0.0, atol=0.0)

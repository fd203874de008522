"""Special functions against torch in float64, over the range where they are not infinite."""

from __future__ import annotations

import math

import pytest
import torch

from trtcore.testing import assert_converts

aten = torch.ops.aten

RANGES = {
    torch.erfc: (-6.0, 9.0),
    torch.special.erfcx: (-4.0, 60.0),
    torch.special.log_ndtr: (-30.0, 8.0),
    torch.lgamma: (-6.3, 80.0),
    torch.digamma: (-6.3, 80.0),
    torch.erfinv: (-0.9999, 0.9999),
    torch.special.ndtri: (0.0, 1.0),
    torch.special.i1e: (-60.0, 60.0),
}


@pytest.mark.parametrize("function", RANGES, ids=lambda f: f.__name__)
def test_values(function):
    x = torch.linspace(*RANGES[function], 997)
    assert_converts(function, (x,), rtol=2e-5, atol=2e-5)


def test_erfc_keeps_its_digits_far_out():
    assert_converts(torch.erfc, (torch.linspace(0.0, 9.0, 91),), rtol=1e-5, atol=0.0)


def test_bessel_functions_keep_their_digits():
    """Relative to the function, which grows to 1e37 and is odd or even; its scaled twin falls as slowly as a root."""
    x = torch.cat([torch.linspace(-88.0, 88.0, 997), torch.tensor([0.0, 1e-6, 1e-30])])
    bessel = torch.special

    def run(x):
        return bessel.i0(x), bessel.i1(x), bessel.i0e(x * 100), bessel.modified_bessel_i1(x / 9)

    assert_converts(run, (x,), rtol=5e-6, atol=0.0)


def test_bessel_functions_of_the_second_kind_keep_their_digits():
    """Relative to functions that rise to infinity at 0 and fall to 1e-37; below 0 there are none."""
    x = torch.cat([torch.logspace(-37, 1.9, 500), torch.tensor([0.0, 1.9999, 2.0, 2.0001, -1.0, math.nan])])
    bessel = torch.special
    scaled = bessel.scaled_modified_bessel_k0, bessel.scaled_modified_bessel_k1

    def run(x):
        return bessel.modified_bessel_k0(x), bessel.modified_bessel_k1(x), *(one(x * 9) for one in scaled)

    assert_converts(run, (x,), rtol=3e-6, atol=0.0, dynamic={0: {0: (0, len(x), 1000)}})
    assert_converts(run, (torch.tensor([[0, 1], [2, 30]]),))
    assert_converts(run, (torch.tensor(math.inf),))


def test_ndtri_of_small_numbers():
    p = torch.logspace(-37, -0.5, 300)
    assert_converts(torch.special.ndtri, (p,), rtol=2e-6, atol=2e-6)
    assert_converts(torch.special.ndtri, (1 - p,), rtol=2e-6, atol=2e-6)


def test_ends():
    assert_converts(torch.erfinv, (torch.tensor([-1.0, 0.0, 1.0]),))
    assert_converts(torch.lgamma, (torch.tensor([1.0, 2.0, 0.0, -1.0]),))


def test_dynamic_and_low_precision():
    x = torch.rand(4, 3)
    assert_converts(
        lambda x: torch.erfc(x) + torch.lgamma(x + 1),
        (x,),
        dynamic={0: {0: (1, 4, 8)}},
        dtypes=(torch.float32, torch.float16, torch.bfloat16),
    )

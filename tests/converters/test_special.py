"""Special functions against torch in float64, over the range where they are not infinite."""

from __future__ import annotations

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
}


@pytest.mark.parametrize("function", RANGES, ids=lambda f: f.__name__)
def test_values(function):
    x = torch.linspace(*RANGES[function], 997)
    assert_converts(function, (x,), rtol=2e-5, atol=2e-5)


def test_erfc_keeps_its_digits_far_out():
    assert_converts(torch.erfc, (torch.linspace(0.0, 9.0, 91),), rtol=1e-5, atol=0.0)


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

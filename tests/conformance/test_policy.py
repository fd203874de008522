"""What counts as the same: as near to float64 as eager, and nothing further off."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import policy

from trtcore.testing.opinfo import OpSample, samples


def _linear(dtype: torch.dtype) -> OpSample:
    torch.manual_seed(0)
    given = (torch.randn(4, 8).to(dtype), torch.randn(5, 8).to(dtype), torch.randn(5).to(dtype))
    return OpSample("nn.functional.linear", "", dtype, 0, torch.nn.functional.linear, given)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_as_near_as_eager(dtype):
    sample = _linear(dtype)
    eager = sample.run()
    largest = eager.abs().max()

    def off_by(roundings):
        return eager + (roundings * torch.finfo(dtype).eps * largest).to(dtype)

    assert policy.compare(sample, eager, eager) == ""
    assert policy.compare(sample, eager, off_by(1)) == ""
    assert policy.compare(sample, eager, off_by(8)) is None
    assert policy.compare(sample, eager, off_by(1).float()) is None
    assert policy.compare(sample, eager, torch.where(eager.abs() == largest, torch.inf, eager)) is None


def test_float32_has_the_operators_own_tolerance():
    sample = _linear(torch.float32)
    assert policy.compare(sample, sample.run(), sample.run()) is None


def test_attention_is_measured_with_the_query_that_the_layer_gets():
    (sample,) = samples("nn.functional.scaled_dot_product_attention", torch.float16, limit=1)
    query, key, value = sample.args
    scaled = (query.detach().float() / query.shape[-1] ** 0.5).half()
    rounded = sample.function(scaled, key, value, **{**sample.kwargs, "scale": 1.0})
    assert policy.compare(sample, sample.run(), rounded) == ""
    assert policy.compare(sample, sample.run(), sample.run() + 1) is None

"""Order statistics and scans."""

from __future__ import annotations

import pytest
import torch

from trtcore.testing import assert_converts
from trtcore_converters.order import ORDER


@pytest.fixture
def x():
    return torch.randperm(24, generator=torch.Generator().manual_seed(1)).reshape(4, 6).float() - 9


def test_one_element(x):
    assert_converts(lambda x: (x.median(), *x.median(1), *x.kthvalue(2, 0, keepdim=True)), (x,))
    assert_converts(lambda x: (*torch.median(x, 0), *torch.kthvalue(x, 1)), (torch.tensor(3.0),))


QUANTILES = pytest.mark.torch_since(
    "2.12", "torch.export stops at quantile, which compares numbers of the data"
)


@QUANTILES
def test_missing_numbers(x):
    x[0, 2] = x[3] = torch.nan
    assert_converts(lambda x: (x.nanmedian(), x.nanmedian(1)[0], x.nanquantile(0.3, 1)), (x,))
    assert_converts(lambda x: x.quantile(0.5, 1), (x,))


@QUANTILES
@pytest.mark.parametrize("interpolation", ["linear", "lower", "higher", "midpoint", "nearest"])
def test_quantile(x, interpolation):
    q = torch.tensor([0.0, 0.25, 0.6, 1.0])
    assert_converts(
        lambda x: (
            x.quantile(q, 1, keepdim=True, interpolation=interpolation),
            x.quantile(0.4, interpolation=interpolation),
        ),
        (x,),
    )


@pytest.mark.parametrize("interpolation", ["linear", "lower", "higher", "midpoint", "nearest"])
def test_ranks_are_rounded_as_in_torch(interpolation):
    """Next to whole ranks, where a rounded rank takes another element: 0.6 of six is a little above the fourth."""
    q = torch.tensor([k / 20 for k in range(21)] + [1e-30, 1e-5, 1 - 2**-24, 1 / 3])
    for count in (1, 2, 6, 11, 21, 101, 4097, 10001):
        values = torch.arange(float(count))
        ours = ORDER[torch.ops.aten.quantile.default](values, q, interpolation=interpolation)
        torch.testing.assert_close(
            ours, values.quantile(q, interpolation=interpolation), rtol=1e-6, atol=1e-6
        )


def test_mode_takes_the_smallest_of_the_most_frequent():
    x = torch.tensor([[3, 1, 1, 3, 2], [5, 4, 4, 4, 5]])
    assert_converts(lambda x: (x.mode(1)[0], x.mode(0, keepdim=True)[0]), (x,))


def test_histogram(x):
    assert_converts(lambda x: (torch.histc(x, 5), torch.histc(x, 4, -3, 6)), (x,))


def test_histogram_of_elements_on_edges():
    x = torch.arange(-30, 31) / 10

    def run(x):
        return tuple(torch.histc(x, bins) for bins in (6, 12, 20, 30, 60))

    assert_converts(run, (x,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_histogram_of_lower_precision_is_exact(dtype):
    x = torch.arange(50).to(dtype)
    for bins in (7, 14, 28, 35):
        assert torch.equal(
            ORDER[torch.ops.aten.histc.default](x, bins).double(), torch.histc(x.double(), bins)
        )


def test_scans(x):
    assert_converts(lambda x: (x.cumprod(1), x.logcumsumexp(0), *x.cummax(1), *x.cummin(-1)), (x / 5,))
    assert_converts(lambda i: (i.cumprod(0), *i.cummax(0)), (torch.tensor([2, 2, -1, 3, 3, 7, 0]),))

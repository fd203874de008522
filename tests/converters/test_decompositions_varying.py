"""Sizes that vary where a converter needs constant indices or windows: diagonals, windows, slices, scans, adaptive pooling."""

from __future__ import annotations

import pytest
import torch
from packaging.version import Version
from torch.nn import functional as F

from trtcore.testing import assert_converts, assert_refuses

SIZES = (3, 4, 7)
TRACE_OF_HALF = Version(torch.__version__) >= Version("2.12")  # eager itself has none before


def test_diagonals():
    def run(x):
        return (
            x.diagonal(), x.diagonal(1), x.diagonal(-1, 1, 0), x.diagonal(dim1=1, dim2=2), x.diagonal(1, 2, 1),
            x.diagonal(-2, -1, 0), torch.linalg.diagonal(x), torch.einsum("iij->ij", x[:, :, :2]),
        )  # fmt: skip

    assert_converts(
        run, (torch.randn(4, 4, 3),), dynamic={0: {0: SIZES, 1: SIZES}}, dtypes=(torch.float32, torch.float16)
    )
    assert_converts(
        lambda x: x[:, :, 0].trace(),
        (torch.randn(4, 4, 3),),
        dynamic={0: {0: SIZES, 1: SIZES}},
        dtypes=(torch.float32, torch.float16) if TRACE_OF_HALF else (torch.float32,),
    )
    assert_converts(
        lambda x: (x.diagonal(), x.trace()), (torch.arange(12).reshape(4, 3),), dynamic={0: {0: SIZES}}
    )


def test_a_diagonal_that_may_be_missing_stays_in_torch():
    assert_refuses(
        lambda x: x.diagonal(3), (torch.randn(4, 4),), "no such diagonal", dynamic={0: {0: SIZES, 1: SIZES}}
    )


def test_windows():
    def run(x):
        return x.unfold(1, 2, 1), x.unfold(-2, 2, 3), x.unfold(1, 1, 2), torch.unfold_copy(x, 1, 2, 2)

    assert_converts(
        run, (torch.randn(2, 6, 3),), dynamic={0: {1: (5, 6, 9)}}, dtypes=(torch.float32, torch.float16)
    )
    assert_converts(run, (torch.arange(36).reshape(2, 6, 3),), dynamic={0: {0: (1, 2, 3), 1: (5, 6, 9)}})


def test_slices_that_are_written():
    def run(x, y):
        return (
            x.slice_scatter(y, 1),
            x.slice_scatter(x[:, ::2] * 2, 1, step=2),
            x.slice_scatter(x[:, -1:] + 1, 1, -1),
        )

    assert_converts(run, (torch.randn(2, 4), torch.randn(2, 4)), dynamic={0: {1: SIZES}, 1: {1: SIZES}})


def test_a_cache_that_is_filled_up_to_where_the_input_ends():
    def run(cache, x):
        cache = cache.clone()
        cache[:, : x.shape[1]] = x
        return cache

    assert_converts(run, (torch.zeros(2, 8, 3), torch.randn(2, 4, 3)), dynamic={1: {1: (1, 4, 8)}})


def test_scans():
    def run(x):
        return x.cumprod(1), x.cummax(1), x.cummin(1), x.logcumsumexp(1), x.cumprod(0)

    x = torch.randn(3, 5)
    assert_converts(run, (x,), dynamic={0: {1: (1, 5, 9)}}, dtypes=(torch.float32, torch.bfloat16), atol=1e-5)
    assert_converts(
        lambda x: (x.cumprod(0), x.cummax(0)), (torch.randint(-3, 4, (5,)),), dynamic={0: {0: (1, 5, 9)}}
    )


def test_medians():
    def run(x):
        return x.median(), *x.median(1), *x.median(-1, keepdim=True)

    assert_converts(run, (torch.randn(3, 5),), dynamic={0: {1: (1, 5, 8)}})


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.float16, marks=pytest.mark.slow)], ids=str
)
def test_adaptive_pooling(dtype):
    def run(x):
        return (
            F.adaptive_avg_pool2d(x, 3), F.adaptive_avg_pool2d(x, (2, None)), F.adaptive_avg_pool2d(x, (1, 5)),
            F.adaptive_avg_pool1d(x[0], 4), F.adaptive_max_pool2d(x, (3, 2)), F.adaptive_max_pool1d(x[0], 3),
            *F.adaptive_max_pool2d(x, (2, 3), return_indices=True), F.adaptive_avg_pool3d(x, 2),
        )  # fmt: skip

    assert_converts(
        run,
        (torch.randn(1, 2, 6, 8).to(dtype),),
        dynamic={0: {2: (2, 6, 11), 3: (3, 8, 13)}},
        dtypes=(dtype,),
    )


def test_adaptive_pooling_to_the_size_of_another_input():
    def run(x, y):
        return F.adaptive_avg_pool2d(x, y.shape[-2:])

    assert_converts(
        run, (torch.randn(1, 2, 6, 8), torch.randn(1, 1, 3, 5)),
        dynamic={0: {2: (2, 6, 11)}, 1: {2: (1, 3, 4), 3: (2, 5, 9)}},
    )  # fmt: skip


def test_sizes_that_are_computed_in_floating_point():
    x, dynamic = torch.randn(1, 2, 6, 8), {0: {2: (4, 6, 11), 3: (4, 8, 13)}}
    assert_refuses(
        lambda x: F.interpolate(x, scale_factor=0.6, mode="area"), (x,), "in floating point", dynamic=dynamic
    )
    assert_converts(lambda x: F.interpolate(x, scale_factor=1.6, mode="bilinear") + 1, (x,), dynamic=dynamic)

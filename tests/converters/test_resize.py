"""Upsampling against torch's interpolate: modes, factors, sizes, dynamic sizes; grid sampling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from trtcore.testing import assert_converts, assert_refuses

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
DYNAMIC = {0: {0: (1, 2, 4), 2: (4, 5, 9), 3: (4, 6, 7)}}
IMAGE = (torch.randn(2, 3, 5, 6),)
FACTORS = [{"scale_factor": f} for f in (2, 3, 1.7, 0.5, (2.0, 1.5))]
SIZES = [{"size": s} for s in ((7, 9), (10, 12), (3, 1), (5, 6))]
MODES = [
    {"mode": "nearest"},
    {"mode": "nearest-exact"},
    *({"mode": "bilinear", "align_corners": a} for a in (False, True)),
    {"mode": "bicubic", "align_corners": False},
    pytest.param({"mode": "bicubic", "align_corners": True}, marks=pytest.mark.slow),
]


def interpolations(mode, *settings):
    return lambda x: tuple(F.interpolate(x, **mode, **setting) for setting in settings)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_images(mode):
    settings = [*FACTORS, *SIZES] if "bicubic" not in mode.values() else [*FACTORS[1:3], SIZES[1]]
    assert_converts(interpolations(mode, *settings), IMAGE, atol=2e-5)
    assert_converts(interpolations(mode, *settings), IMAGE, dynamic=DYNAMIC, atol=2e-5)
    assert_converts(interpolations(mode, FACTORS[0]), IMAGE, dtypes=FLOATS[1:])


@pytest.mark.parametrize("mode", MODES[::2], ids=str)
def test_to_the_size_of_another_tensor(mode):
    def run(x, like):
        return F.interpolate(x, like.shape[2:], **mode)

    inputs = (*IMAGE, torch.randn(2, 1, 11, 13))
    assert_converts(run, inputs, dynamic={0: DYNAMIC[0], 1: {2: (6, 11, 20), 3: (5, 13, 19)}}, atol=2e-5)


def test_one_and_three_dims():
    def line(x):
        return F.interpolate(x, scale_factor=2), F.interpolate(x, size=7, mode="linear", align_corners=True)

    def volume(x):
        return F.interpolate(x, scale_factor=2), F.interpolate(x, scale_factor=2, mode="trilinear")

    assert_converts(line, (torch.randn(2, 3, 5),), dynamic={0: {0: (1, 2, 3), 2: (3, 5, 6)}})
    assert_converts(volume, (torch.randn(1, 2, 3, 4, 5),))


def test_nearest_picks_torchs_elements():
    """Where a ratio is not exact in float32, one rounding decides which element it is."""
    x = torch.arange(61 * 7.0).reshape(1, 1, 61, 7)

    def run(x):
        sizes = ((49, 49), (7 * 49, 41), (183, 3), (60, 100), (122, 28))
        both = [F.interpolate(x, size, mode=mode) for size in sizes for mode in ("nearest", "nearest-exact")]
        return (*both, F.interpolate(x, scale_factor=(1.1, 41.0)), F.interpolate(x, scale_factor=(49.0, 0.3)))

    assert_converts(run, (x,), rtol=0, atol=0)
    assert_converts(run, (x,), dynamic={0: {2: (57, 61, 64)}}, rtol=0, atol=0)


def test_antialiased():
    def run(x):
        return tuple(
            F.interpolate(x, mode=mode, antialias=True, align_corners=align, **setting)
            for mode in ("bilinear", "bicubic")
            for align in (False, True)
            for setting in ({"size": (2, 4)}, {"size": (11, 4)}, {"scale_factor": 0.6})
        )

    assert_converts(run, IMAGE, dynamic={0: {0: (1, 2, 4)}})
    assert_refuses(run, IMAGE, "dynamic size", dynamic=DYNAMIC)


WHOLE = {"disabled_passes": {"decompose"}}  # some of these have decompositions that convert


def test_what_stays_in_torch():
    pixels = (torch.randint(0, 255, (1, 3, 4, 4), dtype=torch.uint8),)
    assert_refuses(lambda x: F.interpolate(x, scale_factor=2), pixels, "uint8", settings=WHOLE)
    # 1.15 * 100 is just below 115, and in float32 it is 115.
    long = (torch.randn(1, 1, 100, 4),)
    assert_refuses(lambda x: F.interpolate(x, scale_factor=1.15), long, "not in float32", settings=WHOLE)
    op = torch.ops.aten.upsample_bilinear2d.default
    assert_refuses(lambda x: op(x, [10, 12], False, 2.0, None), IMAGE, "some dims only", settings=WHOLE)


@pytest.mark.parametrize(
    "dynamic", [pytest.param(None, marks=pytest.mark.slow), {0: {2: (4, 5, 9)}, 1: {1: (2, 4, 6)}}], ids=str
)
def test_grid_sample(dynamic):
    def run(x, grid):
        return tuple(
            F.grid_sample(x, grid, mode, border, align)
            for mode, align in (
                ("bilinear", False),
                ("nearest", True),
                ("bicubic", False),
                ("bilinear", True),
            )
            for border in ("zeros", "border", "reflection")
        )

    assert_converts(run, (*IMAGE, torch.rand(2, 4, 5, 2) * 2.4 - 1.2), dynamic=dynamic, atol=1e-4)

"""Pooling: windows with padding and ceil_mode, divisors, adaptive sizes, and what stays in torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import trtcore
from trtcore.errors import ExportError
from trtcore.testing import assert_converts, assert_refuses

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
DYNAMIC = {0: {0: (1, 2, 4), 2: (6, 9, 12), 3: (7, 8, 11)}}
SETTINGS = [
    (3, 2, 1),
    (2, 2, 0),
    (3, 1, 1),
    (3, 3, 1),
    ((3, 2), (2, 1), (1, 0)),
    (2, 3, 1),
    (5, 4, 2),
    (3, 2, 0),
]


class Branches(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        return tuple(layer(x) for layer in self.layers)


def windows(settings, ceil_mode):
    layers = []
    for k, s, p in settings:
        layers.append(nn.MaxPool2d(k, s, p, ceil_mode=ceil_mode))
        layers.extend(nn.AvgPool2d(k, s, p, ceil_mode=ceil_mode, count_include_pad=c) for c in (True, False))
        layers.append(nn.AvgPool2d(k, s, p, ceil_mode=ceil_mode, divisor_override=7))
    return Branches(*layers)


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_windows(ceil_mode):
    assert_converts(windows(SETTINGS, ceil_mode), (torch.randn(2, 4, 9, 8),))
    assert_converts(windows(SETTINGS[:2], ceil_mode), (torch.randn(2, 4, 9, 8),), dtypes=FLOATS[1:])


def test_windows_over_dynamic_sizes():
    assert_converts(windows(SETTINGS, False), (torch.randn(2, 4, 9, 8),), dynamic=DYNAMIC)
    fitting = [(k, s, p) for k, s, p in SETTINGS if isinstance(k, int) and p + s <= k]
    plain = [
        layer for layer in windows(fitting, True).layers if getattr(layer, "divisor_override", None) is None
    ]
    assert len(plain) >= 9
    assert_converts(Branches(*plain), (torch.randn(2, 4, 9, 8),), dynamic={0: {2: (6, 9, 12), 3: (7, 8, 11)}})


def test_one_and_three_dims_and_no_batch():
    line = Branches(nn.MaxPool1d(3, 2, 1), nn.AvgPool1d(3, 2, 1), nn.AvgPool1d(4, 3, 2, ceil_mode=True))
    assert_converts(line, (torch.randn(2, 4, 9),))
    assert_converts(line, (torch.randn(4, 9),))
    assert_converts(line.layers[1], (torch.randn(2, 4, 9),), dynamic={0: {0: (1, 2, 3), 2: (4, 9, 12)}})
    assert_converts(line.layers[0], (torch.randn(2, 4, 9),), dynamic={0: {0: (1, 2, 3), 2: (1, 9, 12)}})
    volume = Branches(
        nn.MaxPool3d(3, 2, 1), nn.AvgPool3d((1, 2, 3), ceil_mode=True), nn.AdaptiveAvgPool3d((1, 2, 3))
    )
    assert_converts(volume, (torch.randn(2, 3, 5, 6, 7),))
    assert_converts(Branches(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(3)), (torch.randn(4, 9, 8),))


def test_max_pool_of_negative_numbers_ignores_the_padding():
    assert_converts(nn.MaxPool2d(3, 2, 1, ceil_mode=True), (-1 - torch.rand(1, 2, 6, 6),), dtypes=FLOATS)


SIZES = [1, (1, None), (3, 4), (3, 2), (5, 7), (None, 3), (12, 3)]


def test_adaptive_sizes():
    layers = [kind(size) for size in SIZES for kind in (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)]
    assert_converts(Branches(*layers), (torch.randn(2, 4, 9, 8),))
    assert_converts(Branches(*layers), (torch.randn(2, 4, 9, 8),), dynamic={0: {0: (1, 2, 4)}})
    assert_converts(Branches(*layers[:6]), (torch.randn(2, 4, 9, 8),), dtypes=FLOATS[1:])
    line = Branches(nn.AdaptiveAvgPool1d(4), nn.AdaptiveMaxPool1d(4), nn.AdaptiveAvgPool1d(3))
    assert_converts(line, (torch.randn(2, 4, 9),))


def test_global_pooling_of_dynamic_images():
    assert_converts(
        Branches(nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)),
        (torch.randn(2, 4, 9, 8),),
        dynamic=DYNAMIC,
    )
    assert_converts(nn.AdaptiveAvgPool2d((None, 1)), (torch.randn(2, 4, 9, 8),), dynamic=DYNAMIC)


IMAGE = (torch.randn(2, 4, 9, 8),)


WHOLE = {"disabled_passes": {"decompose"}}  # some of these have decompositions that convert


def test_max_pooling_by_gathering():
    """Indices, dilation, integers: what the Pooling layer cannot do."""

    def run(x):
        return (
            F.max_pool2d(x, 3, 2, 1, return_indices=True), F.max_pool2d(x, 2, 2, 1, dilation=2), F.max_pool2d(x[0], 2, return_indices=True),
            F.max_pool2d(x, (3, 2), ceil_mode=True, return_indices=True), F.adaptive_max_pool2d(x, (3, 5), return_indices=True),
            F.adaptive_max_pool2d(x, (None, 1), return_indices=True), F.max_pool1d(x[0], 3, 1, 1, dilation=3),
            F.max_pool1d(x[0], 3, 2, 1, return_indices=True), F.adaptive_max_pool1d(x[0], 3, return_indices=True),
            F.max_pool3d(x, (2, 3, 3), 2, 1, return_indices=True),
        )  # fmt: skip

    assert_converts(run, IMAGE, dtypes=(torch.float32, torch.float16, torch.bfloat16))
    assert_converts(
        lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True), IMAGE, dynamic={0: {0: (1, 2, 4)}}
    )
    assert_converts(
        lambda x: (F.max_pool2d(x, 3, 2, 1), F.max_pool2d(-x, 2, return_indices=True)),
        (torch.randint(0, 5, (2, 3, 7, 8)),),
    )


def test_what_stays_in_torch():
    size = {0: {2: (6, 9, 12)}}
    constant = "by constant indices"
    assert_refuses(nn.MaxPool2d(2, dilation=2), IMAGE, constant, dynamic=size, settings=WHOLE)
    assert_refuses(nn.MaxPool2d(2, return_indices=True), IMAGE, constant, dynamic=size, settings=WHOLE)


def test_dynamic_sizes_that_stay_in_torch():
    size = {0: {2: (6, 9, 12)}}
    pool = nn.MaxPool2d(3, 3, 1, ceil_mode=True)
    # Of 8 and 11 torch drops a window, so that no single capture has the sizes of 6 to 12.
    with pytest.raises(ExportError, match="leaves out input: dimension 2 = 8, 11"):
        trtcore.compile(pool, inputs=[trtcore.Input(profiles=[((2, 4, 6, 8), (2, 4, 9, 8), (2, 4, 12, 8))])])
    assert_refuses(pool, IMAGE, "start in the padding", dynamic={0: {2: (9, 9, 10)}}, settings=WHOLE)
    assert_refuses(
        nn.AvgPool2d(2, ceil_mode=True, divisor_override=3),
        IMAGE,
        "divisor_override",
        dynamic=size,
        settings=WHOLE,
    )
    assert_refuses(nn.AdaptiveAvgPool2d(3), IMAGE, "dynamic size", dynamic=size, settings=WHOLE)


def test_window_larger_than_the_input():
    """With ceil_mode one window may reach far over the end; TensorRT refuses windows of 100,000 elements."""
    layers = Branches(nn.AvgPool2d(400, ceil_mode=True), nn.MaxPool2d((400, 3), ceil_mode=True))
    assert_converts(layers, (torch.randn(2, 4, 5, 7),))
    assert_converts(layers, (torch.randn(2, 4, 5, 7),), dynamic={0: {0: (1, 2, 4)}})

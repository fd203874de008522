"""Integer convolutions and poolings, and sampling of volumes."""

from __future__ import annotations

import pytest
import torch

from trtcore.testing import assert_converts, assert_refuses

F = torch.nn.functional


def _integers(*shape):
    return torch.randint(-50, 50, shape)


def test_integer_convolutions():
    def run(x, kernel, bias):
        return (
            F.conv2d(x, kernel, bias, stride=2, padding=1), F.conv2d(x, kernel[:, :2], groups=2, dilation=2), F.conv1d(x[:, :, 0], kernel[:, :, 0]),
            F.conv2d(x, kernel, padding="same"), F.conv_transpose2d(x, kernel, stride=2, padding=1, output_padding=1),
            F.conv_transpose2d(x, kernel, dilation=2, groups=2),
        )  # fmt: skip

    assert_converts(run, (_integers(2, 4, 6, 5), _integers(4, 4, 3, 2), _integers(4)))


def test_integer_average_pooling():
    def run(x):
        return (
            F.avg_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), F.avg_pool2d(x, 2, ceil_mode=True), F.avg_pool1d(x[0], 2),
            F.avg_pool2d(x, 2, divisor_override=3), F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), F.avg_pool3d(x, 2),
        )  # fmt: skip

    assert_converts(run, (_integers(2, 4, 7, 6),))


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_volumes(padding_mode):
    def run(x, grid):
        return (
            F.grid_sample(x, grid, "bilinear", padding_mode, True),
            F.grid_sample(x, grid, "nearest", padding_mode, False),
        )

    values = (torch.randn(2, 3, 3, 4, 5), torch.rand(2, 2, 3, 2, 3) * 3 - 1.5)
    assert_converts(
        run, values, dtypes=(torch.float32, torch.bfloat16) if padding_mode == "zeros" else (torch.float32,)
    )


def test_pooling_with_drawn_windows():
    def run(x, flat, deep):
        aten = torch.ops.aten
        return (
            *aten.fractional_max_pool2d(x[:, :, 0], [2, 3], [3, 4], flat),
            *aten.fractional_max_pool2d(x[0, :, 0], [2, 2], [1, 5], flat[:1]),
            *aten.fractional_max_pool3d(x, [2, 2, 3], [3, 4, 2], deep),
        )

    values = (torch.randn(2, 3, 5, 9, 11), torch.rand(2, 3, 2), torch.rand(2, 3, 3))
    assert_converts(run, values)
    half = [x.half() for x in values]
    assert_refuses(
        lambda x, s: torch.ops.aten.fractional_max_pool2d(x[:, :, 0], [2, 2], [3, 4], s), half[:2], "16 bits"
    )


def test_pooling_with_random_windows_draws_them_in_torch():
    def run(x):
        return F.fractional_max_pool2d(x, 2, (3, 4))

    assert_refuses(run, (torch.ones(1, 2, 8, 8),), "generator")

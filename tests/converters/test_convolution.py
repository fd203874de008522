"""Convolutions: settings, ranks, dtypes, dynamic sizes, kernels that the engine gets as an input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trtcore.testing import assert_converts

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
DYNAMIC = {0: {0: (1, 2, 4), 2: (6, 9, 12), 3: (7, 8, 11)}}


class Branches(nn.Module):
    """Several layers on one input, so that one engine proves them all."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        return tuple(layer(x) for layer in self.layers)


def convolutions():
    return Branches(
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, (3, 2), bias=False),
        nn.Conv2d(4, 8, 3, groups=2, dilation=2),
        nn.Conv2d(4, 4, 3, groups=4, padding=(2, 0)),
        nn.Conv2d(4, 6, 1, stride=3),
        nn.Conv2d(4, 6, (4, 3), padding="same", dilation=(1, 2)),
        nn.Conv2d(4, 6, 3, padding="valid"),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
    )


def test_conv2d():
    assert_converts(convolutions(), (torch.randn(2, 4, 9, 8),), dtypes=FLOATS)
    assert_converts(convolutions(), (torch.randn(2, 4, 9, 8),), dynamic=DYNAMIC)


def transposed():
    return Branches(
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
        nn.ConvTranspose2d(4, 6, (3, 2), bias=False),
        nn.ConvTranspose2d(4, 6, 3, stride=3, output_padding=(2, 1)),  # past what any input reaches
        nn.ConvTranspose2d(4, 6, 3, stride=3, padding=1, output_padding=2, bias=False),
        nn.ConvTranspose2d(4, 8, 3, groups=2, dilation=2),
        nn.ConvTranspose2d(4, 4, 3, stride=2, groups=4, dilation=(2, 3)),  # dilated kernel
    )


def test_conv_transpose2d():
    assert_converts(transposed(), (torch.randn(2, 4, 5, 4),), dtypes=FLOATS)
    assert_converts(transposed(), (torch.randn(2, 4, 9, 8),), dynamic=DYNAMIC)


def test_one_and_three_dims():
    line = Branches(
        nn.Conv1d(4, 6, 3, 2, 1), nn.Conv1d(4, 8, 4, padding="same"), nn.ConvTranspose1d(4, 6, 3, 2, 1, 1)
    )
    assert_converts(line, (torch.randn(2, 4, 9),), dtypes=FLOATS)
    assert_converts(line, (torch.randn(2, 4, 9),), dynamic={0: {0: (1, 2, 3), 2: (4, 9, 12)}})
    volume = Branches(nn.Conv3d(4, 6, (3, 2, 1), (1, 2, 1), (1, 0, 0)), nn.ConvTranspose3d(4, 2, 3, 2, 1, 1))
    assert_converts(volume, (torch.randn(1, 4, 4, 5, 3),))
    assert_converts(volume, (torch.randn(2, 4, 4, 5, 3),), dynamic={0: {0: (1, 2, 3), 2: (3, 4, 5)}})


def test_unbatched_and_empty():
    assert_converts(convolutions().layers[0], (torch.randn(4, 9, 8),))
    assert_converts(nn.Conv1d(4, 6, 3, padding=1), (torch.randn(4, 9),))
    assert_converts(transposed().layers[2], (torch.randn(4, 5, 4),))
    assert_converts(convolutions().layers[0], (torch.randn(0, 4, 9, 8),))


def test_a_bias_of_the_kernels_size_in_bfloat16():
    assert_converts(nn.Conv2d(4, 4, 1, groups=4), (torch.randn(2, 4, 3, 3),), dtypes=(torch.bfloat16,))


@pytest.mark.parametrize("dtype", FLOATS)
def test_kernels_computed_by_the_model(dtype):
    def run(x, kernel, bias):
        doubled = kernel * 2
        return (
            F.conv2d(x, doubled, bias, padding=1),
            F.conv2d(x, kernel, padding=1),
            F.conv1d(x[:, :, 0], kernel[:, :, 0], bias),
            F.conv_transpose2d(x, kernel.transpose(0, 1), bias, stride=2),
        )

    inputs = (torch.randn(2, 4, 6, 5), torch.randn(6, 4, 3, 3) * 0.2, torch.randn(6))
    assert_converts(
        run, inputs, dtypes=(dtype,), dynamic={0: {0: (1, 2, 3)}} if dtype == torch.float32 else None
    )


def test_strided_and_dilated_transposed_kernels_computed_by_the_model():
    def run(x, kernel):
        return (
            F.conv_transpose2d(x, kernel, stride=2, dilation=3),
            F.conv_transpose1d(
                x[..., 0], kernel[..., 0], stride=2, dilation=3, padding=1, output_padding=1, groups=2
            ),
            F.conv_transpose2d(x, kernel, stride=(1, 2), dilation=(2, 1)),
        )

    assert_converts(
        run, (torch.randn(2, 4, 5, 6), torch.randn(4, 4, 3, 2)), dynamic={0: {0: (1, 2, 3), 2: (3, 5, 7)}}
    )


def test_tied_kernels():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x))

    assert_converts(Twice(), (torch.randn(1, 4, 5, 5),), dtypes=FLOATS)

"""Layer, group and RMS normalisation."""

from __future__ import annotations

import torch

from trtcore.testing import assert_converts

aten = torch.ops.aten
F = torch.nn.functional
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
DYNAMIC = {0: {0: (1, 2, 4), 1: (1, 3, 6)}}


def _randomised(module):
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


class Layers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.LayerNorm(8)
        self.b = torch.nn.LayerNorm((4, 8), eps=1e-3)
        self.c = torch.nn.LayerNorm(8, elementwise_affine=False)
        self.d = torch.nn.LayerNorm(8, bias=False)

    def forward(self, x):
        return self.a(x), self.b(x), self.c(x), self.d(x), self.a(x[0, 0, 0])


def test_layer_norm():
    x = torch.randn(2, 3, 4, 8) * 3 + 5
    assert_converts(_randomised(Layers()), (x,), dtypes=DTYPES)
    assert_converts(_randomised(Layers()), (x,), dynamic=DYNAMIC)


def test_layer_norm_with_weights_from_elsewhere():
    values = (torch.randn(2, 3, 8), torch.randn(8), torch.randn(8))
    assert_converts(lambda x, w, b: F.layer_norm(x, (8,), w, b), values, dynamic=DYNAMIC)
    assert_converts(lambda x, w, b: F.layer_norm(x.half(), (8,), w.half(), b.half(), 1e-3), values)


def test_statistics():
    def run(x, w, b):
        return aten.native_layer_norm.default(x, [8], w, b, 1e-5)

    assert_converts(run, (torch.randn(2, 3, 8), torch.randn(8), torch.randn(8)), dynamic=DYNAMIC)
    grouped = lambda x, w: aten.native_group_norm.default(x, w, w, 2, 6, 20, 3, 1e-5)  # noqa: E731
    assert_converts(grouped, (torch.randn(2, 6, 4, 5), torch.randn(6)))


class Groups(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.GroupNorm(3, 6), torch.nn.GroupNorm(2, 6, eps=1e-2, affine=False)
        self.c = torch.nn.GroupNorm(6, 6)

    def forward(self, x):
        return self.a(x), self.b(x), self.c(x), self.a(x[:, :, 0]), self.b(x[:, :, 0, 0])


def test_group_norm():
    x = torch.randn(2, 6, 4, 5) * 2 + 3
    assert_converts(_randomised(Groups()), (x,), dtypes=DTYPES)
    assert_converts(_randomised(Groups()), (x,), dynamic={0: {0: (1, 2, 4), 2: (2, 4, 6), 3: (2, 5, 6)}})


class RootMeanSquares(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.RMSNorm(8, eps=1e-6), torch.nn.RMSNorm((3, 8), elementwise_affine=False)

    def forward(self, x):
        return self.a(x), self.b(x), self.a(x * 1e-4)


def test_rms_norm():
    assert_converts(_randomised(RootMeanSquares()), (torch.randn(2, 3, 8),), dtypes=DTYPES)
    assert_converts(_randomised(RootMeanSquares()), (torch.randn(2, 3, 8),), dynamic={0: {0: (1, 2, 4)}})


def test_a_varying_shape_is_composed():
    run = lambda x: F.layer_norm(x, x.shape[-1:])  # noqa: E731
    assert_converts(run, (torch.randn(2, 8),), dynamic={0: {1: (2, 8, 9)}})

"""Activations."""

from __future__ import annotations

import torch

from trtcore.testing import assert_converts

F = torch.nn.functional
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _all(x):
    return (
        F.gelu(x), F.gelu(x, approximate="tanh"), x.relu(), x.sigmoid(), x.tanh(), F.silu(x), F.leaky_relu(x), F.leaky_relu(x, 0.3),
        F.elu(x), F.elu(x, 0.5), F.selu(x), F.celu(x, 2.0), F.hardtanh(x), F.hardtanh(x, -0.5, 0.25), F.relu6(x * 4), F.hardsigmoid(x * 2),
        F.hardswish(x * 2), F.softplus(x), F.softplus(x, 2.0, 1.0), F.softplus(x * 30), F.mish(x), F.logsigmoid(x * 40),
        F.threshold(x, 0.1, 20.0), F.softsign(x), F.tanhshrink(x), F.softshrink(x), F.hardshrink(x), F.glu(x, -1), F.rrelu(x),
    )  # fmt: skip


def test_floats():
    x = torch.randn(2, 3, 4) * 2
    assert_converts(_all, (x,), dtypes=DTYPES)
    assert_converts(_all, (x,), dynamic={0: {0: (1, 2, 4)}})


def test_prelu():
    class Slopes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.each = torch.nn.PReLU(), torch.nn.PReLU(3, init=0.4)

        def forward(self, x):
            return self.one(x), self.each(x), self.each(x[..., 0]), self.one(x[0, 0, 0])

    assert_converts(Slopes(), (torch.randn(2, 3, 4),), dtypes=DTYPES, dynamic={0: {0: (1, 2, 4)}})


def test_integers():
    def run(i, b):
        return i.relu(), i.sigmoid(), i.tanh(), F.hardtanh(i, -1, 2), b.sigmoid(), F.relu6(i.float())

    assert_converts(run, (torch.tensor([-3, -1, 0, 1, 5]), torch.tensor([True, False])))


def test_scalars_and_empty():
    assert_converts(
        lambda x, e: (F.gelu(x), F.relu(x), F.silu(e), F.elu(e), x.tanh()),
        (torch.tensor(-0.5), torch.zeros(0, 2)),
    )

"""Matrix products."""

from __future__ import annotations

import torch

from trtcore.testing import assert_converts, assert_refuses

aten = torch.ops.aten
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def test_linear():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(8, 6), torch.nn.Linear(6, 5, bias=False)

        def forward(self, x):
            y = self.a(x)
            return y, self.b(y), self.a(x[0, 0])

    assert_converts(Model(), (torch.randn(2, 3, 8),), dtypes=FLOATS)
    assert_converts(Model(), (torch.randn(2, 3, 8),), dynamic={0: {0: (1, 2, 4), 1: (1, 3, 7)}})


def test_linear_with_weights_from_elsewhere():
    def run(x, w, b):
        return torch.nn.functional.linear(x, w, b), torch.nn.functional.linear(x[0, 0], w)

    assert_converts(
        run, (torch.randn(2, 3, 8), torch.randn(5, 8), torch.randn(5)), dynamic={0: {0: (1, 2, 4)}}
    )


def test_matmul_of_all_ranks():
    def run(v, m, b, q):
        return (
            v @ v, m @ v, v @ m.t(), m @ m.t(), b @ m.t(), m @ b.mT, b @ v, v @ b.mT, q @ b.mT, torch.mm(m, m.t()),
            torch.bmm(b, b.mT), torch.mv(m, v), torch.dot(v, v), q @ q.transpose(-1, -2), torch.einsum("bij,kj->bik", b, m),
        )  # fmt: skip

    values = (torch.randn(4), torch.randn(3, 4), torch.randn(2, 3, 4), torch.randn(5, 1, 3, 4))
    assert_converts(run, values, dtypes=FLOATS)
    assert_converts(run, values, dynamic={2: {0: (1, 2, 4)}, 3: {0: (1, 5, 6)}})


def test_matmul_with_constants():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.randn(4, 6))
            self.v = torch.nn.Parameter(torch.randn(4))

        def forward(self, x):
            return (
                x @ self.w,
                self.w.t() @ x.mT,
                x @ self.v,
                self.v @ x.mT,
                torch.addmm(self.w[0, :3], x[0], self.w[:, :3]),
            )

    assert_converts(Model(), (torch.randn(2, 3, 4),), dtypes=FLOATS, dynamic={0: {0: (1, 2, 4)}})


def test_addmm():
    def run(c, a, b, batch):
        return (
            torch.addmm(c, a, b), torch.addmm(c, a, b, beta=0.5, alpha=2), torch.addmm(c, a, b, beta=0),
            torch.baddbmm(batch, batch, batch), torch.addmv(c, a, b[:, 0]),
        )  # fmt: skip

    values = (torch.randn(3), torch.randn(3, 4), torch.randn(4, 3), torch.randn(2, 3, 3))
    assert_converts(run, values, dtypes=FLOATS)
    assert_converts(run, values, dynamic={3: {0: (1, 2, 3)}})


def test_empty():
    assert_converts(lambda a, b: a @ b, (torch.randn(2, 0, 4), torch.randn(4, 3)))
    assert_converts(lambda a, b: a @ b, (torch.randn(2, 0), torch.randn(0, 3)))


def test_refusals():
    i = torch.tensor([[1, 2], [3, 4]])
    assert_refuses(lambda a: a @ a, (i,), "floating point only")

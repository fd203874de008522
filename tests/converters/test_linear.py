"""Matrix products."""

from __future__ import annotations

import torch

import trtcore
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


def test_integers():
    def run(x, y, b):
        return (
            x @ y, torch.bmm(x, y), torch.addmm(b, x[0], y[0], beta=2, alpha=3), torch.baddbmm(b, x, y), torch.einsum("bij,bjk->bik", x, y),
            x[0] @ y[0, :, 0], x[0, 0] @ y[0], torch.dot(x[0, 0], x[0, 0]), torch.addmv(b[:, 0], x[0], y[0, :, 0]),
            torch.nn.functional.linear(x, x[0]), torch.addbmm(b, x, y), torch.addr(b, x[0, :, 0], y[0, 0]), x[:, :0] @ y,
        )  # fmt: skip

    for dtype in (torch.int32, torch.int64):
        values = [torch.randint(-99, 99, shape).to(dtype) for shape in ((2, 3, 4), (2, 4, 5), (3, 5))]
        values[0][0, 0, 0] = 1 << 30
        assert_converts(run, values)
    assert_converts(lambda x, y: x @ y, values[:2], dynamic={0: {0: (1, 2, 4)}, 1: {0: (1, 2, 4)}})


class _ToFloat32(torch.nn.Module):
    def forward(self, x, y):
        aten = torch.ops.aten
        return aten.bmm.dtype(x, y, torch.float32), aten.mm.dtype(x[0], y[0], torch.float32)


def test_to_another_dtype():
    """torch has these on GPUs only, so that there is no eager result here."""
    x, y = torch.randn(2, 3, 4).half(), torch.randn(2, 4, 5).half()
    compiled = trtcore.compile(
        _ToFloat32(), inputs=(x, y), min_block_size=1, require_full_compilation=True, runtime="reference"
    )
    batch, single = compiled(x, y)
    torch.testing.assert_close(batch, x.float() @ y.float())
    torch.testing.assert_close(single, x[0].float() @ y[0].float())


def test_refusals():
    i = torch.ones(300, 300, dtype=torch.int64)
    assert_refuses(lambda a: a @ a, (i,), "floating point types|floating point only")

"""Ranges, fills, constants."""

from __future__ import annotations

import torch

import trtcore
from trtcore.testing import assert_converts, assert_refuses

DYNAMIC = {0: {0: (1, 2, 4), 1: (2, 3, 7)}}


def test_ranges():
    def run(x):
        b, s = x.shape
        return (
            torch.arange(s) + x.long(), torch.arange(1, s + 1), torch.arange(0, 2 * s, 2), torch.arange(b, b + s), torch.arange(s, 0, -1),
            torch.arange(s, dtype=torch.float32), torch.arange(s, dtype=torch.int32), torch.arange(5) + b, torch.arange(s)[None].expand(b, s),
            torch.arange(0, 1, 0.25) * x[0, 0], torch.arange(s).float() / 2,
        )  # fmt: skip

    assert_converts(run, (torch.randn(2, 3),))
    assert_converts(run, (torch.randn(2, 3),), dynamic=DYNAMIC)


def test_fills():
    def run(x):
        b, s = x.shape
        return (
            torch.full((b, 2), 1.5) * x[:, :1], torch.full_like(x, -2), x.new_ones(b, 3), x.new_zeros((s,)), x.new_full((b, s), 4),
            torch.ones(b, s, dtype=torch.bool), torch.zeros_like(x, dtype=torch.int64), torch.ones_like(x), torch.zeros(b, s) + x,
            torch.full((b,), s), torch.full((2,), b + 1), torch.full((), 3.5) * x, x.new_ones(b, s, dtype=torch.int32), torch.full((b, s), True),
            torch.scalar_tensor(2.5) * x, torch.full_like(x, 1, dtype=torch.bool), torch.empty_like(x).fill_(2.0), torch.tensor(2.0) * x,
        )  # fmt: skip

    assert_converts(run, (torch.randn(2, 3),), dtypes=(torch.float32, torch.float16, torch.bfloat16))
    assert_converts(run, (torch.randn(2, 3),), dynamic=DYNAMIC)


def test_triangles():
    def run(x):
        s = x.shape[-1]
        return (
            x.tril(),
            x.triu(1),
            torch.ones(s, s).tril(-1),
            x.tril(-1),
            torch.eye(s) + x[:, :1, :1],
            torch.eye(s, 2),
        )

    assert_converts(run, (torch.randn(2, 3, 3),))
    assert_converts(
        lambda x: (x.tril(), x.triu(1)), (torch.randn(2, 3, 4),), dynamic={0: {0: (1, 2, 4), 1: (2, 3, 7)}}
    )


def test_constants_in_code():
    def run(x):
        return (
            x * torch.tensor([1.0, 2.0, 3.0]),
            x + torch.tensor(0.5),
            x[:, torch.tensor([0, 2])],
            torch.tensor([[1], [2]]) * x,
        )

    assert_converts(run, (torch.randn(2, 3),))


def test_scalars_and_empty():
    def run(x):
        return (
            torch.full_like(x, 2) + x,
            x.new_zeros(()) + x,
            x.new_ones(0, 2),
            torch.zeros_like(x[None][:0]),
            torch.arange(0),
        )

    assert_converts(run, (torch.tensor(1.5),))


def test_refusals():
    run = lambda x: torch.arange(0, x.shape[0] * 0.5, 0.5) * x[0]  # noqa: E731
    assert_refuses(run, (torch.randn(4),), "", dynamic={0: {0: (2, 4, 8)}})


def test_another_device_is_no_engine_s(trt_backend):
    class Model(torch.nn.Module):
        def forward(self, x):
            return torch.zeros_like(x, device="meta"), x + 1

    compiled = trtcore.compile(Model(), inputs=[torch.randn(3)], min_block_size=1)
    assert compiled(torch.randn(3))[0].device.type == "meta"
    assert any("an engine has one device" in node.reason for node in compiled.report.nodes)

"""Graphs in torch's primitive operators, as decompositions leave them."""

from __future__ import annotations

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from trtcore.testing import assert_converts, assert_refuses

p = torch.ops.prims
ROWS = {0: {0: (2, 4, 8)}}


def test_arithmetic_and_casts():
    def run(x, n):
        wide = p.convert_element_type.default(x, torch.float32)
        count = p.convert_element_type.default(n, torch.float32)
        return (
            p.add.default(wide, count),
            p.mul.default(wide, 2.5),
            p.div.default(n, p.full_like.default(n, 4, dtype=torch.int64, device="cpu", requires_grad=False)),
            p.where.default(p.gt.default(wide, 0.0), wide, count),
            p.convert_element_type.default(p.exp2.default(wide), torch.float16),
            p.convert_element_type.default(x, torch.float32),
            p.cbrt.default(wide),
        )

    assert_converts(
        run, (torch.randn(4, 3).half(), torch.randint(-9, 9, (4, 3))), dynamic={**ROWS, 1: {0: (2, 4, 8)}}
    )


def test_shapes():
    def run(x):
        rows = x.shape[0]
        return (
            p.broadcast_in_dim.default(x, [2, rows, 6], [1, 2]),
            p.collapse_view.default(x, 0, 1),
            p.collapse.default(x, 0, 1),
            p.split_dim.default(x, 1, 2),
            p.transpose.default(x, [1, 0]),
            p.rev.default(x, [0, 1]),
            p.cat.default([x, x], 1),
            p.reshape.default(x, [rows, 3, 2]),
            p.squeeze.default(x.unsqueeze(1), [1]),
            p.view_of.default(x) + 1,
            p.iota.default(rows, start=3, step=2, dtype=torch.int64, device="cpu", requires_grad=False),
        )

    assert_converts(run, (torch.randn(4, 6),), dynamic=ROWS)


def test_reductions():
    def run(x, n):
        return (
            p.sum.default(x, [1]),
            p.sum.default(n, [0, 1]),
            p.prod.default(x, [0, 2]),
            p.amax.default(x, [2]),
            p.amin.default(n, [0]),
            p.var.default(x, [1, 2], 1.0),
        )

    assert_converts(
        run, (torch.randn(4, 3, 2), torch.randint(-9, 9, (4, 3))), dynamic={**ROWS, 1: {0: (2, 4, 8)}}
    )


def test_a_model_in_prims():
    from torch._decomp import decomposition_table

    def model(x):
        hidden = torch.nn.functional.layer_norm(x, (6,))
        return torch.softmax(torch.nn.functional.silu(hidden), -1) * torch.var(x, -1, keepdim=True)

    traced = make_fx(model, decomposition_table=decomposition_table)(torch.randn(4, 6))
    ops = {str(node.target) for node in traced.graph.nodes if node.op == "call_function"}
    assert any(name.startswith("prims.") for name in ops)
    assert_converts(traced, (torch.randn(4, 6),))


def test_writes_to_views():
    def run(x):
        y = x.clone()
        p.copy_to.default(p.transpose.default(y, [1, 0]), p.exp.default(p.transpose.default(x, [1, 0])))
        return y

    assert_converts(run, (torch.randn(4, 6),))


def test_random_numbers_stay_in_torch():
    def run(x):
        noise = p.normal.default(
            [3], mean=0.0, std=1.0, dtype=torch.float32, device="cpu", requires_grad=False
        )
        return p.mul.default(noise, 0.0) + x.exp()

    assert_refuses(run, (torch.randn(3),), "generator")

"""Captured inside of torch.autocast: the module computes in the captured dtypes wherever it is called."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import trtcore
from trtcore.ir.autocast import cast_as_captured


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        y = self.second(self.first(x).relu())
        z = torch.einsum("ij,kj->ik", x, x)
        with torch.autocast("cpu", enabled=False):
            w = F.linear(x, self.first.weight)
        return y.softmax(-1), torch.cat([y, x]), z, w, F.mse_loss(y, x)


X = torch.linspace(-1, 1, 32).reshape(4, 8)
BFLOAT16 = {"device_type": "cpu", "dtype": torch.bfloat16}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Mixed().eval().requires_grad_(False)


def same(have, want):
    for one, other in zip(have, want, strict=True):
        assert one.dtype is other.dtype
        torch.testing.assert_close(one, other, rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("in_torch", [(), ("aten.linear.default", "aten.einsum.default")])
@pytest.mark.parametrize("exported", [False, True])
def test_inside_and_outside(model, in_torch, exported, tmp_path):
    plain = model(X)
    with torch.autocast(**BFLOAT16):
        lower = model(X)
        if exported:
            ep = torch.export.export(model, (X,))
            compiled = trtcore.dynamo.compile(ep, min_block_size=1, torch_executed_ops=set(in_torch))
        else:
            compiled = trtcore.compile(model, inputs=[X], min_block_size=1, torch_executed_ops=set(in_torch))
        same(compiled(X), lower)
    assert not compiled.report.quarantined
    same(compiled(X), lower)
    trtcore.save(compiled, tmp_path / "m.pt2")
    same(trtcore.load(tmp_path / "m.pt2")(X), lower)
    outside = trtcore.compile(model, inputs=[X], min_block_size=1, torch_executed_ops=set(in_torch))
    with torch.autocast(**BFLOAT16):
        same(outside(X), plain)


def test_nothing_is_cast_that_was_not(model):
    """Ops that mix dtypes by themselves, and those that are told a dtype."""

    class Mixes(nn.Module):
        def forward(self, x, y):
            return (
                x + y,
                F.layer_norm(y, (8,), x[0].to(y.dtype)),
                y.sum(-1, dtype=torch.float32),
                y.softmax(-1, torch.float32),
            )

    x, y = X, X.bfloat16()
    ep = torch.export.export(Mixes(), (x, y))
    before = [str(node.target) for node in ep.graph.nodes]
    cast_as_captured(ep.graph_module)
    assert [str(node.target) for node in ep.graph.nodes] == before

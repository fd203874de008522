"""Weights that a model calls as it likes: ``graph``, ``class``, ``a-b``."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import trtcore
from trtcore import dynamo
from trtcore.ir.attribute_names import _TAKEN, plain_names

NAMES = [
    ("class", "in"), ("a-b", "x y"), ("läyer", "en->de"), ("engine_0", "engine_1"), ('q"q', "b\\c"), ("self", "torch"),
    ("__init__x", "__x__"), ("plan", "_tensor_constant0"), ("graph", "report"), ("meta", "recipe"), ("code", "_sharing"),
    ("_usual", "_graph"), ("class", "w_class"),
]  # fmt: skip


class Named(nn.Module):
    """Buffers, one of which is written, and layers of these names."""

    def __init__(self, names):
        super().__init__()
        for name in names:
            self.register_buffer(name, torch.rand(4))
        self.layers = nn.ModuleDict({name: nn.Linear(4, 4) for name in names})
        self.written = names[0]

    def forward(self, x):
        for name, layer in self.layers.items():
            x = layer(x).sin() + self._buffers[name]
        self._buffers[self.written].add_(1)
        return x


OPS = torch.ops.aten


@torch.no_grad()
@pytest.mark.parametrize("apart", [set(), {OPS.add.Tensor, OPS.linear.default}], ids=["engine", "torch"])
@pytest.mark.parametrize("names", NAMES, ids=" and ".join)
def test_every_route(names, apart, tmp_path):
    model, x = Named(names).eval(), torch.rand(3, 4)
    eager = Named(names).eval()
    eager.load_state_dict(model.state_dict())
    run = trtcore.compile(model, inputs=[x], min_block_size=1, torch_executed_ops=apart)
    torch.testing.assert_close(run(x), eager(x))
    torch.testing.assert_close(dict(model.named_buffers()), dict(eager.named_buffers()))
    trtcore.save(run, tmp_path / "m.pt2")
    again = [
        trtcore.load(tmp_path / "m.pt2"),
        torch.export.load(tmp_path / "m.pt2").module(),
        pickle.loads(pickle.dumps(run)),
    ]
    want = eager(x)
    for route in again:
        torch.testing.assert_close(route(x), want)


@torch.no_grad()
@pytest.mark.parametrize("names", [("graph", "a-b"), ("engine_0", "class")], ids=" and ".join)
def test_torch_compile_and_other_weights(names):
    torch._dynamo.reset()
    model, x = Named(names).eval(), torch.rand(3, 4)
    eager = Named(names).eval()
    eager.load_state_dict(model.state_dict())
    run = torch.compile(model, backend="trtcore", options={"min_block_size": 1})
    for _ in range(2):
        torch.testing.assert_close(run(x), eager(x))
    compiled = trtcore.compile(model, inputs=[x], min_block_size=1, runtime="reference")
    other = Named(names).eval()
    made = dynamo.refit_module_weights(compiled, torch.export.export(other, (x,)))
    want = copy.deepcopy(other)(x)  # the buffer that is written is the model's own
    torch.testing.assert_close(made(x), want)


def test_a_compiled_module_has_no_other_names():
    compiled = trtcore.compile(nn.Linear(4, 4).eval(), inputs=[torch.rand(3, 4)], min_block_size=1)
    own = {name for name in (*dir(compiled), *vars(compiled)) if not name.startswith("__")}
    own -= set(dir(nn.Module()))  # other libraries put methods there
    assert own - {"engine_0"} - _TAKEN - set(compiled._parameters) <= set()


def test_names_are_told_apart():
    found = plain_names(["a-b.w", "a_b.w", "a+b.w", "plan", "w_plan", "fc.weight", "0.weight"])
    assert found.keys() == {"a-b.w", "a+b.w", "plan"}
    assert len({*found.values(), "a_b.w", "w_plan"}) == 5
    assert plain_names(["a+b.w", "a-b.w"]) == plain_names(["a-b.w", "a+b.w"])

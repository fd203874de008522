"""``strict_numerics``: NaN, infinities and signed zeros as torch has them; what cannot keep them runs in torch."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

import trtcore
from trtcore.pack import converter, scoped_registry
from trtcore_converters import strict
from trtcore_converters.pack import converters
from trtcore_converters.strict_ops import CONVERTED, DECOMPOSED

sys.path.insert(0, str(Path(__file__).parent.parent / "conformance"))
from strict import difference

F = torch.nn.functional
STRANGE = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 0.0, 1.5, -1.5, 3.0, -3.0, 7.0])
X = torch.stack([STRANGE.roll(i) for i in range(10)]).reshape(2, 5, 10)
Y = X.flip(-1) * torch.tensor([1.0, -1.0] * 5)

IN_ENGINES = {
    "relu": lambda x, y: x.relu(),
    "relu6": lambda x, y: F.relu6(x),
    "leaky_relu": lambda x, y: F.leaky_relu(x, -0.5),
    "hardtanh": lambda x, y: F.hardtanh(x, -2, 2),
    "hardswish": lambda x, y: F.hardswish(x),
    "hardsigmoid": lambda x, y: F.hardsigmoid(x),
    "threshold": lambda x, y: F.threshold(x, 0.5, 2.0),
    "clamp": lambda x, y: x.clamp(-1, 2),
    "clamp from below": lambda x, y: x.clamp(min=0.5),
    "clamp by tensors": lambda x, y: (
        x.clamp(y, y + 1) + 1
    ),  # of zeros of both signs torch itself takes either
    "maximum": lambda x, y: torch.maximum(x, y) + 1,
    "minimum": lambda x, y: torch.minimum(x, y) + 1,
    "fmax": lambda x, y: torch.fmax(x, y) + 1,
    "sign": lambda x, y: x.sign(),
    "amax": lambda x, y: x.amax(-1) + y.amin((0, 1)).sum(),
    "max": lambda x, y: x[..., 1:].max() + 1,
    "max_pool1d": lambda x, y: F.max_pool1d(x, 3, 2, 1),
    "max_pool2d": lambda x, y: F.max_pool2d(x, 2, ceil_mode=True),
    "where": lambda x, y: torch.where(x > y, x, y),
    "abs, neg": lambda x, y: -x.abs(),
    "div": lambda x, y: x / y,
    "exp, log": lambda x, y: x.exp() + y.log(),
    "layer_norm": lambda x, y: F.layer_norm(x, (10,)),
    "linear": lambda x, y: F.linear(x, y[0]),
    "softmax": lambda x, y: x.softmax(-1),
}


class Calls(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, y):
        return self.function(x, y)


def compiled(function, **settings):
    return trtcore.compile(Calls(function), inputs=[X, Y], min_block_size=1, **settings)


@pytest.mark.parametrize("name", IN_ENGINES)
def test_in_an_engine_as_in_torch(name):
    module = compiled(IN_ENGINES[name], strict_numerics=True)
    assert [node.op for node in module.report.in_torch] == []
    assert difference(IN_ENGINES[name](X, Y), module(X, Y)) == ""


def test_the_price_is_paid_only_when_asked():
    plain, exact = (compiled(IN_ENGINES["relu"], strict_numerics=s) for s in (False, True))
    assert difference(X.relu(), plain(X, Y)) != ""
    assert difference(X.relu(), exact(X, Y)) == ""
    layers = [module.report.engines[0].layers for module in (plain, exact)]
    assert layers[0] < layers[1]


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x.topk(3).values,
        lambda x, y: x.argmax(-1),
        lambda x, y: x.sort(-1).values,
        lambda x, y: torch.atan2(x, y),
        lambda x, y: torch.div(x, y, rounding_mode="trunc"),
        lambda x, y: torch.bucketize(x, torch.tensor([-1.0, 0.0, 2.0])),
    ],
)
def test_what_cannot_keep_them_runs_in_torch_and_says_so(function):
    module = compiled(function, strict_numerics=True)
    (node,) = module.report.in_torch
    assert "settings.strict_numerics" in node.reason
    assert "strict_numerics=False" in node.advice
    assert difference(function(X, Y), module(X, Y)) == ""
    assert not compiled(function).report.in_torch


def test_integers_have_none():
    module = trtcore.compile(
        Calls(lambda x, y: torch.maximum(x, y).relu().amax(-1)), min_block_size=1, strict_numerics=True,
        inputs=[torch.arange(12).reshape(3, 4), torch.ones(3, 4, dtype=torch.int64)],
    )  # fmt: skip
    assert not module.report.in_torch


@pytest.mark.parametrize("promise", [False, True])
def test_a_converter_of_somebody_else_must_say_so(promise):
    with scoped_registry():

        @converter(torch.ops.aten.tanh.default, supports_strict_numerics=promise, priority=100)
        def tanh(ctx, x):
            return ctx.activation(x, "TANH")

        report = trtcore.explain(
            Calls(lambda x, y: x.tanh()), inputs=[X, Y], min_block_size=1, strict_numerics=True
        )
    (node,) = report.nodes
    assert (node.pack == "process") == promise


def test_the_tables_name_what_is_there():
    assert {str(one.target) for one in converters()} >= CONVERTED
    assert {str(op) for op in strict.decompositions({})} >= {str(op) for op in strict.TABLE}
    assert not CONVERTED & DECOMPOSED
    assert not {str(op) for op in strict.TABLE} & CONVERTED

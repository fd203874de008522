"""Loops that are recurrent layers run in torch's kernels, and nothing else does."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import trtcore
from trtcore_reference import build, compile_snapshot
from trtcore_reference.control import run_loop
from trtcore_reference.recurrent import cell_of, run_layer

sys.path.append(str(Path(__file__).parent.parent / "converters"))
from pass_helpers import snapshots

LAYERS = {
    "lstm": nn.LSTM(6, 8, batch_first=True, bidirectional=True),
    "lstm, projected, no biases": nn.LSTM(6, 16, bias=False, proj_size=8),
    "gru": nn.GRU(6, 8, 2),
    "rnn": nn.RNN(6, 8, batch_first=True),
    "rnn, relu": nn.RNN(6, 8, nonlinearity="relu", bias=False, bidirectional=True),
}


def network(layer: nn.Module, x: torch.Tensor):
    compiled = trtcore.compile(layer.eval(), [x], min_block_size=1, runtime="reference")
    (snapshot,) = snapshots(compiled)
    return snapshot


def calls(module: torch.fx.GraphModule, function) -> list[torch.fx.Node]:
    return [node for node in module.graph.nodes if node.target is function]


@pytest.mark.usefixtures("trt_backend")
@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_found_and_compute_what_the_loop_does(name, monkeypatch):
    layer, x = LAYERS[name], torch.randn(20, 20, 6)
    snapshot = network(layer, x)
    module = compile_snapshot(snapshot)
    directions = layer.num_layers * (2 if layer.bidirectional else 1)
    assert (len(calls(module, run_layer)), len(calls(module, run_loop))) == (directions, 0)
    monkeypatch.setattr(build, "cell_of", lambda *args: None)
    loops = compile_snapshot(snapshot)
    assert (len(calls(loops, run_layer)), len(calls(loops, run_loop))) == (0, directions)
    for own, looped, wanted in zip(module(x), loops(x), torch.utils._pytree.tree_leaves(layer(x))):
        torch.testing.assert_close(own, wanted)
        torch.testing.assert_close(looped, wanted)


@pytest.mark.usefixtures("trt_backend")
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_another_body_is_no_layer(name):
    """Of each op of the step, one at a time: another function in its place, or its operands the other way round."""
    layer = LAYERS[name]
    (call, *_) = calls(module := compile_snapshot(network(layer, torch.randn(20, 20, 6))), run_layer)
    body = getattr(module, call.args[4].target)
    states = 2 if name == "lstm" else 1
    assert cell_of(body, states) is not None
    ops = [node.name for node in body.graph.nodes if node.target in (torch.tanh, torch.sigmoid, torch.mul)]
    assert ops
    for op in ops:
        other = copy.deepcopy(body)
        node = next(node for node in other.graph.nodes if node.name == op)
        node.target = torch.add if node.target is torch.mul else torch.relu
        assert cell_of(other, states) is None, op


@pytest.mark.usefixtures("trt_backend")
def test_not_a_number_is_what_tensorrt_makes_of_it(monkeypatch):
    """Its relu of NaN is 0, torch's is NaN."""
    layer, x = LAYERS["rnn, relu"], torch.randn(20, 20, 6)
    snapshot = network(layer, x)
    x[3, 0, 0] = float("nan")
    own = compile_snapshot(snapshot)(x)
    monkeypatch.setattr(build, "cell_of", lambda *args: None)
    for mine, wanted in zip(own, compile_snapshot(snapshot)(x)):
        torch.testing.assert_close(mine, wanted)
        assert not mine.isnan().any()


@pytest.mark.usefixtures("trt_backend")
def test_a_loop_that_ends_early_is_a_loop():
    layer, x = LAYERS["rnn"], torch.randn(2, 20, 6)
    module = compile_snapshot(network(layer, x))
    (call,) = calls(module, run_layer)
    staged = module.constants.stage(torch.device("cpu"))
    body = getattr(module, call.args[4].target)
    weights = [staged[node.args[1]] for node in call.args[2]]
    last, y = run_layer(
        call.args[0], x, weights, True, body, staged, torch.tensor(5), [torch.zeros(2, 8)], 1, False,
        ("CONCATENATE", 1), torch.tensor(5),
    )  # fmt: skip
    wanted, states = layer(x[:, :5])
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(last, states[0])

"""Layers that compute the same are computed once; random ones are not."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

import trtcore
from trtcore.runtime.engine import engines_in
from trtcore_reference import compile_snapshot


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(x.exp()) - torch.sin(y.exp())


class Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.rand_like(x) - torch.rand_like(x)


@torch.no_grad()
def test_equal_calls_are_one() -> None:
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    (engine,) = engines_in(trtcore.compile(Two(), [x, y], min_block_size=1, runtime="reference"))
    snapshot = engine.artifact.snapshot
    first, second = (
        index for index, layer in enumerate(snapshot.layers) if layer.attributes.get("op") == "EXP"
    )
    layers = list(snapshot.layers)
    layers[second] = dataclasses.replace(layers[second], inputs=layers[first].inputs)  # both of x
    for network, count in ((snapshot, 2), (dataclasses.replace(snapshot, layers=tuple(layers)), 1)):
        module = compile_snapshot(network)
        assert [node.target for node in module.graph.nodes].count(torch.exp) == count
        torch.testing.assert_close(module(x, y)[0], Two()(x, y if count == 2 else x))


@torch.no_grad()
def test_random_layers_stay_apart() -> None:
    x = torch.randn(3, 4)
    compiled = trtcore.compile(Random(), [x], min_block_size=1, runtime="reference")
    assert compiled.report.engines
    assert compiled(x).abs().min() > 0

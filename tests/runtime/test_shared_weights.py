"""Engines of several modules that hold equal weights once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import trtcore
from trtcore.runtime import share_weights
from trtcore.runtime.engine import engines_in
from trtcore_reference.staging import Constants


def places(module: Any) -> set[int]:
    """Where an engine has its weights."""
    (engine,) = engines_in(module)
    constants = [one for layer in engine.artifact.layers() for one in layer.constants.values()]
    return {one.data_ptr() for one in constants if one.nbytes > 256}


@torch.no_grad()
def test_one_model_for_two_shapes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)).eval()
    other = copy.deepcopy(model)
    other[2].weight += 1
    one, two, third = (
        trtcore.compile(m, [torch.randn(rows, 16)], min_block_size=1, runtime="reference")
        for m, rows in ((model, 1), (model, 8), (other, 3))
    )
    assert not places(one) & places(two)
    weight = 16 * 32 * 4
    assert share_weights(one, two, third) >= 3 * weight
    assert places(one) == places(two)
    assert len(places(one) & places(third)) == len(places(one)) - 1
    for module, rows, m in ((one, 1, model), (two, 8, model), (third, 3, other)):
        x = torch.randn(rows, 16)
        torch.testing.assert_close(module(x), m(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_an_engine_that_runs_keeps_its_own_and_offers_it(tmp_path: Any) -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU()).eval()
    one, two = (
        trtcore.compile(model, [torch.randn(rows, 16)], min_block_size=1, runtime="reference")
        for rows in (1, 8)
    )
    before = places(one)
    one(torch.randn(1, 16))
    assert share_weights(one, two) > 0
    assert places(one) == before == places(two)
    trtcore.save(two, tmp_path / "two.pt2")
    del one
    x = torch.randn(8, 16)
    torch.testing.assert_close(trtcore.load(tmp_path / "two.pt2")(x), model(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(two(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_networks_share_the_copies_on_a_device(device: str) -> None:
    """Views of one stretch are views of one copy, of whichever network; the copies go with the last of them."""
    weight, other = torch.arange(24.0).reshape(4, 6), torch.ones(3)
    views = ((weight[:2], weight[1:3].mT, weight[3], torch.empty(0), other), (weight[:3], weight[3]))
    networks = []
    for group in views:
        networks.append(Constants())
        for view in group:
            networks[-1].add(view, host=False)
    first, second = (network.stage(torch.device(device))[2:] for network in networks)

    def memory(tensor: torch.Tensor) -> Any:
        return tensor.untyped_storage()._cdata

    assert [one.shape for one in first] == [one.shape for one in views[0]]
    assert memory(first[0]) == memory(first[1]) == memory(second[0])
    assert memory(first[2]) == memory(second[1])
    assert len({memory(one) for one in first}) == 4
    if device == "cuda":
        for got, want in zip((*first, *second), (*views[0], *views[1])):
            torch.testing.assert_close(got.cpu(), want)
    networks[0].release()
    again = Constants()
    again.add(weight[:3], host=False)
    assert memory(again.stage(torch.device(device))[2]) == memory(second[0])

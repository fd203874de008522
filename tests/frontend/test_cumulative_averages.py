"""Batch normalisation in training with ``momentum=None``: the averages over all batches, call after call."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import trtcore


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*training mode")
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm2d(3, momentum=None), (3, 4, 4)),
        (nn.BatchNorm1d(3, momentum=None, affine=False), (3,)),
        (nn.BatchNorm1d(3, momentum=None, track_running_stats=False), (3, 5)),
        (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, momentum=None)), (3,)),
    ],
    ids=["2d", "1d", "without averages", "inside"],
)
def test_as_eager(layer, shape, tmp_path):
    eager, mine = copy.deepcopy(layer).train(), copy.deepcopy(layer).train()
    batch = trtcore.Input(min_shape=(2, *shape), opt_shape=(4, *shape), max_shape=(8, *shape))
    run = trtcore.compile(mine, inputs=[batch], min_block_size=1)
    assert all("forward" not in vars(module) for module in mine.modules())
    for size in (2, 4, 7):
        x = torch.randn(size, *shape)
        torch.testing.assert_close(run(x), eager(x))
        torch.testing.assert_close(dict(mine.named_buffers()), dict(eager.named_buffers()))
    trtcore.save(run, tmp_path / "m.pt2")
    x = torch.randn(5, *shape)
    torch.testing.assert_close(trtcore.load(tmp_path / "m.pt2")(x), eager(x))
    assert ", 0 in torch," in run.report.summary()

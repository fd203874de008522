"""Recurrent networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trtcore.testing import assert_converts, assert_refuses

MODELS = {
    "two layers, both ways": nn.LSTM(6, 4, 2, batch_first=True, bidirectional=True),
    "projected, no biases": nn.LSTM(6, 8, bias=False, proj_size=3, batch_first=True),
    "gru": nn.GRU(6, 4, batch_first=True),
}


@pytest.mark.parametrize("name", MODELS)
def test_sequences(name):
    assert_converts(MODELS[name], (torch.randn(2, 3, 6),), dynamic={0: {0: (1, 2, 4)}})


def test_long_sequences_stay_in_torch():
    model = MODELS["two layers, both ways"]
    assert_refuses(model, (torch.randn(1, 200, 6),), "too many layers")

"""Recurrent networks, written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trtcore.testing import assert_converts
from trtcore_converters.decompositions_recurrent import TABLE

MODELS = {
    "two layers, both ways": nn.LSTM(6, 4, 2, batch_first=True, bidirectional=True),
    "projected, no biases": nn.LSTM(6, 8, bias=False, proj_size=3, batch_first=True),
    "gru": nn.GRU(6, 4, batch_first=True),
}


@pytest.mark.parametrize("name", MODELS)
def test_sequences(name):
    assert_converts(MODELS[name], (torch.randn(2, 3, 6),), dynamic={0: {0: (1, 2, 4)}})


def test_long_sequences_are_not_written_out():
    """Where there are no loops: 800 steps would be some 10,000 layers."""
    with pytest.raises(ValueError, match="too many layers"):
        TABLE[torch.ops.aten.lstm.input](
            torch.randn(1, 200, 6), [torch.zeros(4, 1, 4)] * 2, [], True, 2, 0.0, False, True, True
        )

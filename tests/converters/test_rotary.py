"""torch's rotary embedding op: with cosines and sines as they are, and with tables that positions choose from."""

from __future__ import annotations

import pytest
import torch
import torch.onnx.ops  # registers the op

from trtcore.testing import assert_converts, assert_refuses

rotary = torch.ops.onnx.RotaryEmbedding.opset23
BATCH = (1, 2, 4)


@pytest.mark.parametrize("interleaved", [False, True])
def test_positions_choose_from_tables(interleaved):
    x, positions = torch.randn(2, 3, 5, 8), torch.tensor([[0, 1, 2, 3, 4], [7, 6, 2, 2, 0]])
    tables = torch.randn(9, 4), torch.randn(9, 4)

    def run(x, cosines, sines, positions):
        return rotary(x, cosines, sines, positions, interleaved=interleaved)

    lengths = {0: BATCH, 2: (2, 5, 7)}
    assert_converts(
        run,
        (x, *tables, positions),
        dynamic={0: lengths, 3: {0: BATCH, 1: (2, 5, 7)}},
        dtypes=(torch.float32,),
    )


def test_three_dims_stay_in_torch():
    x, cache = torch.randn(2, 5, 24), torch.randn(2, 5, 4)
    assert_refuses(
        lambda x, c, s: rotary(x, c, s, num_heads=3) * 2, (x, cache, cache), "batch, heads, length"
    )

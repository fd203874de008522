"""Example inputs that are views of larger tensors: what is captured does not depend on the larger one."""

from __future__ import annotations

import torch
from torch import nn

import trtcore


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 4)

    def forward(self, ids):
        ids = ids.view(-1, ids.shape[-1])
        shifted = ids.new_zeros(ids.shape)
        shifted[:, 1:] = ids[:, :-1].clone()
        return self.table(shifted)


def test_a_view_as_the_example_of_a_range():
    example = torch.randint(0, 20, (4, 12))[:2, :7]
    ids = trtcore.Input(
        min_shape=(1, 7), opt_shape=(2, 7), max_shape=(4, 7), dtype=torch.int64, example=example
    )
    model = Tokens().eval()
    module = trtcore.compile(model, [ids], runtime="reference", min_block_size=1)
    for count in (1, 2, 4):
        x = torch.randint(0, 20, (count, 7))
        torch.testing.assert_close(module(x), model(x))


def test_captures_leave_the_example_as_it_is():
    whole = torch.arange(12.0).view(3, 4)
    module = trtcore.compile(nn.ReLU(), [whole[1:, ::2]], runtime="reference", min_block_size=1)
    torch.testing.assert_close(module(whole[1:, ::2]), whole[1:, ::2])
    assert torch.equal(whole, torch.arange(12.0).view(3, 4))

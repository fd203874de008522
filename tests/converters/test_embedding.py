"""Embedding tables."""

from __future__ import annotations

import torch

from trtcore.testing import assert_converts


class Tables(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = torch.nn.Embedding(11, 6, padding_idx=0), torch.nn.Embedding(9, 6)

    def forward(self, ids):
        return self.words(ids), self.places(ids[..., 0]), self.words(ids.int()), self.places(ids[0, 0])


def test_embedding():
    ids = torch.randint(0, 9, (2, 5))
    assert_converts(Tables(), (ids,), dtypes=(torch.float32, torch.float16, torch.bfloat16))
    assert_converts(Tables(), (ids,), dynamic={0: {0: (1, 2, 4), 1: (1, 5, 8)}})


def test_a_table_from_elsewhere():
    run = torch.nn.functional.embedding
    assert_converts(run, (torch.tensor([[0, 2], [1, 1]]), torch.randn(3, 4)), dynamic={0: {0: (1, 2, 3)}})
    assert_converts(run, (torch.zeros(0, 2, dtype=torch.int64), torch.randn(3, 4)))

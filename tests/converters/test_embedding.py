"""Embedding tables."""

from __future__ import annotations

import pytest
import torch

from trtcore.testing import assert_converts, assert_refuses

F = torch.nn.functional
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


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


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags(mode):
    def run(table, rows, ids, offsets, ends):
        return (
            F.embedding_bag(rows, table, mode=mode), F.embedding_bag(rows, table, mode=mode, padding_idx=2),
            F.embedding_bag(ids, table, offsets, mode=mode), F.embedding_bag(ids, table, offsets, mode=mode, padding_idx=-3),
            F.embedding_bag(ids, table, ends, mode=mode, include_last_offset=True),
        )  # fmt: skip

    ids = torch.randint(0, 10, (12,))
    offsets, ends = torch.tensor([0, 3, 3, 7]), torch.tensor([0, 3, 3, 7, 12])
    values = (torch.randn(10, 4), torch.randint(0, 10, (3, 5)), ids, offsets, ends)
    assert_converts(run, values, dtypes=FLOATS)


def test_bags_of_varying_sizes():
    def run(table, rows, ids, offsets):
        return (
            F.embedding_bag(rows, table, mode="mean", padding_idx=2),
            F.embedding_bag(rows, table, mode="max"),
            F.embedding_bag(ids, table, offsets),
        )

    values = (
        torch.randn(10, 4),
        torch.randint(0, 10, (3, 5)),
        torch.randint(0, 10, (12,)),
        torch.zeros(3).long(),
    )
    assert_converts(run, values, dynamic={1: {0: (1, 3, 5)}, 2: {0: (2, 12, 15)}, 3: {0: (1, 2, 3)}})


def test_weighted_bags():
    def run(table, ids, offsets, factors):
        return F.embedding_bag(ids, table, offsets, mode="sum", per_sample_weights=factors)

    values = (torch.randn(10, 4), torch.randint(0, 10, (12,)), torch.tensor([0, 3, 3, 7]), torch.randn(12))
    assert_converts(run, values, dtypes=FLOATS)


def test_bags_that_stay_in_torch():
    table, ids, offsets = torch.randn(10, 4), torch.randint(0, 10, (12,)), torch.tensor([0, 3])

    def statistics(table, ids, offsets):
        return torch.ops.aten._embedding_bag(table, ids, offsets)[:3]

    assert_refuses(statistics, (table, ids, offsets), "for its gradient")
    many = (torch.randn(4, 9), torch.zeros(9000).long(), torch.arange(900) * 10)
    assert_refuses(lambda t, i, o: F.embedding_bag(i, t, o), many, "comparisons")

"""Ops that pick, count or place elements by what they are."""

from __future__ import annotations

import torch

from trtcore.testing import assert_converts, assert_refuses

aten = torch.ops.aten
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def test_masked_scatter():
    def run(x, mask, s):
        return (
            x.masked_scatter(mask, s), x.masked_scatter(mask[0], s), x[:1].masked_scatter(mask, s), x.long().masked_scatter(mask, s.long()),
            x[:0].masked_scatter(mask[:0], s), x.masked_scatter(mask & False, s[:0]),
        )  # fmt: skip

    values = (torch.randn(3, 4), torch.rand(3, 4) > 0.5, torch.randn(5, 5))
    assert_converts(run, values, dtypes=FLOATS)
    assert_converts(
        lambda x, mask, s: x.masked_scatter(mask, s), values, dynamic={0: {0: (2, 3, 5)}, 1: {0: (2, 3, 5)}}
    )


def test_nonzero_static():
    def run(x):
        return (
            torch.nonzero_static(x, size=5), torch.nonzero_static(x, size=20, fill_value=7), torch.nonzero_static(x[0] > 0, size=3),
            torch.nonzero_static(x[0, 0], size=3), torch.nonzero_static(x, size=0), torch.nonzero_static(x[:0], size=2),
        )  # fmt: skip

    assert_converts(run, (torch.tensor([[0, 2, 0, 1], [0, 0, 0, 0], [3, 0, 0, 4]]),))
    rows = (torch.tensor([[0.0, 2, 0, 1], [3, 0, 0, 4]]),)
    assert_converts(lambda x: torch.nonzero_static(x, size=6), rows, dynamic={0: {0: (1, 2, 4)}})


def test_diagonal_scatter():
    def run(x, y):
        return (
            torch.diagonal_scatter(x, y[:3]), torch.diagonal_scatter(x, y[:3], 1), torch.diagonal_scatter(x, y[:2], -1),
            torch.diagonal_scatter(x, y[:3], 0, 1, 0), torch.diagonal_scatter(x[None], y[None, :3], 0, 1, 2), torch.diagonal_scatter(x, y[:2], 2),
        )  # fmt: skip

    assert_converts(run, (torch.randn(3, 4), torch.randn(5)), dtypes=FLOATS)


def test_searches():
    def run(x, y):
        return (
            torch.isin(x, y), torch.isin(x, y, invert=True), torch.searchsorted(y, x), torch.searchsorted(y, x, right=True, out_int32=True),
            torch.searchsorted(y, 0.5), torch.searchsorted(y.expand(3, 12), x, side="right"), torch.isin(x, y[:0]),
        )  # fmt: skip

    assert_converts(
        run, (torch.randint(-5, 5, (3, 4)).float(), torch.randint(-5, 5, (12,)).float().sort().values)
    )


def test_repetition_and_counting():
    def run(x):
        return (
            x.repeat_interleave(3, 1), x.repeat_interleave(2), x[0, 0].repeat_interleave(2), x.repeat_interleave(0, 0),
            torch.histc(x, 10, -1, 1), torch.histc(x, 5),
        )  # fmt: skip

    assert_converts(run, (torch.randn(3, 4),))
    assert_converts(lambda x: x.repeat_interleave(3, 0), (torch.randn(3, 4),), dynamic={0: {0: (2, 3, 5)}})


def test_repetition_by_counts():
    counts = torch.tensor([2, 0, 3])

    def run(x, counts):
        return (
            x.repeat_interleave(counts, 0, output_size=5), x[0].repeat_interleave(counts[:1] + 1, output_size=12),
            torch.repeat_interleave(counts, output_size=5),
        )  # fmt: skip

    assert_converts(run, (torch.randn(3, 4), counts), dtypes=(torch.float32, torch.float16))
    assert_refuses(
        lambda x, n: x.repeat_interleave(n, 0), (torch.randn(3, 4), counts), "output_size gives it"
    )


def test_cosine_similarity():
    def run(x, y):
        return (
            torch.nn.functional.cosine_similarity(x, y),
            torch.nn.functional.cosine_similarity(x[None], y * 0, -1),
        )

    assert_converts(run, (torch.randn(3, 4), torch.randn(3, 4)), dtypes=FLOATS)


def test_cells():
    """torch's own decompositions of these write in place."""

    def run(x, h, c, w, u):
        return torch.lstm_cell(x, [h, c], w, u), torch.gru_cell(x, h, w[:24], u[:24])

    values = [torch.randn(shape) for shape in ((2, 6), (2, 8), (2, 8), (32, 6), (32, 8))]
    assert_converts(run, values, dynamic={i: {0: (1, 2, 3)} for i in range(3)})


def test_flat_numbers():
    def run(x, i, s):
        return (
            aten.put(x, i, s, True),
            aten.put(x, i[1:2], s[:1]),
            torch.take(x, i),
            aten.resize(x, [2, 3]),
            aten.resize(x, [4, 3]),
        )

    assert_converts(run, (torch.randn(3, 4), torch.tensor([0, -1, 5, 0]), torch.randn(4)))


def test_values_through_a_mask():
    def run(x, mask, s):
        return (
            aten.index_put(x, [mask], s),
            aten.index_put(x, [mask[:, 0]], x[:1] * 2),
            aten.index_put(x, [mask], s, True),
        )

    mask = torch.tensor([[True, False, True, False], [False] * 4, [False, True, False, True]])
    assert_converts(run, (torch.randn(3, 4), mask, torch.randn(4)))


def test_renormalised_tables():
    def run(table, ids):
        return aten.embedding_renorm(table, ids, 1.0, 2.0), aten.embedding_renorm(table, ids, 0.5, 1.0)

    assert_converts(run, (torch.randn(3, 4), torch.tensor([0, 0, 2])))

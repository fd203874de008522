"""Writing by index."""

from __future__ import annotations

import pytest
import torch

from trtcore.testing import assert_converts

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
aten = torch.ops.aten


def test_index_copy_and_fill():
    def run(x, i, s):
        return (
            x.index_copy(2, i, s), x.transpose(0, 2).index_copy(0, i, s.transpose(0, 2)),
            x.index_copy(-1, i[:1], s[..., :1]), x[0, 0].index_copy(0, i, s[0, 0]), x[0, 0].index_copy(0, i[0], s[0, 0, 0]),
            x.index_copy(1, i[1:], s[:, :1, :1].expand(-1, -1, 5)),
            x.index_fill(1, i, 2.5), x.index_fill(-1, i[1], 7), x[0, 0, 0].index_copy(0, i[0] * 0, s[0, 0, 0]),
        )  # fmt: skip

    values = (torch.randn(2, 3, 5), torch.tensor([2, 1]), torch.randn(2, 3, 2))
    assert_converts(run, values, dtypes=DTYPES)
    assert_converts(run, values, dynamic={0: {0: (2, 2, 4)}, 2: {0: (2, 2, 4)}})


def test_index_put_one_index():
    def run(x, i, s):
        return (
            aten.index_put(x, [i], s), aten.index_put(x, [None, i], s[:1, :2]), aten.index_put(x, [None, None, i], s[0, 0, 0]),
            aten.index_put(x, [i[:, None]], s[0]), aten.index_put(x, [None, i.reshape(1, 2)], s[0, 0]), aten.index_put(x, [i[0]], s[0, 0]),
        )  # fmt: skip

    values = (torch.randn(3, 4, 5), torch.tensor([2, 0]), torch.randn(2, 4, 5))
    assert_converts(run, values, dtypes=DTYPES)


def test_index_put_one_dynamic():
    def run(x, i, s):
        return (
            aten.index_put(x, [i], s), aten.index_put(x, [None, i], s[:1, :1]), aten.index_put(x, [None, None, i], s[0, 0, 0]),
            aten.index_put(x, [i[:, None]], s[:1, :1]),
        )  # fmt: skip

    values = (torch.randn(3, 4, 5), torch.tensor([2, 0]), torch.randn(2, 4, 5))
    assert_converts(run, values, dynamic={1: {0: (1, 2, 3)}, 2: {0: (1, 2, 3)}})


def test_index_put_several_indices():
    def run(x, i, j, s):
        return (
            aten.index_put(x, [i, j], s[0]), aten.index_put(x, [None, i, j], s[:, 0]), aten.index_put(x, [i, None, j], s[:, 0]),
            aten.index_put(x, [i[:, None], j], s[:, :1]), aten.index_put(x, [i, j, i], s[:, 0, 0]), aten.index_put(x, [j, i[:1]], s[0, 0]),
            aten.index_put(x, [None, i[:, None], j], s[:, 0, :1]),
        )  # fmt: skip

    values = (torch.randn(3, 3, 3), torch.tensor([2, 0, 1]), torch.tensor([1, 0, 2]), torch.randn(3, 3, 3))
    assert_converts(run, values, dtypes=DTYPES)


def test_index_put_dynamic():
    def run(x, i, j, s):
        return (
            aten.index_put(x, [i, j], s),
            aten.index_put(x, [i, j], s[:1]),
            aten.index_put(x, [None, i], s[:1, None]),
        )

    values = (torch.randn(5, 4, 4), torch.tensor([2, 0]), torch.tensor([1, 3]), torch.randn(2, 4))
    dynamic = {1: {0: (1, 2, 3)}, 2: {0: (1, 2, 3)}, 3: {0: (1, 2, 3)}}
    assert_converts(run, values, dynamic=dynamic)


def test_index_put_mask_and_dtypes():
    def run(x, mask, n):
        return (
            aten.index_put(x, [mask], n), aten.index_put(x, [mask[:, 0]], n), x.masked_fill(mask, 3),
            aten.index_put(mask, [n.long()], mask[0]), aten.index_put(n.reshape(1).long(), [n.long()], n.long()),
        )  # fmt: skip

    assert_converts(run, (torch.randn(3, 4), torch.rand(3, 4) > 0.5, torch.tensor(0.0)))


@pytest.mark.parametrize(
    "write",
    [
        lambda x, m, row: aten.index_put(x, [None, m], x[:, :1]),
        lambda x, m, row: aten.index_put(x, [m.expand(x.shape[0], 4)], row),
        lambda x, m, row: aten.index_put(x, [None, m], row[0]),
        lambda x, m, row: aten.index_put(x, [None, None, row > 0], x.sum(2, keepdim=True)),
        lambda x, m, row: aten.index_put(x, [None, x[0] > 0], x[:, 0, :1]),
    ],
    ids=["behind a dim", "a row", "a number of a row", "the last dim", "two dims"],
)
def test_a_mask_where_each_element_gets_the_same(write):
    """Whatever stands in the other dims: what is written is as long as they are, or one."""
    x, mask, row = torch.randn(3, 4, 2), torch.tensor([True, False, True, True]), torch.tensor([0.5, -2.0])
    assert_converts(write, (x, mask, row), dynamic={0: {0: (1, 3, 5)}})


def test_scatter():
    def run(x, i, s):
        return (
            x.scatter(1, i, s), x.scatter(0, i % 2, s), x.scatter(-1, i, 1.5), x.scatter(1, i[:1, :2], s),
            x[0].scatter(0, i[0], s[0]), x[0, 0].scatter(0, i[0, 0] * 0, s[0, 0]), x.long().scatter(1, i, 7), (x > 0).scatter(1, i, True),
        )  # fmt: skip

    values = (torch.randn(2, 5), torch.tensor([[0, 2, 4], [1, 0, 3]]), torch.randn(2, 4))
    assert_converts(run, values, dtypes=DTYPES)


def test_scatter_dynamic():
    def run(x, i, s):
        return x.scatter(1, i, s), x.scatter(1, i, 2.0), x.scatter(1, i[:, :1], s)

    values = (torch.randn(2, 5), torch.tensor([[0, 2, 4], [1, 0, 3]]), torch.randn(2, 3))
    assert_converts(run, values, dynamic={i: {0: (2, 2, 4)} for i in range(3)})


def test_slices():
    def run(x, s):
        return (
            aten.slice_scatter(x, s, 1, 1, 3), aten.slice_scatter(x, s, 1, -2), aten.slice_scatter(x, s, 1, 0, 5, 3), aten.slice_scatter(x, x),
            aten.slice_scatter(x, s[:, :1], 1, 4, 99), aten.slice_scatter(x, s[:, :0], 1, 2, 2), aten.slice_scatter(x, s, -1, None, 2),
            aten.select_scatter(x, s[:, 0], 1, 2), aten.select_scatter(x, x[0], 0, -1), aten.select_scatter(x, s[:, 1], -1, 0),
        )  # fmt: skip

    values = (torch.randn(2, 5), torch.randn(2, 2))
    assert_converts(run, values, dtypes=DTYPES)

    def rows(x, s):
        return (
            aten.slice_scatter(x, s, 1, 1, 3),
            aten.select_scatter(x, s[:, 0], 1, 2),
            aten.slice_scatter(x, s, 1, 0, 5, 3),
        )

    assert_converts(rows, values, dynamic={0: {0: (2, 2, 4)}, 1: {0: (2, 2, 4)}})


def test_copy():
    def run(x, y, n):
        return (
            aten.copy(x, y),
            aten.copy(x, y.half()),
            aten.copy(x, n),
            aten.copy(n, y[0, 0]),
            aten.copy(x, y[:1]),
        )

    values = (torch.randn(3, 4), torch.randn(3, 4), torch.tensor(3))
    assert_converts(run, values)
    assert_converts(run, values, dynamic={0: {0: (2, 3, 4)}, 1: {0: (2, 3, 4)}})


def test_several_values_through_a_mask():
    """Each goes where the count of the places before it says; decomposed into a gather."""
    x = torch.randn(3, 4)
    mask = x[:, 0] > -9
    assert_converts(lambda x, m, s: aten.index_put(x, [m], s), (x, mask, torch.randn(3, 4)))
    mask = torch.tensor([True, False, True])
    assert_converts(lambda x, m, s: aten.index_put(x, [m], s), (x, mask, torch.randn(2, 4)))

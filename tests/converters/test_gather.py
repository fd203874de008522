"""Indexing."""

from __future__ import annotations

import torch

from trtcore.testing import assert_converts, assert_refuses

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def test_one_index():
    def run(x, i, j):
        return x[i], x[:, i], x[..., j], x[i[0]], x[:, :, i], x[i.int()], x[-1 - i]

    values = (torch.randn(4, 5, 6), torch.tensor([[0, 3], [2, -1]]), torch.tensor([1, 4, -2]))
    assert_converts(run, values, dtypes=DTYPES)
    assert_converts(run, values, dynamic={0: {0: (4, 4, 6)}, 1: {0: (1, 2, 3)}})


def test_several_indices():
    def run(x, i, j):
        return (
            x[i, j], x[:, i, j], x[i, :, j], x[i[:, None], j], x[:, i[:, None], :, j[None]], x[i, j, i], x[i, j, i, j], x[:, i, j, i],
            x[i[:1], j], x[None, i, j], x[-1 - i, j],
        )  # fmt: skip

    values = (torch.randn(4, 4, 5, 4), torch.tensor([0, 3, -2]), torch.tensor([1, 0, -4]))
    assert_converts(run, values, dtypes=DTYPES)
    assert_converts(
        run, values, dynamic={0: {0: (4, 4, 6), 2: (4, 5, 6)}, 1: {0: (3, 3, 6)}, 2: {0: (3, 3, 6)}}
    )


def test_mask_of_a_transformer():
    """Transformers expands a padding mask by indexing it with arange tensors of the batch and the keys."""

    def run(mask):
        batch = torch.arange(mask.shape[0])[:, None, None, None]
        keys = torch.arange(mask.shape[1])
        return mask[batch, keys], (mask & mask)[batch, keys[None, None, None, :]]

    mask = torch.rand(2, 7) > 0.5
    assert_converts(run, (mask,))
    assert_converts(run, (mask,), dynamic={0: {0: (1, 2, 4), 1: (1, 7, 9)}})


def test_constant_indices():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("i", torch.tensor([[0, -1], [1, 2]]))
            self.register_buffer("table", torch.randn(3, 4))

        def forward(self, x, j):
            return (
                x[self.i],
                x[:, self.i, self.i],
                self.table[j],
                self.table[j, j],
                x[[0, 2, 1]],
                x[:, :, [1]],
            )

    assert_converts(
        Model(), (torch.randn(3, 4, 5), torch.tensor([2, 0])), dynamic={0: {0: (3, 3, 5)}, 1: {0: (1, 2, 3)}}
    )


def test_index_select_and_gather():
    def run(x, i, g):
        return (
            x.index_select(0, i), x.index_select(-1, i), x.gather(1, g), x.gather(-2, g[:, :1]), x.gather(0, g % 2), x[0, 0].gather(0, i),
            torch.take_along_dim(x, g, 1), x[0, 0, 0].gather(0, i[0] * 0),
        )  # fmt: skip

    values = (
        torch.randn(2, 3, 4),
        torch.tensor([1, 0, 1]),
        torch.tensor([[[0, 2, 1, 1]], [[2, 2, 0, 1]]]).repeat(1, 2, 1),
    )
    assert_converts(run, values, dtypes=DTYPES)
    assert_converts(run, values, dynamic={1: {0: (1, 3, 4)}})


def test_other_dtypes_and_empty():
    def run(i, b, j, e):
        return i[j], b[:, j], i.gather(0, j[None]), b[j, j], e[:, j], i[e[:, 0].long()], i.index_select(0, j)

    values = (
        torch.arange(6).reshape(2, 3),
        torch.tensor([[True, False], [False, True]]),
        torch.tensor([1, 0]),
        torch.zeros(0, 2),
    )
    assert_converts(run, values)


def test_elements_by_their_place():
    def run(x):
        return (
            x.diagonal(), x.diagonal(1, 1, 2), x.diagonal(-2, -1, 0), x.diagonal(9), x.as_strided((2, 3), (5, 2), 1), x.unfold(1, 2, 1),
            x[0].diagonal(), torch.diag_embed(x[0, 0]), x.as_strided((2, 2, 2), (1, 1, 0)), torch.cdist(x, x + 1), torch.cdist(x, x[:, :2], p=1.0),
        )  # fmt: skip

    assert_converts(run, (torch.randn(3, 4, 5),))
    assert_converts(
        lambda x: (x.diagonal(0, 1, 2), x.unfold(1, 3, 2)),
        (torch.randn(3, 4, 5),),
        dynamic={0: {0: (1, 3, 4)}},
    )


def test_refusals():
    assert_refuses(lambda x: x[x > 0], (torch.randn(3),), "depends on data")
    assert_refuses(lambda x: x.nonzero(), (torch.tensor([0, 1]),), "add_non_zero")
    assert_refuses(
        lambda x: x[1:].as_strided((2,), (1,)), (torch.randn(4, 3),), "", dynamic={0: {0: (2, 4, 8)}}
    )


def test_distances_of_pairs():
    def run(x):
        return (
            torch.pdist(x), torch.pdist(x, 1), torch.pdist(x, 0), torch.pdist(x, float("inf")), torch.pdist(x, 3.0),
        )  # fmt: skip

    assert_converts(run, (torch.randn(4, 3),))
    assert_converts(torch.pdist, (torch.randn(4, 3),), dynamic={0: {1: (2, 3, 5)}})


def test_writing_into_memory_order():
    def run(x, s):
        aten = torch.ops.aten
        return aten.as_strided_scatter(x, s, [2, 2], [4, 1], 1), aten.as_strided_scatter(
            x.t(), s, [2, 2], [1, 2]
        )

    assert_converts(run, (torch.randn(3, 4), torch.randn(2, 2)))


def test_selecting_by_a_mask_depends_on_data():
    values = (torch.randn(3, 4), torch.rand(3, 4) > 0.5)
    assert_refuses(lambda x, mask: x.masked_select(mask), values, "add_non_zero")
    assert_refuses(lambda x, mask: x[mask], values, "add_non_zero")


def test_no_indices_of_any_rank():
    values = (torch.randn(5), torch.zeros(2, 0, dtype=torch.uint8).long())
    assert_converts(lambda x, i: (torch.gather(x, 0, i), x + 1), values)

"""Many elements into one place."""

from __future__ import annotations

import pytest
import torch

from trtcore.testing import assert_converts, assert_refuses

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
aten = torch.ops.aten


def _values(dtype=torch.float32):
    x, source = torch.randn(4, 5) * 3, torch.randn(3, 5) * 3
    return x.to(dtype), torch.tensor([[0, 2, 2], [3, 0, 1]]), source.to(dtype)


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("reduce", ["sum", "prod", "mean", "amax", "amin"])
def test_scatter_reduce(reduce, include_self):
    def run(x, i, s):
        return (
            x.scatter_reduce(0, i, s, reduce, include_self=include_self),
            x.scatter_reduce(-1, i, s, reduce, include_self=include_self),
            x[0, 0].scatter_reduce(0, i[0, 0], s[0, 0], reduce, include_self=include_self),
        )

    assert_converts(run, _values(), dtypes=FLOATS if reduce == "mean" else (torch.float32,))
    assert_converts(run, _values(torch.int64))


def test_scatter_add():
    def run(x, i, s):
        return (
            x.scatter_add(1, i, s), x.scatter_add(0, i, s), x.scatter_add(0, i[:, :0], s), x.scatter_add(0, i, s[:2, :3]),
            x.scatter(1, i, 2.5, reduce="multiply"), x.scatter(1, i, s, reduce="add"), (x > 0).scatter_add(1, i, s > 0),
        )  # fmt: skip

    assert_converts(run, _values(), dtypes=FLOATS)
    assert_converts(lambda x, i, s: x.scatter_add(1, i, s), _values(torch.int32))


def test_varying_sizes():
    def run(x, i, s):
        return (
            x.scatter_add(0, i, s), x.scatter_reduce(0, i, s, "mean", include_self=False), aten.index_put(x, [i[:, 0]], s[:, :1], True),
            x.index_add(0, i[:, 0], x[i[:, 1]]), x.index_reduce(0, i[:, 0], x[i[:, 1]], "amax"),
        )  # fmt: skip

    values = (torch.randn(4, 5), torch.tensor([[0, 2, 2], [3, 0, 1]]), torch.randn(2, 3))
    assert_converts(run, values, dynamic={0: {1: (3, 5, 8)}, 1: {0: (1, 2, 4)}, 2: {0: (1, 2, 4)}})


def test_index_add_and_reduce():
    def run(x, i, s):
        return (
            x.index_add(0, i[0], s, alpha=2), x.index_add(1, i[0], x[:, :3]), x.index_reduce(0, i[0], s, "amin"),
            x.index_reduce(0, i[0], s, "mean", include_self=False), x.index_reduce(1, i[0], x[:, 2:], "prod"),
            x[0, 0].index_add(0, i[0, 0] * 0, s[0, 0]), x[0].index_add(0, i[0, 0], s[0, :1]),
        )  # fmt: skip

    assert_converts(run, _values(), dtypes=FLOATS)
    assert_converts(run, _values(torch.int64))


def test_index_put_accumulate():
    def run(x, i, s):
        return (
            aten.index_put(x, [i[0], i[0]], s[0, :3], True), aten.index_put(x, [None, i[:, :2]], s[0, 0], True),
            aten.index_put(x, [i[:, :2]], s[0], True), aten.index_put(x, [i - 4], s[0, :1], True), aten.index_put(x, [None, i[0]], x[:, :3], True),
            aten.index_put(x[None], [i[0] * 0, None, i[1]], s[:, :4], True),
        )  # fmt: skip

    assert_converts(run, _values(), dtypes=FLOATS)


def test_refusals():
    x, i, s = torch.zeros(3000, 2), torch.zeros(12000, 2).long(), torch.ones(12000, 2)
    assert_refuses(lambda x, i, s: x.scatter_add(0, i, s), (x, i, s), "does not accumulate")

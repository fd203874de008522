"""Looks into memory: dense tensors, and views that stay within them."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from trtcore.ir.strided import _are_apart, _have_no_element_in_common, disjoint, is_dense, lies_within
from trtcore.ir.symbols import surely


def varying() -> Tensor:
    """A FakeTensor of n rows of four, 2 <= n <= 8."""

    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    rows = torch.export.Dim("rows", min=2, max=8)
    ep = torch.export.export(Same(), (torch.zeros(4, 4),), dynamic_shapes=({0: rows},))
    value: Tensor = ep.graph.find_nodes(op="placeholder")[0].meta["val"]
    return value


def test_surely() -> None:
    size = varying().shape[0]
    known = len(size.node.shape_env.guards)
    assert surely(size > 1)
    assert surely(True)
    assert not surely(size == 4)
    assert not surely(size > 8)
    assert len(size.node.shape_env.guards) == known


M = torch.zeros(4, 6)


@pytest.mark.parametrize(
    ("tensor", "dense"),
    [
        (M, True),
        (M.t(), True),
        (torch.zeros(2, 3, 4).permute(1, 2, 0), True),
        (M[1:], True),
        (M[:, 1:], False),
        (M[::2], False),
        (M[0].expand(3, 6), False),
        (M[:, :1], False),
        (M[:1, ::6], True),
        (M.sum(), True),
    ],
)
def test_dense(tensor: Tensor, dense: bool) -> None:
    assert is_dense(tensor) is dense


@pytest.mark.parametrize(
    ("view", "whole", "within"),
    [
        (M[1:3], M, True),
        (M, M[1:], False),
        (M[:, 2:], M, True),
        (M[:, 2], M[:, 1:], True),
        (M.view(-1)[7:9], M[:, 1:], True),
        (M.view(-1)[6:8], M[:, 1:], False),
        (M[:2], M[::2], False),
        (M[3:], M[1:3], False),
    ],
)
def test_within(view: Tensor, whole: Tensor, within: bool) -> None:
    assert lies_within(view, whole) is within


def test_within_for_all_sizes() -> None:
    x = varying()
    with x.fake_mode:  # type: ignore[attr-defined]
        assert is_dense(x)
        assert not is_dense(x[:, 1:])
        assert lies_within(x[:2], x) is True
        assert lies_within(x.as_strided((3, 4), (4, 1)), x) is None
        assert lies_within(x.as_strided((9, 4), (4, 1)), x) is False
        assert lies_within(x[:1, 1:], x[:, 1:]) is False  # it is, which nobody proves


def test_parts_without_a_common_element() -> None:
    base = torch.zeros(2, 6, 4)
    parts = [
        *base.chunk(3, 1), *base.split([1, 3], 2), *base.unbind(1), *base.unbind(2), base.mT, base[:, ::2],
        base[:, 1::2], base[0], base[1], base[:, 2:4], base[:, :0],
    ]  # fmt: skip
    for one, other in combinations(parts, 2):
        base.zero_()
        one.fill_(1)
        assert disjoint([one, other]) is not bool(other.any())


def test_parts_of_sizes_that_vary() -> None:
    x = varying()
    with x.fake_mode:  # type: ignore[attr-defined]
        apart = [x.split(2, 1), [x[0], x[1]], x.view(-1, 2, 2).unbind(1)]
        common = [[x[:, :3], x[:, 2:]], [x[:2], x[1:]], [x, x.view(-1)]]
    assert all(map(disjoint, apart))
    assert not any(map(disjoint, common))


def test_what_is_said_to_be_apart_is() -> None:
    random_ = random.Random(0)
    for _ in range(3000):
        strides = [random_.randint(0, 8) for _ in range(random_.randint(1, 3))]
        one, other = (
            torch.zeros(200).as_strided(
                [random_.randint(1, 4) for _ in strides], strides, random_.randint(0, 20)
            )
            for _ in range(2)
        )
        if _are_apart(one, other):
            assert _have_no_element_in_common([one, other])

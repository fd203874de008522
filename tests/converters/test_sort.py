"""topk, sort and argsort."""

from __future__ import annotations

import pytest
import torch

from trtcore.testing import assert_converts, assert_refuses

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
X = torch.randperm(60, generator=torch.Generator().manual_seed(0)).reshape(3, 4, 5)
TIES = torch.tensor([[3, 1, 2, 1, 3, 2], [0, 0, 5, 5, 0, 5]])


def run(x):
    return (
        *x.topk(2, 1), *x.topk(3, -1, largest=False), *x.sort(), *x.sort(1, descending=True),
        x.argsort(0), torch.msort(x),
    )  # fmt: skip


def test_numbers():
    assert_converts(run, (X.float() / 7,), dtypes=FLOATS)
    assert_converts(run, (X,))
    assert_converts(run, (X.int(),))


def test_dynamic_sizes():
    assert_converts(run, (X.float(),), dynamic={0: {0: (1, 3, 4)}})
    assert_converts(
        lambda x: (*x.sort(1), x.argsort(2, descending=True)),
        (X.float(),),
        dynamic={0: {1: (2, 4, 6), 2: (2, 5, 8)}},
    )


def test_a_k_that_depends_on_the_size():
    assert_converts(lambda x: x.topk(x.shape[1] // 2, 1), (torch.randn(3, 8),), dynamic={0: {1: (4, 8, 16)}})


def test_stable_orders():
    def run(x):
        return (
            *x.sort(stable=True),
            *x.sort(stable=True, descending=True),
            torch.argsort(x, stable=True),
            torch.argsort(x, dim=0, descending=True, stable=True),
        )

    assert_converts(run, (TIES,))
    assert_converts(run, (TIES.float(),))
    assert_converts(lambda x: x.sort(stable=True), (TIES > 2,))


@pytest.mark.parametrize("x", [torch.tensor(2.5), torch.tensor([3.0, 1.0, 2.0])])
def test_few_dims(x):
    assert_converts(lambda x: (*x.sort(), *x.topk(1), x.argsort(0)), (x,))


def test_more_than_topk_can_do():
    assert_refuses(lambda x: x.topk(4000), (torch.randn(5000),), "3840")
    assert_refuses(lambda x: x.sort(), (torch.randn(2, 4000),), "3840")
    assert_refuses(lambda x: x.sort(), (torch.randn(2, 30),), "3840", dynamic={0: {1: (20, 30, 4000)}})

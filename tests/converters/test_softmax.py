"""Softmax and its logarithm."""

from __future__ import annotations

import torch

from trtcore.testing import assert_converts

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _all(x):
    return (
        x.softmax(-1), x.softmax(0), x.softmax(1), x.log_softmax(-1), x.log_softmax(0), x[0, 0].softmax(0), x[0, 0].log_softmax(0),
        x[0, 0, 0].softmax(0), x.softmax(-1, dtype=torch.float32), x.log_softmax(-2, dtype=torch.float32),
    )  # fmt: skip


def test_softmax():
    x = torch.randn(2, 3, 4) * 5
    assert_converts(_all, (x,), dtypes=DTYPES)
    assert_converts(_all, (x,), dynamic={0: {0: (1, 2, 4), 2: (2, 4, 6)}})


def test_large_numbers():
    """A softmax that underflows has a finite logarithm."""
    assert_converts(_all, (torch.tensor([[[1000.0, 0.0, -1000.0], [3e38, 1.0, 2.0]]]),))


def test_integers_and_empty():
    run = lambda i, e: (i.softmax(0, dtype=torch.float32), e.softmax(1), e.softmax(0), e.log_softmax(-1))  # noqa: E731
    assert_converts(run, (torch.tensor([1, 2, 3]), torch.zeros(0, 2)))

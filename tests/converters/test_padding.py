"""Padding: constants, cropping, reflection, replication, wrapping; static and dynamic counts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trtcore.testing import assert_converts, assert_refuses

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
DYNAMIC = {0: {0: (1, 2, 4), 2: (4, 5, 9), 3: (4, 6, 7)}}


def run(x):
    return (
        F.pad(x, (1, 2)), F.pad(x, (1, 2, 0, 3), value=2), F.pad(x, (-1, 2, -2, -1)), F.pad(x, (1, 0, 0, 1, 2, 0, 0, 2)),
        F.pad(x, (-1, -1)), F.pad(x, (0, 0)), F.pad(x, (1, 2, 3, 0), "reflect"), F.pad(x, (1, 2, 3, 0), "replicate"),
        F.pad(x, (1, 2, 3, 0), "circular"),
    )  # fmt: skip


def test_floats():
    assert_converts(run, (torch.randn(2, 3, 5, 6),), dtypes=FLOATS)
    assert_converts(run, (torch.randn(2, 3, 5, 6),), dynamic=DYNAMIC)
    assert_converts(lambda x: F.pad(x, (1, 1), value=float("-inf")), (torch.randn(2, 3),), dtypes=FLOATS)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_integers(dtype):
    assert_converts(run, (torch.randint(-9, 9, (2, 3, 5, 6), dtype=dtype),))


def test_bools():
    assert_converts(lambda x: (F.pad(x, (1, 1), value=True), F.pad(x, (1, 1))), (torch.randn(2, 3) > 0,))


def test_other_ranks():
    assert_converts(lambda x: (nn.ReflectionPad1d(2)(x), nn.ReplicationPad1d(2)(x)), (torch.randn(3, 5),))
    assert_converts(
        lambda x: (nn.ReflectionPad3d(1)(x), nn.ReplicationPad3d(1)(x)), (torch.randn(1, 2, 3, 4, 5),)
    )
    assert_converts(lambda x: F.pad(x, (2, 3)), (torch.randn(0, 3),))


def test_counts_that_depend_on_a_size():
    def run(x):
        return F.pad(x, (0, x.shape[2])), F.pad(x, (x.shape[3] - 1, 0, 1, 0), value=1.5)

    assert_converts(run, (torch.randn(2, 3, 5, 6),), dynamic=DYNAMIC)


@pytest.mark.parametrize("counts", [(-1, 3), (2, -2), (-2, 4, 1, -1)])
def test_reflection_and_replication_see_what_is_cropped(counts):
    x = torch.randn(2, 3, 5, 6)
    dynamic = {0: {3: (5, 6, 9)}} if len(counts) == 2 else None
    for mode in ("reflect", "replicate"):
        pads = (*counts, 0, 0) if len(counts) == 2 else counts
        assert_converts(lambda x, m=mode, c=pads: F.pad(x, c, mode=m), (x,), dynamic=dynamic)


def test_cropping_while_wrapping_is_decomposed():
    def run(x):
        return F.pad(x, (-1, 2), mode="circular")

    x, whole = torch.randn(1, 2, 6), {"disabled_passes": {"decompose"}}
    assert_refuses(run, (x,), "crops before it wraps", settings=whole)
    assert_converts(run, (x,))

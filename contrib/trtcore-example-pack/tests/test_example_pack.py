"""The example pack: its op, its converter's numbers, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from trtcore_example_pack.ops import squared_relu


class Model(torch.nn.Module):
    """The op alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return squared_relu(x)


def test_the_op() -> None:
    torch.library.opcheck(squared_relu, (torch.randn(2, 3),))
    assert squared_relu(torch.tensor([-2.0, 0.0, 3.0])).tolist() == [0.0, 0.0, 9.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_converter(assert_converts: Any, dtype: torch.dtype) -> None:
    assert_converts(Model(), (torch.randn(2, 8),), dtypes=[dtype])


def test_the_converter_with_a_dynamic_batch(assert_converts: Any) -> None:
    assert_converts(Model(), (torch.randn(4, 8),), dynamic={0: {0: (1, 4, 8)}})


def test_integers_stay_in_torch(assert_refuses: Any) -> None:
    assert_refuses(Model(), (torch.arange(6),), "only floating point is converted")

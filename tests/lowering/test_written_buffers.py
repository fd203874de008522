"""Buffers and inputs that the model changes: results, old values and write-backs as in eager, call after call."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import trtcore


class OldValues(nn.Module):
    """Keeps copies of what it then overwrites, and returns views of them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("c", torch.arange(4.0))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        old = self.c.clone()
        self.c.add_(x)
        return old.view(2, 2), old[:2], self.c.clone(), self.c.clone().view(2, 2)


class ManyWrites(nn.Module):
    """Whole, in part, through a view, and in between it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("c", torch.arange(4.0))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        before = self.c.clone().view(2, 2)
        self.c.copy_(x)
        doubled = self.c * 2
        self.c.mul_(3)
        self.c[1:3] = 7
        self.c[:2].add_(1)
        return before, doubled, self.c + 0


class Swap(nn.Module):
    """Two buffers change places, through a view; and the input changes too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("c", torch.arange(4.0))
        self.register_buffer("d", torch.arange(4.0) + 10)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.c.clone().view(2, 2)
        self.c.copy_(self.d)
        self.d.copy_(kept.view(4))
        x.add_(1)
        return self.c + x


@pytest.mark.parametrize("min_block_size", [1, 100], ids=["engine", "torch"])
@pytest.mark.parametrize("kind", [OldValues, ManyWrites, Swap])
@torch.no_grad()
def test_as_eager(kind: type[nn.Module], min_block_size: int) -> None:
    eager = kind()
    compiled = trtcore.compile(copy.deepcopy(eager), [torch.ones(4)], min_block_size=min_block_size)
    assert len(compiled.report.engines) == (1 if min_block_size == 1 else 0)
    for _ in range(3):
        x = torch.randn(4)
        y = x.clone()
        want, got = eager(x), compiled(y)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(y, x)
        for name, buffer in eager.named_buffers():
            torch.testing.assert_close(compiled.get_buffer(name), buffer)

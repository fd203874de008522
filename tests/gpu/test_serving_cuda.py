"""Serving on a GPU: eight threads with streams of their own, mixed shapes, in the reference runtime."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bench_serving import THREADS, Served
from torch import nn

import trtcore

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("full_precision")]

CALLS = 250
"""Of each thread."""


@torch.no_grad()
def test_threads_with_streams_and_mixed_shapes() -> None:
    """Right numbers, no growth; the rate of eight threads beside that of one is printed."""
    served = Served(256, 2, (8, 1, 3, 64, 17), torch.float32)
    served.rate(THREADS, CALLS * THREADS, checked=True)  # every stream has been seen
    torch._C._cuda_clearCublasWorkspaces()  # torch keeps one for each thread and stream
    before = torch.cuda.memory_allocated()
    alone = served.rate(1, CALLS, checked=True)
    together = served.rate(THREADS, CALLS * THREADS, checked=True)
    print(f"\none thread {alone:.0f} calls a second, {THREADS} threads {together:.0f}")
    assert not served.wrong
    torch._C._cuda_clearCublasWorkspaces()
    assert torch.cuda.memory_allocated() <= before + (1 << 20)


@torch.no_grad()
def test_a_server_that_batches() -> None:
    """The example server's batcher gives each request its own rows."""
    from serving import Batcher

    model = nn.Linear(16, 4).eval().cuda()
    rows = trtcore.Input(min_shape=(1, 16), opt_shape=(8, 16), max_shape=(16, 16), device="cuda")
    module = trtcore.compile(model, [rows], runtime="reference", min_block_size=1)
    with Batcher(module, largest=16, wait=0.002, device="cuda") as batcher:
        given = [torch.randn(1 + index % 3, 16) for index in range(40)]
        futures = [batcher.submit(x) for x in given]
        for x, future in zip(given, futures):
            torch.testing.assert_close(future.result(60), model(x.cuda()).cpu(), rtol=1e-4, atol=1e-5)
    assert batcher.calls < len(given)


def pytest_generate_tests(metafunc: Any) -> None:
    """The example is imported from the docs."""
    import pathlib
    import sys

    sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "docs" / "examples"))

"""Small Triton kernels and their declarations, for the tests of this folder."""

from __future__ import annotations

import numpy
import pytest
import torch
import triton
import triton.language as tl
from packaging.version import Version

from trtcore.pack import scoped_registry
from trtcore_plugins import triton_plugin

BLOCK = 128

LOOPS_FAIL = Version(triton.__version__) < Version("3.7") and Version(numpy.__version__) >= Version("2.4")
interprets_loops = pytest.mark.skipif(
    LOOPS_FAIL,
    reason=f"the interpreter of Triton {triton.__version__} makes an int of an array of one element where a loop "
    f"runs over a size, which NumPy {numpy.__version__} refuses; Triton 3.7 does not",
)


@triton.jit
def axpy_kernel(x_ptr, y_ptr, out_ptr, n, alpha, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    y = tl.load(y_ptr + at, mask=at < n)
    tl.store(out_ptr + at, x + alpha * y, mask=at < n)


@triton.jit
def row_stats_kernel(x_ptr, mean_ptr, count_ptr, columns, threshold, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    total = tl.zeros((BLOCK,), tl.float32)
    above = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * columns + at, mask=at < columns, other=0.0).to(tl.float32)
        total += x
        above += ((x > threshold) & (at < columns)).to(tl.int32)
    tl.store(mean_ptr + row, tl.sum(total) / columns)
    tl.store(count_ptr + row, tl.sum(above))


@triton.jit
def accumulate_kernel(state_ptr, x_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    state = tl.load(state_ptr + at, mask=at < n)
    tl.store(state_ptr + at, state + tl.load(x_ptr + at, mask=at < n), mask=at < n)


# Declared for these tests alone: not for every compile of the process.
with scoped_registry():
    axpy = triton_plugin(
        "toys::axpy",
        axpy_kernel,
        schema="(Tensor x, Tensor y, float alpha=1.0) -> Tensor",
        shapes=lambda x: x.shape,
        grid=lambda x: triton.cdiv(x.numel(), BLOCK),
        arguments={"n": lambda x: x.numel(), "BLOCK": BLOCK},
        reference=lambda x, y, alpha: x + alpha * y,
    )

    row_stats = triton_plugin(
        "toys::row_stats",
        row_stats_kernel,
        schema="(Tensor x, *, float threshold=0.0) -> (Tensor mean, Tensor count)",
        shapes=lambda x: [x.shape[:-1], x.shape[:-1]],
        dtypes=[torch.float32, torch.int32],
        grid=lambda mean: mean.numel(),
        arguments={"columns": lambda x: x.shape[-1], "BLOCK": BLOCK},
    )

    accumulate = triton_plugin(
        "toys::accumulate_",
        accumulate_kernel,
        schema="(Tensor(a!) state, Tensor x) -> ()",
        shapes=lambda: (),
        grid=lambda x: triton.cdiv(x.numel(), BLOCK),
        arguments={"n": lambda x: x.numel(), "BLOCK": BLOCK},
    )


def call(function):
    """What a fresh interpreter is asked for in a test."""
    return function()

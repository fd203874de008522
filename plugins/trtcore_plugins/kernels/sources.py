"""The Triton functions of the hand-written kernels. Importing this loads Triton."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rms_norm_residual_kernel(x, residual, weight, out, total, eps, n, ROW: tl.constexpr, HALF: tl.constexpr):
    """One row per program: ``total = x + residual``; ``out = total * rsqrt(mean(total ** 2) + eps) * weight``."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, ROW)
    mask = column < n
    at = row * n + column
    a = tl.load(x + at, mask=mask, other=0).to(tl.float32)
    b = tl.load(residual + at, mask=mask, other=0).to(tl.float32)
    rounded = (a + b).to(total.dtype.element_ty)
    tl.store(total + at, rounded, mask=mask)
    value = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, 0) / n + eps)
    w = tl.load(weight + column, mask=mask, other=0).to(tl.float32)
    tl.store(out + at, (value * scale * w).to(out.dtype.element_ty), mask=mask)


@triton.jit
def swiglu_kernel(gate, up, out, n, BLOCK: tl.constexpr):
    """``silu(gate) * up``, rounded after each, as torch does."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    a = tl.load(gate + at, mask=mask, other=0).to(tl.float32)
    b = tl.load(up + at, mask=mask, other=0).to(tl.float32)
    silu = (a / (1.0 + tl.exp(-a))).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + at, (silu * b).to(out.dtype.element_ty), mask=mask)


@triton.jit
def rotary_kernel(x, cos, sin, out, heads, length, half, per_batch, ROWS: tl.constexpr, HALF: tl.constexpr):
    """A tile of ROWS positions of one head: both halves of the last dim, read once and written once."""
    blocks = (length + ROWS - 1) // ROWS
    head = (tl.program_id(0) // blocks).to(tl.int64)
    row = (tl.program_id(0) % blocks) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, HALF)[None, :]
    mask = (row < length) & (column < half)
    at = (head * length + row) * (2 * half) + column
    table = ((head // heads) * per_batch * length + row) * (2 * half) + column
    a = tl.load(x + at, mask=mask, other=0).to(tl.float32)
    b = tl.load(x + at + half, mask=mask, other=0).to(tl.float32)
    cos_a = tl.load(cos + table, mask=mask, other=0).to(tl.float32)
    cos_b = tl.load(cos + table + half, mask=mask, other=0).to(tl.float32)
    sin_a = tl.load(sin + table, mask=mask, other=0).to(tl.float32)
    sin_b = tl.load(sin + table + half, mask=mask, other=0).to(tl.float32)
    kind = out.dtype.element_ty
    first = (a * cos_a).to(kind).to(tl.float32) + (-b * sin_a).to(kind).to(tl.float32)
    second = (b * cos_b).to(kind).to(tl.float32) + (a * sin_b).to(kind).to(tl.float32)
    tl.store(out + at, first.to(kind), mask=mask)
    tl.store(out + at + half, second.to(kind), mask=mask)

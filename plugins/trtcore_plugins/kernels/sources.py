"""The Triton functions of the hand-written kernels. Importing this loads Triton."""

from __future__ import annotations

import triton
import triton.language as tl


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

"""Layers by op, by their old names: ``impl.elementwise.add(ctx, target, source_ir, name, lhs, rhs)``.

Every function takes ``ctx, target, source_ir, name`` first and ITensors, torch tensors, arrays or numbers for its
operands, and returns an ITensor.
"""

from __future__ import annotations

from trtcore_contrib_torch_tensorrt.impl import (
    activation,
    cat,
    condition,
    elementwise,
    matmul,
    normalization,
    permutation,
    reduce,
    shape,
    shuffle,
    slice,
    unary,
)

__all__ = [
    "activation",
    "cat",
    "condition",
    "elementwise",
    "matmul",
    "normalization",
    "permutation",
    "reduce",
    "shape",
    "shuffle",
    "slice",
    "unary",
]


def __getattr__(name: str) -> object:
    raise AttributeError(
        f"module {__name__!r} has no {name!r}: the helpers that are there, and what to write in new code, are in "
        "docs/coming-from-torch-tensorrt.md; any layer can be added with ctx.net.add_...",
        name=name,
    )

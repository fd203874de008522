"""Layers by op, by their old names: ``impl.elementwise.add(ctx, target, source_ir, name, lhs, rhs)``.

Every function takes ``ctx, target, source_ir, name`` first and ITensors, torch tensors, arrays or numbers for its
operands, and returns an ITensor.
"""

from __future__ import annotations

from typing import Any

from trtcore_contrib_torch_tensorrt._told import told
from trtcore_contrib_torch_tensorrt.impl import (
    activation,
    addmm,
    arange,
    attention,
    cast,
    cat,
    condition,
    conv,
    deconv,
    dynamic_block_quantize,
    elementwise,
    embedding,
    embedding_bag,
    full,
    grid,
    index_copy,
    linalg,
    linear,
    matmul,
    nccl_ops,
    normalization,
    nvfp4_quantize,
    pad,
    permutation,
    pool,
    prelu,
    quantize,
    reduce,
    select,
    shape,
    shuffle,
    slice,
    slice_scatter,
    split,
    squeeze,
    topk,
    unary,
    unsqueeze,
    upsample,
)

__all__ = [
    "activation",
    "addmm",
    "arange",
    "attention",
    "cast",
    "cat",
    "condition",
    "conv",
    "deconv",
    "dynamic_block_quantize",
    "elementwise",
    "embedding",
    "embedding_bag",
    "full",
    "grid",
    "index_copy",
    "linalg",
    "linear",
    "matmul",
    "nccl_ops",
    "normalization",
    "nvfp4_quantize",
    "pad",
    "permutation",
    "pool",
    "prelu",
    "quantize",
    "reduce",
    "select",
    "shape",
    "shuffle",
    "slice",
    "slice_scatter",
    "split",
    "squeeze",
    "topk",
    "unary",
    "unsqueeze",
    "upsample",
]


_TOLD = frozenset({"moe"})


def __getattr__(name: str) -> Any:
    if name in _TOLD:
        return told("dynamo.conversion.impl", name)
    raise AttributeError(
        f"module {__name__!r} has no {name!r}: the helpers that are there, and what to write in new code, are in "
        "docs/coming-from-torch-tensorrt.md; any layer can be added with ctx.net.add_...",
        name=name,
    )

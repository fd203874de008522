"""What ops without a converter are rewritten into: torch's own decompositions, and a few of ours.

The core asks this table only for nodes that no converter takes, and uses an answer only where all of its pieces
convert; so the table is wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch

aten = torch.ops.aten

# Left whole: their decompositions make data-dependent shapes or numbers that are not the op's.
_KEPT = frozenset({"aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::empty_strided"})


@lru_cache(maxsize=1)
def decompositions() -> Mapping[Any, Callable[..., Any]]:
    """Op to function, for functional ops."""
    from torch._decomp import core_aten_decompositions, decomposition_table

    table: dict[Any, Callable[..., Any]] = {}
    for source in (decomposition_table, core_aten_decompositions()):
        table.update({op: function for op, function in source.items() if _wanted(op)})
    table.update(CUSTOM)
    return table


def _wanted(op: Any) -> bool:
    if not isinstance(op, torch._ops.OpOverload):
        return False
    schema = op._schema
    return not (schema.is_mutable or "backward" in schema.name or schema.name in _KEPT)


def _native_dropout(x: torch.Tensor, p: float, train: bool | None) -> tuple[torch.Tensor, torch.Tensor]:
    """At inference `x` and a mask of ones; in training it stays random, and whole."""
    if train and p:
        return NotImplemented
    return x, torch.ones_like(x, dtype=torch.bool)


def _cdist_forward(a: torch.Tensor, b: torch.Tensor, p: float, compute_mode: int | None) -> torch.Tensor:
    """Distances between the rows of `a` and those of `b`: the norm of all differences."""
    return torch.linalg.vector_norm(a.unsqueeze(-2) - b.unsqueeze(-3), p, -1)


def _hypot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``sqrt(a * a + b * b)``, with the larger one taken out so that the squares do not overflow."""
    a, b = a.abs(), b.abs()
    large, small = torch.maximum(a, b), torch.minimum(a, b)
    ratio = torch.where(large == 0, torch.zeros_like(large), small / large)
    return large * torch.sqrt(1 + ratio * ratio)


def _copysign(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The size of `a` with the sign of `b`; 1 / b tells -0.0 from 0.0."""
    size = a.abs()
    return torch.where((b < 0) | (1 / b < 0), -size, size)


def _copysign_scalar(a: torch.Tensor, b: float) -> torch.Tensor:
    """The size of `a`, with the sign of a number."""
    size = a.abs() if a.is_floating_point() else a.float().abs()
    return -size if math.copysign(1.0, b) < 0 else size


def _addbmm(
    x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    """``beta * x`` and alpha times the sum of the products of the batch."""
    product = torch.bmm(a, b).sum(0) * alpha
    return product if beta == 0 else x * beta + product


def _bucketize(
    x: torch.Tensor, boundaries: torch.Tensor, *, out_int32: bool = False, right: bool = False
) -> torch.Tensor:
    """How many of the (sorted) boundaries are below each element, or not above it."""
    below = boundaries <= x.unsqueeze(-1) if right else boundaries < x.unsqueeze(-1)
    return below.sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


CUSTOM: Mapping[Any, Callable[..., Any]] = {
    aten.native_dropout.default: _native_dropout,
    aten._cdist_forward.default: _cdist_forward,
    aten.hypot.default: _hypot,
    aten.copysign.Tensor: _copysign,
    aten.copysign.Scalar: _copysign_scalar,
    aten.addbmm.default: _addbmm,
    aten.bucketize.Tensor: _bucketize,
}
"""Our own, where torch has none or another suits TensorRT better."""

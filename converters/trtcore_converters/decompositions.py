"""What ops without a converter are rewritten into: torch's own decompositions, and a few of ours.

The core asks this table only for nodes that no converter takes, and uses an answer only where all of its pieces
convert; so the table is wide.
"""

from __future__ import annotations

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


CUSTOM: Mapping[Any, Callable[..., Any]] = {
    aten.native_dropout.default: _native_dropout,
    aten._cdist_forward.default: _cdist_forward,
}
"""Our own, where torch has none or another suits TensorRT better."""

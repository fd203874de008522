"""Sizes that data decide and nobody has bounded, but what makes them does: a mask takes no more rows than it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Graph

from trtcore.ir.facts import facts
from trtcore.ir.graphs import fake_mode_of
from trtcore.ir.program import SymbolRange
from trtcore.ir.ranges import SizeBound, data_ranges
from trtcore.ir.symbols import expression_of, free_symbols, is_data_symbol
from trtcore.ir.torch_private import known_intervals


def bounded_by_makers(graph: Graph, ranges: Mapping[str, SymbolRange]) -> dict[str, SymbolRange]:
    """Ranges of the sizes without one that `NodeFacts.at_most` bounds.

    Args:
        ranges: of the other sizes.
    """
    found = []
    for node in graph.nodes:
        most = facts(node).at_most
        if most is not None:
            names = _sizes_of(node.meta.get("val"))
            found += [SizeBound(name, expression_of(most)) for name in names if is_data_symbol(name)]
    if not any(one.name not in ranges for one in found):
        return {}
    return data_ranges(known_intervals(getattr(fake_mode_of(graph), "shape_env", None)), ranges, found)


def _sizes_of(value: Any) -> list[str]:
    items = value if isinstance(value, (list, tuple)) else (value,)
    return free_symbols(
        expression_of(dim) for item in items if isinstance(item, torch.Tensor) for dim in item.shape
    )

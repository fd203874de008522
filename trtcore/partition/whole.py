"""Refusing partitions that leave something in torch where everything was to be an engine."""

from __future__ import annotations

from torch.fx import Node

from trtcore.errors import UnsupportedOperatorError
from trtcore.ir.facts import facts
from trtcore.ir.graphs import mutates
from trtcore.ir.provenance import describe
from trtcore.partition import Partition


def refuse_partial(found: Partition, asked: str = "require_full_compilation is set") -> None:
    """Raise UnsupportedOperatorError if anything stays in torch but sizes, write-backs and casts at the boundary."""
    left = [
        unit
        for unit in found.order
        if isinstance(unit, Node) and unit.name in found.torch_reasons and not mutates(unit)
        if not facts(unit).boundary
    ]
    if not left:
        return
    lines = [f"{describe(node)}: {found.torch_reasons[node.name]}" for node in left[:20]]
    more = f"\n  ... and {len(left) - 20} more" if len(left) > 20 else ""
    raise UnsupportedOperatorError(
        f"{asked}, but {len(left)} op{'s stay' if len(left) > 1 else ' stays'} in torch:\n  "
        + "\n  ".join(lines)
        + more,
        where=describe(left[0]),
        advice="run trtcore.explain(model, inputs) for every op's reasons; write a converter for it, install a "
        "pack that has one, or let it run in torch",
    )

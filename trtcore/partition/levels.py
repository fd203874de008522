"""The core's partitioner: alternate levels of torch and TensorRT.

A node's level is the number of changes between torch and TensorRT on the way to it, even for torch, odd for
TensorRT. All TensorRT nodes of one level form one segment. A path from a segment out to torch and back climbs two
levels, so segments are convex and cannot depend on each other in a cycle; and no partition into convex segments
of a whole graph has fewer levels. One walk forward (as early as possible) and one backward (as late as the users
allow, so that what only a later segment needs is computed there): linear in nodes and edges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.fx import Node

from trtcore.ir.graphs import is_getitem, is_random, is_size
from trtcore.ir.symbols import is_decided_by_data


def group_by_levels(supported: Mapping[Node, bool], ctx: Any = None) -> list[list[Node]]:
    """Group the supported nodes by level.

    Args:
        supported: for each tensor-computing node, in graph order, whether TensorRT takes it; numbers that torch asks
            tensors for are among those that it does not.

    Returns:
        The groups in level order, each in graph order.
    """
    levels = earliest(supported)
    for node in reversed(list(supported)):
        if not supported[node] or is_getitem(node):
            continue
        latest = _latest(node, levels, supported)
        if latest is not None and latest > levels[node]:
            levels[node] = latest
            for user in node.users:
                if is_getitem(user):
                    levels[user] = latest
    return in_groups(levels, supported)


Place = Callable[[Node, int], int]
"""(node, the level that its neighbours allow) -> the level that it takes."""


def earliest(supported: Mapping[Node, bool], place: Place | None = None) -> dict[Node, int]:
    """Each node's level, from the graph's inputs on.

    Args:
        place: where a supported node goes, at its level or above; by default as early as possible.
    """
    levels: dict[Node, int] = {}
    drawn = 0  # level of the last random op in torch: they stay in order
    for node, taken in supported.items():
        if is_getitem(node):
            levels[node] = levels.get(node.args[0], 0)  # type: ignore[arg-type]
            continue
        level = max((levels.get(source, 0) for source in tensor_sources(node)), default=0)
        if (level % 2 == 1) != taken:
            level += 1
        if not taken and is_random(node):
            drawn = level = max(level, drawn)
        levels[node] = place(node, level) if taken and place is not None else level
    return levels


def in_groups(levels: Mapping[Node, int], supported: Mapping[Node, bool]) -> list[list[Node]]:
    """The supported nodes of each level, in level order."""
    groups: dict[int, list[Node]] = {}
    for node, taken in supported.items():
        if taken:
            groups.setdefault(levels[node], []).append(node)
    return [groups[level] for level in sorted(groups)]


def tensor_sources(node: Node) -> list[Node]:
    """Tensor inputs, and numbers that data decide. Other sizes do not count: they are made from the inputs' shapes."""
    return [
        source
        for source in node.all_input_nodes
        if not is_size(source) or is_decided_by_data(source.meta.get("val"))
    ]


def _latest(node: Node, levels: Mapping[Node, int], supported: Mapping[Node, bool]) -> int | None:
    """The latest level that all users allow; None for a node whose value leaves the graph."""
    latest: int | None = None
    for user in node.users:
        if user.op == "output":
            return None
        if is_getitem(user):
            bound = _latest(user, levels, supported)
            if bound is None:
                return None
        elif user not in supported:
            if is_size(user):
                continue
            return None
        else:
            bound = levels[user] if supported[user] else levels[user] - 1
        latest = bound if latest is None else min(latest, bound)
    return latest

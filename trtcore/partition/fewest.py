"""The global partitioner: what is free to choose its segment goes where that leaves fewer and fuller ones.

By `trtcore.partition.levels` every partition has at least as many segments as the longest path has changes from torch
to TensorRT, and one segment per level meets that. What is left to choose are the levels of nodes that may be computed
early or late, and they decide which segments fall below ``min_block_size``: the fast partitioner sends such a segment
to torch with all that is in it. Here several ways to choose are gone to their end (`WAYS`), each a few walks over the
graph, and the best is taken (`cost`): linear, at about ten times the fast one's time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch.fx import Node

from trtcore.ir.graphs import is_getitem, is_random
from trtcore.partition.levels import Place, earliest, group_by_levels, in_groups, tensor_sources

Count = Callable[[Sequence[Node]], int]
"""How many ops nodes count for."""

Groups = list[list[Node]]


@dataclass(frozen=True)
class Grouping:
    """What one way to choose ends in.

    Attributes:
        groups: the segments, all of at least min_block_size ops.
        small: nodes that had a converter and were in a segment below that.
    """

    groups: Groups
    small: list[Node]


def regrouped(
    group: Callable[[Mapping[Node, bool]], Iterable[Sequence[Node]]],
    supported: Mapping[Node, bool],
    least: int,
    count: Count,
    check: Callable[[Groups, Mapping[Node, bool]], None] = lambda groups, supported: None,
) -> Grouping:
    """Group until no segment has fewer than `least` ops: what is in such ones goes to torch.

    Args:
        group: a partitioner.
        check: called with each grouping; raises for a bad one.
    """
    alive = dict(supported)
    small: list[Node] = []
    while True:
        groups = [list(one) for one in group(alive)]
        check(groups, alive)
        weak = [one for one in groups if count(one) < least]
        if not weak:
            return Grouping(groups, small)
        for one in weak:
            small.extend(node for node in one if not is_getitem(node))
            alive.update(dict.fromkeys(one, False))


def fewest(supported: Mapping[Node, bool], least: int, count: Count) -> Grouping:
    """The grouping of the global partitioner: never more segments than the fast one's, and the best of those."""
    fast = regrouped(group_by_levels, supported, least, count)
    found = [fast, *(regrouped(partial(way, least, count), supported, least, count) for way in WAYS)]
    allowed = [one for one in found if len(one.groups) <= len(fast.groups)]
    return min(allowed, key=lambda one: cost(one, least, count))


def cost(grouping: Grouping, least: int, count: Count) -> tuple[int, int]:
    """What is better is less: an engine is worth `least` ops, as the setting says; then come tensors between units."""
    return least * len(grouping.groups) + count(grouping.small), _border(grouping.groups)


def _border(groups: Groups) -> int:
    """Tensors that go into segments or come out of them."""
    home = {node: index for index, group in enumerate(groups) for node in group}
    crossing = 0
    for index, group in enumerate(groups):
        sources = {s for node in group for s in tensor_sources(node) if home.get(s) != index}
        crossing += sum(source.op != "get_attr" for source in sources)
        crossing += sum(any(home.get(user) != index for user in node.users) for node in group)
    return crossing


# ---- ways to choose ----------------------------------------------------------------------------------------


def _early(least: int, count: Count, supported: Mapping[Node, bool]) -> Groups:
    return in_groups(earliest(supported), supported)


def _late(least: int, count: Count, supported: Mapping[Node, bool]) -> Groups:
    return in_groups(_latest(supported, earliest(supported)), supported)


def _to_full_ones_forward(least: int, count: Count, supported: Mapping[Node, bool]) -> Groups:
    """As early as possible, but in a segment that has enough ops without what is free to choose."""
    early = earliest(supported)
    late = _latest(supported, early)
    following = _next_full(_full(early, late, supported, least, count), max(early.values(), default=0))
    return in_groups(
        earliest(supported, lambda node, level: _within(following[level], level, late[node], early[node])),
        supported,
    )


def _to_full_ones_backward(least: int, count: Count, supported: Mapping[Node, bool]) -> Groups:
    """As late as possible, but in a segment that has enough ops without what is free to choose."""
    early = earliest(supported)
    late = _latest(supported, early)
    before = _last_full(_full(early, late, supported, least, count), max(early.values(), default=0))
    return in_groups(
        _latest(supported, early, lambda node, level: _within(before[level], level, late[node], early[node])),
        supported,
    )


WAYS = (_early, _late, _to_full_ones_forward, _to_full_ones_backward)


def _latest(
    supported: Mapping[Node, bool],
    early: Mapping[Node, int],
    place: Place = lambda node, level: level,
) -> dict[Node, int]:
    """Each node's level, from the graph's outputs back; no more levels than `early` has."""
    top = max((level for node, level in early.items() if supported[node]), default=0)
    levels: dict[Node, int] = {}
    draws = top + 1
    for node in reversed(list(supported)):
        if is_getitem(node):
            continue
        taken = supported[node]
        level = min((levels[user] for user in _users(node) if user in levels), default=top + 1)
        if (level % 2 == 1) != taken:
            level -= 1
        if taken:
            level = place(node, level)
        elif is_random(node):
            draws = level = min(level, draws)
        levels[node] = level
    for node in supported:
        if is_getitem(node):
            levels[node] = levels.get(node.args[0], 0)  # type: ignore[arg-type]
    return levels


def _users(node: Node) -> Iterable[Node]:
    """Who reads a node's results; those of a getitem read its producer's."""
    for user in node.users:
        if is_getitem(user):
            yield from _users(user)
        else:
            yield user


def _full(
    early: Mapping[Node, int],
    late: Mapping[Node, int],
    supported: Mapping[Node, bool],
    least: int,
    count: Count,
) -> set[int]:
    """Levels with enough ops that can be nowhere else."""
    bound: dict[int, int] = {}
    for node, taken in supported.items():
        if taken and early[node] == late[node]:
            bound[early[node]] = bound.get(early[node], 0) + count((node,))
    return {level for level, ops in bound.items() if ops >= least}


def _next_full(full: set[int], top: int) -> list[int]:
    """For every level the first full one from there on; -1 where there is none."""
    found = [-1] * (top + 2)
    for level in range(top, -1, -1):
        found[level] = level if level in full else found[level + 1]
    return found


def _last_full(full: set[int], top: int) -> list[int]:
    """For every level the last full one up to there; -1 where there is none."""
    found = [-1] * (top + 2)
    for level in range(top + 2):
        found[level] = level if level in full else found[level - 1] if level else -1
    return found


def _within(wanted: int, otherwise: int, late: int, early: int) -> int:
    return wanted if early <= wanted <= late else otherwise

"""The order of lowering passes: what they ask of each other, the packs that come first having their way.

Where two passes want opposite things, the one whose pack comes first in the order of packs (this process, third-party
packs by name, built-in packs) is heard, in every process, whatever was installed when; and it is told.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from trtcore.packs.model import LoweringPass

CORE = (
    "functionalize",
    "match_patterns",
    "match_lowered_patterns",
    "lower_subgraphs",
    "decompose",
    "eliminate_dead_code",
)
"""The core's passes, in their order."""

_Asked = tuple[str, tuple[str, ...], tuple[str, ...]]  # a pass's name, before, after

_FROM, _TO = "match_patterns", "match_lowered_patterns"


@dataclass(frozen=True)
class Conflict:
    """A wish that contradicts others and was not heard.

    Attributes:
        first, second: the pass that asked for the order, ``first`` before ``second``, is one of the two.
        asker: the name of the pass that asked.
        chain: names of passes, from `second` to `first`, of which each goes before the next.
    """

    first: str
    second: str
    asker: str
    chain: tuple[str, ...]


def order(passes: Sequence[LoweringPass]) -> tuple[list[str], list[Conflict]]:
    """Names in the order to run in, and the wishes that could not be heard.

    Args:
        passes: the packs' passes, in the order of packs. One that names no pass of the core runs between
            ``match_patterns`` and ``match_lowered_patterns``.
    """
    names, conflicts = _order(tuple((one.name, one.before, one.after) for one in passes))
    return list(names), list(conflicts)


@functools.lru_cache(maxsize=32)
def _order(passes: tuple[_Asked, ...]) -> tuple[tuple[str, ...], tuple[Conflict, ...]]:
    """Kept: a compile asks for it several times, and the packs that are installed stay."""
    names = [*CORE[:2], *(name for name, _, _ in passes), *CORE[2:]]
    rank = {name: i for i, name in enumerate(names)}
    after: dict[str, set[str]] = {name: set() for name in names}  # name -> what goes before it
    for first, second in pairwise(CORE):
        after[second].add(first)
    conflicts = []
    for one in passes:
        for first, second in _wishes(one):
            if first not in rank or second not in rank:
                continue
            chain = _way(second, first, after)
            if chain is None:
                after[second].add(first)
            else:
                conflicts.append(Conflict(first, second, one[0], chain))
    return tuple(_sorted(names, rank, after)), tuple(conflicts)


def _wishes(one: _Asked) -> Iterable[tuple[str, str]]:
    """(first, second) pairs; a pass's own words before what is understood."""
    own, before, after = one
    yield from ((name, own) for name in after)
    yield from ((own, name) for name in before)
    if not {*before, *after} & set(CORE):
        yield _FROM, own
        yield own, _TO


def _way(start: str, end: str, after: Mapping[str, set[str]]) -> tuple[str, ...] | None:
    """A chain of passes from `start` to `end`, each going before the next; None if there is none."""
    if start == end:
        return (start,)
    reached: dict[str, str] = {}
    queue = [end]
    while queue:
        name = queue.pop()
        for earlier in sorted(after[name]):
            if earlier not in reached:
                reached[earlier] = name
                queue.append(earlier)
    if start not in reached:
        return None
    chain = [start]
    while chain[-1] != end:
        chain.append(reached[chain[-1]])
    return tuple(chain)


def _sorted(names: Sequence[str], rank: Mapping[str, int], after: Mapping[str, set[str]]) -> list[str]:
    left = {name: len(earlier) for name, earlier in after.items()}
    later: dict[str, list[str]] = {}
    for name, earlier in after.items():
        for other in earlier:
            later.setdefault(other, []).append(name)
    ready = [rank[name] for name in names if not left[name]]
    heapq.heapify(ready)
    done = []
    while ready:
        name = names[heapq.heappop(ready)]
        done.append(name)
        for other in later.get(name, ()):
            left[other] -= 1
            if left[other] == 0:
                heapq.heappush(ready, rank[other])
    return done


def told(conflict: Conflict, passes: Sequence[LoweringPass]) -> str:
    """The conflict for people, with the packs of everybody in it."""
    owners = {one.name: one.pack.id if one.pack is not None else "this process" for one in passes}

    def whose(name: str) -> str:
        return f"{name!r} of {owners[name]}" if name in owners else f"the core's {name!r}"

    other = conflict.second if conflict.asker == conflict.first else conflict.first
    side = "before" if conflict.asker == conflict.first else "after"
    if len(conflict.chain) == 1:
        return f"the lowering pass {whose(conflict.asker)} asks to run {side} itself"
    chain = " before ".join(whose(name) for name in conflict.chain)
    return (
        f"the lowering pass {whose(conflict.asker)} asks to run {side} {whose(other)}, against {chain}; "
        f"the latter holds; turn one of them off with disabled_passes={{{conflict.asker!r}}}"
    )


__all__ = ["CORE", "Conflict", "order", "told"]

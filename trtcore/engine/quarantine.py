"""Quarantine: a node that cannot be built goes back to torch, with the reason, and the graph is partitioned again.

`quarantine` is a function on values. `find_culprits` says which nodes of a segment are at fault for a failure: by the
layers that TensorRT names, by building suspects alone, by building beginnings of the segment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.fx import Node

from trtcore.engine.build import Failure
from trtcore.ir.graphs import is_getitem
from trtcore.ir.program import Program
from trtcore.partition import Partition, Segment
from trtcore.partition.segment import extract

Builds = Callable[[Segment], bool]
"""Whether TensorRT builds a trial segment."""


@dataclass(frozen=True)
class Quarantined:
    """A node whose converter failed: it goes to the next candidate, or back to torch.

    Attributes:
        node: of the lowered graph.
        converter: the converter's ``str``.
        reason: why, one sentence.
        tensorrt: TensorRT's own lines.
        builds: trial builds that finding it took.
    """

    node: Node
    converter: str
    reason: str
    tensorrt: tuple[str, ...] = ()
    builds: int = 0


def quarantine(lowered: Program, failed: Sequence[Quarantined]) -> Program:
    """The program, in which these converters are not tried again for these nodes."""
    known = {name: dict(reasons) for name, reasons in lowered.failed.items()}
    for one in failed:
        known.setdefault(one.node.name, {}).setdefault(one.converter, one.reason)
    return replace(lowered, failed=known)


@dataclass
class Suspicion:
    """What earlier failures of a compile have taught.

    Attributes:
        limit: trial builds for a failing segment, at most.
        blamed: signatures of nodes that were the last straw of a segment.
    """

    limit: int
    blamed: set[Any] = field(default_factory=set)


def find_culprits(
    failure: Failure, segment: Segment, found: Partition, lowered: Program, builds: Builds, known: Suspicion
) -> tuple[tuple[Node, ...], str, int]:
    """Whose fault a refused network or build is.

    Args:
        builds: builds a trial segment.

    Returns:
        (nodes, how they were found, trial builds). No nodes where none can be blamed within the limit.
    """
    return _Search(segment, found, lowered, builds, known).run(failure)


class _Search:
    def __init__(
        self, segment: Segment, found: Partition, lowered: Program, builds: Builds, known: Suspicion
    ) -> None:
        self.segment, self.found, self.lowered, self.known = segment, found, lowered, known
        self._try = builds
        self.trials = 0
        self.position = {node: i for i, node in enumerate(lowered.graph_module.graph.nodes)}

    def run(self, failure: Failure) -> tuple[tuple[Node, ...], str, int]:
        if failure.named:
            return self.likes(set(failure.named)), "TensorRT names its layer", 0
        if alone := self.alone():
            return self.nodes(alone), "TensorRT refuses it built alone", self.trials
        last = self.last_straw()
        return self.nodes(last), "TensorRT builds the segment up to it, not with it", self.trials

    def nodes(self, names: set[str]) -> tuple[Node, ...]:
        return tuple(node for node in self.segment.nodes if node.name in names)

    def likes(self, blamed: set[str]) -> tuple[Node, ...]:
        """These nodes, and those that are like them."""
        wanted = {signature(node) for node in self.segment.nodes if node.name in blamed}
        return tuple(n for n in self.segment.nodes if n.name in blamed or signature(n) in wanted)

    def alone(self) -> set[str]:
        """Nodes that TensorRT refuses alone; one build for all nodes that are alike."""
        alike: dict[Any, list[Node]] = {}
        for node in self.segment.nodes:
            if not is_getitem(node):
                alike.setdefault(signature(node), []).append(node)
        if len(alike) > self.known.limit // 2:  # `last_straw` needs fewer builds
            return set()
        culprits: set[str] = set()
        for nodes in alike.values():
            if not self.builds([nodes[0]]):
                culprits.update(node.name for node in nodes)
        return culprits

    def last_straw(self) -> set[str]:
        """The last node of a beginning of the segment that is refused, where without that node it is built.

        Halving finds one in log2(n) builds, be it at fault alone or together with earlier ones. Its likes are
        blamed with it if it is refused alone too, or the second time; and if alone, other shapes of its op that are.
        """
        nodes = [node for node in self.segment.nodes if not is_getitem(node)]
        good, bad = 0, len(nodes)
        while bad - good > 1:
            if self.trials >= self.known.limit:
                return set()
            middle = (good + bad) // 2
            if self.builds(nodes[:middle]):
                good = middle
            else:
                bad = middle
        culprit = nodes[good]
        kind = signature(culprit)
        spread = {kind} if kind in self.known.blamed else set()
        self.known.blamed.add(kind)
        if not spread and self.trials < self.known.limit and not self.builds([culprit]):
            spread = {kind} | self.refused_shapes(culprit, nodes)
        return {node.name for node in nodes if node is culprit or signature(node) in spread}

    def refused_shapes(self, culprit: Node, nodes: Sequence[Node]) -> set[Any]:
        """The signatures of the culprit's op that are refused alone like it, as far as the limit goes."""
        others = {signature(node): node for node in nodes if node.target is culprit.target}
        del others[signature(culprit)]
        refused = set()
        for kind, node in others.items():
            if self.trials >= self.known.limit:
                break
            if not self.builds([node]):
                refused.add(kind)
        return refused

    def builds(self, nodes: Sequence[Node]) -> bool:
        self.trials += 1
        return self._try(self.trial(nodes))

    def trial(self, nodes: Sequence[Node]) -> Segment:
        """The nodes as a segment, whose outputs are what other nodes read of them."""
        inside = dict.fromkeys(nodes)
        for node in nodes:
            inside.update(dict.fromkeys(user for user in node.users if is_getitem(user)))
        outputs = [
            node
            for node in inside
            if isinstance(node.meta.get("val"), torch.Tensor) and not inside.keys() >= node.users.keys()
        ]
        ordered = sorted(inside, key=self.position.__getitem__)
        return extract(
            self.lowered.graph_module, "trial", ordered, outputs, self.found.constants.__contains__
        )


def alike(segment: Segment, name: str) -> tuple[Node, ...]:
    """The node, and its likes in the segment: the same converter given the same would do the same."""
    by_name = {node.name: node for node in segment.nodes}
    wanted = signature(by_name[name])
    return tuple(node for node in segment.nodes if node.name == name or signature(node) == wanted)


def signature(node: Node) -> Any:
    """Equal for nodes whose conversion is the same: op, constants, dtypes and shapes."""

    def plain(value: Any) -> Any:
        if isinstance(value, Node):
            meta = value.meta.get("val")
            if isinstance(meta, torch.Tensor):
                return ("tensor", str(meta.dtype), str(tuple(meta.shape)), value.op == "get_attr")
            return ("size", str(meta))
        if isinstance(value, (list, tuple)):
            return tuple(plain(item) for item in value)
        return repr(value)

    return node.target, plain(node.args), tuple((name, plain(v)) for name, v in sorted(node.kwargs.items()))

"""Selections of nodes, remembered: what lowering has asked the registry, the partitioner need not ask again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.fx import Node

if TYPE_CHECKING:
    from trtcore.context import CompileContext
    from trtcore.packs.registry import Selection


class SelectionMemo:
    """Selections of nodes, each asked for once as long as the node stays as it is.

    That is: its op, arguments, users, value and the values of its inputs, which is what a capability validator may
    look at. One compile hands one memo from stage to stage.
    """

    def __init__(self, ctx: CompileContext) -> None:
        self._ctx = ctx
        self._known: dict[Node, tuple[tuple[Any, ...], Selection]] = {}

    def select(self, node: Node) -> Selection:
        """The registry's selection for a node."""
        state = _state(node)
        known = self._known.get(node)
        if known is not None and _same(known[0], state):
            return known[1]
        selection = self._ctx.registry.select(node, self._ctx)
        self._known[node] = (state, selection)
        return selection


def _state(node: Node) -> tuple[Any, ...]:
    """What a selection may depend on; nodes and arguments first, then values."""
    values = [node.meta.get("val"), *(source.meta.get("val") for source in node.all_input_nodes)]
    return (node.target, node.args, node.kwargs, tuple(node.users)), values


def _same(before: tuple[Any, ...], after: tuple[Any, ...]) -> bool:
    """FakeTensors are compared by identity: their ``==`` is a tensor."""
    return (
        before[0] == after[0]
        and len(before[1]) == len(after[1])
        and all(a is b for a, b in zip(before[1], after[1]))
    )

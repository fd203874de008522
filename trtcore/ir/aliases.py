"""Which nodes of a graph hold the same memory: by FakeTensors, by schemas, and where neither says so."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.fx import Graph, Node

from trtcore.ir.graphs import (
    fake_mode_of,
    is_composite,
    is_getitem,
    mutates,
    uncached,
    viewed,
    written_by,
)
from trtcore.ir.op_rules import COMPUTING
from trtcore.ir.quiet import quiet_loggers
from trtcore.ir.symbols import expression_of, undecided_sizes
from trtcore.ir.torch_private import (
    FakeTensor,
    decided_sizes,
    fresh_symbols_ignored,
    is_inplace_view,
    is_of_transform,
    storage_id,
)


def storage(node: Any) -> int | None:
    """Identity of the memory that a node's value lives in; None for what is no plain tensor."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    if isinstance(value, (list, tuple)) and value:
        value = value[0]
    if not isinstance(value, torch.Tensor) or is_of_transform(value) or value.layout is not torch.strided:
        return None
    return storage_id(value)


def layout(node: Node) -> Any:
    """dtype, shape and strides of a node's value; None for what is no tensor."""
    return _layout_of(node.meta.get("val"))


def _layout_of(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return None
    return value.dtype, tuple(map(expression_of, value.shape)), tuple(map(expression_of, value.stride()))


@quiet_loggers()
def find_unsaid(graph: Graph, nodes: Container[Node] | None = None) -> None:
    """Leave out composite ops that hand on their argument though their schema does not say so, as dropout does in eval
    mode; those that make a view of it, and all views of that, get FakeTensors in its memory: traces before dispatch
    record neither. Copies of constants, whose FakeTensors are in the constants' memory, get memory of their own. Views
    in place (``y.t_()``) of what the graph has made become views, which whoever reads the tensor later reads.

    Args:
        graph: to be changed.
        nodes: those to ask; None for all.
    """
    fake_mode = fake_mode_of(graph)
    if fake_mode is None:
        return
    _follow_views_in_place(graph)
    moved: set[Node] = set()
    for node in list(graph.nodes):
        if _is_inside_transform(node) or (nodes is not None and node not in nodes):
            continue
        _follow(node, moved, fake_mode)
        if _is_copy(node) and storage(node) in map(storage, node.all_input_nodes):
            node.meta["val"] = torch.empty_like(node.meta["val"])
            moved.add(node)
        source, value = _handed_on(node, fake_mode)
        if source is not None:
            node.meta["val"] = value
            moved.add(node)
            if layout(node) == layout(source):
                moved.add(source)
                node.replace_all_uses_with(source)
                graph.erase_node(node)


def _follow_views_in_place(graph: Graph) -> None:
    nodes = [node for node in graph.nodes if node.op == "call_function" and is_inplace_view(node.target)]
    if not nodes:
        return
    place = {node: index for index, node in enumerate(graph.nodes)}
    tensors = {node: _object(node) for node in graph.nodes}  # before any of them becomes a view
    selves: dict[Node, list[Node]] = {}
    for node, tensor in tensors.items():
        selves.setdefault(tensor, []).append(node)
    changed: set[Node] = set()
    for node in nodes:
        tensor = tensors[node]
        for same in selves[tensor]:
            if place[same] < place[node]:
                for user in [user for user in same.users if place[user] > place[node]]:
                    user.replace_input_with(same, node)
                    changed.add(user)
        twin = _view_of(node)
        if twin is not None and tensor.op == "call_function":
            node.target = twin
    for node in graph.nodes if changed else ():
        if node.op == "call_function" and (node in changed or not changed.isdisjoint(node.all_input_nodes)):
            value = recomputed(node, fake_mode_of(graph))
            if value is not None:
                node.meta["val"] = value
                changed.add(node)


def _object(node: Node) -> Node:
    """As `itself`, also through composite ops whose schema does not say that they may hand on their argument."""
    while (before := itself(node)) is not node or _is_handed_on_itself(node):
        node = before if before is not node else node.args[0]  # type: ignore[assignment]
    return node


def _is_handed_on_itself(node: Node) -> bool:
    source = node.args[0] if node.args else None
    if not isinstance(source, Node) or not _may_hand_on(node):
        return False
    # The capture may have another layout of it, where it took it for a new tensor.
    return recomputed(node, fake_mode_of(node.graph)) is source.meta["val"]


def handed_on(node: Node) -> Node | None:
    """The argument whose memory a composite op's result is in, though its schema does not say so; None for others."""
    return _handed_on(node, fake_mode_of(node.graph))[0]


def _handed_on(node: Node, fake_mode: Any) -> tuple[Node | None, Any]:
    """The argument, and the op's result as a FakeTensor in its memory."""
    if _may_hand_on(node):
        value = recomputed(node, fake_mode)
        for source in node.all_input_nodes:
            if isinstance(value, torch.Tensor) and storage_id(value) == storage(source):
                return source, value
    return None, None


def recompute_views(graph: Graph, moved: Iterable[Node]) -> None:
    """Give all views of tensors whose FakeTensors are new ones FakeTensors in their memory."""
    known, fake_mode = set(moved), fake_mode_of(graph)
    for node in graph.nodes:
        if node not in known:
            _follow(node, known, fake_mode)


def _follow(node: Node, moved: set[Node], fake_mode: Any) -> None:
    """A new FakeTensor for a node that hands on the memory of one that has moved."""
    if not moved.isdisjoint(node.all_input_nodes) and (viewed(node) or mutates(node) or is_getitem(node)):
        value = recomputed(node, fake_mode)
        if value is None:
            value = _as_traced(node, fake_mode)
        if value is not None:
            node.meta["val"] = value
            moved.add(node)


def handed_out(graph: Graph) -> set[Node]:
    """The nodes in whose memory the outputs of a graph may lie, so far as schemas say; the outputs among them."""
    found: set[Node] = set()
    waiting = graph.output_node().all_input_nodes
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            if viewed(node) or mutates(node) or is_getitem(node) or _may_hand_on(node):
                waiting.extend(node.all_input_nodes)
    return found


def itself(node: Node) -> Node:
    """The first node that has this very tensor, and no view of it: in-place ops hand on the tensor that they write to,
    and ``contiguous`` and the like may hand on their argument."""
    while node.op == "call_function" and node.args and isinstance(node.args[0], Node):
        if not mutates(node) and not _hands_on(node, node.args[0]):
            break
        node = node.args[0]
    return node


def _hands_on(view: Node, source: Node) -> bool:
    """Whether a view of a tensor is that tensor."""
    op: Any = view.target
    if viewed(view) is not source or not is_composite(op) or layout(view) != layout(source):
        return False
    return recomputed(view, fake_mode_of(view.graph)) is source.meta["val"]


def _is_inside_transform(node: Node) -> bool:
    """Whether a node's value is one of a transform's, which has no memory that anybody could ask for."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and is_of_transform(value)


def _is_copy(node: Node) -> bool:
    """Whether a node makes a tensor of its own, as its schema says; what a composite op's says may be untrue."""
    op = node.target
    return (
        isinstance(op, torch._ops.OpOverload)
        and not is_composite(op)
        and isinstance(node.meta.get("val"), torch.Tensor)
        and all(value.alias_info is None for value in (*op._schema.arguments, *op._schema.returns))
    )


def _may_hand_on(node: Node) -> bool:
    """Whether a node's op may hand on the memory of an argument though its schema does not say so."""
    op = node.target
    return (
        isinstance(op, torch._ops.OpOverload)
        and is_composite(op)
        and op._schema.name.partition("::")[2] not in COMPUTING
        and not op._schema.is_mutable
        and all(value.alias_info is None for value in op._schema.returns)
        and isinstance(node.meta.get("val"), torch.Tensor)
        and node.meta["val"].layout is torch.strided
    )


def _as_traced(node: Node, fake_mode: Any) -> Any:
    """A recorded view of new memory whose shape was decided in the trace; None where that cannot be found again."""
    shape_env = getattr(fake_mode, "shape_env", None)
    if shape_env is None or not viewed(node):
        return None
    value = recomputed(node, fake_mode, decided_sizes)
    known = isinstance(value, torch.Tensor) and _layout_of(value) == layout(node)
    return value if known else None


def recomputed(
    node: Node, fake_mode: Any, decisions: Callable[[Any], AbstractContextManager[Any]] = undecided_sizes
) -> Any:
    """What an op makes of the FakeTensors of its arguments; None where that would decide on a size."""
    args: Any
    args, kwargs = torch.fx.map_arg((node.args, dict(node.kwargs)), lambda source: source.meta.get("val"))
    shape_env = getattr(fake_mode, "shape_env", None)
    try:
        with (
            fake_mode,
            uncached(fake_mode),
            torch.no_grad(),
            decisions(shape_env) if shape_env is not None else nullcontext(),
            fresh_symbols_ignored(shape_env) if shape_env is not None else nullcontext(),
            quiet_loggers(FakeTensor.__module__),  # what FakeTensors cannot do is no news
        ):
            if is_inplace_view(node.target):
                args = (args[0].detach(), *args[1:])  # or the FakeTensor itself would have the other shape
            return node.target(*args, **kwargs)  # type: ignore[operator]
    except Exception:  # a shape that is decided elsewhere; then the op computes something
        return None


def made_others(mutating: Iterable[Node]) -> dict[Node, Node]:
    """The inputs and attributes that have another shape or other memory when a graph is done, and not only other
    elements: ``x.t_()``, ``x.resize_(...)``, ``x.set_(y)``. One that gets its shape back may have had another in
    between.

    Args:
        mutating: the nodes of a graph that write, in order.

    Returns:
        input or attribute -> the last node that changes it.
    """
    last: dict[Node, Node] = {}
    for node in mutating:
        if is_inplace_view(node.target):
            for target in map(itself, written_by(node)):
                if target.op in ("placeholder", "get_attr"):
                    last[target] = node
    return {
        target: node
        for target, node in last.items()
        if not _is_view_in_place(node) or _extent(node) != _extent(target)
    }


def _is_view_in_place(node: Node) -> bool:
    """``squeeze_``, ``t_`` and the like, of which there is a view; ``resize_`` and ``set_`` are none."""
    return _view_of(node) is not None


def _view_of(node: Node) -> Any:
    """The op of the view that an op in place is, or None."""
    schema: Any = node.target._schema  # type: ignore[union-attr]
    namespace, name = schema.name.split("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    overloads = [] if packet is None else [getattr(packet, name) for name in packet.overloads()]
    arguments = [argument.name for argument in schema.arguments]
    for twin in overloads:
        named = [argument.name for argument in twin._schema.arguments] == arguments
        if named and twin._schema.returns[0].alias_info is not None:
            return twin
    return None


def _extent(node: Node) -> Any:
    """What of its memory a tensor is."""
    return layout(node), expression_of(node.meta["val"].storage_offset())

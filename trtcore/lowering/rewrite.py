"""What passes build their replacements with: calls and constants that carry FakeTensors and provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from trtcore.ir.facts import Rewrite, rewrites_of
from trtcore.ir.graphs import fake_mode_of, tracing
from trtcore.ir.provenance import module_path, source_line
from trtcore.ir.symbols import expression_of
from trtcore.ir.torch_private import fake_like, is_erased

_PROVENANCE = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")


def insert_call(
    before: Node,
    target: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    like: Node | None = None,
    value: Any = None,
) -> Node:
    """Insert a call in front of a node, with the FakeTensor that it gives in ``meta["val"]``.

    Args:
        before: the node that the call is put in front of.
        target: an op; it is run once on the FakeTensors of its arguments.
        args, kwargs: nodes and plain values.
        like: whose stack trace and module stack the new node gets; `before`'s by default.
        value: the FakeTensor that the op gives, where that is known: then the op is not run.

    Raises:
        Whatever the op raises on these FakeTensors; the graph is then as it was.
    """
    given = dict(kwargs or {})
    if value is None:
        value = fake_result(before.graph, target, args, given)
    with before.graph.inserting_before(before):
        node = before.graph.call_function(target, tuple(args), given)
    node.meta = {**provenance(like or before), "val": value}
    return node


def insert_constant(
    graph_module: GraphModule, before: Node, value: torch.Tensor, *, like: Node | None = None
) -> Node:
    """Register a tensor as a buffer and insert the ``get_attr`` node that reads it, in front of a node.

    Args:
        value: of any shape and dtype; it is not copied.
        like: whose provenance the node gets; `before`'s by default.
    """
    index = len(graph_module._buffers)
    while hasattr(graph_module, name := f"_lowered_{index}"):
        index += 1
    graph_module.register_buffer(name, value.detach())
    with graph_module.graph.inserting_before(before):
        node = graph_module.graph.create_node("get_attr", name)
    node.meta = {**provenance(like or before), "val": _fake(value.detach(), fake_mode_of(graph_module.graph))}
    return node


def _fake(value: torch.Tensor, mode: Any) -> torch.Tensor:
    if mode is None:
        return value
    if type(value) is not torch.Tensor or value.layout is not torch.strided:
        return mode.from_tensor(value, static_shapes=True)  # type: ignore[no-any-return]
    return fake_like(value, mode)


def replace_node(old: Node, new: Node) -> list[str]:
    """Let everything read `new` instead of `old`, and take `old` out with what only it has read.

    A node that was put in place of `old` takes its name over, by which people know it. Views of a tensor that now comes
    in another memory layout copy where they have to, should they run in torch.

    Returns:
        The names of the nodes that were taken out, in graph order.
    """
    _tolerate_strides(old, new)
    old.replace_all_uses_with(new)
    graph, queue, name = old.graph, [old], old.name
    takes_over = new.next is old and old.op == "call_function"
    gone: list[str] = []
    while queue:
        node = queue.pop()
        if node.users or node.op != "call_function" or is_erased(node):
            continue
        sources = node.all_input_nodes
        graph.erase_node(node)
        gone.append(node.name)
        queue.extend(source for source in sources if not source.users and source not in queue)
    if takes_over and is_erased(old):
        new.name = name
    return gone[::-1]


def _tolerate_strides(old: Node, new: Node) -> None:
    before, after = old.meta.get("val"), new.meta.get("val")
    if not isinstance(before, torch.Tensor) or not isinstance(after, torch.Tensor):
        return
    if list(map(expression_of, before.stride())) != list(map(expression_of, after.stride())):
        for user in old.users:
            if user.target is torch.ops.aten.view.default:
                user.target = torch.ops.aten.reshape.default


def log_rewrite(
    graph_module: GraphModule, rule: str, place: Node, nodes: Sequence[str], made: Sequence[str]
) -> None:
    """Note that a rule, or a pass that is a procedure, has put other nodes into a graph.

    Args:
        place: a node that is or was there, for its place in the model.
        nodes, made: names of what was taken out and put in.
    """
    where = ", ".join(part for part in (module_path(place), source_line(place)) if part)
    rewrites_of(graph_module).append(Rewrite(rule, where, tuple(nodes), tuple(made)))


def fake_result(graph: Graph, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What an op gives on the FakeTensors of its arguments."""
    fake_args, fake_kwargs = torch.fx.map_arg((tuple(args), dict(kwargs)), lambda node: node.meta["val"])
    with tracing(fake_mode_of(graph)):
        return target(*fake_args, **fake_kwargs)


def provenance(node: Node) -> dict[str, Any]:
    """The part of a node's meta that says where in the user's model it comes from."""
    return {key: node.meta[key] for key in _PROVENANCE if key in node.meta}

"""Questions that several passes ask of a graph, and the rewrites that they share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeGuard

import sympy
import torch
from torch import fx

from trtcore.pack import (
    CompileContext,
    attribute,
    forced_to_torch,
    log_rewrite,
    node_arguments,
    replace_node,
)
from trtcore_converters.torch_private import extremes, is_erased

aten = torch.ops.aten


def keeps(user: fx.Node) -> bool:
    """Whether a user lets a tensor out of the graph, or writes it somewhere."""
    schema = getattr(user.target, "_schema", None)
    return user.op == "output" or (schema is not None and bool(schema.is_mutable))


def is_call(value: Any, targets: Any) -> TypeGuard[fx.Node]:
    """Whether a value is a node that calls one of the ops."""
    return isinstance(value, fx.Node) and value.op == "call_function" and value.target in targets


def calls(graph_module: fx.GraphModule, targets: Any) -> Iterator[fx.Node]:
    """The calls of some ops, in order; the caller may take nodes out as it goes."""
    for node in list(graph_module.graph.nodes):
        if is_call(node, targets) and not is_erased(node):
            yield node


def tensor_of(value: Any) -> torch.Tensor | None:
    """The FakeTensor of a node; None for anything else."""
    found = value.meta.get("val") if isinstance(value, fx.Node) else None
    return found if isinstance(found, torch.Tensor) else None


def only_user(node: fx.Node) -> fx.Node | None:
    """The one call that reads a node; None where several do, or the model returns it."""
    if len(node.users) != 1:
        return None
    (user,) = node.users
    return user if user.op == "call_function" and not keeps(user) else None


def is_private(*nodes: fx.Node) -> bool:
    """Whether each node is read by one call alone, so that a rewrite of that call leaves it without readers."""
    return all(only_user(node) is not None for node in nodes)


def in_torch(ctx: CompileContext, nodes: Iterable[fx.Node]) -> bool:
    """Whether the user's settings keep one of the nodes in torch."""
    return any(forced_to_torch(node, ctx) for node in nodes)


def replace(old: fx.Node, new: fx.Node, rule: str = "") -> None:
    """Let everything read `new` instead of `old`, and take `old` out with what only it has read.

    Args:
        rule: under which name the rewrite is logged; "" for clean-ups, which are not.
    """
    owner = old.graph.owning_module
    gone = replace_node(old, new)
    if rule and owner is not None:
        log_rewrite(owner, rule, old, gone, (new.name,))


_CASTS = (aten.to.dtype, aten.to.dtype_layout, aten._to_copy.default, aten.type_as.default, aten.to.other)


def uncast(node: Any) -> Any:
    """What a change of floating-point dtype starts from; the value itself, if it is none."""
    if is_call(node, _CASTS):
        source, before, after = node.args[0], tensor_of(node.args[0]), tensor_of(node)
        if before is not None and after is not None and before.is_floating_point():
            return source if after.is_floating_point() else node
    return node


def number_of(value: Any, known: dict[fx.Node, torch.Tensor]) -> float | None:
    """The number in a Python number or in a constant of one element without dims; None for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    constant = known.get(value) if isinstance(value, fx.Node) else None
    return float(constant) if constant is not None and constant.dim() == 0 else None


def operands(node: fx.Node) -> tuple[Any, Any]:
    """Both operands of a binary op."""
    given = node_arguments(node)
    return given["self"], given["other"]


def written(graph_module: fx.GraphModule) -> set[Any]:
    """What the model overwrites: targets of its placeholders and get_attr nodes."""
    return {
        node.args[0].target
        for node in graph_module.graph.nodes
        if node.op == "call_function" and node.args and isinstance(node.args[0], fx.Node) and keeps(node)
    }


def unchanged(before: fx.Node, after: fx.Node) -> bool:
    a, b = before.meta.get("val"), after.meta.get("val")
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return False
    return (
        a.dtype == b.dtype
        and a.device == b.device
        and a.layout == b.layout
        and same_sizes(a.shape, b.shape)
        and same_sizes(a.stride(), b.stride())
    )


def same_sizes(a: Any, b: Any) -> bool:
    """Whether traced sizes are surely equal. Adds no guard."""
    return len(a) == len(b) and all(_equal(_size(x), _size(y)) for x, y in zip(a, b))


def _size(value: Any) -> Any:
    return value.node.expr if isinstance(value, torch.SymInt) else int(value)


def _equal(a: Any, b: Any) -> bool:
    """Sympy leaves ``Min(4*n + 8, 4*n + 16)`` as it is, which the shapes of some ops have (istft since torch 2.14)."""
    if a == b:
        return True
    return (_has_extremes(a) or _has_extremes(b)) and sympy.expand(_settled(a) - _settled(b)) == 0


def _has_extremes(size: Any) -> bool:
    return isinstance(size, sympy.Expr) and size.has(*extremes())


def _settled(size: Any) -> Any:
    """An expression with each Min and Max replaced by the argument that it always is, where two differ by a number."""
    least, _greatest = kinds = extremes()

    def choose(extreme: Any) -> Any:
        sign, left = (1 if isinstance(extreme, least) else -1), list(extreme.args)
        for one in extreme.args:
            others = (sympy.expand(one - other) for other in left if other is not one)
            if any(apart.is_number and sign * apart >= 0 for apart in others):
                left.remove(one)
        return left[0] if len(left) == 1 else extreme.func(*left)

    # From within, so that what is a number inside of another is known there.
    return sympy.sympify(size).replace(lambda e: isinstance(e, kinds), choose)


def fixed(graph_module: fx.GraphModule, ctx: CompileContext) -> dict[fx.Node, torch.Tensor]:
    """The constants whose values a rewrite may rely on: none where weights are to stay replaceable."""
    return constants(graph_module) if ctx.settings.immutable_weights else {}


def constants(graph_module: fx.GraphModule) -> dict[fx.Node, torch.Tensor]:
    """The tensors of the get_attr nodes that nothing writes to."""
    overwritten = written(graph_module)
    found: dict[fx.Node, torch.Tensor] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr" and node.target not in overwritten:
            value = attribute(graph_module, str(node.target))
            if isinstance(value, torch.Tensor):
                found[node] = value
    return found

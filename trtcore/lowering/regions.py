"""Higher-order ops and transforms that a trace at the level of ops can write out: what they run is the program itself.

What ``torch.vmap`` does to ops is in no node of a captured graph: there it is a list of calls that switch the transform
on and off. Regions (``torch.autocast``, ``checkpoint``, ``nested_compile_region``) and ``flex_attention`` are one node
with graphs of their own as arguments. A graph that holds any of these is traced again (`trtcore.lowering.retrace`),
with the functions here in the place of such nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from trtcore.ir.torch_private import (
    constant_of,
    data_getter,
    is_of_transform,
    is_transform_call,
    kernel_below_autocast,
)
from trtcore.lowering.flex import flex_attention, needs_scores


class Run(Protocol):
    """Runs the graph of a region on values."""

    def __call__(self, body: Any, *values: Any) -> Any: ...


def _same(run: Run, body: Any, *operands: Any, **_options: Any) -> Any:
    return run(body, *operands)


def _grad_mode(run: Run, _enabled: bool, body: Any, *operands: Any) -> Any:
    return run(body, *operands)


def _autocast(
    run: Run, device: str, dtype: Any, enabled: bool, _cache: Any, body: Any, *operands: Any
) -> Any:
    with torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False):
        return run(body, *operands)


def _subgraph(run: Run, body: Any, _identifier: Any, *operands: Any) -> Any:
    return run(body, *operands)


def _hinted(run: Run, body: Any, args: Sequence[Any], kwargs: Mapping[str, Any], **_hints: Any) -> Any:
    return run(body, *args, *kwargs.values())


def _forward(run: Run, forward: Any, _backward: Any, *operands: Any, **_options: Any) -> Any:
    """An ``autograd.Function``: what it computes, without what it keeps for its backward."""
    result, _kept = run(forward, *operands)
    return result


def _flat(run: Run, function: Any, structure: Any, *leaves: Any, **_options: Any) -> Any:
    """A call of a Python function, which a graph holds with its arguments flattened."""
    args, kwargs = pytree.tree_unflatten(leaves, structure)
    if args and isinstance(args[0], type) and args[0].__name__ == "ModIndex":
        return run(torch.ops.aten.index.Tensor, *args[1:])  # what flex_attention makes of values[index]
    called = function if callable(function) else constant_of(function)
    return called(*args, **kwargs)


REGIONS: Mapping[str, Callable[..., Any]] = {
    "wrap_with_set_grad_enabled": _grad_mode,
    "wrap_with_autocast": _autocast,
    "tag_activation_checkpoint": _same,
    "wrap_activation_checkpoint": _same,
    "wrap": _same,
    "invoke_subgraph": _subgraph,
    "hints_wrapper": _hinted,
    "autograd_function_apply": _forward,
    "flat_apply": _flat,
    "flex_attention": flex_attention,
}
"""Name of a higher-order op -> what it does, given how to run a graph, and its arguments."""


def region(target: Any) -> Callable[..., Any] | None:
    """What a node's target does, where it is a region or another op whose graphs are part of the program."""
    if not isinstance(target, torch._ops.HigherOrderOperator):
        return None
    return REGIONS.get(target.__name__)


def is_written_out(node: Node) -> bool:
    """Whether a trace replaces this node by the ops that it stands for."""
    if node.op != "call_function":
        return False
    return region(node.target) is not None or is_transform_call(node.target)


def is_autocast(node: Node) -> bool:
    """Whether a node is a region in which autocast is switched."""
    return node.target is torch.ops.higher_order.wrap_with_autocast


def all_nodes(graph_module: GraphModule) -> Iterator[Node]:
    """The nodes of a graph and of the graphs that its nodes run."""
    for module in graph_module.modules():
        if isinstance(module, GraphModule):
            yield from module.graph.nodes


def inside_transform(args: Any) -> bool:
    """Whether any of the arguments of an op is a tensor of a transform: a batch, or one that is differentiated."""
    return any(isinstance(leaf, torch.Tensor) and is_of_transform(leaf) for leaf in pytree.tree_leaves(args))


@contextmanager
def whole_under_autocast(
    stand_ins: Mapping[Any, Any], shapes: Mapping[Any, Callable[..., Any]] = MappingProxyType({})
) -> Iterator[None]:
    """Within this, composite ops stay whole where autocast is on: it casts their arguments, and is followed by the
    stand-in.

    Args:
        shapes: of the results of some of them: torch's own may go through a sequence, and fix its length.
    """
    token = _shapes.set(shapes)
    try:
        with kernel_below_autocast(stand_ins):
            yield
    finally:
        _shapes.reset(token)


_shapes: ContextVar[Mapping[Any, Callable[..., Any]]] = ContextVar(
    "shapes of results", default=MappingProxyType({})
)


@cache
def stand_in(op: torch._ops.OpOverload) -> torch._ops.OpOverload:
    """An op of the same schema that traces as one node."""
    namespace, _, name = op.name().partition("::")  # type: ignore[no-untyped-call]
    library, schema = _library(f"trtcore_whole_{namespace}"), str(op._schema)
    library.define(f"{name}{schema[schema.index('(') :]}")  # type: ignore[no-untyped-call]
    library.impl(name, op, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]

    def fake(*args: Any, **kwargs: Any) -> Any:
        return _shapes.get().get(op, op)(*args, **kwargs)

    torch.library.register_fake(f"{library.ns}::{name}", fake, lib=library)
    packet = getattr(getattr(torch.ops, library.ns), name.partition(".")[0])
    return getattr(packet, name.partition(".")[2] or "default")  # type: ignore[no-any-return]


@cache
def _library(namespace: str) -> torch.library.Library:
    return torch.library.Library(namespace, "FRAGMENT")  # type: ignore[no-untyped-call]


class RegionInterpreter(torch.fx.Interpreter):
    """Runs a graph of Dynamo's with its regions written out."""

    _node: Node | None = None

    def run_node(self, n: Node) -> Any:
        self._node = n
        return super().run_node(n)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is data_getter():
            target = torch.Tensor.detach  # the same memory; a trace has no node for x.data
        written_out = region(target)
        if written_out is None or target is torch.ops.higher_order.wrap_with_autocast:
            return super().call_function(target, args, kwargs)
        if written_out is flex_attention and self._node is not None:
            kwargs = {**kwargs, "needs_scores": needs_scores(self._node)}
        return written_out(self._run, *args, **kwargs)

    def _run(self, body: Any, *values: Any, **options: Any) -> Any:
        if isinstance(body, GraphModule):
            return RegionInterpreter(body).run(*values)
        return super().call_function(body, values, options)

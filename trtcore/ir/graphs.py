"""Small questions that every stage asks of fx graphs."""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.fx import GraphModule, Node

from trtcore.ir.torch_private import composite_kernel, python_dispatcher

TRACING = threading.RLock()
"""Held while torch traces: it patches ``nn.Module.__call__`` for the whole process, and two threads that do so at
once can leave it patched."""


@contextmanager
def tracing(mode: Any) -> Iterator[None]:
    """What every trace of ops runs in: one at a time, without gradients, on FakeTensors.

    Args:
        mode: the FakeTensorMode of the tensors; None where they are real.
    """
    with ExitStack() as stack:
        stack.enter_context(TRACING)
        # Outside the fake mode an op without tensors (arange) would turn a symbolic size into today's int.
        if mode is not None:
            stack.enter_context(mode)
        # Torch's kernels in C++ check in-place ops on plain ints; those in Python know symbolic sizes.
        stack.enter_context(python_dispatcher())
        stack.enter_context(torch.no_grad())
        yield


@contextmanager
def uncached(fake_mode: Any) -> Iterator[None]:
    """Without the cache of FakeTensors, which decides on sizes: it asks whether what it keeps is contiguous."""
    before, fake_mode.cache_enabled = fake_mode.cache_enabled, False
    try:
        yield
    finally:
        fake_mode.cache_enabled = before


def is_size(node: Node) -> bool:
    """Whether a node is a symbolic (or traced plain) number and no tensor."""
    return isinstance(node.meta.get("val"), (torch.SymInt, torch.SymFloat, torch.SymBool, int, float, bool))


def attribute(module: torch.nn.Module, target: str) -> Any:
    """The value of a get_attr target (dotted)."""
    value: Any = module
    for part in target.split("."):
        value = getattr(value, part)
    return value


def set_attribute(module: torch.nn.Module, target: str, value: Any) -> None:
    """Put a value at a dotted target, making the modules on the way."""
    *path, last = target.split(".")
    for part in path:
        if not hasattr(module, part):
            setattr(module, part, torch.nn.Module())
        module = getattr(module, part)
    setattr(module, last, value)


def asserted_conditions(graph: torch.fx.Graph) -> list[Any]:
    """The conditions on sizes that a graph asserts, as ``torch._check`` leaves them: sympy expressions."""
    found = []
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.SymBool) and any(user.meta.get("val") is None for user in node.users):
            found.append(value.node.expr)
    return found


def subgraphs(owner: torch.nn.Module, node: Node) -> dict[Node, GraphModule]:
    """The graphs that a higher-order op is given, by the get_attr nodes that give them, in order."""
    found: dict[Node, GraphModule] = {}
    for source in node.all_input_nodes:
        value = attribute(owner, str(source.target)) if source.op == "get_attr" else None
        if isinstance(value, GraphModule):
            found[source] = value
    return found


def is_getitem(node: Node) -> bool:
    """Whether a node takes one of the results of another."""
    return node.op == "call_function" and node.target is operator.getitem


def mutates(node: Node) -> bool:
    """Whether a node writes to one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def written_by(node: Node) -> list[Node]:
    """The tensors that a node writes to."""
    schema = getattr(node.target, "_schema", None)
    found: list[Node] = []
    for position, argument in enumerate(schema.arguments if schema is not None else ()):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = node.kwargs.get(argument.name, node.args[position] if position < len(node.args) else None)
        found.extend(
            item
            for item in (value if isinstance(value, (list, tuple)) else [value])
            if isinstance(item, Node)
        )
    return found


def is_random(node: Node) -> bool:
    """Whether a node draws from torch's random numbers."""
    return node.op == "call_function" and torch.Tag.nondeterministic_seeded in getattr(
        node.target, "tags", ()
    )


def is_copy_into(node: Node) -> bool:
    """Whether a node is ``copy_(destination, source)``."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and schema.name == "aten::copy_"


def fake_mode_of(graph: torch.fx.Graph) -> Any:
    """The FakeTensorMode that the graph was traced under; None for a graph without FakeTensors."""
    for node in graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None:
            return mode
    return None


def is_composite(op: torch._ops.OpOverload) -> bool:
    """Whether torch itself takes the op apart into others when it is traced below autograd."""
    return composite_kernel(op)


def looks_into_memory(node: Node) -> bool:
    """Whether a node finds elements of its first argument by their place in memory, as ``as_strided`` does."""
    schema = getattr(node.target, "_schema", None)
    return (
        node.op == "call_function"
        and schema is not None
        and any(argument.name == "storage_offset" for argument in schema.arguments)
    )


def reads_strides(node: Node) -> bool:
    """Whether what a node computes may depend on its arguments' strides: by its schema, or as nobody knows better."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    if looks_into_memory(node):
        return True
    known = node.target.namespace in ("aten", "prim", "prims", "trtcore")
    return not known or not _STRIDE_TAGS.isdisjoint(node.target.tags)


_STRIDE_TAGS = {
    getattr(torch.Tag, name)
    for name in ("needs_exact_strides", "needs_fixed_stride_order", "needs_contiguous_strides")
    if hasattr(torch.Tag, name)
}


def viewed(node: Node) -> Node | None:
    """The node whose memory a view looks at; None for a node that is no view."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or schema.is_mutable or not node.args:
        return None
    source, returns = node.args[0], schema.returns
    view = len(returns) > 0 and all(one.alias_info is not None for one in returns)
    return source if view and isinstance(source, Node) else None


def written_memory(nodes: Iterable[Node]) -> set[Node]:
    """The nodes whose memory is written to by those of `nodes` that write, so far as ops' schemas say so."""
    return {memory_of(one) for node in nodes if mutates(node) for one in written_by(node)}


def memory_of(node: Node) -> Node:
    """The node whose memory a value lies in, so far as ops' schemas say so."""
    while True:
        below = viewed(node)
        if below is None and (mutates(node) or is_getitem(node)) and isinstance(node.args[0], Node):
            below = node.args[0]
        if below is None:
            return node
        node = below

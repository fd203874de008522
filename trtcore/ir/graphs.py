"""Small questions that every stage asks of fx graphs."""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from trtcore.ir.torch_private import LazyGraphModule, composite_kernel, python_dispatcher

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
    """The value of a get_attr target (dotted).

    Raises:
        AttributeError: there is none.
    """
    value: Any = module
    for part in target.split("."):
        # getattr finds these last, after an error of its own; passes look up every weight of a model
        kept = value.__dict__ if isinstance(value, torch.nn.Module) else _NONE_KEPT
        found = kept["_modules"].get(part)
        if found is None:
            found = kept["_parameters"].get(part)
            if found is None:
                found = kept["_buffers"].get(part)
                if found is None:
                    found = getattr(value, part)
        value = found
    return value


_NONE_KEPT: dict[str, dict[str, Any]] = {"_modules": {}, "_parameters": {}, "_buffers": {}}


def set_attribute(module: torch.nn.Module, target: str, value: Any) -> None:
    """Put a value at a dotted target, making the modules on the way."""
    *path, last = target.split(".")
    setattr(_container(module, path), last, value)


def _container(module: torch.nn.Module, path: Sequence[str]) -> Any:
    """What stands at the end of a path; plain modules are made on the way."""
    found: Any = module
    for part in path:
        inner = found._modules.get(part) if isinstance(found, torch.nn.Module) else None
        if inner is None:
            if not hasattr(found, part):
                setattr(found, part, torch.nn.Module())
            inner = getattr(found, part)
        found = inner
    return found


def module_of(graph: Graph, root: torch.nn.Module, class_name: str = "GraphModule") -> GraphModule:
    """A GraphModule of a graph, with what its get_attr nodes read of `root`; tensors but parameters are buffers.

    As ``GraphModule(root, graph)``, which looks up every weight by several searches that fail. The Python code is made
    when somebody asks for it: passes change the graph first.
    """
    module = LazyGraphModule({}, Graph(), class_name)
    for target in dict.fromkeys(str(node.target) for node in graph.find_nodes(op="get_attr")):
        *path, last = target.split(".")
        value, owner = attribute(root, target), _container(module, path)
        if path and owner is attribute(root, ".".join(path)):
            continue  # of a module that is there whole
        if isinstance(value, torch.nn.Parameter):
            owner._parameters[last] = value
        elif isinstance(value, torch.Tensor):
            owner._buffers[last] = value
        else:
            setattr(owner, last, value)
    module.graph = graph
    return module


def remove_unread(graph: Graph) -> None:
    """Take out the calls and attributes that nothing reads and that do nothing else, in subgraphs too.

    As ``Graph.eliminate_dead_code``, which checks the whole graph first, and asks of every node what it does.
    """
    for node in reversed(graph.nodes):
        if not node.users and not node.is_impure():
            graph.erase_node(node)
    if graph.owning_module is None:
        return
    for name in {str(node.target) for node in graph.find_nodes(op="get_attr")}:
        inner = graph.owning_module._modules.get(name)
        if isinstance(inner, GraphModule):
            remove_unread(inner.graph)
            inner.recompile()


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

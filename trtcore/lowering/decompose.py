"""Node-local decomposition.

A node that no converter takes is traced alone, on its own FakeTensors, through the packs' decomposition
(or torch's, for composite ops) and the pieces are pasted in its place, with its stack trace. Traces are
memoised by op, dtypes, shapes and constants, so the cost is linear in the graph, and small: the layers of a
transformer are traced once. What a converter takes is kept whole.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from trtcore.context import CompileContext
from trtcore.symbols import expression_of

_DEPTH = 16  # a decomposition of a decomposition of ...; deeper than this is a cycle


def decompose(graph_module: GraphModule, ctx: CompileContext) -> GraphModule:
    """Decompose, in place, every node that no converter takes and that somebody knows how to decompose."""
    _Decomposer(graph_module, ctx).run()
    return graph_module


class _Decomposer:
    def __init__(self, graph_module: GraphModule, ctx: CompileContext) -> None:
        self.graph: Graph = graph_module.graph
        self.ctx = ctx
        self.table: Mapping[Any, Callable[..., Any]] = ctx.registry.decompositions
        self.fake_mode = _fake_mode(self.graph)
        self.memo: dict[Any, Graph | None] = {}

    def run(self) -> None:
        for node in list(self.graph.nodes):
            self._visit(node, 0)

    def _visit(self, node: Node, depth: int) -> None:
        function = self._decomposition(node)
        if function is None or depth >= _DEPTH:
            return
        traced = self._trace(node, function)
        if traced is None:
            return
        for pasted in self._paste(node, traced):
            self._visit(pasted, depth + 1)

    def _decomposition(self, node: Node) -> Callable[..., Any] | None:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            return None
        if not _has_tensor(node.meta.get("val")):
            return None
        function = self.table.get(node.target)
        if function is None and not _is_composite(node.target):
            return None
        selection = self.ctx.registry.select(node, self.ctx)
        if selection.chosen is not None or selection.reason.startswith("forced to torch"):
            return None
        return function if function is not None else node.target

    def _trace(self, node: Node, function: Callable[..., Any]) -> Graph | None:
        leaves: list[Node] = []
        try:
            key = (node.target, _signature(node.args, leaves), _signature(dict(node.kwargs), leaves))
        except TypeError:  # an unhashable constant
            key = (node.target, id(node))
        if key not in self.memo:
            self.memo[key] = self._traced(node, function, list(dict.fromkeys(leaves)))
        return self.memo[key]

    def _traced(self, node: Node, function: Callable[..., Any], leaves: list[Node]) -> Graph | None:
        from torch._dispatch.python import enable_python_dispatcher
        from torch.fx.experimental.proxy_tensor import make_fx

        def run(*values: Any) -> Any:
            given = dict(zip(leaves, values))
            args, kwargs = torch.fx.map_arg((node.args, dict(node.kwargs)), lambda n: given[n])
            return function(*args, **kwargs)

        with ExitStack() as stack:
            if self.fake_mode is not None:
                stack.enter_context(self.fake_mode)
            stack.enter_context(enable_python_dispatcher())
            stack.enter_context(torch.no_grad())
            traced = make_fx(run, _allow_non_fake_inputs=True)(*(leaf.meta["val"] for leaf in leaves))
        traced.graph.eliminate_dead_code()
        if any(n.target == node.target for n in traced.graph.nodes if n.op == "call_function"):
            return None  # it is its own decomposition
        if any(n.op == "get_attr" for n in traced.graph.nodes):
            return None  # a constant that the trace made; keep the op whole
        return traced.graph

    def _paste(self, node: Node, traced: Graph) -> list[Node]:
        leaves: list[Node] = []
        _signature(node.args, leaves)
        _signature(dict(node.kwargs), leaves)
        sources = iter(dict.fromkeys(leaves))
        env: dict[Node, Node] = {}
        pasted: list[Node] = []
        results: Any = None
        with self.graph.inserting_before(node):
            for inner in traced.nodes:
                if inner.op == "placeholder":
                    env[inner] = next(sources)
                elif inner.op == "output":
                    results = torch.fx.map_arg(inner.args[0], lambda n: env[n])
                else:
                    made = self.graph.node_copy(inner, lambda n: env[n])
                    made.meta = {**node.meta, "val": inner.meta.get("val")}
                    made.meta.pop("tensor_meta", None)
                    env[inner] = made
                    pasted.append(made)
        self._replace(node, results)
        return pasted

    def _replace(self, node: Node, results: Any) -> None:
        if isinstance(results, Node):
            node.replace_all_uses_with(results)
        else:
            for user in list(node.users):
                assert user.target is operator.getitem, f"{node.name} returns several values and is used whole"
                user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
                self.graph.erase_node(user)
        self.graph.erase_node(node)


def _signature(value: Any, leaves: list[Node]) -> Any:
    """A hashable stand-in for an argument, equal where a trace of the op would be; collects the nodes in it."""
    if isinstance(value, Node):
        first = value not in leaves
        leaves.append(value)
        position = leaves.index(value)
        meta = value.meta.get("val")
        if not first:
            return ("again", position)
        if isinstance(meta, torch.Tensor):
            return (
                "tensor", meta.dtype, str(meta.device), meta.requires_grad,
                tuple(expression_of(d) for d in meta.shape), tuple(expression_of(s) for s in meta.stride()),
            )  # fmt: skip
        if isinstance(meta, torch.SymInt):
            return ("size", expression_of(meta))
        return ("other", id(value))
    if isinstance(value, (list, tuple)):
        return tuple(_signature(item, leaves) for item in value)
    if isinstance(value, dict):
        return tuple((name, _signature(item, leaves)) for name, item in value.items())
    hash(value)
    return (type(value).__name__, repr(value)) if isinstance(value, float) else (type(value).__name__, value)


def _is_composite(op: torch._ops.OpOverload) -> bool:
    return op._can_decompose() and torch._C._dispatch_has_kernel_for_dispatch_key(
        op.name(), torch._C.DispatchKey.CompositeImplicitAutograd
    )


def _has_tensor(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_has_tensor(item) for item in value)
    return isinstance(value, torch.Tensor)


def _fake_mode(graph: Graph) -> Any:
    for node in graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None:
            return mode
    return None

"""Graphs with DTensors (tensor parallel models), as one rank sees them: local tensors, and collectives between.

AOTAutograd takes a DTensor apart into its local tensor, and what DTensor does for an op into local ops and collectives.
The graph that is left is a plain one: its engines are of this rank's part of the weights, and collectives run in torch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from trtcore.errors import ExportError, InputError
from trtcore.ir.exported import set_tensor
from trtcore.ir.torch_private import aot_inference, dtensor_type, is_static_input
from trtcore.jit.capture import attribute_name, source_name

Compiler = Callable[[GraphModule, Sequence[Any]], Callable[..., Any]]
Trace = Callable[[GraphModule], GraphModule]


def has_dtensors(gm: GraphModule) -> bool:
    """Whether a graph of Dynamo's works on DTensors."""
    kind = dtensor_type()
    return kind is not None and any(
        isinstance(node.meta.get("example_value"), kind) for node in gm.graph.nodes
    )


def rank_local(
    gm: GraphModule, example_inputs: Sequence[Any], trace: Trace, compiler: Compiler
) -> Callable[..., Any]:
    """Compile the local part of a graph of Dynamo's.

    Args:
        gm, example_inputs: from Dynamo; parameters and inputs may be DTensors.
        trace: gets the local graph as Dynamo would have given it, with the same marks on its placeholders.
        compiler: gets what `trace` returned, and the tensors of the first call: AOTAutograd has none but fake ones.

    Returns:
        what Dynamo calls; it takes DTensors apart and puts results together.
    """
    sources = gm.graph.find_nodes(op="placeholder")

    def compile_local(local: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        for node, source in zip(local.graph.find_nodes(op="placeholder"), _spread(sources)):
            for mark in ("tensor_dict", "grapharg") if isinstance(node.meta.get("val"), torch.Tensor) else ():
                if mark in source.meta:
                    node.meta[mark] = source.meta[mark]
        for node in local.graph.nodes:
            node.meta.setdefault("example_value", node.meta.get("val"))
        return _AtFirstCall(trace(local), compiler)

    with torch.no_grad():
        return aot_inference(gm, example_inputs, compile_local)


def _spread(sources: Sequence[Node]) -> list[Node]:
    """The placeholder that each local one comes from: a DTensor becomes what it is made of, in its place."""
    places: list[Node] = []
    for source in sources:
        value: Any = source.meta.get("example_value")
        parts = value.__tensor_flatten__()[0] if hasattr(type(value), "__tensor_flatten__") else (None,)
        places += [source] * len(parts)
    return places


class _AtFirstCall:
    """Compiles a graph when its first call brings the weights."""

    def __init__(self, graph: GraphModule, compiler: Compiler) -> None:
        self._graph, self._compiler = graph, compiler
        self._compiled: Callable[..., Any] | None = None
        self._lock = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        if self._compiled is None:
            with self._lock:
                if self._compiled is None:
                    self._compiled = self._compiler(self._graph, args)
        return self._compiled(*args)


# --- ahead of time ------------------------------------------------------------------------------------------


def rank_local_module(
    model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> torch.nn.Module:
    """A tensor parallel model as this rank runs it: plain tensors, and collectives as ops. It can be exported.

    Runs the model once: all ranks must do so together.

    Args:
        model: with DTensor parameters; it takes and gives plain tensors.
        args, kwargs: example tensors. Their shapes are the ones that it is captured for.

    Returns:
        a module with the model's signature, whose weights are this rank's.

    Raises:
        ExportError: Dynamo cannot capture the model whole.
        InputError: an input or a result is a DTensor.
    """
    recorded: list[tuple[GraphModule, Sequence[Any], Sequence[Any]]] = []

    def record(graph: GraphModule, values: Sequence[Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            results = graph(*given)
            recorded.append((graph, given, results))
            return results

        return run

    def backend(gm: GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        return rank_local(gm, example_inputs, lambda local: local, record)

    try:
        with torch.no_grad():
            result = torch.compile(model, backend=backend, fullgraph=True, dynamic=False)(*args, **kwargs)
    except Exception as error:
        raise ExportError(
            f"Dynamo could not capture {type(model).__name__} whole: {str(error).splitlines()[0]}",
            advice="torch.compile(model, backend='trtcore') takes a model in parts",
        ) from error
    leaves, out_spec = pytree.tree_flatten(result)
    inputs = pytree.tree_leaves((tuple(args), dict(kwargs)))
    kind = dtensor_type()
    if kind is not None and any(isinstance(one, kind) for one in (*leaves, *inputs)):
        raise InputError(
            "an input or a result of the model is a DTensor",
            advice="let the first and the last layer of the plan take and give local tensors (use_local_output=True)",
        )
    (graph, given, results) = recorded[-1]
    return _RankLocal(model, _with_weights(graph, given, results, inputs, leaves), out_spec)


class _RankLocal(torch.nn.Module):
    """Gives a flat graph the model's signature."""

    def __init__(self, model: torch.nn.Module, local: GraphModule, out_spec: pytree.TreeSpec) -> None:
        super().__init__()
        self.local = local
        self._out_spec = out_spec

        @wraps(model.forward)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return pytree.tree_unflatten(local(*pytree.tree_leaves((args, kwargs))), out_spec)

        self.forward = forward


def _with_weights(
    graph: GraphModule,
    given: Sequence[Any],
    results: Sequence[Any],
    inputs: Sequence[Any],
    leaves: Sequence[Any],
) -> GraphModule:
    """The recorded graph with its static tensors as attributes, and inputs and results in the model's order."""
    root, made, copied = torch.nn.Module(), Graph(), dict[Node, Node]()
    placeholders = graph.graph.find_nodes(op="placeholder")
    for index, value in enumerate(inputs):
        node = made.placeholder(f"input_{index}")
        for place, one in zip(placeholders, given):
            if one is value:
                copied[place] = node
    taken: dict[str, int] = {}
    for node, value in zip(placeholders, given):
        if node in copied or not node.users:
            continue
        if not is_static_input(node):
            raise ExportError(
                f"the captured graph has an input that is no argument of the model: {node.name}"
            )
        node.meta["trtcore_source"] = source_name(node)
        name = attribute_name(node, taken)
        set_tensor(root, name, value)
        copied[node] = made.get_attr(name)
    for node in graph.graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        if node.op == "get_attr":
            set_tensor(root, str(node.target), getattr(graph, str(node.target)))
        copied[node] = made.node_copy(node, copied.__getitem__)
    outputs: Any = graph.graph.output_node().args[0]
    by_identity = {id(result): node for result, node in zip(results, outputs)}
    if not all(id(leaf) in by_identity for leaf in leaves):
        if len(leaves) != len(results):
            raise ExportError("the captured graph gives other results than the model")
        by_identity = {id(leaf): node for leaf, node in zip(leaves, outputs)}
    made.output(tuple(copied[by_identity[id(leaf)]] for leaf in leaves))
    made.eliminate_dead_code()
    return GraphModule(root, made)

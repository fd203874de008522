"""Graphs with DTensors (tensor parallel models), as one rank sees them: local tensors, and collectives between.

AOTAutograd takes a DTensor apart into its local tensor, and what DTensor does for an op into local ops and collectives.
The graph that is left is a plain one: its engines are of this rank's part of the weights, and collectives run in torch.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from trtcore.errors import ExportError, InputError
from trtcore.frontend.comparing import agree
from trtcore.ir.exported import set_tensor
from trtcore.ir.graphs import written_by
from trtcore.ir.torch_private import (
    aot_inference,
    dtensor_type,
    is_static_input,
    maybe_mark_dynamic,
    size_conditions,
)
from trtcore.jit.capture import attribute_name, source_name

Compiler = Callable[[GraphModule, Sequence[Any]], Callable[..., Any]]
Trace = Callable[[GraphModule], GraphModule]
Ranges = Mapping[int, Mapping[int, tuple[int, int]]]
"""Of inputs, by index: dim -> (min, max) of a size that varies."""


def has_dtensors(gm: GraphModule) -> bool:
    """Whether a graph of Dynamo's works on DTensors."""
    kind = dtensor_type()
    return kind is not None and any(
        isinstance(node.meta.get("example_value"), kind) for node in gm.graph.nodes
    )


def rank_local(
    gm: GraphModule,
    example_inputs: Sequence[Any],
    trace: Trace,
    compiler: Compiler,
    keep_writes: bool = False,
) -> Callable[..., Any]:
    """Compile the local part of a graph of Dynamo's.

    Args:
        gm, example_inputs: from Dynamo; parameters and inputs may be DTensors.
        trace: gets the local graph as Dynamo would have given it, with the same marks on its placeholders.
        compiler: gets what `trace` returned, and the tensors of the first call: AOTAutograd has none but fake ones.
        keep_writes: the graph has the model's writes to buffers and inputs in it, as ``copy_`` at its end.

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
        return aot_inference(gm, example_inputs, compile_local, keep_writes)


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
    model: torch.nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    ranges: Ranges | None = None,
) -> torch.nn.Module:
    """A tensor parallel model as this rank runs it: plain tensors, and collectives as ops. It can be exported.

    Runs the model once: all ranks must do so together.

    Args:
        model: with DTensor parameters; it takes and gives plain tensors.
        args, kwargs: example tensors. Sizes that are not in `ranges` are the ones that it is captured for.
        ranges: of the leaves of ``(args, kwargs)``, by index: dim -> (min, max) of a size that varies.

    Returns:
        a module with the model's signature, whose weights are this rank's.

    Raises:
        ExportError: Dynamo cannot capture the model whole.
        InputError: an input or a result is a DTensor.
    """
    recorded: list[tuple[GraphModule, Sequence[Any], Sequence[Any]]] = []

    def record(graph: GraphModule, values: Sequence[Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            with _unchanged(_written(graph, given)):
                results = graph(*given)
            recorded.append((graph, given, results))
            return results

        return run

    def backend(gm: GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        return rank_local(gm, example_inputs, lambda local: local, record, keep_writes=True)

    inputs, in_spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
    ranges = ranges or {}
    for index, dims in ranges.items():
        inputs[index] = inputs[index].clone()  # the marks are the tensor's: not the user's
        for dim in dims:
            maybe_mark_dynamic(inputs[index], dim)
    args, kwargs = pytree.tree_unflatten(inputs, in_spec)
    try:
        with torch.no_grad():
            result = torch.compile(model, backend=backend, fullgraph=True, dynamic=False)(*args, **kwargs)
    except Exception as error:
        raise ExportError(
            f"Dynamo could not capture {type(model).__name__} whole: {str(error).splitlines()[0]}",
            advice="torch.compile(model, backend='trtcore') takes a model in parts",
        ) from error
    leaves, out_spec = pytree.tree_flatten(result)
    kind = dtensor_type()
    if kind is not None and any(isinstance(one, kind) for one in (*leaves, *inputs)):
        raise InputError(
            "an input or a result of the model is a DTensor",
            advice="let the first and the last layer of the plan take and give local tensors (use_local_output=True)",
        )
    (graph, given, results) = recorded[-1]
    local = _RankLocal(model, _with_weights(graph, given, results, inputs, leaves), out_spec)
    if ranges:
        _refuse_narrower(graph, given, inputs, ranges)
        _compare_at_ends(model, local, inputs, in_spec, ranges, _written(graph, given))
    return local


def _written(graph: GraphModule, given: Sequence[Any]) -> list[torch.Tensor]:
    """The tensors among the values of a graph's placeholders that it writes to."""
    values = dict(zip(graph.graph.find_nodes(op="placeholder"), given))
    return [values[one] for node in graph.graph.nodes for one in written_by(node) if one in values]


@contextmanager
def _unchanged(tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """These have the same values afterwards."""
    kept = {tensor: tensor.clone() for tensor in tensors}
    try:
        yield
    finally:
        for tensor, value in kept.items():
            tensor.copy_(value)


def _refuse_narrower(graph: GraphModule, given: Sequence[Any], inputs: Sequence[Any], ranges: Ranges) -> None:
    """ExportError where the graph holds for a part of the ranges only.

    Whether a size is divisible by the number of ranks is no such condition: DTensor asks it to know what it may shard.
    """
    ends: dict[Any, tuple[int, int]] = {}
    environment: Any = None
    for place, value in zip(graph.graph.find_nodes(op="placeholder"), given):
        for index, dims in ranges.items():
            for dim, bounds in dims.items() if inputs[index] is value else ():
                size = place.meta["val"].shape[dim]
                if isinstance(size, int):
                    raise ExportError(
                        f"the model works for size {size} of dim {dim} of input {index} only, not for "
                        f"{bounds[0]} to {bounds[1]}",
                        advice="give it that size, or find the line that compares or indexes with the size",
                    )
                ends[size.node.expr], environment = bounds, size.node.shape_env
    for condition in size_conditions(environment) if environment is not None else ():
        symbols = [symbol for symbol in condition.free_symbols if symbol in ends]
        if "Mod" in str(condition) or not symbols:
            continue
        for corner in itertools.product(*(ends[symbol] for symbol in symbols)):
            sizes = dict(zip(symbols, (max(size, 2) for size in corner)))  # Dynamo has no sizes 0 and 1
            if condition.subs(sizes) == False:  # noqa: E712  (sympy's)
                raise ExportError(
                    f"the model takes another way for some sizes of the ranges: {condition} does not hold for {sizes}",
                    advice="compile it once for each way, with ranges that do not cross",
                )


def _compare_at_ends(
    model: torch.nn.Module,
    local: torch.nn.Module,
    inputs: Sequence[Any],
    spec: pytree.TreeSpec,
    ranges: Ranges,
    written: Sequence[torch.Tensor],
) -> None:
    """ExportError where the graph gives other numbers than the model at the ends of the ranges, or next to them."""
    for end in range(4):
        leaves = list(inputs)
        for index, dims in ranges.items():
            for dim, bounds in dims.items():
                low, high = bounds
                size = (low, min(low + 1, high), max(high - 1, low), high)[end]
                places = torch.arange(size, device=leaves[index].device) % leaves[index].shape[dim]
                leaves[index] = leaves[index].index_select(dim, places)
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        found: list[list[Any]] = []
        for one in (model, local):
            with torch.no_grad(), _unchanged(written):
                found.append(pytree.tree_leaves(one(*args, **kwargs)))
        if not all(agree(want, have, at_most=1e-2) for want, have in zip(*found)):
            shapes = [tuple(leaf.shape) for leaf in leaves]
            raise ExportError(
                f"captured with varying sizes, {type(model).__name__} gives other numbers "
                f"for inputs of shapes {shapes}",
                advice="torch.compile(model, backend='trtcore') captures each size that comes",
            )


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
    sizes = {
        str(size): (node, dim)
        for place, node in list(copied.items())
        for dim, size in enumerate(place.meta["val"].shape)
        if isinstance(size, torch.SymInt)
    }
    for place in placeholders:
        size = place.meta["val"]
        if place.users and isinstance(size, torch.SymInt) and str(size) in sizes:
            copied[place] = made.call_method("size", sizes[str(size)])
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

"""From a graph of Dynamo's to a Program: traced to ATen on Dynamo's own FakeTensors, static tensors as weights.

Any new assumption about a size that tracing makes becomes one of Dynamo's guards that way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch.fx import Graph, GraphModule, Node

from trtcore.errors import ExportError
from trtcore.ir.aliases import find_unsaid, handed_out, itself, made_others, recomputed
from trtcore.ir.attribute_names import plain_attribute_names
from trtcore.ir.exported import set_tensor
from trtcore.ir.graphs import asserted_conditions, attribute, fake_mode_of, mutates
from trtcore.ir.program import InputSpec, Program, SymbolRange
from trtcore.ir.ranges import asserted_bounds, data_ranges
from trtcore.ir.schema import normalise_arguments
from trtcore.ir.symbols import expression_of
from trtcore.ir.torch_private import (
    FakeTensor,
    FakeTensorMode,
    LazyGraphModule,
    autocast_entry,
    expression,
    grad_mode_switch,
    is_static_input,
    is_transform_call,
    known_intervals,
    python_dispatcher,
    source_text,
    specialise_floats,
    transforms_undone,
)
from trtcore.jit.aliases import mutated_placeholders
from trtcore.lowering.regions import RegionInterpreter, all_nodes, stand_in, whole_under_autocast


def refuse_gradients(gm: GraphModule) -> None:
    """Raise if an output of the graph would have a gradient function."""
    if not torch.is_grad_enabled() or not _gives_gradients(gm):
        return
    sources = [node for node in gm.graph.find_nodes(op="placeholder") if _requires_grad(node)]
    what = f"{source_name(sources[0])} requires them" if sources else "the result requires them"
    raise ExportError(
        f"gradients are on and {what}, but engines have no backward pass",
        advice="call the model under torch.no_grad() or torch.inference_mode(), or use "
        "model.requires_grad_(False)",
    )


def is_differentiated_later(gm: GraphModule) -> bool:
    """Whether the model turns gradients on itself, and differentiates a result of the graph behind it."""
    return not torch.is_grad_enabled() and _gives_gradients(gm)


def _gives_gradients(gm: GraphModule) -> bool:
    (outputs,) = gm.graph.output_node().args
    return any(_needs_gradient(node) for node in cast("Sequence[Any]", outputs))


def _needs_gradient(node: Any) -> bool:
    return isinstance(node, Node) and node.op != "placeholder" and _requires_grad(node)


def _requires_grad(node: Node) -> bool:
    value = node.meta.get("example_value")
    return isinstance(value, torch.Tensor) and value.requires_grad


def fix_floats_of_modules(gm: GraphModule) -> None:
    """With ``dynamic=True`` Dynamo makes inputs of the floats it meets, even of ``math.pi`` and ``self.scale``.

    Here those that are no arguments become constants again (under a guard), as ints on modules are: Dynamo
    starts the frame again, as it does for its own compiler.
    """
    floats = []
    for node in gm.graph.find_nodes(op="placeholder"):
        number = getattr(node.meta.get("example_value"), "item_memo", None)
        text = source_text(node, below=True)
        is_argument = re.fullmatch(r"L\['\w+'\](\[[^\]]+\])*", text)
        if isinstance(number, torch.SymFloat) and text and not is_argument:
            floats.append(number)
    specialise_floats(floats)


_SIZED = ("src", "query", "key", "value")


def _ask_for_sizes(traced: GraphModule) -> None:
    """Let Dynamo guard on sizes that kernels need, as it does for those that ops ask for when they are traced.

    The kernels of whole attention layers are told the size of the last dim, ``embed_dim``, and their FakeTensors do not
    ask for it.
    """
    for node in traced.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None or all(argument.name != "embed_dim" for argument in schema.arguments):
            continue
        given = normalise_arguments(node.target, node.args, node.kwargs)
        for source in (given[name] for name in _SIZED if isinstance(given.get(name), Node)):
            bool(source.meta["val"].shape[-1] == given["embed_dim"])


def to_aten(gm: GraphModule) -> GraphModule:
    """The graph at ATen level, traced on Dynamo's FakeTensors; placeholders stay in order."""
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.traceback import preserve_node_meta

    placeholders = gm.graph.find_nodes(op="placeholder")
    values = [node.meta["example_value"] for node in placeholders]

    def run(*args: Any) -> Any:
        return RegionInterpreter(gm).run(*args)

    # Autocast and transforms act below the level of pre_dispatch: there they would be missing from the graph.
    whole_ops = not _uses_autocast(gm) and not any(map(_is_transform, all_nodes(gm)))
    # In the inputs' own fake mode, so that tensors which the graph makes are fake too.
    examples = (node.meta.get("example_value") for node in gm.graph.nodes)
    fake_mode = next((v.fake_mode for v in examples if isinstance(v, FakeTensor)), nullcontext())
    with (
        torch.no_grad(),
        preserve_node_meta(),
        fake_mode,
        transforms_undone(),
        _some_whole(whole_ops) as kept,
    ):
        traced = make_fx(run, tracing_mode="real", pre_dispatch=whole_ops)(*values)
        for node in traced.graph.nodes:
            node.target = kept.get(node.target, node.target)
        _ask_for_sizes(traced)
    for node in list(traced.graph.nodes):
        if node.target is grad_mode_switch():
            traced.graph.erase_node(node)  # there are no gradients here
    for node, source in zip(traced.graph.find_nodes(op="placeholder"), placeholders):
        node.meta.setdefault("val", source.meta["example_value"])
        node.meta["trtcore_source"] = source_name(source)
        node.meta["trtcore_static"] = is_static_input(source)
    writes = any(map(mutates, traced.graph.nodes))
    find_unsaid(traced.graph, None if writes else handed_out(traced.graph))
    _without_views_in_place(traced.graph)
    for node in traced.graph.find_nodes(op="get_attr"):
        value = attribute(traced, str(node.target))
        if isinstance(fake_mode, FakeTensorMode) and type(value) is torch.Tensor:
            # A constant such as the 5 of `x[0] = 5`, of which torch makes a FakeTensor in a mode of its own.
            node.meta["val"] = fake_mode.from_tensor(value, static_shapes=True)
    for node in traced.graph.nodes:
        if "nn_module_stack" in node.meta:
            node.meta["nn_module_stack"] = _plain_stack(node.meta["nn_module_stack"])
    return traced


_VIEWS: Mapping[Any, Any] = {
    torch.ops.aten.squeeze_.default: torch.ops.aten.squeeze.default,
    torch.ops.aten.squeeze_.dim: torch.ops.aten.squeeze.dim,
    torch.ops.aten.squeeze_.dims: torch.ops.aten.squeeze.dims,
    torch.ops.aten.unsqueeze_.default: torch.ops.aten.unsqueeze.default,
    torch.ops.aten.transpose_.default: torch.ops.aten.transpose.int,
    torch.ops.aten.swapaxes_.default: torch.ops.aten.swapaxes.default,
    torch.ops.aten.swapdims_.default: torch.ops.aten.swapdims.default,
    torch.ops.aten.t_.default: torch.ops.aten.t.default,
    torch.ops.aten.as_strided_.default: torch.ops.aten.as_strided.default,
}


def _without_views_in_place(graph: Graph) -> None:
    """``squeeze_`` and the like as views, which is what they are in a graph of values: what comes after them is given
    their node. Those of an input that has another shape in the end stay: the caller's tensor is to have it."""
    fake_mode, others = fake_mode_of(graph), made_others(filter(mutates, graph.nodes))
    views = [node for node in graph.nodes if node.target in _VIEWS]
    for node in [node for node in views if itself(node) not in others]:
        node.target = _VIEWS[node.target]
        source = node.args[0]
        known, made = source.meta["val"], recomputed(source, fake_mode)
        if isinstance(made, torch.Tensor) and _sizes(made) != _sizes(known):
            source.meta["val"] = made  # below dispatch it may be known by the shape that it has afterwards
            node.meta["val"] = recomputed(node, fake_mode)


def _sizes(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tuple(map(expression_of, tensor.shape))


def _is_transform(node: Node) -> bool:
    return is_transform_call(node.target) or node.target is torch.ops.higher_order.flex_attention


_WHOLE = (
    torch.ops.aten.linear.default,
    torch.ops.aten.layer_norm.default,
    torch.ops.aten.scaled_dot_product_attention.default,
)
"""Composite ops of which more is known whole than in parts."""


@contextmanager
def _some_whole(all_whole: bool) -> Iterator[dict[Any, Any]]:
    """Within this, some ops stay whole in a trace that takes composite ops apart: stand-in -> op."""
    if all_whole:
        yield {}
        return
    stand_ins = {op: stand_in(op) for op in _WHOLE}
    with python_dispatcher(), whole_under_autocast(stand_ins):
        yield {one: op for op, one in stand_ins.items()}


def _uses_autocast(gm: GraphModule) -> bool:
    return any(map(torch.is_autocast_enabled, ("cpu", "cuda"))) or any(
        node.target is autocast_entry() for node in all_nodes(gm)
    )


def source_name(node: Node) -> str:
    """``x`` for ``L['x']``, ``encoder.weight`` for a parameter of the model."""
    text = source_text(node)
    if not text:
        return node.name
    parts = re.findall(r"(?:_modules|_parameters|_buffers)\['([^']+)'\]", text)
    if parts:
        return ".".join(parts)
    return re.sub(r"^L\['([^']+)'\]", r"\1", text)


def _plain_stack(stack: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Dynamo's module stack as torch.export writes it: ``(path below the model, class name)``."""
    plain = {}
    for key, (path, kind) in stack.items():
        names = re.findall(r"\['([^']+)'\]|\.(\w+)", re.sub(r"^L\['[^']*'\]", "", path))
        below = [a or b for a, b in names if b not in ("_modules", "_parameters", "_buffers")]
        name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        plain[key] = (".".join(below), name)
    return plain


# --- program ------------------------------------------------------------------------------------------------


def weight_places(gm: GraphModule, args: Sequence[Any]) -> list[int]:
    """Indices of the placeholders that become weights: static tensors that the graph does not change."""
    mutated = mutated_placeholders(gm)
    return [
        index
        for index, node in enumerate(gm.graph.find_nodes(op="placeholder"))
        if node.meta["trtcore_static"] and isinstance(args[index], torch.Tensor) and node not in mutated
    ]


def program_of(
    gm: GraphModule,
    args: Sequence[Any],
    weights: Sequence[int],
    symbols: Mapping[str, SymbolRange],
    results: Sequence[Any],
) -> tuple[Program, list[int]]:
    """A Program that computes `results` of the traced graph, and which of Dynamo's arguments are its inputs."""
    root = torch.nn.Module()
    graph = Graph()
    copied: dict[Node, Node] = {}
    placeholders = gm.graph.find_nodes(op="placeholder")
    static = set(weights)
    inputs = [index for index in range(len(placeholders)) if index not in static]
    for index in inputs:
        node = placeholders[index]
        name = re.sub(r"\W+", "_", node.meta["trtcore_source"]).strip("_")
        copied[node] = graph.placeholder(name if name.isidentifier() else f"input_{name}")
        copied[node].target = copied[node].name  # fx made the name unique, and no keyword
        copied[node].meta = dict(node.meta)
    taken: dict[str, int] = {}
    for index in weights:
        node = placeholders[index]
        if not node.users:
            continue
        name = attribute_name(node, taken)
        set_tensor(root, name, args[index])
        attribute = graph.create_node("get_attr", name, name=node.name)
        attribute.meta = dict(node.meta)
        copied[node] = attribute
    for node in gm.graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        if node.op == "get_attr":
            value = getattr(gm, cast(str, node.target))
            if isinstance(value, torch.Tensor):
                set_tensor(root, cast(str, node.target), value)
            else:
                root.add_module(cast(str, node.target), value)
        copied[node] = graph.node_copy(node, copied.__getitem__)
    graph.output(tuple(copied[item] if isinstance(item, Node) else item for item in results))
    graph.eliminate_dead_code()
    plain_attribute_names(root, graph)
    nodes = [copied[placeholders[index]] for index in inputs]
    program = Program(
        graph_module=LazyGraphModule(root, graph),
        inputs=tuple(map(_input_spec, nodes)),
        in_spec=None,
        out_spec=None,
        arg_names=tuple(node.name for node in nodes),
        symbols=symbols,
        data_sizes=data_ranges(
            known_intervals(getattr(fake_mode_of(graph), "shape_env", None)),
            symbols,
            asserted_bounds(asserted_conditions(graph)),
        ),
    )
    return program, inputs


def attribute_name(node: Node, taken: dict[str, int]) -> str:
    """A dotted name of the weight's own: by where the model has it, unless another weight is there, or in between."""
    name = node.meta["trtcore_source"]
    if not re.fullmatch(r"[\w]+(\.[\w]+)*", name):
        name = node.name
    if any(name.startswith(f"{other}.") or other.startswith(f"{name}.") for other in taken):
        name = node.name
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name.replace('.', '_')}_{taken[name]}"


def _input_spec(node: Node) -> InputSpec:
    value: Any = node.meta["val"]
    name = node.meta["trtcore_source"]
    if type(value) is torch.SymInt:
        return InputSpec(name, node.name, "symint", value=expression(value))
    if isinstance(value, torch.Tensor):
        shape = tuple(expression_of(dim) for dim in value.shape)
        return InputSpec(name, node.name, "tensor", value.dtype, shape, value.device)
    return InputSpec(name, node.name, "constant", value=value)

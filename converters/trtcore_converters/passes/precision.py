"""Dtypes that the user's settings change: float32 accumulation of float16 products, and float64 as float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from trtcore.pack import (
    CompileContext,
    SettingsError,
    fake_result,
    insert_call,
    insert_constant,
    set_facts,
)
from trtcore_converters.passes._graph import calls, fixed, in_torch, keeps, replace, tensor_of

aten = torch.ops.aten

_CAST = aten._to_copy.default

# ---- fp32_accumulation -------------------------------------------------------------------------------------

_PRODUCTS = frozenset(
    {
        aten.linear.default,
        aten.matmul.default,
        aten.mm.default,
        aten.bmm.default,
        aten.addmm.default,
        aten.baddbmm.default,
        aten.mv.default,
        aten.dot.default,
        aten.scaled_dot_product_attention.default,  # two products and the softmax between them
    }
)


def fp32_accumulation(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """With `use_fp32_acc`, float16 matrix products and attention between casts: float32 inside, float16 outside.

    Weights stay float16 constants, with a cast behind each.
    """
    if not ctx.settings.use_fp32_acc:
        return
    wide: dict[fx.Node, fx.Node] = {}

    def widened(source: fx.Node) -> fx.Node:
        value = tensor_of(source)
        if value is None or value.dtype != torch.float16:
            return source
        if source not in wide:
            wide[source] = insert_call(node, _CAST, (source,), {"dtype": torch.float32})
        return wide[source]

    for node in calls(graph_module, _PRODUCTS):
        value = tensor_of(node)
        if value is None or value.dtype != torch.float16 or in_torch(ctx, (node,)):
            continue
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), widened)
        product = insert_call(node, node.target, args, kwargs)
        replace(node, insert_call(node, _CAST, (product,), {"dtype": torch.float16}))


# ---- truncate_double ---------------------------------------------------------------------------------------


def truncate_double(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """With the setting of that name, float64 becomes float32 everywhere between the model's inputs and outputs, and
    complex128 complex64.

    Inputs are cast after they came in, and results cast back before they go out, both in torch; weights become
    float32 constants.

    Raises:
        SettingsError: a weight has finite values beyond float32's range.
    """
    if not ctx.settings.truncate_double:
        return
    known = fixed(graph_module, ctx)
    double = {node for node in graph_module.graph.nodes if _is_double(node)}
    singles: dict[fx.Node, fx.Node] = {}
    for node in list(graph_module.graph.nodes):
        if node in double and node.op in ("placeholder", "get_attr"):
            continue
        if node.op == "output":
            _give_back(node, double)
        elif node.op == "call_function" and not keeps(node):
            for source in node.all_input_nodes:
                if source in double and source.op != "call_function":
                    node.replace_input_with(source, _single(graph_module, source, node, known, singles))
            _truncate(node)


def _is_double(node: fx.Node) -> bool:
    value = tensor_of(node)
    return value is not None and value.dtype in _TRUNCATED


_TRUNCATED = {torch.float64: torch.float32, torch.complex128: torch.complex64}


def _single(
    graph_module: fx.GraphModule,
    source: fx.Node,
    reader: fx.Node,
    known: dict[fx.Node, torch.Tensor],
    singles: dict[fx.Node, fx.Node],
) -> fx.Node:
    """An input or weight in float32, or complex64."""
    if source in singles:
        return singles[source]
    anchor = source.next
    while anchor.op in ("placeholder", "get_attr"):
        anchor = anchor.next
    if source in known:
        value = known[source].to(_TRUNCATED[known[source].dtype])
        if bool((value.isinf() & known[source].isfinite()).any()):
            raise SettingsError(
                f"truncate_double=True: {source.target} has values beyond the range of float32",
                advice="scale the weight, or leave truncate_double off",
            )
        made = insert_constant(graph_module, anchor, value, like=source)
    else:
        dtype = _TRUNCATED[source.meta["val"].dtype]
        made = insert_call(anchor, _CAST, (source,), {"dtype": dtype}, like=reader)
        set_facts(made, boundary=True)
    singles[source] = made
    return made


def _truncate(node: fx.Node) -> None:
    """Let a node give float32 where it gave float64: dtypes among its arguments, and what it is traced to give."""

    def plain(value: Any) -> Any:
        return _TRUNCATED.get(value, value) if isinstance(value, torch.dtype) else value

    node.args = tuple(plain(value) for value in node.args)
    node.kwargs = {name: plain(value) for name, value in node.kwargs.items()}
    if isinstance(node.target, torch._ops.OpOverload):
        node.meta["val"] = fake_result(node.graph, node.target, node.args, node.kwargs)
    elif node.target.__name__ == "getitem" and isinstance(node.args[0], fx.Node):  # type: ignore[union-attr]
        node.meta["val"] = node.args[0].meta["val"][node.args[1]]


def _give_back(output: fx.Node, double: set[fx.Node]) -> None:
    """Results in float64 or complex128, where the model gives that."""
    for source in output.all_input_nodes:
        if source in double and not _is_double(source):
            value = tensor_of(source)
            assert value is not None
            wide = torch.complex128 if value.is_complex() else torch.float64
            made = insert_call(output, _CAST, (source,), {"dtype": wide}, like=source)
            set_facts(made, boundary=True)
            output.replace_input_with(source, made)


# ---- recurrent_dtypes --------------------------------------------------------------------------------------

_RECURRENT = frozenset({aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input})
_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32})


def recurrent_dtypes(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Recurrent layers that were captured under autocast take all tensors in the dtype of their results.

    Autocast acts on the products inside of them, where a graph that has the layer whole can't show it.
    """
    for module in graph_module.modules():
        for node in calls(module, _RECURRENT) if isinstance(module, fx.GraphModule) else ():
            wanted = node.meta["val"][0].dtype
            made: dict[fx.Node, fx.Node] = {}
            for source in node.all_input_nodes:
                value = tensor_of(source)
                if value is not None and value.dtype in _FLOATS and value.dtype is not wanted:
                    made[source] = insert_call(node, aten.to.dtype, (source, wanted))
            for source, cast in made.items():
                node.replace_input_with(source, cast)

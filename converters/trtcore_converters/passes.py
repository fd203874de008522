"""Lowering passes of the built-in pack. Each is small, has a name that ``settings.disabled_passes`` takes, and
changes no value that the model computes."""

from __future__ import annotations

import itertools
import operator
from typing import Any

import torch
from torch import fx

from trtcore.pack import CompileContext, LoweringPass, node_arguments

aten = torch.ops.aten

FOLDING_LIMIT = 16 << 20
"""Bytes: constant folding makes no tensor that is larger than this."""


# ---- remove_assertions -------------------------------------------------------------------------------------

_ASSERTIONS = frozenset(
    {
        aten._assert_tensor_metadata.default,
        aten._assert_async.default,
        aten._assert_async.msg,
        aten._assert_scalar.default,
        aten.sym_constrain_range.default,
        aten.sym_constrain_range_for_size.default,
        torch._check,
    }
)


def remove_assertions(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Drop what export leaves behind to check dtypes and sizes: the compiled module checks its inputs itself."""
    for node in reversed(graph_module.graph.nodes):
        if node.op == "call_function" and node.target in _ASSERTIONS and not node.users:
            graph_module.graph.erase_node(node)


# ---- remove_noops ------------------------------------------------------------------------------------------

# Ops that are the identity wherever they change neither dtype, shape, strides nor device.
_NOOPS = frozenset(
    {
        aten.alias.default,
        aten.detach.default,
        aten.clone.default,
        aten.contiguous.default,
        aten.lift_fresh_copy.default,
        aten.to.dtype,
        aten.to.dtype_layout,
        aten.to.device,
        aten.to.other,
        aten._to_copy.default,
        aten.type_as.default,
        aten.view.default,
        aten.reshape.default,
        aten.expand.default,
        aten.slice.Tensor,
        aten.flatten.using_ints,
        aten.squeeze.dim,
        aten.squeeze.dims,
    }
)
_DROPOUTS = frozenset({aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default})


def remove_noops(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Drop nodes that hand on their input: dropout at inference, casts to the same dtype, views of the same shape.

    A node that the model returns stays: without it the result would be another tensor's storage. So does a copy
    of a tensor that the model overwrites in the end: it may be there to keep the old value.
    """
    written = _written(graph_module)
    for node in list(graph_module.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is operator.getitem and isinstance(node.args[0], (list, tuple)):
            # What inlining a subgraph (torch.no_grad, autocast) leaves of the tuple that it returned.
            node.replace_all_uses_with(node.args[0][node.args[1]])  # type: ignore[index]
            graph_module.graph.erase_node(node)
            continue
        if not (node.target in _NOOPS or _inactive_dropout(node)):
            continue
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or any(_keeps(user) for user in node.users):
            continue
        if written and _base(source) in written:
            continue
        if node.target in _DROPOUTS or _unchanged(source, node):
            node.replace_all_uses_with(source)
            graph_module.graph.erase_node(node)


def _written(graph_module: fx.GraphModule) -> set[Any]:
    """What the model overwrites: targets of its placeholders and get_attr nodes."""
    return {
        node.args[0].target
        for node in graph_module.graph.nodes
        if node.op == "call_function" and node.args and isinstance(node.args[0], fx.Node) and _keeps(node)
    }


def _base(node: fx.Node) -> Any:
    """The target of the node whose storage a view looks at; of the node itself, if it is no view."""
    while node.op == "call_function" and node.args and isinstance(node.args[0], fx.Node):
        schema = getattr(node.target, "_schema", None)
        if schema is None or not any(argument.alias_info for argument in schema.returns):
            break
        node = node.args[0]
    return node.target


def _inactive_dropout(node: fx.Node) -> bool:
    if node.target not in _DROPOUTS:
        return False
    given = node_arguments(node)
    return not given["train"] or given["p"] == 0


def _keeps(user: fx.Node) -> bool:
    """Whether a user lets a tensor out of the graph, or writes it somewhere."""
    schema = getattr(user.target, "_schema", None)
    return user.op == "output" or (schema is not None and bool(schema.is_mutable))


def _unchanged(before: fx.Node, after: fx.Node) -> bool:
    a, b = before.meta.get("val"), after.meta.get("val")
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return False
    return (
        a.dtype == b.dtype
        and a.device == b.device
        and a.layout == b.layout
        and _same_sizes(a.shape, b.shape)
        and _same_sizes(a.stride(), b.stride())
    )


def _same_sizes(a: Any, b: Any) -> bool:
    """Whether traced sizes are surely equal. Adds no guard."""
    return len(a) == len(b) and all(_size(x) == _size(y) for x, y in zip(a, b))


def _size(value: Any) -> Any:
    return value.node.expr if isinstance(value, torch.SymInt) else int(value)


# ---- common_subexpressions ----------------------------------------------------------------------------------


def common_subexpressions(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Compute once what the graph computes several times: the same op on the same arguments.

    Random ops stay, and what the model returns: two results must not become one tensor.
    """
    first: dict[Any, fx.Node] = {}
    for node in list(graph_module.graph.nodes):
        key = _expression(node)
        if key is None or any(_keeps(user) for user in node.users):
            continue
        earlier = first.setdefault(key, node)
        if earlier is not node:
            node.replace_all_uses_with(earlier)
            graph_module.graph.erase_node(node)


def _expression(node: fx.Node) -> Any:
    """Equal for nodes that compute the same; None where there is no telling."""
    target = node.target
    if node.op == "get_attr":
        return ("get_attr", target)
    if node.op != "call_function":
        return None
    if isinstance(target, torch._ops.OpOverload):
        if (
            target._schema.is_mutable
            or torch.Tag.nondeterministic_seeded in target.tags
            or not target._schema.returns
        ):
            return None
    elif target is not operator.getitem:
        return None
    return (target, _hashable(node.args), _hashable(node.kwargs))


def _hashable(value: Any) -> Any:
    """Arguments as something that is equal only where they are: 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    if isinstance(value, (list, tuple)):
        return tuple(_hashable(item) for item in value)
    if isinstance(value, dict):
        return tuple((name, _hashable(item)) for name, item in sorted(value.items()))
    return (type(value), repr(value)) if isinstance(value, (bool, int, float, complex)) else value


# ---- scalar_constants --------------------------------------------------------------------------------------

_TAKES_NUMBER = frozenset(
    {
        aten.add.Tensor,
        aten.sub.Tensor,
        aten.mul.Tensor,
        aten.div.Tensor,
        aten.pow.Tensor_Tensor,
        aten.maximum.default,
        aten.minimum.default,
        aten.eq.Tensor,
        aten.ne.Tensor,
        aten.lt.Tensor,
        aten.le.Tensor,
        aten.gt.Tensor,
        aten.ge.Tensor,
        aten.where.self,
    }
)


def scalar_constants(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Write 0-d float64 constants as Python numbers, which promote in the same way; TensorRT has no float64."""
    constants = _constants(graph_module)
    for node in graph_module.graph.nodes:
        if node.op != "call_function" or node.target not in _TAKES_NUMBER:
            continue
        result = node.meta.get("val")
        if not isinstance(result, torch.Tensor) or result.dtype == torch.float64:
            continue
        for index, source in enumerate(node.args):
            value = constants.get(source) if isinstance(source, fx.Node) else None
            if (
                value is not None
                and value.dim() == 0
                and value.dtype == torch.float64
                and _has_tensor_besides(node, index)
            ):
                node.update_arg(index, value.item())


def _has_tensor_besides(node: fx.Node, index: int) -> bool:
    """Whether another operand is a floating-point tensor with dims, so that the number can't decide the dtype."""
    for other, source in enumerate(node.args):
        value = source.meta.get("val") if other != index and isinstance(source, fx.Node) else None
        if isinstance(value, torch.Tensor) and value.dim() and value.is_floating_point():
            return True
    return False


# ---- strided_views ------------------------------------------------------------------------------------------


def strided_views(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Apply ``as_strided`` to the tensor that owns the memory, and not to a view of it.

    It reads memory, whatever view it is given; the output of an engine is its own, plain tensor.
    """
    for node in graph_module.graph.nodes:
        if node.op != "call_function" or node.target is not aten.as_strided.default:
            continue
        view, owner = node.args[0], _owner(node.args[0])
        traced = view.meta.get("val") if isinstance(view, fx.Node) else None
        if owner is view or not isinstance(traced, torch.Tensor):
            continue
        given = node_arguments(node)
        offset = traced.storage_offset() if given["storage_offset"] is None else given["storage_offset"]
        if isinstance(offset, (int, fx.Node)):
            node.args = (owner, given["size"], given["stride"], offset)
            node.kwargs = {}


def _owner(node: Any) -> Any:
    """The tensor whose memory a chain of views looks at."""
    while isinstance(node, fx.Node) and node.op == "call_function":
        schema = getattr(node.target, "_schema", None)
        if (
            schema is None
            or schema.is_mutable
            or not schema.arguments
            or schema.arguments[0].alias_info is None
        ):
            break
        if len(schema.returns) != 1 or schema.returns[0].alias_info is None or not node.args:
            break
        if "(a)" not in str(schema.returns[0]) or not _shares_memory(node):
            break
        node = node.args[0]
    return node


def _shares_memory(node: fx.Node) -> bool:
    """Whether the traced tensor looks at its source's storage (``reshape`` and ``contiguous`` may copy)."""
    source = node.args[0].meta.get("val") if isinstance(node.args[0], fx.Node) else None
    value = node.meta.get("val")
    if not isinstance(source, torch.Tensor) or not isinstance(value, torch.Tensor):
        return False
    return source.untyped_storage()._cdata == value.untyped_storage()._cdata


# ---- constant_folding --------------------------------------------------------------------------------------


def constant_folding(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Compute now what depends on constants alone, up to `FOLDING_LIMIT` bytes a tensor.

    Left alone: random ops, what the model writes to, what it returns (it would hand out the constant itself),
    and, where the engine's weights are to stay replaceable, everything that depends on a weight.
    """
    values: dict[fx.Node, torch.Tensor] = {}
    if ctx.settings.immutable_weights:
        values.update(_constants(graph_module))
    known = set(values)
    for node in graph_module.graph.nodes:
        if _foldable(node, values):
            result = _evaluate(node, values)
            if result is not None:
                values[node] = result
    names = (name for i in itertools.count() if not hasattr(graph_module, name := f"_folded_{i}"))
    for node in list(graph_module.graph.nodes):
        if node in values and node not in known and _needed(node, values):
            _replace_by_constant(graph_module, node, values[node], next(names))
    graph_module.graph.eliminate_dead_code()


def _constants(graph_module: fx.GraphModule) -> dict[fx.Node, torch.Tensor]:
    """The tensors of the get_attr nodes that nothing writes to."""
    written = {
        str(node.args[0].target)
        for node in graph_module.graph.nodes
        if node.op == "call_function" and node.args and isinstance(node.args[0], fx.Node) and _keeps(node)
    }
    found: dict[fx.Node, torch.Tensor] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr" and str(node.target) not in written:
            value: Any = graph_module
            for part in str(node.target).split("."):
                value = getattr(value, part)
            if isinstance(value, torch.Tensor):
                found[node] = value
    return found


def _foldable(node: fx.Node, values: dict[fx.Node, torch.Tensor]) -> bool:
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return False
    result = node.meta.get("val")
    if not isinstance(result, torch.Tensor) or not all(isinstance(dim, int) for dim in result.shape):
        return False
    if (
        target._schema.is_mutable
        or torch.Tag.nondeterministic_seeded in target.tags
        or target.namespace != "aten"
    ):
        return False
    return all(source in values for source in node.all_input_nodes)


def _evaluate(node: fx.Node, values: dict[fx.Node, torch.Tensor]) -> torch.Tensor | None:
    result = node.meta["val"]
    inputs = [values[source] for source in node.all_input_nodes]
    largest = max((value.numel() * value.element_size() for value in inputs), default=0)
    if result.numel() * result.element_size() > FOLDING_LIMIT and not _is_view(node, result, inputs, largest):
        return None
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda source: values[source])
    try:
        with torch.no_grad():
            value = node.target(*args, **kwargs)  # type: ignore[operator]
    except Exception:  # it fails when the model runs, then; not here
        return None
    return value if isinstance(value, torch.Tensor) and not value.is_meta else None


def _is_view(node: fx.Node, result: torch.Tensor, inputs: list[torch.Tensor], largest: int) -> bool:
    """Whether the op only looks at its input in another way, without repeating elements."""
    returns = node.target._schema.returns  # type: ignore[union-attr]
    aliases = len(returns) == 1 and returns[0].alias_info is not None
    return aliases and len(inputs) == 1 and result.numel() * result.element_size() <= largest


def _needed(node: fx.Node, values: dict[fx.Node, torch.Tensor]) -> bool:
    """Whether something that is not folded reads the node, and nothing lets it out of the graph."""
    return any(user not in values for user in node.users) and not any(_keeps(user) for user in node.users)


def _replace_by_constant(graph_module: fx.GraphModule, node: fx.Node, value: torch.Tensor, name: str) -> None:
    graph_module.register_buffer(name, value.detach())
    with graph_module.graph.inserting_before(node):
        constant = graph_module.graph.get_attr(name)
    constant.meta = {
        key: node.meta[key] for key in ("val", "stack_trace", "nn_module_stack") if key in node.meta
    }
    node.replace_all_uses_with(constant)


PASSES = (
    LoweringPass("remove_assertions", remove_assertions),
    LoweringPass("strided_views", strided_views, after=("remove_assertions",)),
    LoweringPass("remove_noops", remove_noops, after=("strided_views",)),
    LoweringPass("common_subexpressions", common_subexpressions, after=("remove_noops",)),
    LoweringPass("constant_folding", constant_folding, after=("common_subexpressions",)),
    LoweringPass("scalar_constants", scalar_constants, after=("constant_folding",)),
    LoweringPass(
        "remove_decomposed_assertions",
        remove_assertions,
        after=("decompose",),
        before=("eliminate_dead_code",),
    ),
)
"""In this order, unless other packs' passes ask for another."""

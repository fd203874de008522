"""Sizes: numbers and conditions that are computed from them, as ``x * n**0.5`` or ``n > 3``, since a symbolic float or
bool is no tensor, and engines take tensors; and the bounds of those that data decide."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from trtcore.pack import CompileContext, attribute, insert_call, node_arguments, set_facts
from trtcore_converters.passes._graph import calls, same_sizes, tensor_of
from trtcore_converters.torch_private import sym_sqrt

aten = torch.ops.aten

_WITH_TENSORS: dict[Any, Any] = {
    **{
        op: op for op in (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.where.self)
    },
    aten.pow.Tensor_Scalar: aten.pow.Tensor_Tensor,
    aten.where.ScalarOther: aten.where.self,
    aten.where.ScalarSelf: aten.where.self,
    aten.masked_fill.Scalar: aten.masked_fill.Tensor,
    aten.clamp.default: aten.clamp.Tensor,
    aten.clamp_min.default: aten.clamp_min.Tensor,
    aten.clamp_max.default: aten.clamp_max.Tensor,
    **{getattr(aten, name).Scalar: getattr(aten, name).Tensor for name in ("add", "sub", "mul", "div")},
    **{
        getattr(aten, name).Scalar: getattr(aten, name).Tensor
        for name in ("eq", "ne", "lt", "le", "gt", "ge")
    },
}
"""Ops with numbers -> the same that takes a 0-d tensor for each of them."""

_MADE = frozenset({aten.full.default, aten.scalar_tensor.default})

_OF_NUMBERS: dict[Any, Any] = {
    operator.add: aten.add.Tensor,
    operator.sub: aten.sub.Tensor,
    operator.mul: aten.mul.Tensor,
    operator.truediv: aten.div.Tensor,
    operator.pow: aten.pow.Tensor_Tensor,
    operator.neg: aten.neg.default,
    sym_sqrt: aten.sqrt.default,
}


def symbolic_floats(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Compute numbers that come from sizes as 0-d float32 tensors, for ops that take these as they take numbers.

    torch computes such numbers in float64 and rounds them for the op: the last digit of float32 may differ.
    """
    for node in list(graph_module.graph.nodes):
        if node.op != "call_function" or tensor_of(node) is None or not _symbolic(node):
            continue
        if node.target in _WITH_TENSORS and _weak(node):
            _with_tensors(node)
        elif node.target in _MADE:
            _made(node)


def _symbolic(node: fx.Node) -> bool:
    return any(isinstance(source.meta.get("val"), torch.SymFloat) for source in node.all_input_nodes)


def _weak(node: fx.Node) -> bool:
    """Whether no tensor without dims could take its dtype from the new one, where a number lets it keep its own."""
    found = (tensor_of(source) for source in node.all_input_nodes)
    return all(x is None or x.dim() or x.dtype not in _OTHER_FLOATS for x in found)


_OTHER_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float64})


def _with_tensors(node: fx.Node) -> None:
    given = dict(node_arguments(node))
    if given.pop("alpha", 1) != 1:
        return
    device = node.meta["val"].device
    parts = [_operand(value, node, device) for value in given.values()]
    if any(part is None and value is not None for part, value in zip(parts, given.values())):
        return
    node.target = _WITH_TENSORS[node.target]
    node.args, node.kwargs = tuple(parts), {}


def _operand(value: Any, before: fx.Node, device: torch.device) -> fx.Node | None:
    tensor = value is None or (isinstance(value, fx.Node) and tensor_of(value) is not None)
    return value if tensor else _tensor(value, before, device)


def _made(node: fx.Node) -> None:
    """A tensor that is full of the number."""
    traced = node.meta["val"]
    given = node_arguments(node)
    value = _tensor(given.get("fill_value", given.get("s")), node, traced.device)
    if value is None:
        return
    full = insert_call(node, aten.to.dtype, (value, traced.dtype))
    if traced.dim():
        full = insert_call(node, aten.expand.default, (full, given["size"]))
    node.replace_all_uses_with(full)
    node.graph.erase_node(node)


def _tensor(value: Any, before: fx.Node, device: torch.device) -> fx.Node | None:
    """A number, or what computes one, as a 0-d float32 tensor; None for what is not in `_OF_NUMBERS`."""
    if isinstance(value, fx.Node) and value.target is torch.sym_float:
        return _tensor(value.args[0], before, device)
    if _is_read(value):
        made = _read(value, before, device)
        return None if made is None else insert_call(before, aten.to.dtype, (made, torch.float32))
    if isinstance(value, fx.Node) and not isinstance(value.meta.get("val"), torch.SymInt):
        op = _OF_NUMBERS.get(value.target)
        parts = [_tensor(part, before, device) for part in value.args] if op is not None else [None]
        if op is None or None in parts:
            return None
        return insert_call(before, op, parts)
    return insert_call(
        before, aten.scalar_tensor.default, (value,), {"dtype": torch.float32, "device": device}
    )


# ---- conditions on sizes --------------------------------------------------------------------------------------

_RELATIONS: dict[Any, Any] = {
    getattr(operator, name): getattr(aten, name).Tensor for name in ("eq", "ne", "lt", "le", "gt", "ge")
}
_LOGIC: dict[Any, Any] = {
    operator.and_: aten.logical_and.default,
    operator.or_: aten.logical_or.default,
    operator.xor: aten.logical_xor.default,
    torch.sym_not: aten.logical_not.default,
}


def symbolic_bools(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Compute conditions on sizes as 0-d tensors, for ops that take these as they take a bool, and for branches.

    Sizes are compared as the whole numbers that they are; what compares symbolic floats stays in torch, which computes
    them in float64. A number that a condition chooses (``torch.sym_ite``) is chosen in the engine, too; one that was
    read from a tensor (``x * t.item()``) is that tensor.
    """
    for node in list(graph_module.graph.nodes):
        if node.op != "call_function" or not any(_decided(source) for source in node.all_input_nodes):
            continue
        if node.target is torch.ops.higher_order.cond:
            pred = node.args[0]
            made = _bool_tensor(pred, node, _device(node)) if tensor_of(pred) is None else None
            if made is not None:
                node.args = (made, *node.args[1:])
        elif node.target in _MADE or node.target is aten.full_like.default:
            _full_of(node)
        elif node.target in _WITH_TENSORS and tensor_of(node) is not None and _keeps_dtype(node):
            _with_numbers(node)


def _decided(node: fx.Node) -> bool:
    """A condition on sizes, a whole number that one chooses, or a number that was read from a tensor."""
    return isinstance(node.meta.get("val"), torch.SymBool) or node.target is torch.sym_ite or _is_read(node)


_ITEMS = frozenset({aten.item.default, aten._local_scalar_dense.default})
_WHOLE: dict[Any, Any] = {
    operator.add: aten.add.Tensor,
    operator.sub: aten.sub.Tensor,
    operator.mul: aten.mul.Tensor,
    operator.neg: aten.neg.default,
}


def _is_read(value: Any) -> bool:
    """Whether a number was read from a tensor, or is whole and computed from one that was."""
    if not isinstance(value, fx.Node) or value.op != "call_function":
        return False
    if value.target in _ITEMS:
        source = tensor_of(value.args[0])
        return source is not None and source.dtype in _READ_AS
    whole = isinstance(value.meta.get("val"), torch.SymInt)
    return whole and value.target in _WHOLE and any(map(_is_read, value.args))


_READ_AS: dict[torch.dtype, torch.dtype] = {
    **dict.fromkeys((torch.int32, torch.int64), torch.int64),
    **dict.fromkeys((torch.float16, torch.bfloat16, torch.float32), torch.float32),
}
"""The dtype of a tensor -> that of a 0-d one which an op takes as it takes the number read from it."""


def _read(value: fx.Node, before: fx.Node, device: torch.device) -> fx.Node | None:
    """A number that was read from a tensor as a 0-d tensor."""
    if value.target not in _ITEMS:
        return _whole(value, before, device)
    source: Any = value.args[0]
    x = source.meta["val"]
    if x.device != device:
        return None
    made = insert_call(before, aten.reshape.default, (source, [])) if x.dim() else source
    wanted = _READ_AS[x.dtype]
    return made if x.dtype is wanted else insert_call(before, aten.to.dtype, (made, wanted))


def _keeps_dtype(node: fx.Node) -> bool:
    """Whether no tensor without dims could take the dtype of a whole number that becomes one."""
    found = (tensor_of(source) for source in node.all_input_nodes)
    return all(x is None or x.dim() or x.dtype.is_floating_point for x in found)


def _with_numbers(node: fx.Node) -> None:
    given = dict(node_arguments(node))
    if given.pop("alpha", 1) != 1:
        return
    device = node.meta["val"].device
    parts: list[Any] = []
    for value in given.values():
        if value is None or tensor_of(value) is not None:
            parts.append(value)
        elif isinstance(value, fx.Node) and _decided(value):
            parts.append(_chosen(value, node, device))
        else:
            parts.append(_plain(value, node, device))
    if any(part is None and value is not None for part, value in zip(parts, given.values())):
        return
    node.target = _WITH_TENSORS[node.target]
    node.args, node.kwargs = tuple(parts), {}


def _plain(value: Any, before: fx.Node, device: torch.device) -> fx.Node | None:
    """A number beside a condition as a 0-d tensor of the dtype that torch makes of it; None for symbolic floats."""
    if isinstance(value, fx.Node) and not isinstance(value.meta.get("val"), torch.SymInt):
        return None
    dtype = (
        torch.float32 if isinstance(value, float) else torch.bool if isinstance(value, bool) else torch.int64
    )
    return insert_call(before, aten.scalar_tensor.default, (value,), {"dtype": dtype, "device": device})


def _full_of(node: fx.Node) -> None:
    """A tensor that is full of a condition, or of what it chooses."""
    traced = node.meta["val"]
    given = node_arguments(node)
    value = given.get("fill_value", given.get("s"))
    made = _chosen(value, node, traced.device) if isinstance(value, fx.Node) and _decided(value) else None
    if made is None:
        return
    full = (
        insert_call(node, aten.to.dtype, (made, traced.dtype))
        if made.meta["val"].dtype != traced.dtype
        else made
    )
    if traced.dim() and "size" in given:
        full = insert_call(node, aten.expand.default, (full, given["size"]))
    elif traced.dim():
        ones = insert_call(node, aten.ones_like.default, (given["self"],), {"dtype": traced.dtype})
        full = insert_call(node, aten.mul.Tensor, (ones, full))
    node.replace_all_uses_with(full)
    node.graph.erase_node(node)


def _chosen(value: fx.Node, before: fx.Node, device: torch.device) -> fx.Node | None:
    """What `_decided` says is decided, as a 0-d tensor."""
    if _is_read(value):
        return _read(value, before, device)
    return (_whole if value.target is torch.sym_ite else _bool_tensor)(value, before, device)


def _bool_tensor(value: Any, before: fx.Node, device: torch.device) -> fx.Node | None:
    """A condition on sizes as a 0-d bool tensor; None for what is neither a relation nor logic."""
    if isinstance(value, bool):
        made = {"dtype": torch.bool, "device": device}
        return insert_call(before, aten.scalar_tensor.default, (value,), made)
    if not isinstance(value, fx.Node):
        return None
    if value.target in _ITEMS:
        x = tensor_of(value.args[0])
        known = x is not None and x.dtype == torch.bool and x.device == device
        return insert_call(before, aten.reshape.default, (value.args[0], [])) if known else None
    part = _whole if value.target in _RELATIONS else _bool_tensor
    op = _RELATIONS.get(value.target) or _LOGIC.get(value.target)
    parts = [part(argument, before, device) for argument in value.args] if op is not None else [None]
    return None if op is None or None in parts else insert_call(before, op, parts)


def _whole(value: Any, before: fx.Node, device: torch.device) -> fx.Node | None:
    """A whole number as a 0-d int64 tensor; None for any other."""
    if isinstance(value, fx.Node) and value.target is torch.sym_ite:
        condition, *ways = value.args
        parts = [_bool_tensor(condition, before, device), *(_whole(way, before, device) for way in ways)]
        return None if None in parts else insert_call(before, aten.where.self, parts)
    if _is_read(value):
        if value.target in _ITEMS:
            return _read(value, before, device) if not value.args[0].meta["val"].is_floating_point() else None
        parts = [_whole(part, before, device) for part in value.args]
        return None if None in parts else insert_call(before, _WHOLE[value.target], parts)
    symbolic = isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.SymInt)
    if not symbolic and type(value) is not int:
        return None
    return insert_call(before, aten.scalar_tensor.default, (value,), {"dtype": torch.int64, "device": device})


def _device(node: fx.Node) -> torch.device:
    """Where the tensors of a node are."""
    found = (tensor_of(source) for source in node.all_input_nodes)
    return next((x.device for x in found if x is not None), torch.device("cpu"))


# ---- counters of loops --------------------------------------------------------------------------------------------

_LOOP = torch.ops.higher_order.while_loop


def loop_counters(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Let loops that carry an int which is used behind them carry it as a tensor, too, and read the int from that; and
    let them go on by a tensor.

    An engine gives tensors alone.
    """
    for node in calls(graph_module, (_LOOP,)):
        _decide_by_tensor(attribute(graph_module, str(node.args[0].target)).graph)  # type: ignore[union-attr]
        for user in list(node.users):
            if (
                user.target is operator.getitem
                and isinstance(user.meta.get("val"), torch.SymInt)
                and user.users
            ):
                _carry_as_tensor(graph_module, node, user)


def _decide_by_tensor(graph: fx.Graph) -> None:
    """Let the condition of a loop be a tensor, where it is a condition on the ints that the loop carries."""
    output = graph.output_node()
    found: Any = output.args[0]
    one = found[0] if isinstance(found, (list, tuple)) else found
    if isinstance(one, fx.Node) and isinstance(one.meta.get("val"), torch.SymBool):
        made = _bool_tensor(one, output, torch.device("cpu"))
        if made is not None:
            output.args = (type(found)([made]) if isinstance(found, (list, tuple)) else made,)
            if graph.owning_module is not None:
                graph.owning_module.recompile()


def _unused(graph: fx.Graph, name: str) -> str:
    """A name for a placeholder that no other has."""
    taken = {str(node.target) for node in graph.find_nodes(op="placeholder")}
    return name if name not in taken else _unused(graph, f"{name}_")


def _carry_as_tensor(owner: fx.GraphModule, loop: fx.Node, counter: fx.Node) -> None:
    condition, body, carried, others = loop.args
    index, place = counter.args[1], len(carried)  # type: ignore[arg-type]
    graphs = [attribute(owner, str(one.target)) for one in (condition, body)]  # type: ignore[union-attr]
    results = list(graphs[1].graph.output_node().args[0])
    if not isinstance(results[index], (fx.Node, int)):  # type: ignore[index]
        return
    options = {"dtype": torch.int64}
    start = insert_call(loop, aten.scalar_tensor.default, (carried[index],), options)  # type: ignore[index]
    for inside in graphs:
        before = inside.graph.find_nodes(op="placeholder")[place - 1]
        with inside.graph.inserting_after(before):
            inside.graph.placeholder(_unused(inside.graph, f"counter_{place}")).meta["val"] = start.meta[
                "val"
            ]
    end = graphs[1].graph.output_node()
    results.append(insert_call(end, aten.scalar_tensor.default, (results[index],), options))  # type: ignore[index]
    end.args = (tuple(results),)
    for inside in graphs:
        inside.recompile()
    loop.args = (condition, body, (*carried, start), others)  # type: ignore[misc]
    loop.meta["val"] = (*loop.meta["val"], start.meta["val"])
    with loop.graph.inserting_before(loop.next):
        last = loop.graph.call_function(operator.getitem, (loop, place))
        last.meta = {**counter.meta, "val": start.meta["val"]}
        number = loop.graph.call_function(aten.item.default, (last,))
        number.meta = dict(counter.meta)
    counter.replace_all_uses_with(number)


# ---- sizes that data decide ---------------------------------------------------------------------------------

_TAKES_SOME = frozenset(
    {
        *(aten.nonzero.default, aten.nonzero_numpy.default, aten.argwhere.default, aten.where.default),
        *(aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default),
    }
)
"""Ops whose result has at most one row for each element of their argument."""


def bounded_results(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Say of ops that take some elements of a tensor that they take no more than it has."""
    for node in graph_module.graph.nodes:
        dims = _looked_at(node) if node.op == "call_function" else None
        if dims is not None:
            elements: Any = 1
            for dim in dims:
                elements = elements * (dim.node.expr if isinstance(dim, torch.SymInt) else dim)
            set_facts(node, at_most=elements)


def _looked_at(node: fx.Node) -> tuple[Any, ...] | None:
    """The shape of what an op takes some elements of; None for other ops."""
    if node.target in _TAKES_SOME:
        return _shape(node.args[0])
    if str(node.target) == "torchvision.nms.default":
        boxes = _shape(node.args[0])
        return boxes and boxes[:1]
    if node.target is aten.masked_select.default:
        given = node_arguments(node)
        x, mask = _shape(given["self"]), _shape(given["mask"])
        return x if x is not None and mask is not None and same_sizes(x[len(x) - len(mask) :], mask) else None
    if node.target is aten.index.Tensor:
        indices: Any = node.args[1]
        masks = [
            index for index in indices if (one := tensor_of(index)) is not None and one.dtype == torch.bool
        ]
        return _shape(masks[0]) if masks else None
    return None


def _shape(value: Any) -> tuple[Any, ...] | None:
    tensor = tensor_of(value)
    return None if tensor is None else tuple(tensor.shape)

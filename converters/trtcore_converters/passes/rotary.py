"""Rotary position embeddings, from halves that models swap, negate and multiply with cosines and sines."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import fx

from trtcore.pack import CompileContext, insert_call, node_arguments
from trtcore_converters.passes._graph import (
    calls,
    fixed,
    in_torch,
    is_call,
    number_of,
    only_user,
    operands,
    replace,
    same_sizes,
    tensor_of,
    uncast,
)
from trtcore_converters.rotary import ROTARY_EMBEDDING

aten = torch.ops.aten


# A procedure and no rules: whether both halves of an angle agree is found by walking back from it, however far.
def recover_rotary(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """``x * cos + cat(-x[half:], x[:half]) * sin`` as one rotary embedding, where a converter takes that.

    Only where both halves of the cosines (and of the sines) are surely the same numbers, as the embedding has
    one angle for a pair. x is of shape (batch, heads, length, size).
    """
    known = fixed(graph_module, ctx)
    halves: dict[tuple[fx.Node, int], fx.Node] = {}
    for total in calls(graph_module, (aten.add.Tensor,)):
        found = _rotation(total)
        if found is None or in_torch(ctx, (total, *total.all_input_nodes)):
            continue
        x, cosines, sines = found
        if not all(_fits(angle, x) and _halves_agree(angle, known) for angle in (cosines, sines)):
            continue
        angles = [_half(angle, x, total, halves) for angle in (cosines, sines)]
        made = insert_call(total, ROTARY_EMBEDDING, (x, *angles))
        if ctx.backend is None or ctx.registry.select(made, ctx).chosen is None:
            _discard(made)
            continue
        replace(total, made, "recover_rotary")


def _rotation(total: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node] | None:
    """(x, cosines, sines) of a sum that rotates the pairs of x."""
    if node_arguments(total)["alpha"] != 1:
        return None
    for straight, swapped in (operands(total), operands(total)[::-1]):
        if not (is_call(straight, (aten.mul.Tensor,)) and is_call(swapped, (aten.mul.Tensor,))):
            continue
        if only_user(straight) is None or only_user(swapped) is None:
            continue
        for rotated, sines in (operands(swapped), operands(swapped)[::-1]):
            x = _rotated(rotated)
            if x is None or x not in straight.args:
                continue
            (cosines,) = [arg for arg in straight.args if arg is not x] or [None]
            if isinstance(cosines, fx.Node) and isinstance(sines, fx.Node):
                return x, cosines, sines
    return None


def _rotated(node: Any) -> fx.Node | None:
    """The x of ``cat([-x[..., half:], x[..., :half]], -1)``."""
    value = tensor_of(node)
    if value is None or value.dim() != 4 or not is_call(node, (aten.cat.default,)):
        return None
    given, size = node_arguments(node), value.shape[-1]
    parts = given["tensors"]
    if given["dim"] % 4 != 3 or len(parts) != 2 or not isinstance(size, int) or size % 2:
        return None
    second, first = parts
    if not is_call(second, (aten.neg.default,)) or only_user(node) is None:
        return None
    x = _slice(second.args[0], size // 2, size)
    return x if x is not None and x is _slice(first, 0, size // 2) else None


def _slice(node: Any, start: int, end: int) -> fx.Node | None:
    """The source of ``x[..., start:end]``, if that is what a node takes."""
    if not is_call(node, (aten.slice.Tensor,)):
        return None
    given, taken = node_arguments(node), node.args[0]
    source = tensor_of(taken)
    if (
        not isinstance(taken, fx.Node)
        or source is None
        or given["dim"] % source.dim() != source.dim() - 1
        or given["step"] != 1
    ):
        return None
    first, last = given["start"] or 0, given["end"]
    size = source.shape[-1]
    if not isinstance(first, int) or not (last is None or isinstance(last, int)):
        return None
    last = size if last is None else min(last, size)
    return taken if (first % size if first < 0 else first, last) == (start, end) else None


def _fits(angle: fx.Node, x: fx.Node) -> bool:
    """Whether cosines or sines are of shape (batch or 1, 1, length, size) and of x's dtype."""
    a, value = tensor_of(angle), tensor_of(x)
    if a is None or value is None or a.dim() != 4 or a.dtype != value.dtype:
        return False
    whole = same_sizes(a.shape[:1], value.shape[:1]) or same_sizes(a.shape[:1], [1])
    return whole and same_sizes(a.shape[1:], [1, *value.shape[2:]])


def _halves_agree(angle: fx.Node, known: dict[fx.Node, torch.Tensor]) -> bool:
    """Whether ``angle[..., :half]`` and ``angle[..., half:]`` are the same numbers."""
    node: Any = angle
    while isinstance(node, fx.Node):
        if node in known:
            first, second = known[node].chunk(2, -1)
            return torch.equal(first, second)
        if is_call(node, (aten.cat.default,)):
            parts, value = node.args[0], tensor_of(node)
            last = value is not None and node_arguments(node)["dim"] % value.dim() == value.dim() - 1
            return last and len(parts) == 2 and parts[0] is parts[1]  # type: ignore[arg-type,index]
        node = _same_elements(node, known)
    return False


def _same_elements(node: fx.Node, known: dict[fx.Node, torch.Tensor]) -> Any:
    """What a node does the same thing to each element of; None where it does something else."""
    if is_call(node, (aten.cos.default, aten.sin.default)):
        return node.args[0]
    if uncast(node) is not node:
        return uncast(node)
    if is_call(node, (aten.unsqueeze.default,)):
        value = tensor_of(node)
        dim = node_arguments(node)["dim"]
        return node.args[0] if value is not None and dim % value.dim() != value.dim() - 1 else None
    if is_call(node, (aten.mul.Tensor, aten.mul.Scalar)):
        for source, factor in (operands(node), operands(node)[::-1]):
            if number_of(factor, known) is not None:
                return source
    return None


def _half(angle: fx.Node, x: fx.Node, before: fx.Node, made: dict[tuple[fx.Node, int], fx.Node]) -> fx.Node:
    """(batch, length, size / 2) of cosines or sines; made once for all rotations with them."""
    value, wanted = tensor_of(angle), tensor_of(x)
    assert value is not None
    assert wanted is not None
    batch = cast("int | torch.SymInt", wanted.shape[0])
    key = (angle, id(batch) if isinstance(batch, torch.SymInt) else batch)
    if key not in made:
        part = insert_call(before, aten.slice.Tensor, (angle, -1, 0, value.shape[-1] // 2), like=angle)
        part = insert_call(before, aten.squeeze.dim, (part, 1), like=angle)
        if not same_sizes(value.shape[:1], wanted.shape[:1]):
            size = batch if isinstance(batch, int) else insert_call(before, aten.sym_size.int, (x, 0))
            part = insert_call(before, aten.expand.default, (part, [size, -1, -1]), like=angle)
        made[key] = part
    return made[key]


def _discard(node: fx.Node) -> None:
    """Take out a call that nothing reads, with what was made for it."""
    queue = [node]
    while queue:
        last = queue.pop()
        if not last.users and last.op == "call_function":
            sources = last.all_input_nodes
            last.graph.erase_node(last)
            queue.extend(dict.fromkeys(sources))

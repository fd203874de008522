"""Attention as ``ExportedProgram.run_decompositions`` leaves it on a CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from trtcore.pack import CompileContext, insert_call, node_arguments
from trtcore_converters.passes._graph import (
    calls,
    fixed,
    in_torch,
    is_call,
    only_user,
    operands,
    replace,
    same_sizes,
    tensor_of,
    uncast,
)

aten = torch.ops.aten

_ATTENTION = aten.scaled_dot_product_attention.default
_VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
_COPIES = (aten.clone.default, aten.contiguous.default)


@dataclass
class _Parts:
    """Attention as it was.

    Attributes:
        query, keys, value: (batch, heads, length, size), or without batch; the keys transposed.
        mask: what is added to the scores.
        scale: what they are multiplied with.
        result: the node to be replaced.
    """

    query: fx.Node
    keys: fx.Node
    value: fx.Node
    mask: fx.Node | None
    scale: float
    result: fx.Node


def recover_decomposed_attention(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """The products and the softmax that torch takes ``scaled_dot_product_attention`` apart into, as that op.

    Its softmax gives 0 where a row may attend to nothing, as attention does; so the two are the same under every mask.
    """
    if ctx.settings.decompose_attention:
        return
    known = fixed(graph_module, ctx)
    for guard in calls(graph_module, (aten.where.self,)):
        scores = _safe_softmax(guard)
        found = _parts(guard, scores, known) if scores is not None else None
        if found is not None and not in_torch(ctx, (guard, found.result)):
            _recover(found)


# ---- what it looks like ------------------------------------------------------------------------------------


def _safe_softmax(guard: fx.Node) -> fx.Node | None:
    """The scores in ``where(not any(not scores == -inf), 0, softmax(scores))``; None for anything else."""
    dead, zeros, softmax = (node_arguments(guard)[name] for name in ("condition", "self", "other"))
    if not is_call(softmax, (aten._softmax.default,)) or not _of_last_dim(softmax):
        return None
    if not is_call(zeros, (aten.full_like.default,)) or zeros.args[1] != 0:
        return None
    some = dead.args[0] if is_call(dead, (aten.logical_not.default,)) else None
    if not is_call(some, (aten.any.dim,)) or not _of_last_dim(some) or not node_arguments(some)["keepdim"]:
        return None
    alive = some.args[0]
    equal = alive.args[0] if is_call(alive, (aten.logical_not.default,)) else None
    if (
        not is_call(equal, (aten.eq.Scalar,))
        or equal.args[1] != -math.inf
        or equal.args[0] is not softmax.args[0]
    ):
        return None
    scores = softmax.args[0]
    return scores if isinstance(scores, fx.Node) else None


def _of_last_dim(node: Any) -> bool:
    value, dim = tensor_of(node.args[0]), node_arguments(node)["dim"]
    return value is not None and value.dim() > 0 and dim % value.dim() == value.dim() - 1


def _parts(guard: fx.Node, scores: fx.Node, known: dict[fx.Node, torch.Tensor]) -> _Parts | None:
    """What goes into the attention around a softmax; None where it is another pattern."""
    shown = tensor_of(guard)
    if shown is None or shown.dim() not in (3, 4):
        return None
    merged = shown.dim() == 4
    user = only_user(guard)
    weights = guard
    if merged and user is not None and is_call(user, _VIEWS):
        weights, user = user, only_user(user)
    if user is None or not is_call(user, (aten.bmm.default,)) or user.args[0] is not weights:
        return None
    product, mask = scores, None
    if is_call(scores, (aten.add.Tensor,)) and node_arguments(scores)["alpha"] == 1:
        product, mask = operands(scores)
        if tensor_of(mask) is None or tensor_of(product) is None:
            return None
        if not same_sizes(tensor_of(product).shape, shown.shape):  # type: ignore[union-attr]
            return None
    product = _merged(product) if merged else product
    if not is_call(product, (aten.bmm.default,)):
        return None
    ends = [_apart(x) if merged else x for x in (*product.args, user.args[1])]
    query, keys, value = (x if isinstance(x, fx.Node) else None for x in ends)
    result = only_user(user) if merged else user
    if query is None or keys is None or value is None or result is None:
        return None
    if merged and (not is_call(result, _VIEWS) or not _rows_of(result, shown)):
        return None
    if not all(_rows_of(x, shown) for x in (query, keys, value)):
        return None
    query, first = _unscaled(query)
    keys, second = _unscaled(keys)
    found = _narrowed(_Parts(query, keys, value, mask, first * second, result), known)
    return found if found.mask is None or _dtype(found.mask) == _dtype(found.query) else None


def _dtype(node: fx.Node) -> torch.dtype | None:
    value = tensor_of(node)
    return None if value is None else value.dtype


def _rows_of(node: Any, shown: torch.Tensor) -> bool:
    """Whether a tensor has the batch and heads of the scores."""
    value = tensor_of(node)
    return value is not None and value.dim() == shown.dim() and same_sizes(value.shape[:-2], shown.shape[:-2])


def _merged(node: Any) -> Any:
    """The product of merged batches whose result is looked at as (batch, heads, rows, columns)."""
    return node.args[0] if is_call(node, _VIEWS) else None


def _apart(node: Any) -> Any:
    """The operand (batch, heads, rows, columns) that a product takes with batch and heads merged."""
    if not is_call(node, _VIEWS):
        return None
    source = node.args[0]
    while is_call(source, _COPIES):
        source = source.args[0]
    value, flat = tensor_of(source), tensor_of(node)
    fits = value is not None and flat is not None and value.dim() == 4 and flat.dim() == 3
    return source if fits and same_sizes(value.shape[-2:], flat.shape[-2:]) else None  # type: ignore[union-attr]


def _unscaled(node: fx.Node) -> tuple[fx.Node, float]:
    """What is multiplied with a number, and the number."""
    if (
        is_call(node, (aten.mul.Scalar,))
        and isinstance(node.args[1], (int, float))
        and isinstance(node.args[0], fx.Node)
    ):
        return node.args[0], float(node.args[1])
    return node, 1.0


def _narrowed(found: _Parts, known: dict[fx.Node, torch.Tensor]) -> _Parts:
    """Attention of 16 bits, which torch computes in float32, as such where all ends are."""
    keys, turned = (
        (found.keys.args[0], found.keys)
        if is_call(found.keys, (aten.permute.default,))
        else (found.keys, None)
    )
    sources = [uncast(x) for x in (found.query, keys, found.value)]
    dtypes, last = {_dtype(x) for x in sources}, only_user(found.result)
    if len(dtypes) != 1 or last is None or uncast(last) is not found.result:
        return found
    (dtype,), mask = dtypes, found.mask
    if dtype is None or _dtype(last) != dtype:
        return found
    if mask is not None and _dtype(mask) != dtype:
        if mask not in known or not bool(((known[mask] == 0) | (known[mask] == -math.inf)).all()):
            return found
        mask = insert_call(last, aten.to.dtype, (mask, dtype), like=mask)
    query, keys, value = sources
    if turned is not None:
        keys = insert_call(last, aten.permute.default, (keys, turned.args[1]), like=turned)
    return _Parts(query, keys, value, mask, found.scale, last)


# ---- what becomes of it ------------------------------------------------------------------------------------


def _recover(found: _Parts) -> None:
    at, mask = found.result, found.mask
    parts = [found.query, insert_call(at, aten.transpose.int, (found.keys, -2, -1)), found.value]
    single = tensor_of(found.query).dim() == 3  # type: ignore[union-attr]
    if single:
        parts = [insert_call(at, aten.unsqueeze.default, (part, 0)) for part in parts]
    made = insert_call(at, _ATTENTION, (*parts, mask), {"scale": found.scale})
    replace(
        at, insert_call(at, aten.squeeze.dim, (made, 0)) if single else made, "recover_decomposed_attention"
    )

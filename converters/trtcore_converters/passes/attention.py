"""Attention, from the products and the softmax that models write it in; and keys and values that were repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from trtcore.pack import CompileContext, insert_call, insert_constant, node_arguments
from trtcore_converters.passes._bounds import Bounds, is_finite
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

aten = torch.ops.aten

_PRODUCTS = frozenset({aten.matmul.default, aten.bmm.default})
_SOFTMAX = frozenset({aten.softmax.int, aten._softmax.default})
_ATTENTION = aten.scaled_dot_product_attention.default
_WHERE = frozenset({aten.where.self, aten.where.ScalarOther})
_FILL = frozenset({aten.masked_fill.Scalar, aten.masked_fill.Tensor})


@dataclass
class _Scores:
    """What stands between the product of queries and keys and the softmax.

    Attributes:
        product: ``query @ keys``.
        scale: what the product is multiplied with.
        mask: what is added to it, if anything.
        allowed: a bool mask instead: where it is False the score becomes `filled`.
    """

    product: fx.Node
    scale: float = 1.0
    mask: fx.Node | None = None
    allowed: fx.Node | None = None
    inverted: bool = False
    filled: float = 0.0


# ---- recover_attention -------------------------------------------------------------------------------------


# A procedure and no rules: scale, mask, filling and casts stand between product and softmax or do not, in any
# combination.
def recover_attention(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """``softmax(query @ keys * scale + mask) @ value`` as ``scaled_dot_product_attention``.

    Taken only where the two are the same for every input: the probabilities are used for nothing else, the
    mask is finite (a row without any key to attend to is NaN in one and 0 in the other) or a constant without
    such rows, and dtypes change nowhere but around the softmax.
    """
    if ctx.settings.decompose_attention:
        return
    known = fixed(graph_module, ctx)
    bounds = Bounds(known)
    for softmax in calls(graph_module, _SOFTMAX):
        found = _product_with_values(softmax)
        scores = _scores(softmax, known) if found is not None else None
        if found is None or scores is None or in_torch(ctx, (softmax, found, scores.product)):
            continue
        made = _attention(graph_module, softmax, found, scores, bounds, known)
        if made is not None:
            replace(found, made, "recover_attention")


def _product_with_values(softmax: fx.Node) -> fx.Node | None:
    """The product of the probabilities with the values; None where the probabilities go elsewhere too."""
    given, value = node_arguments(softmax), tensor_of(softmax)
    if value is None or not value.dim() or given["dim"] % value.dim() != value.dim() - 1:
        return None
    user = only_user(softmax)
    probabilities = softmax
    if user is not None and uncast(user) is softmax:
        probabilities, user = user, only_user(user)
    if user is None or not is_call(user, _PRODUCTS) or user.args[0] is not probabilities:
        return None
    return user if user.args[1] is not probabilities else None


def _scores(softmax: fx.Node, known: dict[fx.Node, torch.Tensor]) -> _Scores | None:
    """The product that the softmax starts from, and what is done to it; None for anything else."""
    node = _private(uncast(softmax.args[0]))
    found = _Scores(product=softmax)
    if node is not None and is_call(node, _WHERE | _FILL):
        node = _filled(node, found, known)
    elif node is not None and is_call(node, (aten.add.Tensor,)):
        node = _masked(node, found)
    node = _scaled(node, found, known)
    if node is None or not is_call(node, _PRODUCTS):
        return None
    found.product = node
    return found


def _private(node: Any) -> fx.Node | None:
    return node if isinstance(node, fx.Node) and only_user(node) is not None else None


def _filled(node: fx.Node, found: _Scores, known: dict[fx.Node, torch.Tensor]) -> fx.Node | None:
    """``masked_fill(scores, mask, number)`` or ``where(mask, scores, number)``."""
    given = node_arguments(node)
    fills = node.target in _FILL
    scores, value = given["self"], number_of(given["value" if fills else "other"], known)
    mask = tensor_of(given["mask" if fills else "condition"])
    if value is None or mask is None or mask.dtype != torch.bool:
        return None
    found.allowed, found.inverted, found.filled = given["mask" if fills else "condition"], fills, value
    return _private(scores) if _same_shape(scores, node) else None


def _masked(node: fx.Node, found: _Scores) -> fx.Node | None:
    """``scores + mask``; the scores are what comes from a product."""
    if node_arguments(node)["alpha"] != 1:
        return None
    for scores, mask in (operands(node), operands(node)[::-1]):
        if tensor_of(scores) is None or tensor_of(mask) is None or not _same_shape(scores, node):
            continue
        if is_call(scores, _PRODUCTS | {aten.mul.Tensor, aten.div.Tensor, aten.mul.Scalar, aten.div.Scalar}):
            if not is_call(scores, _PRODUCTS) and not any(is_call(a, _PRODUCTS) for a in scores.args):
                continue
            found.mask = mask
            return _private(scores)
    return None


def _scaled(node: fx.Node | None, found: _Scores, known: dict[fx.Node, torch.Tensor]) -> fx.Node | None:
    """The product that is multiplied with, or divided by, a number."""
    if node is None or is_call(node, _PRODUCTS):
        return node
    if is_call(node, (aten.mul.Tensor, aten.mul.Scalar)):
        for product, factor in (operands(node), operands(node)[::-1]):
            value = number_of(factor, known)
            if value is not None:
                found.scale = value
                return _private(product)
    if is_call(node, (aten.div.Tensor, aten.div.Scalar)):
        product, divisor = operands(node)
        value = number_of(divisor, known)
        if value:
            found.scale = 1.0 / value
            return _private(product)
    return None


def _attention(
    graph_module: fx.GraphModule,
    softmax: fx.Node,
    result: fx.Node,
    scores: _Scores,
    bounds: Bounds,
    known: dict[fx.Node, torch.Tensor],
) -> fx.Node | None:
    query, keys = scores.product.args
    value = result.args[1]
    q, k, v, r = (tensor_of(node) for node in (query, keys, value, result))
    if q is None or k is None or v is None or r is None or not q.dim() == k.dim() == v.dim() == r.dim():
        return None
    if q.dim() not in (3, 4) or not q.is_floating_point() or not q.dtype == k.dtype == v.dtype == r.dtype:
        return None
    if not (same_sizes(q.shape[:-2], k.shape[:-2]) and same_sizes(q.shape[:-2], v.shape[:-2])):
        return None
    if not _keeps_dtype(scores, q.dtype) or not _softens_wide(softmax, q.dtype):
        return None
    mask, fits = _mask(graph_module, result, scores, bounds, known)
    if not fits:
        return None
    key = insert_call(result, aten.transpose.int, (keys, -2, -1), like=scores.product)
    parts = [query, key, value]
    if q.dim() == 3:
        parts = [insert_call(result, aten.unsqueeze.default, (part, 1)) for part in parts]
        if mask is not None and tensor_of(mask).dim() == 3:  # type: ignore[union-attr]
            mask = insert_call(result, aten.unsqueeze.default, (mask, 1))
    made = insert_call(result, _ATTENTION, (*parts, mask), {"scale": scores.scale})
    return made if q.dim() == 4 else insert_call(result, aten.squeeze.dim, (made, 1))


def _keeps_dtype(scores: _Scores, dtype: torch.dtype) -> bool:
    """Whether scores and mask are of the queries' dtype (the softmax may be of a wider one)."""
    mask = tensor_of(scores.mask)
    product = tensor_of(scores.product)
    return product is not None and product.dtype == dtype and (mask is None or mask.dtype == dtype)


def _softens_wide(softmax: fx.Node, dtype: torch.dtype) -> bool:
    """Whether the softmax takes and gives the queries' dtype, or float32 for 16-bit ones."""
    wide = {dtype, torch.float32} if dtype in (torch.float16, torch.bfloat16) else {dtype}
    ends = [tensor_of(softmax.args[0]), tensor_of(softmax)]
    return all(end is not None and end.dtype in wide for end in ends)


def _mask(
    graph_module: fx.GraphModule,
    result: fx.Node,
    scores: _Scores,
    bounds: Bounds,
    known: dict[fx.Node, torch.Tensor],
) -> tuple[fx.Node | None, bool]:
    """(the mask of the attention, whether there is one that means the same)."""
    if scores.allowed is not None:
        return _bool_mask(graph_module, result, scores, known)
    if scores.mask is None:
        return None, True
    value = tensor_of(scores.mask)
    if value is None or value.dim() not in (2, 3, 4) or value.dim() > tensor_of(scores.product).dim():  # type: ignore[union-attr]
        return None, False
    return scores.mask, is_finite(bounds.of(scores.mask)) or _no_dead_row(known.get(scores.mask))


def _bool_mask(
    graph_module: fx.GraphModule, result: fx.Node, scores: _Scores, known: dict[fx.Node, torch.Tensor]
) -> tuple[fx.Node | None, bool]:
    """The mask of scores that are filled with a number so low that its exponential is 0.

    A row that is filled whole is the mean of all values, which the sum of scores and a finite mask gives too;
    in float16 it would not, as 65504 does not swallow the scores.
    """
    assert scores.allowed is not None
    product, mask = tensor_of(scores.product), tensor_of(scores.allowed)
    if product is None or mask is None or mask.dim() < 2 or mask.dim() > product.dim():
        return None, False
    if scores.filled > torch.finfo(product.dtype).min / 2:
        return None, False
    constant = known.get(scores.allowed)
    if constant is not None:
        constant = ~constant if scores.inverted else constant
        if _no_dead_row(constant):
            return insert_constant(graph_module, result, constant, like=scores.allowed), True
    if product.dtype == torch.float16 or scores.filled == -torch.inf:
        return None, False
    numbers = (scores.filled, 0.0) if scores.inverted else (0.0, scores.filled)
    low, high = (
        insert_constant(graph_module, result, torch.tensor(number, dtype=product.dtype)) for number in numbers
    )
    return insert_call(result, aten.where.self, (scores.allowed, low, high), like=scores.allowed), True


def _no_dead_row(mask: torch.Tensor | None) -> bool:
    """Whether each row of a constant mask leaves a key to attend to."""
    if mask is None:
        return False
    allowed = mask if mask.dtype == torch.bool else mask > -torch.inf
    return bool(allowed.any(-1).all()) and not bool(mask.isnan().any())


def _same_shape(a: Any, b: Any) -> bool:
    x, y = tensor_of(a), tensor_of(b)
    return x is not None and y is not None and same_sizes(x.shape, y.shape)


# ---- group_heads -------------------------------------------------------------------------------------------

_SHAPES = frozenset({aten.reshape.default, aten.view.default, aten.flatten.using_ints})


def group_heads(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Attention over keys and values whose heads were repeated takes the heads themselves (grouped queries)."""
    for node in calls(graph_module, (_ATTENTION,)):
        given = node_arguments(node)
        if given["enable_gqa"]:
            continue
        key, value = (_unrepeated(given[name]) for name in ("key", "value"))
        k, v = tensor_of(key), tensor_of(value)
        if key is None or value is None or k is None or v is None:
            continue
        if not same_sizes(k.shape[1:2], v.shape[1:2]) or in_torch(ctx, (node,)):
            continue
        args = (given["query"], key, value, given["attn_mask"], given["dropout_p"], given["is_causal"])
        made = insert_call(node, _ATTENTION, args, {"scale": given["scale"], "enable_gqa": True}, like=node)
        replace(node, made, "group_heads")


def _unrepeated(node: Any) -> fx.Node | None:
    """Heads (batch, heads, length, size) of which each was repeated in its place; None where none were."""
    value = tensor_of(node)
    if value is None or value.dim() != 4:
        return None
    if is_call(node, (aten.repeat_interleave.self_int,)):
        given = node_arguments(node)
        fits = given["dim"] is not None and given["dim"] % 4 == 1 and isinstance(given["repeats"], int)
        return given["self"] if fits else None
    if not is_call(node, _SHAPES):
        return None
    wide = node.args[0]
    while is_call(wide, (aten.clone.default, aten.contiguous.default)):
        wide = wide.args[0]
    apart = wide.args[0] if is_call(wide, (aten.expand.default,)) else None
    if not is_call(apart, (aten.unsqueeze.default,)):
        return None
    source = apart.args[0]
    heads, spread, single = tensor_of(source), tensor_of(wide), tensor_of(apart)
    if (
        not isinstance(source, fx.Node)
        or heads is None
        or spread is None
        or single is None
        or heads.dim() != 4
        or spread.dim() != 5
    ):
        return None
    if node_arguments(apart)["dim"] % 5 != 2 or not same_sizes(spread.shape[:2], heads.shape[:2]):
        return None
    merged = [heads.shape[0], spread.shape[1] * spread.shape[2], *heads.shape[2:]]
    fits = same_sizes(spread.shape[3:], heads.shape[2:]) and same_sizes(value.shape, merged)
    return source if fits else None

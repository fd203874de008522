"""Scaled dot-product attention: TensorRT's attention layer where it is right, else products and a softmax."""

from __future__ import annotations

import math
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import fx

from trtcore.pack import (
    ConversionContext,
    ITensor,
    NodeContext,
    Operand,
    Priority,
    Reject,
    Requires,
    node_arguments,
)
from trtcore_converters._checks import val
from trtcore_converters._declare import converts
from trtcore_converters._values import LOW_PRECISION, compute_dtype, known_dim
from trtcore_converters.creation import positions
from trtcore_converters.softmax import softmax_along

aten = torch.ops.aten

_alive: WeakKeyDictionary[ConversionContext, dict[Any, Any]] = WeakKeyDictionary()
"""By mask: which rows have a key to attend to. One mask serves all layers of a model."""

_LAYER = Requires(features=("layer:add_attention_v2:decomposable",))


KERNELS = (
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
)
"""What torch takes ``scaled_dot_product_attention`` apart into; the pass `attention_kernels` puts it together again."""


def _inference(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = node_arguments(node)
    if given.get("dropout_p"):
        return Reject("attention with dropout is random; call model.eval() before compiling")
    query = val(given["query"])
    if isinstance(query, torch.Tensor):
        if not query.is_floating_point():
            return Reject("attention is computed in floating point only")
        if given.get("scale") is None and known_dim(query.shape[-1]) is None:
            return Reject("the size of a head varies from call to call")
    return True


def _fits_layer(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    """What TensorRT's attention layer takes: (batch, heads, length, size), one head size and batch for all."""
    accepted = _inference(node, ctx)
    if not accepted:
        return accepted
    if ctx.settings.decompose_attention:
        return Reject("settings.decompose_attention is set")
    given = node_arguments(node)
    query, key, value, mask = (val(given[name]) for name in ("query", "key", "value", "attn_mask"))
    if not all(isinstance(tensor, torch.Tensor) for tensor in (query, key, value)):
        return Reject("the shapes of query, key and value are unknown")
    if any(tensor.dim() != 4 for tensor in (query, key, value)):
        return Reject("the attention layer takes tensors of four dims")
    if not _same(query.shape[-1], value.shape[-1]):
        return Reject("the attention layer takes values of the same size as keys")
    if not (_same(query.shape[0], key.shape[0]) and _same(key.shape[0], value.shape[0])):
        return Reject("the attention layer does not broadcast batches")
    if (
        known_dim(query.shape[-1]) is None or query.shape[-1] == 1
    ):  # a vector of 1 is a number: _scaled_for_layer
        return Reject("the attention layer takes a known head size above 1")
    if not isinstance(query.shape[1], int) or not _same(key.shape[1], value.shape[1]):
        return Reject("the attention layer takes a known number of heads")
    if not given.get("enable_gqa") and key.shape[1] != 1 and not _same(query.shape[1], key.shape[1]):
        return Reject("the attention layer does not broadcast heads, but for one key for all")
    if query.dtype == torch.float32 and any(_widened(given[name]) for name in ("query", "key", "value")):
        return Reject("the attention layer takes no float32 that was widened from 16 bits")
    if mask is not None:
        return _fits_mask(mask, query)
    return True


_MOVERS = frozenset(
    f"aten.{name}"
    for name in (
        *(
            "view",
            "_unsafe_view",
            "reshape",
            "flatten",
            "unflatten",
            "squeeze",
            "unsqueeze",
            "clone",
            "contiguous",
        ),
        *(
            "transpose",
            "permute",
            "t",
            "expand",
            "repeat",
            "repeat_interleave",
            "slice",
            "select",
            "cat",
            "stack",
        ),
    )
)


def _widened(node: Any) -> bool:
    """Whether a tensor is a change of dtype from 16 bits, or elements of one: TensorRT-RTX 1.7.1 moves the cast into
    the products of the layer, and crashes or finds no kernel.
    """
    queue, seen = [node], set()
    while queue:
        node = queue.pop()
        if not isinstance(node, fx.Node) or node in seen or node.op != "call_function":
            continue
        seen.add(node)
        sources = [val(source) for source in node.all_input_nodes]
        if any(isinstance(x, torch.Tensor) and x.dtype in LOW_PRECISION for x in sources):
            return True
        if str(getattr(node.target, "overloadpacket", "")) in _MOVERS:
            queue.extend(node.all_input_nodes)
    return False


def _fits_mask(mask: torch.Tensor, query: torch.Tensor) -> bool | Reject:
    if mask.dtype not in (torch.bool, query.dtype):
        return Reject("the mask is neither bool nor of the query's dtype")
    if mask.dim() > 4:
        return Reject("the attention layer takes masks of at most four dims")
    return True


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int) and isinstance(b, int) and a == b
    return bool(a.node.expr == b.node.expr)


@converts(aten.scaled_dot_product_attention.default, capability_validator=_fits_layer, requires=_LAYER)
def attention_layer(
    ctx: ConversionContext,
    query: Operand,
    key: Operand,
    value: Operand | float,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """TensorRT's attention layer, which may be decomposed where it has no kernel.

    It does not scale: the query is scaled before. Rows that the mask leaves nothing to attend to are set to
    zero behind it, which is what torch gives; in TensorRT they are undefined.
    """
    query, key, value = (ctx.tensor(x) for x in (query, key, value))
    kinds = ctx.trt.CausalMaskKind
    layer = ctx.net.add_attention_v2(
        _scaled_for_layer(ctx, query, scale),
        key,
        value,
        ctx.trt.AttentionNormalizationOp.SOFTMAX,
        kinds.UPPER_LEFT if is_causal and attn_mask is None else kinds.NONE,
    )
    result = ctx.output(layer)
    layer.decomposable = True
    if attn_mask is None:
        return result
    layer.mask = ctx.unsqueeze_to(ctx.tensor(attn_mask), 4)
    return _dead_rows_to_zero(ctx, result, attn_mask)


def _scaled_for_layer(ctx: ConversionContext, query: ITensor, scale: float | None) -> ITensor:
    """`query` times a vector of the scale.

    TensorRT-RTX 1.7.1 takes a product with a number into the attention layer, and crashes where something else has
    the same product. The model's own products are the pass `attention_factors`' part.
    """
    factor = _factor(ctx, query, scale)
    if factor == 1.0:
        return query
    return _times(ctx, query, torch.full((1, 1, 1, _head_size(ctx, query)), factor))


def _scaled(ctx: ConversionContext, query: ITensor, scale: float | None) -> ITensor:
    factor = _factor(ctx, query, scale)
    return query if factor == 1.0 else _times(ctx, query, factor)


def _times(ctx: ConversionContext, query: Operand, factor: Any) -> ITensor:
    dtype = ctx.dtype(query)
    number = factor if isinstance(factor, float) else factor.flatten()[0].item()
    return ctx.cast(ctx.elementwise(query, factor, "PROD", to=compute_dtype(ctx, dtype, number)), dtype)


def _factor(ctx: ConversionContext, query: Operand, scale: float | None) -> float:
    return 1.0 / math.sqrt(_head_size(ctx, query)) if scale is None else float(scale)


def _head_size(ctx: ConversionContext, query: Operand) -> int:
    traced = val(node_arguments(ctx.node)["query"])
    return int(traced.shape[-1]) if isinstance(traced, torch.Tensor) else int(ctx.shape(query)[-1])


def _dead_rows_to_zero(ctx: ConversionContext, result: Any, mask: Any) -> Any:
    """`result` with zeros where a row of the mask (bool, or additive with -inf) allows no key at all."""
    if isinstance(mask, torch.Tensor):
        rows = _allowed(mask).any(-1, keepdim=True)
        if bool(rows.all()):
            return result
        return ctx.select(ctx.constant(rows), result, ctx.constant(0.0, ctx.dtype(result)))
    known = _alive.setdefault(ctx, {})
    if mask not in known:
        known[mask] = _rows_alive(ctx, mask)
    rank = ctx.rank(result)
    zero = ctx.constant(0.0, ctx.dtype(result), rank=rank)
    return ctx.select(ctx.unsqueeze_to(known[mask], rank), result, zero)


def _rows_alive(ctx: ConversionContext, mask: Any) -> ITensor:
    last = ctx.rank(mask) - 1
    if ctx.dtype(mask) == torch.bool:
        return ctx.cast(ctx.reduce(ctx.cast(mask, torch.float32), "MAX", [last], keepdim=True), torch.bool)
    highest = ctx.reduce(mask, "MAX", [last], keepdim=True)
    return ctx.elementwise(highest, -math.inf, "GREATER", to=ctx.dtype(mask))


def _allowed(mask: torch.Tensor) -> torch.Tensor:
    return mask if mask.dtype == torch.bool else mask != -math.inf


# ---- torch's kernels ---------------------------------------------------------------------------------------


def _more_than_attention(node: fx.Node, ctx: NodeContext) -> Reject:
    return Reject(
        "of this kernel an engine gives the attention alone, not its logsumexp or random state, and under a causal "
        "mask only for as many queries as keys; call torch.nn.functional.scaled_dot_product_attention"
    )


@converts(KERNELS, name="kernel_refused", capability_validator=_more_than_attention)
def _kernel(ctx: ConversionContext, *args: Any, **kwargs: Any) -> ITensor:
    raise AssertionError("a refused op is never converted")


# ---- composed ----------------------------------------------------------------------------------------------


@converts(
    aten.scaled_dot_product_attention.default,
    priority=Priority.FALLBACK,
    capability_validator=_inference,
)
def attention_composed(
    ctx: ConversionContext,
    query: Operand,
    key: Operand,
    value: Operand | float,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """``softmax(query @ key.T * scale + mask) @ value``; rows without any allowed key are zero."""
    query, key, value = (ctx.tensor(x) for x in (query, key, value))
    if enable_gqa:
        key, value = (_repeat_heads(ctx, x, ctx.shape(query)[-3]) for x in (key, value))
    scores = ctx.matmul(_scaled(ctx, query, scale), key, transpose_b=True)
    dtype = ctx.dtype(query)
    if attn_mask is None and is_causal:
        attn_mask = _causal_mask(ctx, query, key)
    if attn_mask is None:
        return ctx.matmul(softmax_along(ctx, scores, -1), value)
    if ctx.dtype(attn_mask) == torch.bool:
        scores = ctx.select(ctx.tensor(attn_mask), scores, ctx.constant(-math.inf, dtype))
    else:
        scores = ctx.cast(ctx.elementwise(scores, attn_mask, "SUM"), dtype)
    return _dead_rows_to_zero(ctx, ctx.matmul(softmax_along(ctx, scores, -1), value), attn_mask)


def _repeat_heads(ctx: ConversionContext, x: ITensor, heads: Any) -> ITensor:
    """Every key (or value) head repeated for its group of query heads; x of shape (..., heads, length, size)."""
    *batch, own, length, size = ctx.dims_of(x)
    times = heads // cast(int, own)
    if times == 1:
        return x
    apart = ctx.reshape(x, [*batch, own, 1, length, size])
    wide = ctx.expand(apart, [*batch, own, times, length, size])
    return ctx.reshape(wide, [*batch, heads, length, size])


def _causal_mask(ctx: ConversionContext, query: Operand, key: Operand) -> Operand:
    """(length, key length), True where the query's position is not before the key's."""
    rows, columns = ctx.dim(query, -2), ctx.dim(key, -2)
    if not ctx.is_tensor(rows) and not ctx.is_tensor(columns):
        return torch.ones(rows, columns, dtype=torch.bool).tril()
    row, column = (positions(ctx, size) for size in (rows, columns))
    return ctx.unary(
        ctx.elementwise(ctx.reshape(column, [1, columns]), ctx.reshape(row, [rows, 1]), "GREATER"), "NOT"
    )

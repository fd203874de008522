"""Rows of a table by index, and bags of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from trtcore.pack import (
    ConversionContext,
    ITensor,
    NodeContext,
    Operand,
    Reject,
    node_arguments,
)
from trtcore_converters._checks import all_of, arguments, floating, val
from trtcore_converters._declare import converts
from trtcore_converters._values import used_outputs
from trtcore_converters.accumulate import affordable
from trtcore_converters.creation import positions
from trtcore_converters.shape import same

aten = torch.ops.aten


@converts(aten.embedding.default)
def embedding(
    ctx: ConversionContext,
    weight: Operand,
    indices: Operand,
    padding_idx: Any = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> ITensor:
    """``weight[indices]``; the other arguments are about gradients. Indices out of range are undefined."""
    return ctx.gather(ctx.tensor(weight), ctx.tensor(indices), 0)


# ---- bags --------------------------------------------------------------------------------------------------

_MODES = ("sum", "mean", "max")


def _bags(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    """The op's table of floats, its output alone, and not too many places to compare."""
    given = arguments(node)
    used = used_outputs(node)
    if used is None or used - {0}:
        return Reject(
            "the model uses what embedding_bag keeps for its gradient (offset2bag, bag_size, max_indices)"
        )
    weight, indices, offsets = given["weight"], given["indices"], given["offsets"]
    if not all(isinstance(value, torch.Tensor) for value in (weight, indices, offsets)):
        return Reject("the shapes of weight, indices and offsets are unknown")
    if (given.get("padding_idx") or 0) < 0 and not isinstance(weight.shape[0], int):
        return Reject("padding_idx counts from the end of a table whose length varies")
    if _bag_length(node) is not None:
        return True
    return affordable([offsets.shape[0], indices.shape[0], weight.shape[-1]])


def _bag_length(node: fx.Node) -> int | None:
    """The length of the bags where all have one: offsets are ``arange(0, n, length)``, as for 2-D input."""
    offsets = node_arguments(node)["offsets"]
    if not isinstance(offsets, fx.Node) or offsets.target is not aten.arange.start_step:
        return None
    given = node_arguments(offsets)
    start, end, step = given["start"], val(given["end"]), given["step"]
    indices = val(node_arguments(node)["indices"])
    if start != 0 or not isinstance(step, int) or given.get("include_last_offset"):
        return None
    return step if step > 0 and same(end, indices.shape[0]) else None


@converts(
    [
        aten.embedding_bag.default,
        aten.embedding_bag.padding_idx,
        aten._embedding_bag.default,
        aten._embedding_bag_forward_only.default,
    ],
    capability_validator=all_of(floating("weight"), _bags),
)
def embedding_bag(
    ctx: ConversionContext,
    weight: Operand,
    indices: Operand,
    offsets: Any,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[ITensor, None, None, None]:
    """The sum, mean or maximum of the rows of every bag; bag i has the indices from ``offsets[i]`` on.

    Rows of `padding_idx` do not count, and an empty bag gives zeros. Shapes: weight (rows, size), indices (n,),
    offsets (bags,).
    """
    weight, indices, offsets = ctx.tensor(weight), ctx.tensor(indices, torch.int64), ctx.tensor(offsets)
    dtype = ctx.dtype(weight)
    rows = ctx.cast(ctx.gather(weight, indices, 0), torch.float32)
    if per_sample_weights is not None:
        factors = ctx.cast(ctx.tensor(per_sample_weights), torch.float32)
        rows = ctx.elementwise(rows, ctx.reshape(factors, [*ctx.dims_of(factors), 1]), "PROD")
    counts = None
    if padding_idx is not None and padding_idx < 0 and ctx.node.target is aten.embedding_bag.padding_idx:
        padding_idx += ctx.shape(weight)[0]
    if padding_idx is not None and padding_idx >= 0:
        counts = ctx.unary(ctx.elementwise(indices, padding_idx, "EQUAL", to=torch.int64), "NOT")
    length = None if include_last_offset else _bag_length(ctx.node)
    if length is not None:
        found = _equal_bags(ctx, rows, counts, length, _MODES[mode])
    else:
        found = _any_bags(ctx, rows, counts, offsets, include_last_offset, _MODES[mode])
    return ctx.cast(found, dtype), None, None, None


def _equal_bags(ctx: ConversionContext, rows: Any, counts: Any, length: int, mode: str) -> ITensor:
    """Bags of one length: rows (bags * length, size) as (bags, length, size)."""
    size = ctx.dim(rows, 1)
    bags = ctx.reshape(rows, [-1, length, size])
    if counts is None:
        return ctx.reduce(bags, {"sum": "SUM", "mean": "AVG", "max": "MAX"}[mode], [1])
    hit = ctx.reshape(counts, [-1, length, 1])
    neutral = -math.inf if mode == "max" else 0.0
    return _of_hits(ctx, ctx.select(hit, bags, ctx.constant(neutral)), hit, 1, mode)


def _any_bags(
    ctx: ConversionContext, rows: Any, counts: Any, offsets: Any, include_last_offset: bool, mode: str
) -> ITensor:
    """Every bag looks for its rows: those between its offset and the next bag's."""
    number = ctx.reshape(positions(ctx, ctx.dim(rows, 0)), [1, -1])
    bags = ctx.dim(offsets, 0)
    offsets = ctx.cast(offsets, torch.int64)
    begun = ctx.unary(ctx.elementwise(ctx.reshape(offsets, [bags, 1]), number, "GREATER"), "NOT")
    started = ctx.reduce(ctx.cast(begun, torch.int32), "SUM", [0], keepdim=True)  # how many bags have begun
    if include_last_offset:
        bags = ctx.dim_op(bags, 1, "SUB")
    own = ctx.cast(ctx.elementwise(ctx.reshape(positions(ctx, bags), [bags, 1]), 1, "SUM"), torch.int32)
    hit = ctx.elementwise(started, own, "EQUAL")
    if counts is not None:
        hit = ctx.elementwise(hit, ctx.reshape(counts, [1, -1]), "AND")
    hit = ctx.reshape(hit, [*ctx.dims_of(hit), 1])
    neutral = -math.inf if mode == "max" else 0.0
    return _of_hits(ctx, ctx.select(hit, rows, ctx.constant(neutral)), hit, 1, mode)


def _of_hits(ctx: ConversionContext, chosen: Any, hit: Any, axis: int, mode: str) -> ITensor:
    """The chosen rows as one, by their number for a mean; zeros where there are none."""
    if mode == "sum":
        return ctx.reduce(chosen, "SUM", [axis])
    number = ctx.reduce(ctx.cast(hit, torch.float32), "SUM", [axis])
    if mode == "mean":
        total = ctx.reduce(chosen, "SUM", [axis])
        return ctx.elementwise(total, ctx.elementwise(number, 1.0, "MAX"), "DIV")
    highest = ctx.reduce(chosen, "MAX", [axis])
    return ctx.select(ctx.elementwise(number, 0.0, "GREATER"), highest, ctx.constant(0.0))

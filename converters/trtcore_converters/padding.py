"""Padding, through the out-of-bounds modes of TensorRT's Slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from trtcore.pack import ConversionContext, ITensor, NodeContext, Operand, Reject
from trtcore_converters._checks import all_of, arguments, numeric
from trtcore_converters._declare import converts
from trtcore_converters._spatial import sample

aten = torch.ops.aten

_MODES = {"constant": "FILL", "reflect": "REFLECT", "replicate": "CLAMP", "circular": "WRAP"}


def _wraps_whole(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    """torch wraps what is left after cropping; TensorRT, as both do for reflection and replication, the whole."""
    given = arguments(node)
    if node.target is not aten._pad_circular.default and given.get("mode") != "circular":
        return True
    if any(isinstance(count, int) and count < 0 for count in given["pad"]):
        return Reject("negative counts with wrapping: torch crops before it wraps; crop with a slice before")
    return True


_accepts = all_of(numeric, _wraps_whole)


@converts(aten.constant_pad_nd.default, capability_validator=numeric)
def constant_pad_nd(ctx: ConversionContext, x: Operand, pad: Sequence[Any], value: Any = 0) -> ITensor:
    """Pad with a value; negative counts crop."""
    return padded(ctx, ctx.tensor(x), pad, "constant", value)


@converts(aten.pad.default, capability_validator=_accepts)
def pad(
    ctx: ConversionContext, x: Operand, pad: Sequence[Any], mode: str = "constant", value: Any = None
) -> ITensor:
    """torch.nn.functional.pad in its four modes."""
    return padded(ctx, ctx.tensor(x), pad, mode, value or 0)


@converts(
    [aten.reflection_pad1d.default, aten.reflection_pad2d.default, aten.reflection_pad3d.default],
    capability_validator=_accepts,
)
def reflection_pad(ctx: ConversionContext, x: Operand, padding: Sequence[Any]) -> ITensor:
    """Mirror at the edge element, which is not repeated."""
    return padded(ctx, ctx.tensor(x), padding, "reflect")


@converts(
    [aten.replication_pad1d.default, aten.replication_pad2d.default, aten.replication_pad3d.default],
    capability_validator=_accepts,
)
def replication_pad(ctx: ConversionContext, x: Operand, padding: Sequence[Any]) -> ITensor:
    """Repeat the edge element."""
    return padded(ctx, ctx.tensor(x), padding, "replicate")


@converts(aten._pad_circular.default, capability_validator=_accepts)
def pad_circular(ctx: ConversionContext, x: Operand, pad: Sequence[Any]) -> ITensor:
    """Go on at the other end."""
    return padded(ctx, ctx.tensor(x), pad, "circular")


def padded(ctx: ConversionContext, x: ITensor, counts: Sequence[Any], mode: str, value: Any = 0) -> ITensor:
    """`x` with `counts` elements added before and after its dims: torch's order, the last dim first.

    Args:
        counts: ints or symbolic ints; a pair per dim, dims without one are left as they are.
        mode: "constant", "reflect", "replicate" or "circular".
        value: what "constant" fills in.
    """
    rank = ctx.rank(x)
    before: list[Any] = [0] * rank
    after: list[Any] = [0] * rank
    for i in range(len(counts) // 2):
        before[rank - 1 - i], after[rank - 1 - i] = counts[2 * i], counts[2 * i + 1]
    fill = ctx.constant(value, ctx.dtype(x)) if mode == "constant" and value else None
    return sample(ctx, x, before, after, _MODES[mode], fill)

"""Activations: functions of one element that networks put between their layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from trtcore.pack import (
    ConversionContext,
    Dim,
    ITensor,
    NodeContext,
    Operand,
    Reject,
    node_arguments,
)
from trtcore_converters._checks import all_of, floating
from trtcore_converters._declare import converts
from trtcore_converters._values import output_dtype
from trtcore_converters.elementwise import arithmetic

aten = torch.ops.aten

_FLOATING = floating()


def _activation(kind: str, alpha: float | None = None, beta: float | None = None) -> Callable[..., Any]:
    def convert(ctx: ConversionContext, x: Operand) -> ITensor:
        x = ctx.tensor(x)
        return ctx.activation(ctx.cast(x, output_dtype(ctx, ctx.dtype(x))), kind, alpha, beta)

    return convert


for _op, _convert, _check in (
    (aten.relu.default, _activation("RELU"), arithmetic),
    (aten.sigmoid.default, _activation("SIGMOID"), arithmetic),
    (aten.tanh.default, _activation("TANH"), arithmetic),
    (aten.selu.default, _activation("SELU", 1.6732632423543772, 1.0507009873554805), _FLOATING),
    (aten.relu6.default, _activation("CLIP", 0.0, 6.0), _FLOATING),
    (aten.hardsigmoid.default, _activation("HARD_SIGMOID", 1 / 6, 0.5), _FLOATING),
):
    _name = _op.overloadpacket.__name__
    converts(_op, name=_name, capability_validator=_check)(_convert)


@converts(aten.gelu.default, capability_validator=_FLOATING)
def gelu(ctx: ConversionContext, x: Operand, *, approximate: str = "none") -> ITensor:
    """``x * Phi(x)``, by erf or by the tanh approximation."""
    return ctx.activation(ctx.tensor(x), "GELU_ERF" if approximate == "none" else "GELU_TANH")


@converts(aten.silu.default, capability_validator=_FLOATING)
def silu(ctx: ConversionContext, x: Operand) -> ITensor:
    """``x * sigmoid(x)``."""
    x = ctx.tensor(x)
    return ctx.elementwise(x, ctx.activation(x, "SIGMOID"), "PROD")


@converts(aten.leaky_relu.default, capability_validator=_FLOATING)
def leaky_relu(ctx: ConversionContext, x: Operand, negative_slope: float = 0.01) -> ITensor:
    """``x`` where positive, else ``negative_slope * x``."""
    return ctx.activation(ctx.tensor(x), "LEAKY_RELU", negative_slope)


def _not_training(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    if node_arguments(node).get("training"):
        return Reject("its slopes are random in training mode; call model.eval() before compiling")
    return _FLOATING(node, ctx)


@converts(aten.rrelu.default, capability_validator=_not_training)
def rrelu(
    ctx: ConversionContext,
    x: Operand,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    generator: Any = None,
) -> ITensor:
    """At inference a leaky ReLU with the slope in the middle of the bounds."""
    return leaky_relu(ctx, x, (lower + upper) / 2)


@converts(aten.elu.default, capability_validator=_FLOATING)
def elu(
    ctx: ConversionContext, x: Operand, alpha: float = 1, scale: float = 1, input_scale: float = 1
) -> ITensor:
    """``scale * x`` where positive, else ``scale * alpha * (exp(input_scale * x) - 1)``."""
    x = ctx.tensor(x)
    if scale == 1 == input_scale:
        return ctx.activation(x, "ELU", alpha)
    wide = ctx.cast(x, torch.float32)
    below = ctx.elementwise(ctx.unary(ctx.elementwise(wide, input_scale, "PROD"), "EXP"), 1.0, "SUB")
    result = ctx.select(
        ctx.elementwise(wide, 0.0, "GREATER"),
        ctx.elementwise(wide, float(scale), "PROD"),
        ctx.elementwise(below, float(scale * alpha), "PROD"),
    )
    return ctx.cast(result, ctx.dtype(x))


@converts(aten.celu.default, capability_validator=_FLOATING)
def celu(ctx: ConversionContext, x: Operand, alpha: float = 1) -> ITensor:
    """``x`` where positive, else ``alpha * (exp(x / alpha) - 1)``."""
    return elu(ctx, x, alpha, 1, 1 / alpha)


@converts(aten.hardtanh.default, capability_validator=arithmetic)
def hardtanh(ctx: ConversionContext, x: Operand, min_val: Any = -1, max_val: Any = 1) -> ITensor:
    """``x`` between two bounds."""
    x = ctx.tensor(x)
    dtype = ctx.dtype(x)
    return ctx.elementwise(ctx.elementwise(x, min_val, "MAX", to=dtype), max_val, "MIN", to=dtype)


@converts(aten.hardswish.default, capability_validator=_FLOATING)
def hardswish(ctx: ConversionContext, x: Operand) -> ITensor:
    """``x * hardsigmoid(x)``."""
    x = ctx.tensor(x)
    return ctx.elementwise(x, ctx.activation(x, "HARD_SIGMOID", 1 / 6, 0.5), "PROD")


@converts(aten.softplus.default, capability_validator=_FLOATING)
def softplus(ctx: ConversionContext, x: Operand, beta: float = 1, threshold: float = 20) -> ITensor:
    """``log(1 + exp(beta * x)) / beta``, and x itself where ``beta * x > threshold``."""
    x = ctx.tensor(x)
    wide = ctx.cast(x, torch.float32)
    smooth = ctx.activation(wide, "SOFTPLUS", 1 / beta, beta)
    if threshold < 20:  # beyond 20 the two are the same number in float32
        above = ctx.elementwise(ctx.elementwise(wide, float(beta), "PROD"), float(threshold), "GREATER")
        smooth = ctx.select(above, wide, smooth)
    return ctx.cast(smooth, ctx.dtype(x))


@converts(aten.mish.default, capability_validator=_FLOATING)
def mish(ctx: ConversionContext, x: Operand) -> ITensor:
    """``x * tanh(softplus(x))``."""
    x = ctx.tensor(x)
    wide = ctx.cast(x, torch.float32)
    gate = ctx.activation(ctx.activation(wide, "SOFTPLUS", 1.0, 1.0), "TANH")
    return ctx.cast(ctx.elementwise(wide, gate, "PROD"), ctx.dtype(x))


@converts(aten.log_sigmoid.default, capability_validator=_FLOATING)
def log_sigmoid(ctx: ConversionContext, x: Operand) -> ITensor:
    """``-softplus(-x)``: the logarithm of a sigmoid would be -inf where that underflows."""
    x = ctx.tensor(x)
    wide = ctx.unary(ctx.cast(x, torch.float32), "NEG")
    return ctx.cast(ctx.unary(ctx.activation(wide, "SOFTPLUS", 1.0, 1.0), "NEG"), ctx.dtype(x))


@converts([aten.prelu.default, aten._prelu_kernel.default], capability_validator=all_of(_FLOATING))
def prelu(ctx: ConversionContext, x: Operand, weight: Operand) -> ITensor:
    """``x`` where positive, else ``weight * x``, with one weight in all or one per channel (dim 1)."""
    x = ctx.tensor(x)
    rank = ctx.rank(x)
    slope = ctx.tensor(weight)
    if ctx.rank(slope) == 1:
        shape: list[Dim] = [1] * max(rank, 1)
        if ctx.shape(slope) != (1,):
            shape[1] = ctx.dim(slope, 0)
        slope = ctx.reshape(slope, shape if rank else [])
    below = ctx.elementwise(x, slope, "PROD")
    return ctx.select(ctx.elementwise(x, 0.0, "GREATER", to=ctx.dtype(x)), x, below)


@converts(aten.threshold.default, capability_validator=arithmetic)
def threshold(ctx: ConversionContext, x: Operand, threshold: Any, value: float) -> ITensor:
    """``x`` where it is above the threshold, else `value`."""
    x = ctx.tensor(x)
    dtype = ctx.dtype(x)
    return ctx.select(ctx.elementwise(x, threshold, "GREATER", to=dtype), x, ctx.constant(value, dtype))

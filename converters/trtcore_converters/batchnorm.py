"""Batch and instance normalisation.

With running statistics both are ``x * scale + shift`` per channel, with constants folded in float64. fp16
and bf16 inputs are computed in fp32 and rounded once, as torch does: a rounded shift would be off by as much
as the mean is large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from trtcore.pack import (
    ConversionContext,
    ITensor,
    NodeContext,
    Operand,
    Reject,
)
from trtcore_converters._checks import all_of, arguments, floating, only_first_output_used
from trtcore_converters._declare import converts
from trtcore_converters._values import output, used_outputs

aten = torch.ops.aten


def _inference(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = arguments(node)
    training = given.get("training", given.get("train", given.get("use_input_stats", False)))
    if training and given.get("running_mean") is not None:
        return Reject("training mode updates the running statistics; call model.eval() before compiling")
    return True


_accepts = all_of(floating(), _inference)


@converts(aten.batch_norm.default, capability_validator=_accepts)
def batch_norm(
    ctx: ConversionContext,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    running_mean: Operand | None,
    running_var: Operand | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> ITensor:
    """Batch normalisation; without running statistics with those of the batch."""
    if running_mean is None or running_var is None or training:
        axes = [axis for axis in range(ctx.rank(x)) if axis != 1]
        return _normalise(ctx, ctx.tensor(x), axes, weight, bias, eps)
    return _scale_and_shift(ctx, ctx.tensor(x), weight, bias, running_mean, running_var, eps)


@converts(
    aten._native_batch_norm_legit_no_training.default,
    capability_validator=all_of(floating(), only_first_output_used("saved statistics")),
)
def native_batch_norm_no_training(
    ctx: ConversionContext,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    running_mean: Operand,
    running_var: Operand,
    momentum: float,
    eps: float,
) -> tuple[ITensor, None, None]:
    """What batch_norm decomposes into at inference."""
    return _scale_and_shift(ctx, ctx.tensor(x), weight, bias, running_mean, running_var, eps), None, None


@converts(
    [
        aten.native_batch_norm.default,
        aten._native_batch_norm_legit.default,
        aten._native_batch_norm_legit.no_stats,
    ],
    capability_validator=_accepts,
)
def native_batch_norm(
    ctx: ConversionContext, x: Operand, weight: Operand | None, bias: Operand | None, *settings: Any
) -> list[ITensor | None]:
    """Batch normalisation with the statistics of the batch, where it used them."""
    *running, training, momentum, eps = settings
    return _with_statistics(
        ctx, x, weight, bias, [r for r in running if r is not None], training, momentum, eps
    )[:3]


@converts(aten._native_batch_norm_legit_functional.default, capability_validator=floating())
def native_batch_norm_functional(
    ctx: ConversionContext,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    mean: Operand | None,
    var: Operand | None,
    *settings: Any,
) -> list[ITensor | None]:
    """Batch normalisation that gives its statistics, and in training what the running ones become, as values."""
    return _with_statistics(ctx, x, weight, bias, [mean, var], *settings)


def _no_reserve(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    used = used_outputs(node)
    if used is None or 3 in used:
        return Reject("the model uses the op's reserve, which is uint8, of which TensorRT makes none")
    return True


@converts(
    aten._batch_norm_with_update_functional.default,
    capability_validator=all_of(floating(), _no_reserve),
)
def batch_norm_with_update_functional(
    ctx: ConversionContext,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    mean: Operand | None,
    var: Operand | None,
    momentum: float,
    eps: float,
) -> tuple[ITensor | None, ...]:
    """The same, in training; without the reserve, which cuDNN keeps for its backward pass."""
    *saved, new_mean, new_var = _with_statistics(ctx, x, weight, bias, [mean, var], True, momentum, eps)
    return *saved, None, new_mean, new_var


@converts(aten._batch_norm_no_update.default, capability_validator=all_of(floating(), _no_reserve))
def batch_norm_no_update(
    ctx: ConversionContext,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    mean: Operand | None,
    var: Operand | None,
    momentum: float,
    eps: float,
) -> tuple[ITensor | None, ...]:
    """Batch normalisation at inference, with statistics that are empty, and without the reserve."""
    return *_with_statistics(ctx, x, weight, bias, [mean, var], False, momentum, eps)[:3], None


def _with_statistics(
    ctx: ConversionContext,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    running: Sequence[Any],
    training: bool,
    momentum: float,
    eps: float,
) -> list[ITensor | None]:
    """The result, the mean and 1 / sqrt(variance + eps) of the batch, and what the running statistics become."""
    x = ctx.tensor(x)
    if training or not running:
        axes = [axis for axis in range(ctx.rank(x)) if axis != 1]
        out = _normalise(ctx, x, axes, weight, bias, eps)
        used = used_outputs(ctx.node)
        if used is not None and not used - {0}:
            return [out, None, None, *(None for _ in running)]
        mean, squares = _batch_statistics(ctx, x, axes)
        count = ctx.scalar(ctx.dim_product([ctx.dim(x, axis) for axis in axes]), torch.float32)
        var = ctx.elementwise(squares, count, "DIV")
        inverse = ctx.unary(ctx.unary(ctx.elementwise(var, eps, "SUM"), "SQRT"), "RECIP")
        unbiased = ctx.elementwise(squares, ctx.elementwise(count, 1.0, "SUB"), "DIV")
        saved = [ctx.cast(v, _result_dtype(ctx, i, torch.float32)) for i, v in enumerate((mean, inverse), 1)]
        return [out, *saved, *_updated(ctx, running, [mean, unbiased], momentum)]
    mean, var = running
    out = _scale_and_shift(ctx, x, weight, bias, mean, var, eps)
    empty = ctx.constant(torch.empty(0, dtype=_result_dtype(ctx, 1, torch.float32)))
    kept = (ctx.tensor(v, ctx.dtype(v)) for v in running)
    return [out, empty, empty, *kept]


def _batch_statistics(ctx: ConversionContext, x: Operand, axes: list[int]) -> tuple[ITensor, ITensor]:
    """Mean and sum of squared distances from it, per channel, in fp32."""
    x = ctx.cast(x, torch.float32)
    mean = ctx.reduce(x, "AVG", axes, keepdim=True)
    centred = ctx.elementwise(x, mean, "SUB")
    squares = ctx.reduce(ctx.elementwise(centred, centred, "PROD"), "SUM", axes)
    return ctx.reshape(mean, ctx.dims_of(squares)), squares


def _result_dtype(ctx: ConversionContext, number: int, default: torch.dtype) -> torch.dtype:
    """The dtype that the trace has for a result, which need not be that of the statistics that come in."""
    value = output(ctx, number)
    return default if value is None else value.dtype


def _updated(
    ctx: ConversionContext, running: Sequence[Any], batch: Sequence[Any], momentum: float
) -> list[ITensor]:
    """The running mean and variance (the op's last results) moved towards those of the batch."""
    first = len(ctx.node.meta["val"]) - len(running)
    return [
        ctx.cast(
            ctx.elementwise(
                ctx.elementwise(old, 1 - momentum, "PROD", to=torch.float32),
                ctx.elementwise(new, momentum, "PROD"),
                "SUM",
            ),
            _result_dtype(ctx, place, ctx.dtype(old)),
        )
        for place, (old, new) in enumerate(zip(running, batch), first)
    ]


@converts(aten.instance_norm.default, capability_validator=_accepts)
def instance_norm(
    ctx: ConversionContext,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    running_mean: Operand | None,
    running_var: Operand | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> ITensor:
    """Instance normalisation: statistics per sample and channel, or the running ones."""
    x = ctx.tensor(x)
    if use_input_stats:
        return _normalise(ctx, x, list(range(2, ctx.rank(x))), weight, bias, eps)
    assert running_mean is not None
    assert running_var is not None
    return _scale_and_shift(ctx, x, weight, bias, running_mean, running_var, eps)


def _scale_and_shift(
    ctx: ConversionContext,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    mean: Operand,
    var: Operand,
    eps: float,
) -> ITensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` with statistics per channel (dim 1)."""
    dtype = ctx.dtype(x)
    x = ctx.cast(x, torch.float32)
    if ctx.is_tensor(weight) or ctx.is_tensor(bias) or ctx.is_tensor(mean) or ctx.is_tensor(var):
        return ctx.cast(_affine_at_run_time(ctx, x, weight, bias, mean, var, eps), dtype)
    scale = torch.rsqrt(var.double() + eps)
    if weight is not None:
        scale = scale * weight.double()
    shift = -mean.double() * scale
    if bias is not None:
        shift = shift + bias.double()
    channels, trt = scale.numel(), ctx.trt
    scale, shift = scale.float().reshape(channels), shift.float().reshape(channels)
    layer = ctx.net.add_scale_nd(
        x, trt.ScaleMode.CHANNEL, ctx.weights(shift), ctx.weights(scale), trt.Weights(trt.DataType.FLOAT), 1
    )
    return ctx.cast(ctx.output(layer), dtype)


def _affine_at_run_time(
    ctx: ConversionContext,
    x: ITensor,
    weight: Operand | None,
    bias: Operand | None,
    mean: Operand,
    var: Operand,
    eps: float,
) -> ITensor:
    """The same where a statistic or a parameter is computed by the engine."""
    centred = ctx.elementwise(x, _per_channel(ctx, x, mean), "SUB")
    return _affine(ctx, centred, _per_channel(ctx, x, var), weight, bias, eps)


def _normalise(
    ctx: ConversionContext,
    x: Operand,
    axes: list[int],
    weight: Operand | None,
    bias: Operand | None,
    eps: float,
) -> ITensor:
    """Normalise by the mean and (biased) variance of `x` over `axes`, in fp32."""
    dtype = ctx.dtype(x)
    x = ctx.cast(x, torch.float32)
    centred = ctx.elementwise(x, ctx.reduce(x, "AVG", axes, keepdim=True), "SUB")
    var = ctx.reduce(ctx.elementwise(centred, centred, "PROD"), "AVG", axes, keepdim=True)
    out = _affine(ctx, centred, var, weight, bias, eps)
    return ctx.cast(out, dtype)


def _affine(
    ctx: ConversionContext,
    centred: ITensor,
    var: ITensor,
    weight: Operand | None,
    bias: Operand | None,
    eps: float,
) -> ITensor:
    """``centred / sqrt(var + eps) * weight + bias``, with a weight and a bias per channel."""
    scale = ctx.unary(ctx.unary(ctx.elementwise(var, eps, "SUM"), "SQRT"), "RECIP")
    if weight is not None:
        scale = ctx.elementwise(scale, _per_channel(ctx, centred, weight), "PROD")
    out = ctx.elementwise(centred, scale, "PROD")
    return out if bias is None else ctx.elementwise(out, _per_channel(ctx, centred, bias), "SUM")


def _per_channel(ctx: ConversionContext, x: ITensor, value: Operand) -> ITensor:
    """A value per channel, in fp32, shaped to go with `x`."""
    shape = [-1, *[1] * (ctx.rank(x) - 2)]
    if isinstance(value, torch.Tensor):
        return ctx.constant(value.float().reshape(shape))
    return ctx.reshape(ctx.cast(value, torch.float32), shape)

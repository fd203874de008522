"""Convolutions take over what stands next to them: a batch normalisation behind, zero padding in front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from trtcore.pack import CompileContext, insert_call, insert_constant, node_arguments
from trtcore_converters.passes._graph import (
    calls,
    constants,
    in_torch,
    is_call,
    only_user,
    replace,
    tensor_of,
)

aten = torch.ops.aten

_CONVOLUTIONS = frozenset({aten.conv1d.default, aten.conv2d.default, aten.conv3d.default})
_NAMED_PADDING = frozenset({aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding})
_TRANSPOSED = frozenset(
    {aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input}
)
_FOLDABLE = _CONVOLUTIONS | _NAMED_PADDING | _TRANSPOSED
_NORMALISATION = frozenset({aten.batch_norm.default})


# ---- fold_batch_norm ---------------------------------------------------------------------------------------


# A procedure and no rules: nine ops, each with strides and paddings of its own that are handed on as they are.
def fold_batch_norm(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """A batch normalisation at inference goes into the weight and bias of the convolution before it.

    Computed in float64 and rounded once. Left alone where weights are to stay replaceable, and where the new
    ones would not be finite.
    """
    if not ctx.settings.immutable_weights:
        return
    while found := _with_norms(
        graph_module, ctx
    ):  # of two norms in a row, the second has its convolution then
        for node, convolution, folded in found:
            weight, bias = (insert_constant(graph_module, node, value, like=convolution) for value in folded)
            args = (convolution.args[0], weight, bias, *convolution.args[3:])
            kwargs = {name: v for name, v in convolution.kwargs.items() if name not in ("weight", "bias")}
            value = convolution.meta["val"]  # weight and bias are of the dtype and shape that they were
            made = insert_call(node, convolution.target, args, kwargs, like=convolution, value=value)
            replace(node, made, "fold_batch_norm")


def _with_norms(
    graph_module: fx.GraphModule, ctx: CompileContext
) -> list[tuple[fx.Node, fx.Node, tuple[torch.Tensor, torch.Tensor]]]:
    """(normalisation, convolution, new weight and bias). All arithmetic is done before the graph is changed: it leaves
    nothing else in the processor's caches."""
    nodes = [node for node in calls(graph_module, _NORMALISATION) if is_call(node.args[0], _FOLDABLE)]
    known = constants(graph_module) if nodes else {}
    found = []
    for node in nodes:
        convolution: Any = node.args[0]
        if only_user(convolution) is not node or in_torch(ctx, (node, convolution)):
            continue
        folded = _folded(convolution, node_arguments(node), known)
        if folded is not None:
            found.append((node, convolution, folded))
    return found


def _folded(
    convolution: fx.Node, norm: dict[str, Any], known: dict[fx.Node, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Weight and bias of the convolution that normalises as it goes; None where they are not known now."""
    given = node_arguments(convolution)
    names = ("running_mean", "running_var", "weight", "bias")
    if norm["training"] or norm["running_mean"] is None or norm["running_var"] is None:
        return None
    sources = [given["weight"], given["bias"], *(norm[name] for name in names)]
    if any(source is not None and source not in known for source in sources):
        return None
    weight = known[given["weight"]]
    bias, mean, variance, gamma, beta = (
        None if source is None else known[source].double() for source in sources[1:]
    )
    assert mean is not None
    assert variance is not None
    factor = (variance + norm["eps"]).rsqrt() * (1.0 if gamma is None else gamma)
    bias = (0.0 if bias is None else bias) - mean
    bias = (bias * factor + (0.0 if beta is None else beta)).to(weight.dtype)
    scaled = _scaled(weight, _per_channel(factor, weight, convolution, given["groups"]))
    return (scaled, bias) if scaled is not None and bool(bias.isfinite().all()) else None


_BLOCK = 32767  # elements: what the caches hold in float64, and the most that torch does on one thread


@torch.no_grad()  # the weights of a model are parameters
def _scaled(weight: torch.Tensor, factor: torch.Tensor) -> torch.Tensor | None:
    """``(weight.double() * factor).to(weight.dtype)``, a few rows at a time: float64 copies of whole weights took most
    of the time that a residual network is lowered in. None where a result is not finite."""
    result = torch.empty_like(weight)
    rows = max(1, _BLOCK // max(1, weight[:1].numel()))
    sums = []
    for part, scale, made in zip(*(torch.split(whole, rows) for whole in (weight, factor, result))):
        torch.mul(
            part, scale, out=made
        )  # in the wider dtype, which is the factor's, and rounded into the result
        sums.append(made.sum())  # while the caches have it
    # A sum that is finite says so of all that it sums up; one that is not may be too large itself.
    finite = all(map(math.isfinite, torch.stack(sums).tolist())) or bool(result.isfinite().all())
    return result if finite else None


def _per_channel(
    factor: torch.Tensor, weight: torch.Tensor, convolution: fx.Node, groups: int
) -> torch.Tensor:
    """The factor of each output channel, in the shape of the weight."""
    spatial = [1] * (weight.dim() - 2)
    if convolution.target not in _TRANSPOSED:  # (out, in / groups, ...)
        return factor.reshape(-1, 1, *spatial)
    rows = factor.reshape(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1)
    return rows.reshape(weight.shape[0], -1, *spatial)  # (in, out / groups, ...)


# ---- fold_padding ------------------------------------------------------------------------------------------


def fold_padding(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Zeros put around an image become the convolution's own padding, where both sides get as many."""
    for node in calls(graph_module, _CONVOLUTIONS):
        if in_torch(ctx, (node,)):
            continue
        given = node_arguments(node)
        source, value = given["input"], tensor_of(given["input"])
        if value is None or not is_call(source, (aten.constant_pad_nd.default, aten.pad.default)):
            continue
        spatial = len(given["padding"])
        extra = _zeros_around(source, spatial)
        if extra is None or value.dim() not in (spatial + 1, spatial + 2) or in_torch(ctx, (source,)):
            continue
        padding = [own + more for own, more in zip(given["padding"], extra)]
        args = (source.args[0], given["weight"], given["bias"], given["stride"], padding)
        made = insert_call(node, node.target, (*args, given["dilation"], given["groups"]), like=node)
        replace(node, made, "fold_padding")


def _zeros_around(pad: fx.Node, spatial: int) -> Sequence[int] | None:
    """How many zeros a pad puts on both sides of each spatial dim; None where it does something else."""
    given = node_arguments(pad)
    if given.get("mode", "constant") != "constant" or (given["value"] or 0) != 0:
        return None
    pads = list(given["pad"])
    if not all(isinstance(p, int) and p >= 0 for p in pads):
        return None
    pairs = [tuple(pads[i : i + 2]) for i in range(0, len(pads), 2)]
    if any(before != after for before, after in pairs) or any(p != (0, 0) for p in pairs[spatial:]):
        return None
    sizes = [before for before, _ in pairs[:spatial]]
    return list(reversed(sizes + [0] * (spatial - len(sizes))))

"""RMS normalisation, from the arithmetic that models write it in."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from trtcore.pack import CompileContext, insert_call, node_arguments
from trtcore_converters.passes._graph import (
    calls,
    fixed,
    in_torch,
    is_call,
    is_private,
    number_of,
    only_user,
    operands,
    replace,
    tensor_of,
    uncast,
)

aten = torch.ops.aten

_LOW = frozenset({torch.float16, torch.bfloat16})


# A procedure and no rules: which dims are normalised, the casts around it and the weight behind it each double the
# number of ways to write it.
def recover_rms_norm(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """``x * rsqrt(mean(x * x) + eps)``, and the weight behind it, as ``rms_norm``.

    A 16-bit input that the model normalises in float32 and rounds again is normalised whole; its weight, which
    the model multiplies after the rounding, stays outside, so that every rounding is where it was.
    """
    known = fixed(graph_module, ctx)
    for root in calls(graph_module, (aten.rsqrt.default,)):
        found = _normalised(root, known)
        if found is None:
            continue
        result, x, shape, eps = found
        if in_torch(ctx, (root, result)):
            continue
        rounded = only_user(result)
        source = uncast(x)
        if source is not x and rounded is not None and _is_rounding(rounded, result, source):
            result, x = rounded, source
            made = insert_call(result, aten.rms_norm.default, (x, shape, None, eps), like=root)
        else:
            result, weight = _weighted(result, shape, known)
            made = insert_call(result, aten.rms_norm.default, (x, shape, weight, eps), like=root)
        replace(result, made, "recover_rms_norm")


def _normalised(
    root: fx.Node, known: dict[fx.Node, torch.Tensor]
) -> tuple[fx.Node, fx.Node, list[int], float] | None:
    """(the product, x, the normalised shape, eps) of the normalisation whose rsqrt is given."""
    total = root.args[0]
    if not is_call(total, (aten.add.Tensor, aten.add.Scalar)) or node_arguments(total)["alpha"] != 1:
        return None
    mean, eps = _mean_and_eps(total, known)
    if mean is None or eps is None or eps < 0:
        return None
    given = node_arguments(mean)
    x = _squared(given["self"])
    value, product = tensor_of(x), only_user(root)
    if (
        value is None
        or not value.dim()
        or value.dtype != torch.float32
        or given["dtype"] not in (None, torch.float32)
    ):
        return None
    dims = sorted(dim % value.dim() for dim in given["dim"] or range(value.dim()))
    shape = list(value.shape[value.dim() - len(dims) :])
    if not given["keepdim"] or dims != list(range(value.dim() - len(dims), value.dim())):
        return None
    if not all(isinstance(size, int) for size in shape):
        return None
    if not is_call(product, (aten.mul.Tensor,)) or set(operands(product)) != {x, root}:
        return None
    return (product, x, shape, eps) if is_private(given["self"], mean, total) else None


def _mean_and_eps(total: Any, known: dict[fx.Node, torch.Tensor]) -> tuple[fx.Node | None, float | None]:
    for mean, eps in (operands(total), operands(total)[::-1]):
        if is_call(mean, (aten.mean.dim,)):
            return mean, number_of(eps, known)
    return None, None


def _squared(node: Any) -> Any:
    """What is squared; None where nothing is."""
    if is_call(node, (aten.pow.Tensor_Scalar,)) and node.args[1] == 2:
        return node.args[0]
    if is_call(node, (aten.square.default,)):
        return node.args[0]
    if is_call(node, (aten.mul.Tensor,)) and node.args[0] is node.args[1]:
        return node.args[0]
    return None


def _is_rounding(node: fx.Node, result: fx.Node, source: Any) -> bool:
    """Whether a node rounds the result to the 16-bit dtype that the source has."""
    before, after = tensor_of(source), tensor_of(node)
    if before is None or after is None or before.dtype not in _LOW:
        return False
    return uncast(node) is result and after.dtype == before.dtype


def _weighted(
    result: fx.Node, shape: list[int], known: dict[fx.Node, torch.Tensor]
) -> tuple[fx.Node, fx.Node | None]:
    """The product with a constant weight behind the normalisation, and the weight, if there is one."""
    product = only_user(result)
    if product is None or not is_call(product, (aten.mul.Tensor,)):
        return result, None
    for normalised, weight in (operands(product), operands(product)[::-1]):
        values = known.get(weight) if isinstance(weight, fx.Node) else None
        fits = values is not None and list(values.shape) == shape and values.dtype == torch.float32
        if normalised is result and fits:
            return product, weight
    return result, None

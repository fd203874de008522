"""What ops without a converter are rewritten into: torch's own decompositions, and a few of ours.

The core asks this table only for nodes that no converter takes, and uses an answer only where all of its pieces
convert; so the table is wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch

from trtcore_converters import strict
from trtcore_converters.cumulative import SCANS
from trtcore_converters.decompositions_indexing import TABLE as INDEXING
from trtcore_converters.decompositions_linalg import TABLE as LINALG
from trtcore_converters.decompositions_prims import table as prims
from trtcore_converters.decompositions_recurrent import TABLE as RECURRENT
from trtcore_converters.decompositions_spatial import TABLE as SPATIAL
from trtcore_converters.decompositions_varying import TABLE as VARYING
from trtcore_converters.order import ORDER
from trtcore_converters.special import SPECIAL, float_of
from trtcore_converters.torch_private import decomposition_tables

aten = torch.ops.aten

# Left whole: their decompositions make data-dependent shapes or numbers that are not the op's.
_KEPT = frozenset(
    f"aten::{name}"
    for name in (
        *("item", "_local_scalar_dense", "nonzero", "empty_strided"),
        *(
            "fmod",
            "remainder",
            "floor_divide",
            "pow",
            "div",
        ),  # what their converters refuse is lost in pieces, too
    )
)


# What ``torch.func.grad`` in forward leaves: models whose result is a derivative (forces of an energy).
_DERIVATIVES = frozenset(
    f"{name}_backward"
    for name in (
        *(
            "tanh",
            "sigmoid",
            "gelu",
            "silu",
            "threshold",
            "softplus",
            "elu",
            "leaky_relu",
            "hardtanh",
            "hardswish",
        ),
        *(
            "native_layer_norm",
            "native_group_norm",
            "slice",
            "select",
            "mse_loss",
            "huber_loss",
            "smooth_l1_loss",
        ),
    )
) | {"_softmax_backward_data", "_log_softmax_backward_data"}


@lru_cache(maxsize=1)
def decompositions() -> Mapping[Any, Callable[..., Any]]:
    """Op to function, for functional ops."""
    table: dict[Any, Callable[..., Any]] = dict(prims())
    for source in decomposition_tables():
        table.update({op: function for op, function in source.items() if _wanted(op)})
    for ours in (SPECIAL, SCANS, ORDER, INDEXING, RECURRENT, SPATIAL, VARYING, LINALG):
        table.update(ours)
    table.update(CUSTOM)
    return strict.decompositions(table)


def _wanted(op: Any) -> bool:
    if not isinstance(op, torch._ops.OpOverload):
        return False
    schema = op._schema
    backward = "backward" in schema.name and schema.name.partition("::")[2] not in _DERIVATIVES
    return not (schema.is_mutable or backward or schema.name in _KEPT)


def _native_dropout(x: torch.Tensor, p: float, train: bool | None) -> tuple[torch.Tensor, torch.Tensor]:
    """At inference `x` and a mask of ones; in training it stays random, and whole."""
    if train and p:
        return NotImplemented  # type: ignore[no-any-return]  # torch then keeps the op
    return x, torch.ones_like(x, dtype=torch.bool)


def _cdist_forward(a: torch.Tensor, b: torch.Tensor, p: float, compute_mode: int | None) -> torch.Tensor:
    """Distances between the rows of `a` and those of `b`: the norm of all differences."""
    norm: torch.Tensor = torch.linalg.vector_norm(a.unsqueeze(-2) - b.unsqueeze(-3), p, -1)
    return norm


def _hypot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``sqrt(a * a + b * b)`` in float32, with the larger one taken out so that the squares do not overflow."""
    dtype = torch.result_type(a, b)
    a, b = a.float().abs(), b.float().abs()
    large, small = torch.maximum(a, b), torch.minimum(a, b)
    ratio = torch.where(large == 0, torch.zeros_like(large), small / large)
    return (large * torch.sqrt(1 + ratio * ratio)).to(dtype)


def _copysign(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The size of `a` with the sign of `b`; 1 / b tells -0.0 from 0.0."""
    dtype = float_of(torch.result_type(a, b))
    size = a.to(dtype).abs()
    negative = (b < 0) | (1 / b < 0) if b.is_floating_point() else b < 0
    return torch.where(negative, -size, size)


def _copysign_scalar(a: torch.Tensor, b: float) -> torch.Tensor:
    """The size of `a`, with the sign of a number."""
    size = a.to(float_of(torch.result_type(a, b))).abs()
    return -size if math.copysign(1.0, b) < 0 else size


def _addbmm(
    x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    """``beta * x`` and alpha times the sum of the products of the batch, rounded once."""
    dtype = x.dtype
    if not dtype.is_floating_point:
        beta, alpha = int(beta), int(alpha)
    if dtype in (torch.float16, torch.bfloat16):
        x, a, b = x.float(), a.float(), b.float()
    product = torch.bmm(a, b).sum(0, dtype=x.dtype) * alpha
    return (product if beta == 0 else x * beta + product).to(dtype)


def _bilinear(
    a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """``a @ weight[n] @ b`` for every n; a of shape (..., i), b (..., j), weight (n, i, j), bias (n,)."""
    left = torch.einsum("...i,nij->...nj", a, weight)
    product = (left * b.unsqueeze(-2)).sum(-1, dtype=a.dtype)
    return product if bias is None else product + bias


def _bucketize(
    x: torch.Tensor, boundaries: torch.Tensor, *, out_int32: bool = False, right: bool = False
) -> torch.Tensor:
    """How many of the (sorted) boundaries are below each element, or not above it."""
    below = boundaries <= x.unsqueeze(-1) if right else boundaries < x.unsqueeze(-1)
    return below.sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


def _searchsorted(
    boundaries: torch.Tensor,
    x: torch.Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: torch.Tensor | None = None,
) -> torch.Tensor:
    """How many boundaries along the last dim are below each element, or not above it."""
    if sorter is not None:
        boundaries = boundaries.gather(-1, sorter)
    right = right or side == "right"
    edges = boundaries.unsqueeze(-2) if boundaries.dim() > 1 else boundaries
    below = edges <= x.unsqueeze(-1) if right else edges < x.unsqueeze(-1)
    return below.sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


def _searchsorted_scalar(boundaries: torch.Tensor, x: float, **options: Any) -> torch.Tensor:
    """`_searchsorted` of one number, which counts as a 0-d tensor."""
    value = torch.full((), x, dtype=torch.result_type(boundaries, x), device=boundaries.device)
    return _searchsorted(boundaries, value, **options)


def _isclose(
    a: torch.Tensor, b: torch.Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> torch.Tensor:
    """Equal, or finite and no further apart than ``atol + rtol * abs(b)``."""
    close = a == b
    if equal_nan and a.is_floating_point():
        close = close | ((a != a) & (b != b))
    if rtol == 0 == atol:
        return close
    if not a.is_floating_point():
        a, b = a.to(torch.get_default_dtype()), b.to(torch.get_default_dtype())
    apart = (a - b).abs()
    return close | (torch.isfinite(apart) & (apart <= atol + (rtol * b).abs()))


def _isin(
    elements: torch.Tensor, tests: torch.Tensor, *, assume_unique: bool = False, invert: bool = False
) -> torch.Tensor:
    """Whether each element is one of the tests: all against all."""
    found = (elements.unsqueeze(-1) == tests.reshape(-1)).any(-1)
    return ~found if invert else found


def _isin_scalar(
    elements: torch.Tensor, test: float, *, assume_unique: bool = False, invert: bool = False
) -> torch.Tensor:
    """Whether each element is the number."""
    return elements != test if invert else elements == test


def _isin_of_scalar(
    element: float, tests: torch.Tensor, *, assume_unique: bool = False, invert: bool = False
) -> torch.Tensor:
    """Whether the number is one of the tests."""
    found = (tests == element).any()
    return ~found if invert else found


def _linspace(
    start: Any,
    end: Any,
    steps: int,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    **_: Any,
) -> torch.Tensor:
    """Of 0-d tensors: counted up from the start in the first half, down from the end in the second, as torch does."""
    result = dtype or torch.get_default_dtype()
    if not result.is_floating_point:
        raise ValueError("TensorRT has no float64, in which torch spaces integers")
    start, end = (
        v.to(device or "cpu", torch.float32)  # the result is where it was asked for, not where the ends are
        if isinstance(v, torch.Tensor)
        else torch.full((), v, dtype=torch.float32, device=device)
        for v in (start, end)
    )
    index = torch.arange(steps, dtype=torch.float32, device=device)
    step = (end - start) / max(steps - 1, 1)
    upper = end - step * (steps - 1 - index)
    return torch.where(index < steps // 2, start + step * index, upper if steps > 1 else start + index).to(
        result
    )


def _logspace(
    start: Any,
    end: Any,
    steps: int,
    base: float = 10.0,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    **_: Any,
) -> torch.Tensor:
    """`base` to the power of `_linspace`."""
    result = dtype or torch.get_default_dtype()
    if not result.is_floating_point:
        raise ValueError("TensorRT has no float64, in which torch spaces integers")
    return torch.pow(base, _linspace(start, end, steps, dtype=torch.float32, device=device)).to(result)


def _angle(x: torch.Tensor) -> torch.Tensor:
    """Of real numbers: pi where they are negative, else 0; NaN stays."""
    if x.is_complex():
        return NotImplemented  # type: ignore[no-any-return]  # torch then keeps the op
    turned = torch.where(x < 0, math.pi, torch.zeros_like(x, dtype=float_of(x.dtype)))
    return torch.where(x != x, x, turned) if x.is_floating_point() else turned


CUSTOM: Mapping[Any, Callable[..., Any]] = {
    aten.native_dropout.default: _native_dropout,
    aten._cdist_forward.default: _cdist_forward,
    aten.hypot.default: _hypot,
    aten.copysign.Tensor: _copysign,
    aten.copysign.Scalar: _copysign_scalar,
    aten.addbmm.default: _addbmm,
    aten.bucketize.Tensor: _bucketize,
    aten.searchsorted.Tensor: _searchsorted,
    aten.searchsorted.Scalar: _searchsorted_scalar,
    aten.linspace.Tensor_Tensor: _linspace,
    aten.linspace.Tensor_Scalar: _linspace,
    aten.linspace.Scalar_Tensor: _linspace,
    aten.logspace.Tensor_Tensor: _logspace,
    aten.logspace.Tensor_Scalar: _logspace,
    aten.logspace.Scalar_Tensor: _logspace,
    aten.angle.default: _angle,
    aten.isclose.default: _isclose,
    aten.isin.Tensor_Tensor: _isin,
    aten.isin.Tensor_Scalar: _isin_scalar,
    aten.isin.Scalar_Tensor: _isin_of_scalar,
    aten.bilinear.default: _bilinear,
}
"""Our own, where torch has none or another suits TensorRT better."""

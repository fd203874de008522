"""``strict_numerics=True``: which ops keep torch's NaN, infinities and signed zeros, and how others are written.

A converter or a decomposition of this pack goes into an engine under that setting only if it is named here. The names
were found by running PyTorch's own samples with NaN, infinities and zeros of both signs put among their values, and
comparing with eager (``tests/conformance/strict.py``). Sums, products and convolutions count as exact: what TensorRT's
kernels make of an infinity that cancels is theirs.

What TensorRT's layers lose is written with comparisons and selections (`TABLE`). docs/semantics.md has the differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import torch

from trtcore.pack import Converter, StrictDecomposition
from trtcore_converters.strict_ops import CONVERTED, DECOMPOSED

aten = torch.ops.aten


def with_promises(converters: Iterable[Converter]) -> list[Converter]:
    """The converters, those of `CONVERTED` with ``supports_strict_numerics``."""
    keeping = CONVERTED | WRITTEN_FOR
    return [
        attrs.evolve(one, supports_strict_numerics=True)
        if str(one.target) in keeping and one.name not in LOSING
        else one
        for one in converters
    ]


WRITTEN_FOR = frozenset(
    str(op)
    for op in (
        *(aten.amax.default, aten.amin.default, aten.max.default, aten.min.default, aten.aminmax.default),
        *(aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default),
        *(aten.max_pool1d_with_indices.default, aten.max_pool2d_with_indices.default),
        aten.max_pool3d_with_indices.default,
    )
)
"""Ops whose converters look at ``ctx.settings.strict_numerics`` themselves."""

LOSING = frozenset({"max_pool_gathered", "max_pool_with_all"})
"""Other converters of such ops, which do not."""


def decompositions(table: Mapping[Any, Callable[..., Any]]) -> dict[Any, Callable[..., Any]]:
    """The pack's decompositions, with the promise where it holds, and those for strict numerics alone."""
    promised = {op: StrictDecomposition(one) if str(op) in DECOMPOSED else one for op, one in table.items()}
    return promised | {op: StrictDecomposition(one) for op, one in TABLE.items()}


# ---- with selections -----------------------------------------------------------------------------------------


def _at_least(x: torch.Tensor, bound: Any) -> torch.Tensor:
    """NaN and -0.0 stay; a bound that is NaN wins."""
    if isinstance(bound, torch.Tensor):
        return torch.where((x < bound) | (bound != bound), bound, x)
    return torch.where(x < bound, bound, x)


def _at_most(x: torch.Tensor, bound: Any) -> torch.Tensor:
    if isinstance(bound, torch.Tensor):
        return torch.where((x > bound) | (bound != bound), bound, x)
    return torch.where(x > bound, bound, x)


def _clamp(x: torch.Tensor, min: Any = None, max: Any = None) -> torch.Tensor:
    x, *bounds = _promoted(x, min, max)
    low, high = bounds
    x = x if low is None else _at_least(x, low)
    return x if high is None else _at_most(x, high)


def _promoted(x: torch.Tensor, *others: Any) -> list[Any]:
    """Tensors in the dtype of the result."""
    dtype = x.dtype
    for other in others:
        if other is not None:
            dtype = torch.result_type(torch.empty((), dtype=dtype), other)
    return [one.to(dtype) if isinstance(one, torch.Tensor) else one for one in (x, *others)]


def _maximum(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = _promoted(a, b)
    return torch.where((a > b) | (a != a), a, b)


def _minimum(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = _promoted(a, b)
    return torch.where((a < b) | (a != a), a, b)


def _fmax(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = _promoted(a, b)
    return torch.where((a > b) | (b != b), a, b)


def _fmin(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = _promoted(a, b)
    return torch.where((a < b) | (b != b), a, b)


def _relu(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x < 0, 0, x)


def _leaky_relu(x: torch.Tensor, negative_slope: Any = 0.01) -> torch.Tensor:
    return torch.where(x > 0, x, x * negative_slope)


def _sign(x: torch.Tensor) -> torch.Tensor:
    one = torch.where(x > 0, 1, torch.where(x < 0, -1, 0))
    return one.to(x.dtype)


def _hardtanh(x: torch.Tensor, min_val: Any = -1, max_val: Any = 1) -> torch.Tensor:
    return _at_most(_at_least(x, min_val), max_val)


def _hardsigmoid(x: torch.Tensor) -> torch.Tensor:
    return _hardtanh(x + 3, 0, 6) / 6


def _hardswish(x: torch.Tensor) -> torch.Tensor:
    return x * _hardtanh(x + 3, 0, 6) / 6


def _threshold(x: torch.Tensor, threshold: Any, value: Any) -> torch.Tensor:
    return torch.where(x <= threshold, value, x)


def _layer_norm(
    x: torch.Tensor, shape: Any, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    dims = list(range(x.ndim - len(shape), x.ndim))
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    mean = wide.mean(dims, keepdim=True)
    centred = wide - mean
    scale = torch.rsqrt((centred * centred).mean(dims, keepdim=True) + eps)
    out = centred * scale
    out = out if weight is None else out * weight
    out = out if bias is None else out + bias
    return out.to(x.dtype), mean, scale


TABLE: Mapping[Any, Callable[..., Any]] = {
    aten.relu.default: _relu,
    aten.leaky_relu.default: _leaky_relu,
    aten.hardtanh.default: _hardtanh,
    aten.relu6.default: lambda x: _hardtanh(x, 0, 6),
    aten.hardsigmoid.default: _hardsigmoid,
    aten.hardswish.default: _hardswish,
    aten.threshold.default: _threshold,
    aten.clamp.default: _clamp,
    aten.clamp.Tensor: _clamp,
    aten.clamp_min.default: _at_least,
    aten.clamp_min.Tensor: lambda x, min: _clamp(x, min),
    aten.clamp_max.default: _at_most,
    aten.clamp_max.Tensor: lambda x, max: _clamp(x, None, max),
    aten.maximum.default: _maximum,
    aten.minimum.default: _minimum,
    aten.max.other: _maximum,
    aten.min.other: _minimum,
    aten.fmax.default: _fmax,
    aten.fmin.default: _fmin,
    aten.native_layer_norm.default: _layer_norm,
    aten.sign.default: _sign,
    aten.sgn.default: _sign,
}
"""Op to what it is under strict numerics, where its converter is not exact."""

"""Where two different results are the same: what an operator leaves open, and deviations that the docs name.

`compare` is given to `trtcore.testing.opinfo.check`. It has an opinion only on the operators in the tables here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from trtcore.testing.opinfo import OpSample

UNDEFINED = frozenset(
    {"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"}
)
"""Operators whose values are whatever was in memory: dtype and shape count."""


def compare(sample: OpSample, expected: Any, actual: Any) -> str | None:
    """ "" for the same, what is wrong, or None where the values are to be compared."""
    rule = RULES.get(sample.op)
    return rule(sample, expected, actual) if rule is not None else None


def _kind(sample: OpSample, expected: Any, actual: Any) -> str | None:
    if (expected.dtype, expected.shape) == (actual.dtype, actual.shape):
        return ""
    return f"{actual.dtype} {list(actual.shape)}, eager's is {expected.dtype} {list(expected.shape)}"


def _points_at_equal(source: torch.Tensor, dim: int, expected: torch.Tensor, actual: torch.Tensor) -> bool:
    """Whether two tensors of indices pick equal elements."""
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return False
    if source.dim() == 0:
        return bool((actual == 0).all())
    if expected.dim() < source.dim():
        expected, actual = expected.unsqueeze(dim), actual.unsqueeze(dim)
    picked = [source.gather(dim, indices) for indices in (expected, actual)]
    return torch.equal(*(torch.nan_to_num(p) if p.is_floating_point() else p for p in picked))


def _ties(position: int | None) -> Callable[[OpSample, Any, Any], str | None]:
    """Of equal elements any index will do, where the op does not promise which; `position`: of dim in its arguments."""

    def rule(sample: OpSample, expected: Any, actual: Any) -> str | None:
        given = {**dict(enumerate(sample.args)), **sample.kwargs}
        if given.get("stable") or not (isinstance(expected, tuple) or sample.op == "argsort"):
            return None
        dim = given.get("dim", given.get(position, -1))
        values_differ = isinstance(expected, tuple) and not torch.equal(
            *(torch.nan_to_num(v[0]) if v[0].is_floating_point() else v[0] for v in (expected, actual))
        )
        want, got = (v[1] if isinstance(v, tuple) else v for v in (expected, actual))
        same = isinstance(dim, int) and not values_differ and _points_at_equal(sample.args[0], dim, want, got)
        return "" if same else None

    return rule


def _without_nan(sample: OpSample, expected: Any, actual: Any) -> str | None:
    """TensorRT's MAX and MIN skip NaN (docs/semantics.md): no opinion, but where NaN went in, anything may come out."""
    given = [*sample.args, *sample.kwargs.values()]
    if not any(
        isinstance(x, torch.Tensor) and x.is_floating_point() and bool(x.isnan().any()) for x in given
    ):
        return None
    if isinstance(expected, tuple) or expected.shape != actual.shape or expected.dtype != actual.dtype:
        return None
    if sample.op.endswith(("argmax", "argmin")):
        return ""  # (masked.argmax gives them as floats)
    known = ~expected.isnan()
    return "" if torch.allclose(expected[known], actual[known], 1e-3, 1e-5) else None


NAN_SKIPPED = frozenset(
    f"{prefix}{op}"
    for prefix in ("", "masked.")
    for op in ("amax", "amin", "argmax", "argmin", "norm", "max", "min")
)

RULES: dict[str, Callable[[OpSample, Any, Any], str | None]] = {
    **dict.fromkeys(UNDEFINED, _kind),
    **dict.fromkeys(NAN_SKIPPED, _without_nan),
    "sort": _ties(1),
    "argsort": _ties(1),
    "topk": _ties(2),
    "kthvalue": _ties(2),
    "median": _ties(1),
    "nanmedian": _ties(1),
    "mode": _ties(1),
}

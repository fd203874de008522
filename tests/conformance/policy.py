"""Where two different results are the same: what an operator leaves open, and deviations that the docs name.

`compare` is given to `trtcore.testing.opinfo.check`. It has an opinion only on the operators in the tables here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

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


def _within_rounding(sample: OpSample, expected: Any, actual: Any) -> str | None:
    """In float16 and bfloat16 an op of several layers is rounded after each of them, where torch rounds once.

    So the result may be that of arguments which are off by a rounding each: four times as far from the exact one (in
    float64) as the farthest of some such arguments makes it, and two roundings of its own.
    """
    if sample.dtype not in (torch.float16, torch.bfloat16) or sample.kwargs.get("dropout_p"):
        return None
    ulp = torch.finfo(sample.dtype).eps
    generator = torch.Generator().manual_seed(0)

    def evaluate(size: float) -> list[torch.Tensor]:
        def moved(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor) or not leaf.is_floating_point():
                return leaf
            nudge = torch.rand(leaf.shape, generator=generator, dtype=torch.float64) * 2 - 1
            return leaf.double() * (1 + size * nudge.to(leaf.device))

        args, kwargs = pytree.tree_map(moved, (sample.args, dict(sample.kwargs)))
        return [leaf for leaf in pytree.tree_leaves(sample.function(*args, **kwargs)) if leaf is not None]

    exact = evaluate(0.0)
    trials = [evaluate(ulp) for _ in range(8)]
    wants, gots = (
        [leaf for leaf in pytree.tree_leaves(tree) if leaf is not None] for tree in (expected, actual)
    )
    for number, (want, got, right) in enumerate(zip(wants, gots, exact)):
        if (want.dtype, want.shape) != (got.dtype, got.shape):
            return f"{got.dtype} {list(got.shape)}, eager's is {want.dtype} {list(want.shape)}"
        spread = torch.stack([(trial[number] - right).abs() for trial in trials]).amax(0)
        far = (got.double() - right).abs() > 4 * spread + 2 * ulp * right.abs()
        if bool((far & (got.double() - want.double() != 0)).any()):
            return f"{int(far.sum())} elements are further off than roundings of the arguments explain"
    return ""


def _sizes(sample: OpSample, expected: Any, actual: Any) -> str | None:
    """A torch.Size is a tuple."""
    return "" if tuple(expected) == tuple(actual) else f"{tuple(actual)}, eager's is {tuple(expected)}"


def _attention(sample: OpSample, expected: Any, actual: Any) -> str | None:
    """Dropout draws random numbers, and the samples seed them themselves: dtype and shape count."""
    if sample.kwargs.get("dropout_p"):
        return _kind(sample, expected, actual)
    return _within_rounding(sample, expected, actual)


def _projected_attention(sample: OpSample, expected: Any, actual: Any) -> str | None:
    """Scores in the thousands, as the samples have them, lose in float32 the digits that softmax makes factors of.

    Rounding a score of 2**13 moves it by up to 2**-11, and its weight by that share, whatever kernels eager's products
    ran on; so much is let pass.
    """
    if sample.dtype != torch.float32:
        return _within_rounding(sample, expected, actual)
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(actual))
    same = all(
        want.shape == got.shape and want.dtype == got.dtype and torch.allclose(got, want, 2**-11, 1e-5, True)
        for want, got in pairs
        if want is not None
    )
    return "" if same else None


ROUNDED = (
    "addmm", "addmv", "addr", "baddbmm", "addbmm", "nn.functional.linear", "nn.functional.bilinear", "nn.functional.conv1d",
    "nn.functional.conv2d", "nn.functional.conv3d", "nn.functional.conv_transpose1d", "nn.functional.conv_transpose2d",
    "nn.functional.conv_transpose3d", "nn.functional.nll_loss", "nn.functional.cross_entropy",
)  # fmt: skip
"""Operators of several layers, see `_within_rounding`."""

RULES: dict[str, Callable[[OpSample, Any, Any], str | None]] = {
    **dict.fromkeys(ROUNDED, _within_rounding),
    "nn.functional.scaled_dot_product_attention": _attention,
    "nn.functional.multi_head_attention_forward": _projected_attention,
    "broadcast_shapes": _sizes,
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

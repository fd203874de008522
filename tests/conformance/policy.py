"""Where two different results are the same: what an operator leaves open, and deviations that the docs name.

`compare` is given to `trtcore.testing.opinfo.check`. It has an opinion only on the operators in the tables here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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


MARGIN = 2.0
"""Over all samples ours is at most 1.5 times as far from float64 as eager and a rounding; attention in bfloat16 1.8 times."""


def _as_near_as_eager(sample: OpSample, expected: Any, actual: Any) -> str | None:
    """ "" where ours is no further from the op in float64 than `MARGIN` times what eager is off and a rounding.

    Both are measured at the element that is furthest off, against the largest element: an op of several layers is rounded
    after each of them, where torch rounds once, so that an element near 0 has the rounding of the larger ones it is the
    sum of.
    """
    return "" if _near(_exact(sample), _leaves(expected), _leaves(actual)) else None


def _near(exact: list[Any], wants: list[Any], gots: list[Any]) -> bool:
    return len(exact) == len(wants) == len(gots) and all(
        _kind_of(want) == _kind_of(got) and _near_one(right, want, got)
        for right, want, got in zip(exact, wants, gots)
    )


def _near_one(exact: torch.Tensor, want: torch.Tensor, got: torch.Tensor) -> bool:
    finite = want.isfinite()
    if not want.is_floating_point() or not bool(exact[finite].isfinite().all()):
        return False
    if not torch.equal(want[~finite].nan_to_num(), got[~finite].nan_to_num()) or not bool(
        got[finite].isfinite().all()
    ):
        return False
    if not bool(finite.any()):
        return True
    right = exact[finite]
    off, found = (float((x[finite].double() - right).abs().max()) for x in (want, got))
    return found <= MARGIN * (off + torch.finfo(want.dtype).eps * float(right.abs().max()))


def _kind_of(value: torch.Tensor) -> tuple[torch.dtype, torch.Size]:
    return value.dtype, value.shape


def _exact(sample: OpSample) -> list[Any]:
    """The sample in float64."""
    wide = _mapped(sample, lambda leaf: leaf.double() if leaf.is_floating_point() else leaf)
    return _leaves(wide.run())


def _mapped(sample: OpSample, function: Callable[[torch.Tensor], torch.Tensor]) -> OpSample:
    return sample.with_tensors([function(tensor) for tensor in sample.tensors])


def _leaves(tree: Any) -> list[Any]:
    return [leaf for leaf in pytree.tree_leaves(tree) if leaf is not None]


def _sizes(sample: OpSample, expected: Any, actual: Any) -> str | None:
    """A torch.Size is a tuple."""
    return "" if tuple(expected) == tuple(actual) else f"{tuple(actual)}, eager's is {tuple(expected)}"


def _in_16_bits(sample: OpSample, expected: Any, actual: Any) -> str | None:
    """`_as_near_as_eager` in float16 and bfloat16; in float32 the operator's own tolerance holds."""
    return _as_near_as_eager(sample, expected, actual) if sample.dtype in _LOW else None


_LOW = (torch.float16, torch.bfloat16)


def _attention(sample: OpSample, expected: Any, actual: Any) -> str | None:
    """TensorRT's attention layer does not scale: the query is, and rounded, before it; so eager is measured with such a query.

    Dropout draws random numbers, and the samples seed them themselves: dtype and shape count.
    """
    if sample.kwargs.get("dropout_p"):
        return _kind(sample, expected, actual)
    if sample.dtype not in _LOW:
        return None
    query, *rest = sample.args
    scale = sample.kwargs.get("scale") or query.shape[-1] ** -0.5
    rounded = (query.detach().float() * scale).to(query.dtype)
    eager = replace(sample, args=(rounded, *rest), kwargs={**sample.kwargs, "scale": 1.0}).run()
    return "" if _near(_exact(sample), _leaves(eager), _leaves(actual)) else None


ROUNDED = (
    "addmm", "addmv", "addr", "baddbmm", "addbmm", "nn.functional.linear", "nn.functional.bilinear", "nn.functional.conv1d",
    "nn.functional.conv2d", "nn.functional.conv3d", "nn.functional.conv_transpose1d", "nn.functional.conv_transpose2d",
    "nn.functional.conv_transpose3d", "nn.functional.nll_loss", "nn.functional.cross_entropy", "nn.functional.linear_cross_entropy",
)  # fmt: skip
"""Operators of several layers, see `_as_near_as_eager`."""

RULES: dict[str, Callable[[OpSample, Any, Any], str | None]] = {
    **dict.fromkeys(ROUNDED, _in_16_bits),
    "nn.functional.scaled_dot_product_attention": _attention,
    "nn.functional.multi_head_attention_forward": _as_near_as_eager,
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

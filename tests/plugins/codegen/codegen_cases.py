"""Functions that are one kernel each, how to make inputs for them, and when a result is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
INTS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True)
class Case:
    """A function, and which inputs it takes.

    Attributes:
        inputs: "x" for the whole shape, "w" for a row of it, "c" for a column (keepdim), "y" for another whole tensor.
        dtypes: that every input may have.
        special: whether NaN and infinities may come in.
        infinite: whether infinities may: torch's own kernels for rms_norm differ there from width to width.
    """

    function: Callable[..., Any]
    inputs: str = "x"
    dtypes: tuple[torch.dtype, ...] = FLOATS
    special: bool = True
    infinite: bool = True


def rms_norm_residual(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    total = x + y
    return F.rms_norm(total, (total.shape[-1],), w, 1e-6), total


POINTWISE = {
    "gelu_bias": Case(lambda x, w: F.gelu(x + w), "xw"),
    "gelu_tanh": Case(lambda x: F.gelu(x, approximate="tanh")),
    "swiglu": Case(lambda x, y: F.silu(x) * y, "xy"),
    "tanh_scaled": Case(lambda x, c: torch.tanh(x * c) + 1, "xc"),
    "max_nan": Case(lambda x, y: torch.maximum(x, y) - torch.minimum(x, y).clamp(-1, 1), "xy"),
    "where": Case(lambda x, y: torch.where(x > y, x.relu(), F.leaky_relu(y, 0.1)), "xy"),
    "masks": Case(lambda x: (x.isnan() | x.isinf()) ^ (x != 0)),
    "quotients": Case(lambda x, y: x / (y.abs() + 1) + torch.remainder(x, 3.0), "xy", special=False),
    "softplus": Case(lambda x: F.softplus(x) * torch.sigmoid(x)),
    "exp_log": Case(lambda x: torch.log1p(torch.exp(x.clamp(-5, 5))).sqrt().rsqrt()),
    "trigonometry": Case(lambda x: torch.sin(x) * torch.cos(x) + torch.atan(x)),
    "powers": Case(lambda x: x**2 + (x.abs() + 1) ** -0.5 + (x.abs() + 1) ** 1.7, special=False),
    "rounding": Case(lambda x: torch.floor(x) + torch.round(x) * 2 - torch.trunc(x)),
    "ints": Case(lambda x, y: (x * 3 + y) // 7 - x % 5, "xy", INTS),
    "int_quotient": Case(lambda x: x / 3, "x", INTS),
    "int_trunc": Case(lambda x, y: torch.div(x, 3, rounding_mode="trunc") - y, "xy", INTS),
    "bits": Case(lambda x, y: (x & y) ^ (x | 3) & ~y, "xy", INTS),
    "bools": Case(lambda x, y: (x & ~y) | (x ^ y), "xy", (torch.bool,)),
    "casts": Case(lambda x: x.to(torch.bfloat16) + x.to(torch.int32).clamp(-9, 9), dtypes=FLOATS, special=False),
}  # fmt: skip

REDUCTIONS = {
    "sum": Case(lambda x: x.sum(-1)),
    "sum_square": Case(lambda x, w: (x * w).square().sum(-1, keepdim=True), "xw"),
    "mean": Case(lambda x: x.mean(-1)),
    "amax": Case(lambda x: x.amax(-1)),
    "max_values_indices": Case(lambda x: torch.max(x, -1)),
    "argmax": Case(lambda x: x.argmax(-1), dtypes=(*FLOATS, *INTS)),
    "argmin": Case(lambda x: x.argmin(-1)),
    "sum_ints": Case(lambda x: x.sum(-1), dtypes=(*INTS, torch.bool)),
    "any_all": Case(lambda x: ((x > 0).any(-1), (x > -1).all(-1))),
    "var": Case(
        lambda x: torch.var_mean(x, -1), special=False
    ),  # torch's running mean makes NaN of infinities
    "columns": Case(lambda x: x.sum(0)),
    "column_max": Case(lambda x: torch.max(x, 0), dtypes=(*FLOATS, torch.int32)),
    "everything": Case(lambda x: x.sum(), special=False),
    "argmax_everything": Case(lambda x: x.argmax()),
    "logsumexp": Case(lambda x: torch.logsumexp(x, -1)),
}

ROWS = {
    "softmax": Case(lambda x: torch.softmax(x, -1)),
    "masked_softmax": Case(
        lambda x, y: torch.softmax(x.masked_fill(y > 1, float("-inf")), -1), "xy", special=False
    ),
    "log_softmax": Case(lambda x: torch.log_softmax(x, -1)),
    "exponentials": Case(lambda x: (x - x.amax(-1, keepdim=True)).exp().sum(-1)),
    "softmax_columns": Case(lambda x: torch.softmax(x, 0)),
    "layer_norm": Case(lambda x, w: F.layer_norm(x, (x.shape[-1],), w, w), "xw"),
    "rms_norm": Case(lambda x, w: F.rms_norm(x, (x.shape[-1],), w, 1e-6), "xw", infinite=False),
    "rms_norm_residual": Case(rms_norm_residual, "xyw", infinite=False),
    "l2_normalize": Case(lambda x: x / x.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-12)),
}

CASES = {**POINTWISE, **REDUCTIONS, **ROWS}


def make_inputs(
    case: Case, shape: Sequence[int], dtype: torch.dtype, device: str = "cpu", special: bool = False
) -> list[torch.Tensor]:
    """Random inputs of a case; with `special`, NaN and infinities among them."""
    shapes = {"x": shape, "y": shape, "w": shape[-1:], "c": (*shape[:-1], 1)}
    found = [random(shapes[kind], dtype, device, special and case.special) for kind in case.inputs]
    return found if case.infinite else [torch.where(x.isinf(), torch.nan, x) for x in found]


def random(
    shape: Sequence[int], dtype: torch.dtype, device: str = "cpu", special: bool = False
) -> torch.Tensor:
    """Random numbers of a dtype."""
    if dtype is torch.bool:
        return torch.randint(0, 2, tuple(shape), device=device).bool()
    if not dtype.is_floating_point:
        low = 0 if dtype is torch.uint8 else -50
        return torch.randint(low, 51, tuple(shape), device=device).to(dtype)
    values = torch.randn(tuple(shape), device=device, dtype=torch.float32).mul_(3).to(dtype)
    if special and values.numel() > 4:
        flat = values.view(-1)
        for at, number in enumerate((float("nan"), float("inf"), float("-inf"))):
            flat[at * values.numel() // 3] = number
    return values


def flat(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)


def _alike(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a == b) | (a.isnan() & b.isnan())


def assert_right(
    function: Callable[..., Any], inputs: Sequence[torch.Tensor], results: Sequence[torch.Tensor]
) -> None:
    """Hold results to torch: layout, NaN, infinities and ints are eager's; floats as near to float64 as eager is.

    NaN and infinities may be the float64 result's, too: what eager's vectors make of them depends on the CPU
    (GELU of infinity in float32 is NaN with AVX-512). Floats may be twice as far from the float64 result as eager's furthest, plus four units in the last place.
    """
    eager = flat(function(*inputs))
    wide = [x.double() if x.is_floating_point() else x for x in inputs]
    exact = flat(function(*wide))
    assert len(results) == len(eager)
    for got, same, best in zip(results, eager, exact):
        assert (got.dtype, got.shape, got.stride()) == (same.dtype, same.shape, same.stride())
        if not got.is_floating_point():
            assert torch.equal(got, same), f"{int((got != same).sum())} of {got.numel()} differ"
            continue
        if best.dtype is not torch.float64:  # a function that casts has no float64 result
            best = same.double()
        finite = got.isfinite() & same.isfinite()
        right = _alike(got, same) | _alike(got, best.to(got.dtype))
        assert bool((finite | right).all()), "NaN or infinities in other places"
        finite &= best.isfinite()
        ours, theirs = ((value.double() - best)[finite].abs() for value in (got, same))
        if not ours.numel():
            continue
        unit = torch.finfo(got.dtype).eps * best[finite].abs().clamp_min(torch.finfo(got.dtype).tiny)
        worst = (ours - 4 * unit).max().item()
        allowed = 2 * theirs.max().item() + 1e-300
        if got.numel() < inputs[0].numel():  # sums cancel: what was rounded is larger than the result
            largest = inputs[0].double().nan_to_num(0, 0, 0).abs().max().item()
            allowed += 4 * torch.finfo(torch.float32).eps * largest
        assert worst <= allowed, f"off by {worst}, torch by {allowed / 2}"

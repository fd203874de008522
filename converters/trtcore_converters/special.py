"""Special functions of one element, as decompositions into what TensorRT has.

Each is computed in float32, to a relative error of about 1e-6 (near a zero of the function: an absolute one), and
rounded once. The polynomials were fitted for this code, with mpmath, at Chebyshev nodes of the intervals named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

aten = torch.ops.aten

Function = Callable[[torch.Tensor], torch.Tensor]


def float_of(dtype: torch.dtype) -> torch.dtype:
    """`dtype` where it is floating point, else the default one: the dtype of torch's results."""
    return dtype if dtype.is_floating_point else torch.get_default_dtype()


def _polynomial(x: torch.Tensor, coefficients: tuple[float, ...]) -> torch.Tensor:
    """By Horner's rule, the highest power's coefficient first."""
    result = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        result = result * x + coefficient
    return result


# ---- error functions ---------------------------------------------------------------------------------------

# (1 + 2x) exp(x^2) erfc(x) as a polynomial in (x - 3) / (x + 3), for x in [0, 10.5]; largest relative error 2e-7.
_ERFCX = (
    -4.499234323842599e-06, 2.0279034500364585e-05, 1.1849688393249804e-04, -1.1950862194669432e-04,
    -7.811556256996659e-04, 1.893697522988254e-03, 2.53058269218574e-03, -2.3771336858299467e-02,
    6.830780126063965e-02, -1.1927359943616477e-01, 1.29645173991091e-01, -4.756229633280118e-02,
    -1.3562110639622835e-01, 1.253008058280807,
)  # fmt: skip

# erfinv(y) / y as polynomials in w - 2.5 for w < 5, and in sqrt(w) - 3 for w < 16.4, with w = -log(1 - y^2).
_ERFINV_CENTRE = (
    -8.931925970244222e-09, 2.3335967195708108e-08, 4.6813134805534123e-07, -3.4639852676333717e-06,
    -4.9724196894547514e-06, 2.1834938623976644e-04, -1.252726391773229e-03, -4.177392875203149e-03,
    2.4664027905463662e-01, 1.501409360450329,
)  # fmt: skip
_ERFINV_TAIL = (
    -1.5176637291682457e-04, 6.353361791103242e-05, 1.288443585473374e-03, -3.634209428550204e-03,
    5.764707907900179e-03, -7.634003851479984e-03, 9.435315365385532e-03, 1.0016749180787858, 2.8329770027775547,
)  # fmt: skip


def _scaled_tail(x: torch.Tensor) -> torch.Tensor:
    """``exp(x^2) erfc(x)`` for x >= 0; from 10 on by the first terms of its asymptotic series."""
    near = torch.clamp(x, max=10.5)
    fitted = _polynomial((near - 3.0) / (near + 3.0), _ERFCX) / (1.0 + 2.0 * near)
    inverse = 1.0 / torch.clamp(x, min=1.0)
    square = inverse * inverse
    far = inverse * (1.0 - 0.5 * square + 0.75 * square * square) / math.sqrt(math.pi)
    return torch.where(x > 10.0, far, fitted)


def _erfc(x: torch.Tensor) -> torch.Tensor:
    """``1 - erf(x)``, without cancellation where x is large."""
    size = x.abs()
    tail = _scaled_tail(size) * torch.exp(-torch.clamp(size * size, max=120.0))
    return torch.where(x < 0, 2.0 - tail, tail)


def _erfcx(x: torch.Tensor) -> torch.Tensor:
    """``exp(x^2) erfc(x)``."""
    tail = _scaled_tail(x.abs())
    return torch.where(x < 0, 2.0 * torch.exp(x * x) - tail, tail)


def _erfinv(y: torch.Tensor) -> torch.Tensor:
    """The x whose erf is y; infinite at -1 and 1, NaN outside."""
    w = -torch.log((1.0 - y) * (1.0 + y))
    centre = _polynomial(torch.clamp(w, max=5.0) - 2.5, _ERFINV_CENTRE)
    tail = _polynomial(torch.sqrt(torch.clamp(w, 5.0, 17.0)) - 3.0, _ERFINV_TAIL)
    found = y * torch.where(w < 5.0, centre, tail)
    return torch.where(y.abs() < 1.0, found, torch.where(y.abs() == 1.0, y * math.inf, math.nan))


def _log_ndtr(x: torch.Tensor) -> torch.Tensor:
    """The logarithm of the normal distribution's cumulative function."""
    t = x * math.sqrt(0.5)
    below = torch.log(_scaled_tail(torch.clamp(-t, min=0.0)) / 2.0) - t * t
    return torch.where(x < -1.0, below, torch.log1p(-_erfc(torch.clamp(t, min=-1.0)) / 2.0))


# ---- gamma -------------------------------------------------------------------------------------------------

_SHIFT = 6


def _lgamma(x: torch.Tensor) -> torch.Tensor:
    """``log(abs(gamma(x)))``: Stirling's series, reached by gamma(x) = gamma(x + 1) / x; reflected below 0.5."""
    y = torch.where(x < 0.5, 1.0 - x, x)
    product = torch.ones_like(y)
    for step in range(_SHIFT):
        product = torch.where(y < _SHIFT, product * (y + step), product)
    z = torch.where(y < _SHIFT, y + _SHIFT, y)
    inverse = 1.0 / z
    series = inverse * (1 / 12 - inverse * inverse * (1 / 360 - inverse * inverse / 1260))
    stirling = z * (torch.log(z) - 1.0) - 0.5 * torch.log(z) + 0.5 * math.log(2 * math.pi) + series
    value = stirling - torch.log(product)
    sine = torch.sin(math.pi * (x - torch.round(x))).abs()
    reflected = math.log(math.pi) - torch.log(sine) - value
    return torch.where(torch.isinf(x), math.inf, torch.where(x < 0.5, reflected, value))


def _digamma(x: torch.Tensor) -> torch.Tensor:
    """The derivative of `lgamma`: its asymptotic series, reached and reflected in the same way."""
    y = torch.where(x < 0.5, 1.0 - x, x)
    steps = torch.zeros_like(y)
    for step in range(_SHIFT):
        steps = steps + 1.0 / (y + step)
    z = torch.where(y < _SHIFT, y + _SHIFT, y)
    square = 1.0 / (z * z)
    series = torch.log(z) - 0.5 / z - square * (1 / 12 - square * (1 / 120 - square / 252))
    value = series - torch.where(y < _SHIFT, steps, torch.zeros_like(steps))
    whole = torch.round(x)
    reflected = value - math.pi / torch.tan(math.pi * (x - whole))
    result = torch.where(x < 0.5, reflected, value)
    return torch.where((x < 0) & (x == whole), math.nan, result)


# ---- the table ---------------------------------------------------------------------------------------------


def _rounded(function: Function) -> Function:
    """In float32, and rounded once to the dtype of torch's result."""

    def compute(x: torch.Tensor) -> torch.Tensor:
        return function(x.float()).to(float_of(x.dtype))

    return compute


SPECIAL: Mapping[Any, Function] = {
    op: _rounded(function)
    for op, function in {
        aten.erfc.default: _erfc,
        aten.special_erfcx.default: _erfcx,
        aten.erfinv.default: _erfinv,
        aten.special_log_ndtr.default: _log_ndtr,
        aten.lgamma.default: _lgamma,
        aten.digamma.default: _digamma,
    }.items()
}

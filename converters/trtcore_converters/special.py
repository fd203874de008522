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

# erfcinv(q) / z as a polynomial in z - 7, with z = sqrt(-log(q (2 - q))), for z in [4, 10.2].
_ERFCINV_FAR = (
    1.2787210171142841e-08, -1.7705123746313514e-07, 1.5302105972276284e-06, -1.2114582083829335e-05,
    9.091327382445422e-05, -6.305400800867417e-04, 3.901034403752384e-03, 9.812885282548706e-01,
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


def _ndtri(p: torch.Tensor) -> torch.Tensor:
    """The inverse of the normal distribution's cumulative function; infinite at 0 and 1, NaN outside."""
    y = 2.0 * p - 1.0
    w = -torch.log(4.0 * p * (1.0 - p))
    centre = _polynomial(torch.clamp(w, max=5.0) - 2.5, _ERFINV_CENTRE)
    tail = _polynomial(torch.sqrt(torch.clamp(w, 5.0, 17.0)) - 3.0, _ERFINV_TAIL)
    root = torch.sqrt(torch.clamp(w, 16.0, 105.0))
    far = -root * _polynomial(
        root - 7.0, _ERFCINV_FAR
    )  # only small p are so far out: near 1 float32 is too coarse
    found = torch.where(w < 16.0, y * torch.where(w < 5.0, centre, tail), far) * math.sqrt(2.0)
    edge = torch.where((p == 0.0) | (p == 1.0), y * math.inf, math.nan)
    return torch.where((p > 0.0) & (p < 1.0), found, edge)


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


# ---- Bessel functions --------------------------------------------------------------------------------------

# exp(-x) I0(x) and exp(-x) I1(x) / x as polynomials in x / 4 - 1 for x in [0, 8]; beyond, exp(-x) I(x) sqrt(x) as
# polynomials in 16 / x - 1. Largest relative error 6e-7.
_I0_NEAR = (
    1.8943222251761435e-03, -4.367325689182579e-03, 1.5755571774911377e-03, -1.7134182510074735e-03,
    1.3964548786864869e-02, -2.4693772254905627e-02, 2.908352985190215e-02, -4.0242403332701335e-02,
    5.711186207610596e-02, -7.038203519556625e-02, 7.922130132493785e-02, -8.482781819864327e-02,
    8.734729525206206e-02, -8.905319911956679e-02, 9.451554749066753e-02, -1.1300412295626062e-01,
    2.070019212239867e-01,
)  # fmt: skip
_I0_FAR = (
    1.0829898259260847e-07, 3.631710305277285e-07, 1.4767921099426897e-06, 1.1111525456650673e-05,
    1.3621684311530046e-04, 3.360555851925354e-03, 4.021765094450081e-01,
)  # fmt: skip
_I1_NEAR = (
    2.9553388284610346e-04, -7.271867415056918e-04, 4.588673878873348e-04, -7.827894134137807e-04,
    3.284534039881636e-03, -6.275490947426513e-03, 9.432281483607197e-03, -1.5167227114939416e-02,
    2.3732326299059837e-02, -3.379490307851968e-02, 4.4667124281470044e-02, -5.526015011300484e-02,
    6.376793910462833e-02, -6.848403658957651e-02, 6.805758872655363e-02, -6.112430814622935e-02,
    4.4687709875608835e-02,
)  # fmt: skip
_I1_FAR = (
    -1.2212498465941114e-07, -4.2155543729815765e-07, -1.8267145046635388e-06, -1.500332306614829e-05,
    -2.1923666942859845e-04, -9.749581526547915e-03, 3.8939845902587233e-01,
)  # fmt: skip


def _far(size: torch.Tensor, coefficients: tuple[float, ...]) -> torch.Tensor:
    size = torch.clamp(size, min=8.0)
    return _polynomial(16.0 / size - 1.0, coefficients) / torch.sqrt(size)


def _i0e(x: torch.Tensor) -> torch.Tensor:
    """``exp(-abs(x)) I0(x)``."""
    size = x.abs()
    near = _polynomial(torch.clamp(size, max=8.0) * 0.25 - 1.0, _I0_NEAR)
    return torch.where(size > 8.0, _far(size, _I0_FAR), near)


def _i1e(x: torch.Tensor) -> torch.Tensor:
    """``exp(-abs(x)) I1(x)``."""
    size = x.abs()
    near = size * _polynomial(torch.clamp(size, max=8.0) * 0.25 - 1.0, _I1_NEAR)
    found = torch.where(size > 8.0, _far(size, _I1_FAR), near)
    return torch.where(x < 0, -found, found)


def _growing(scaled: Function) -> Function:
    """Without the factor of ``exp(-abs(x))``, taken out in halves: it would overflow before the result does."""

    def compute(x: torch.Tensor) -> torch.Tensor:
        half = torch.exp(x.abs() * 0.5)
        return scaled(x) * half * half

    return compute


# For x in (0, 2], with t = x^2 / 4: the power series of I0(x) and 2 I1(x) / x, and of what K0(x) and K1(x) add to those
# times log(x / 2) (_PSI: the digamma function at 1, 2, ...). Beyond, exp(x) K(x) sqrt(x) as
# polynomials in 4 / x - 1. Largest relative error 2e-8.
_PSI = tuple(math.fsum(1 / k for k in range(1, n + 1)) - 0.5772156649015329 for n in range(10))
_I0_SERIES = tuple(1 / math.factorial(k) ** 2 for k in reversed(range(9)))
_I1_SERIES = tuple(1 / (math.factorial(k) * math.factorial(k + 1)) for k in reversed(range(9)))
_K0_SERIES = tuple(_PSI[k] / math.factorial(k) ** 2 for k in reversed(range(9)))
_K1_SERIES = tuple(
    (_PSI[k] + _PSI[k + 1]) / (math.factorial(k) * math.factorial(k + 1)) for k in reversed(range(9))
)
_K0_FAR = (
    -2.874071324975858e-06, 8.842355973274659e-06, -2.4277190343836977e-05, 9.83348273107617e-05,
    -4.798632586554993e-04, 3.0331432331310386e-03, -3.1071458865931847e-02, 1.2185953306198487,
)  # fmt: skip
_K1_FAR = (
    3.545330654927412e-06, -1.1192864792850387e-05, 3.2297955585904885e-05, -1.3810637034173892e-04,
    7.358363623517198e-04, -5.5670340355681355e-03, 1.0334973422975073e-01, 1.3631518999192211,
)  # fmt: skip


def _k0e(x: torch.Tensor) -> torch.Tensor:
    """``exp(x) K0(x)``; infinite at 0, NaN below."""
    near = torch.where(x > 2.0, torch.ones_like(x), x)
    t = 0.25 * near * near
    log = torch.log(near) - math.log(2.0)
    found = torch.exp(near) * (_polynomial(t, _K0_SERIES) - log * _polynomial(t, _I0_SERIES))
    return torch.where(x > 2.0, _falling_far(x, _K0_FAR), found)


def _k1e(x: torch.Tensor) -> torch.Tensor:
    """``exp(x) K1(x)``; infinite at 0, NaN below."""
    near = torch.where(x > 2.0, torch.ones_like(x), x)
    t = 0.25 * near * near
    log = torch.log(near) - math.log(2.0)
    grown = 0.5 * near * (log * _polynomial(t, _I1_SERIES) - 0.5 * _polynomial(t, _K1_SERIES))
    found = torch.where(near == 0.0, math.inf, torch.exp(near) * (1.0 / near + grown))
    return torch.where(x > 2.0, _falling_far(x, _K1_FAR), found)


def _falling_far(x: torch.Tensor, coefficients: tuple[float, ...]) -> torch.Tensor:
    x = torch.clamp(x, min=2.0)
    return _polynomial(4.0 / x - 1.0, coefficients) / torch.sqrt(x)


def _falling(scaled: Function) -> Function:
    """Without the factor of ``exp(x)``, for x >= 0."""

    def compute(x: torch.Tensor) -> torch.Tensor:
        return scaled(x) * torch.exp(-x)

    return compute


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
        aten.special_ndtri.default: _ndtri,
        aten.i0.default: _growing(_i0e),
        aten.special_i0e.default: _i0e,
        aten.special_i1.default: _growing(_i1e),
        aten.special_i1e.default: _i1e,
        aten.special_modified_bessel_i0.default: _growing(_i0e),
        aten.special_modified_bessel_i1.default: _growing(_i1e),
        aten.special_modified_bessel_k0.default: _falling(_k0e),
        aten.special_modified_bessel_k1.default: _falling(_k1e),
        aten.special_scaled_modified_bessel_k0.default: _k0e,
        aten.special_scaled_modified_bessel_k1.default: _k1e,
        aten.lgamma.default: _lgamma,
        aten.digamma.default: _digamma,
    }.items()
}

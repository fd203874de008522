"""Ranges of size expressions."""

from __future__ import annotations

import math

import pytest
import sympy
from torch.utils._sympy.functions import (
    CeilToInt,
    FloatTrueDiv,
    FloorDiv,
    FloorToInt,
    IntTrueDiv,
    Mod,
    RoundToInt,
    ToFloat,
    TruncToInt,
)

from trtcore.ir.expressions import evaluate, to_text
from trtcore.ir.program import SymbolRange
from trtcore.ir.symbols import bounds, expression_of, is_integral

N, M = sympy.symbols("n m", integer=True, positive=True)
RANGES = {"n": SymbolRange("n", 2, 5, 9), "m": SymbolRange("m", 1, 4, 16)}


def test_of_sums_products_and_divisions():
    assert bounds(7, RANGES) == (7, 7, 7)
    assert bounds(N, RANGES) == (2, 5, 9)
    assert bounds(2 * N * M + 1, RANGES) == (5, 41, 289)
    assert bounds(FloorDiv(N, 2), RANGES) == (1, 2, 4)


def test_of_a_division_whose_divisor_could_be_zero_by_its_interval():
    """m rounded up to fours, over how many fours there are: its interval has 0 in it, its values do not."""
    rounded = M + Mod(4 - Mod(M, 4), 4)
    assert bounds(FloorDiv(N * rounded, FloorDiv(rounded, FloorDiv(rounded, 4))), RANGES)[1:] == (5, 36)


def test_sizes_of_whole_numbers():
    assert is_integral(3)
    assert is_integral(FloorDiv(N * M + 1, 2) + Mod(N, 4) - N**2)
    assert not is_integral(TruncToInt(0.6 * N))
    assert not is_integral(TruncToInt(FloatTrueDiv(ToFloat(N), 3.0)))


@pytest.mark.parametrize(
    ("rounded", "function"), [(CeilToInt, math.ceil), (FloorToInt, math.floor), (TruncToInt, math.trunc)]
)
@pytest.mark.parametrize("divisor", [1, 2, 3, 7])
@pytest.mark.parametrize("offset", [0, 5, -12])
def test_a_rounded_quotient_of_sizes_needs_no_float(rounded, function, divisor, offset):
    size = rounded(IntTrueDiv(N + offset, divisor))
    found = expression_of(size)
    if rounded is not TruncToInt or offset >= 0:  # towards zero is no floor where the number may be negative
        assert not found.has(IntTrueDiv)
        assert is_integral(2 * size + 1)
    for n in (1, 2, 5, 11, 2**31 - 1):
        assert evaluate(to_text(found), {"n": n}) == function((n + offset) / divisor)


def test_other_roundings_stay_what_they_are():
    size = RoundToInt(IntTrueDiv(N, 2))
    assert expression_of(size) == size
    assert not is_integral(TruncToInt(FloatTrueDiv(ToFloat(N), 3.0)))

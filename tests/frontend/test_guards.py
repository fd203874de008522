import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtcore.errors import ArtifactError, ExportError
from trtcore.ir.exclusions import exclusion, holds_everywhere
from trtcore.ir.guards import Guard, parse_guards
from trtcore.ir.program import SymbolRange

SOURCES = {"['x']": 0, "['y']['k']": 1, "['n']": 2}
SIZES = {(0, 0): "s0", (0, 1): "s1", (0, 2): "2 * s0 + 1", (1, 0): "s2", (2, None): "n"}


def size(index, dim):
    if (index, dim) not in SIZES:
        raise ArtifactError("no size")
    return SIZES[index, dim]


def one(text):
    (guard,) = parse_guards([text], SOURCES, size)
    return guard


@given(st.integers(0, 50), st.integers(0, 50))
def test_guards_evaluate_as_python_does(a, b):
    text = (
        "(L['x'].size()[1] % 2 == 0 and not -L['y']['k'].size()[0] < -9) or max(3, L['x'].size()[1] // 2) > 7"
    )
    guard = one(text)
    expected = (a % 2 == 0 and not -b < -9) or max(3, a // 2) > 7
    assert guard.holds({"s1": a, "s2": b}) == expected
    assert set(guard.symbols) == {"s1", "s2"}
    assert pickle.loads(pickle.dumps(guard)) == guard


def test_text_is_readable():
    assert (
        one("((28*L['x'].size()[0]) % (2*(L['x'].size()[0]))) == 0").text
        == "28 * x.size()[0] % (2 * x.size()[0]) == 0"
    )


def test_division_by_zero_is_false():
    assert not one("L['x'].size()[0] // (L['x'].size()[0] - 4) == 1").holds({"s0": 4})


def test_sizes_are_expressions_over_the_programs_symbols():
    guard = one("-L['x'].size()[2] // 2 == L['n'] and abs(L['n']) / 2 >= math.floor(1.5)")
    assert guard.symbols == ("s0", "n")
    assert guard.holds({"s0": 3, "n": -4})
    assert not guard.holds({"s0": 3, "n": -3})


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "L['z'].size()[0] == 1",
        "open('f')",
        "open('f') == 1",
        "L['x'].size()[0] ** 99999999 > 1",
        "(lambda: 1)()",
        "L['x'].size()[0] ==",
        "[1 for _ in range(9)]",
        "L['x'].size()[0].__class__ == 1",
        "L['x'] == 1",
    ],
)
def test_what_we_have_no_words_for_is_refused_and_not_forgotten(text):
    with pytest.raises(ExportError, match="cannot check"):
        parse_guards([text], SOURCES, size)


def test_a_guard_about_strides_is_left_out():
    assert parse_guards(["L['x'].stride()[0] == 1"], SOURCES, size) == ()


@pytest.mark.parametrize("text", ["open('f')", "s0", "size(0, 1) == 2", "s0.x == 1", 3, "(" * 999])
def test_text_that_need_not_be_trusted(text):
    with pytest.raises(ArtifactError):
        Guard.from_text(text)


def test_a_guard_twice_is_one():
    assert len(parse_guards(["L['x'].size()[0] > 1", "(L['x'].size()[0]) > 1"], SOURCES, size)) == 1


RANGES = {
    "s0": SymbolRange("s0", 8, 16, 32),
    "s1": SymbolRange("s1", 1, 4, 10**9),
    "n": SymbolRange("n", 0, 1, 300),
}


def test_what_a_guard_excludes_of_a_range():
    found = exclusion(Guard.from_text("s0 % 4 != 0"), RANGES)
    assert [point["s0"] for point in found.points] == [8, 12, 16, 20, 24, 28, 32]
    assert found.exact
    assert holds_everywhere(Guard.from_text("s0 >= 8 and not s0 * 2 > 64"), RANGES)


def test_a_range_that_is_too_wide_to_try_every_size():
    """Interval arithmetic proves what it can; else sizes all over the range are tried, of every remainder."""
    assert holds_everywhere(Guard.from_text("s1 + 1 != 1 and s1 * s0 // 8 < 10**10 and s1 % 7 < 7"), RANGES)
    odd = exclusion(Guard.from_text("s1 % 2 == 0"), RANGES)
    assert odd.points
    assert not odd.exact
    assert not holds_everywhere(Guard.from_text("2 * s1 % 2 == 0"), RANGES)


def test_profiles_are_looked_at_one_by_one():
    two = {"s0": SymbolRange("s0", 1, 1, 64, profiles=((1, 1, 1), (32, 64, 64)))}
    assert holds_everywhere(Guard.from_text("s0 < 2 or s0 >= 32"), two)
    assert not holds_everywhere(Guard.from_text("s0 < 2 or s0 > 32"), two)

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtcore.ir.guards import parse_guards

SOURCES = {"['x']": 0, "['y']['k']": 1}


def one(text):
    (guard,) = parse_guards([text], SOURCES)
    return guard


@given(st.integers(0, 50), st.integers(0, 50))
def test_guards_evaluate_as_python_does(a, b):
    text = (
        "(L['x'].size()[1] % 2 == 0 and not -L['y']['k'].size()[0] < -9) or max(3, L['x'].size()[1] // 2) > 7"
    )
    guard = one(text)
    expected = (a % 2 == 0 and not -b < -9) or max(3, a // 2) > 7
    assert guard.holds(lambda index, dim: {(0, 1): a, (1, 0): b}[index, dim]) == expected
    assert guard.inputs() == {(0, 1), (1, 0)}
    assert pickle.loads(pickle.dumps(guard)) == guard


def test_text_is_readable():
    assert (
        one("((28*L['x'].size()[0]) % (2*(L['x'].size()[0]))) == 0").text
        == "28 * x.size()[0] % (2 * x.size()[0]) == 0"
    )


def test_division_by_zero_is_false():
    assert not one("L['x'].size()[0] // (L['x'].size()[0] - 4) == 1").holds(lambda i, d: 4)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "L['x'].stride()[0] == 1",
        "L['z'].size()[0] == 1",
        "open('f')",
        "L['x'].size()[0] ** 99999999 > 1",
        "(lambda: 1)()",
        "L['x'].size()[0] ==",
        "[1 for _ in range(9)]",
    ],
)
def test_anything_else_is_left_out(text):
    assert parse_guards([text], SOURCES) == ()


def test_a_guard_twice_is_one():
    assert len(parse_guards(["L['x'].size()[0] > 1", "(L['x'].size()[0]) > 1"], SOURCES)) == 1

"""Every op of the ATen pack is named by a test of converters, so that ``pytest -k`` finds it (ops_by_name.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
from ops_by_name import FOLDER, families, names_of_tests, ops_of

#: Ops that only the sample inputs of tests/conformance try, or that graphs no longer have when converters are chosen.
# fmt: off
ELSEWHERE = frozenset({
    "_unsafe_index", "alias", "argwhere", "diagonal_copy", "empty_permuted",
    "fill_diagonal_", "isclose", "lift_fresh", "new_empty_strided", "polygamma_", "resize_as", "resolve_conj", "resolve_neg",
    "special_modified_bessel_i0", "tril_indices", "triu_indices",
})
# fmt: on


def named() -> dict[str, set[str]]:
    """Op -> the tests that name it."""
    found: dict[str, set[str]] = {}
    for path in set(FOLDER.glob("test_*.py")) - {Path(__file__)}:
        for test in names_of_tests(path):
            for op in ops_of(path, test):
                found.setdefault(op, set()).add(f"{path.stem}.{test}")
    return found


def test_every_op_has_a_test_that_names_it() -> None:
    ops = frozenset().union(*(ops for family, ops in families().items() if family != "refusals"))
    assert ops - named().keys() == ELSEWHERE


@pytest.mark.parametrize(
    ("op", "test"),
    [
        ("gelu", "test_activations.test_floats"),  # by a function of its module
        ("log_sigmoid", "test_activations.test_floats"),  # torch.nn.functional.logsigmoid
        ("prelu", "test_activations.test_prelu"),  # torch.nn.PReLU
        ("matmul", "test_linear.test_matmul_of_all_ranks"),  # an operator
        ("erf", "test_unary.test_bools_become_numbers"),  # a text
    ],
)
def test_k_selects_the_tests_of_an_op(op: str, test: str) -> None:
    assert test in named()[op]


def test_k_selects_no_others() -> None:
    assert "test_activations.test_prelu" not in named()["gelu"]

"""Lowering passes in the order that they ask for; opposite wishes end the same way everywhere, and are told."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtcore.errors import PackError
from trtcore.lowering import CORE_PASSES, ordered_passes
from trtcore.packs import loading as packs
from trtcore.packs.loading import LoadedPack, PackWarning
from trtcore.packs.model import LoweringPass, PackInfo, Scope
from trtcore.packs.pass_order import CORE, order, told
from trtcore.packs.registry import ConverterRegistry


def a_pass(name: str, *, distribution: str = "acme", **wishes: Any) -> LoweringPass:
    info = PackInfo(distribution, "1.0", "p", Scope.THIRD_PARTY)
    return LoweringPass(name, lambda graph, ctx: None, pack=info, **wishes)


def names(*passes: LoweringPass) -> list[str]:
    return order(passes)[0]


def test_the_cores_passes_are_those_of_the_table() -> None:
    assert tuple(one.name for one in CORE_PASSES) == CORE


def test_a_pass_that_asks_for_nothing_runs_between_the_matchings() -> None:
    assert names(a_pass("a")) == [*CORE[:2], "a", *CORE[2:]]


def test_wishes_are_heard() -> None:
    found = names(a_pass("a", after=("b",)), a_pass("b"), a_pass("c", before=("functionalize",)),
                  a_pass("d", after=("decompose",)))  # fmt: skip
    assert found.index("b") < found.index("a") < found.index("match_lowered_patterns")
    assert found.index("c") < found.index("functionalize")
    assert found.index("d") > found.index("decompose")


def test_names_that_are_not_there_are_no_wish() -> None:
    assert order([a_pass("a", after=("nothing",), before=("nobody",))])[1] == []


OPPOSITE = (
    a_pass("first", distribution="acme", before=("second",)),
    a_pass("second", distribution="beta", before=("first",)),
)


def registry(passes: tuple[LoweringPass, ...]) -> ConverterRegistry:
    return ConverterRegistry.build(
        [LoadedPack(one.pack, lowering_passes=(one,)) for one in passes if one.pack]
    )


@pytest.mark.parametrize("installed", list(itertools.permutations(OPPOSITE)))
def test_opposite_wishes_do_not_depend_on_installation_and_name_both_packs(installed: Any) -> None:
    made = registry(installed)
    found = order(made.lowering_passes)[0]
    assert found.index("first") < found.index("second")  # acme comes before beta
    (tie,) = (tie for tie in made.ties if tie.kind == "pass order")
    assert set(tie.packs) == {"acme:p", "beta:p"}
    assert str(tie).startswith(
        "the lowering pass 'second' of beta:p asks to run before 'first' of acme:p, against 'first' of acme:p before "
        "'second' of beta:p; the latter holds"
    )
    assert "disabled_passes" in str(tie)


def test_a_wish_against_the_core_is_told_and_the_core_keeps_its_order() -> None:
    wish = a_pass("odd", before=("functionalize",), after=("decompose",))
    found, (conflict,) = order([wish])
    assert [name for name in found if name in CORE] == list(CORE)
    assert "the core's 'functionalize'" in told(conflict, [wish])
    assert "'odd' of acme:p" in told(conflict, [wish])


def test_a_pass_before_itself() -> None:
    found, (conflict,) = order([a_pass("a", before=("a",))])
    assert "a" in found
    assert told(conflict, [a_pass("a")]) == "the lowering pass 'a' of acme:p asks to run before itself"


def test_they_are_told_once_and_strict_mode_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    packs.forget_packs()
    with pytest.warns(PackWarning, match="'second' of beta:p asks to run before 'first' of acme:p"):
        ordered_passes(OPPOSITE)
    monkeypatch.setenv("TRTCORE_STRICT_PACKS", "1")
    with pytest.raises(PackError, match="'second' of beta:p"):
        ordered_passes(OPPOSITE)


NAMES = [*"abcdef", *CORE]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.lists(st.sampled_from(NAMES), max_size=3), st.lists(st.sampled_from(NAMES), max_size=3)),
                max_size=6), st.randoms())  # fmt: skip
def test_any_wishes_give_one_order_of_all_passes(wishes: Any, random: Any) -> None:
    passes = [
        a_pass(name, distribution=f"d-{name}", before=tuple(before), after=tuple(after))
        for name, (before, after) in zip("abcdef", wishes)
    ]
    found, conflicts = order(passes)
    assert sorted(found) == sorted([*CORE, *(one.name for one in passes)])
    assert [name for name in found if name in CORE] == list(CORE)
    dropped = {(one.first, one.second) for one in conflicts}
    for one in passes:
        for first, second in [(name, one.name) for name in one.after] + [
            (one.name, name) for name in one.before
        ]:
            if first in found and second in found and (first, second) not in dropped:
                assert found.index(first) < found.index(second)
    shuffled = list(passes)
    random.shuffle(shuffled)
    assert order(registry(tuple(shuffled)).lowering_passes)[0] == found

"""Random in-place programs as a state machine, and a fixed slice of those that ``run_in_place.py`` goes through."""

from __future__ import annotations

import random

import in_place
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

SLICE = range(4000, 4006)


class InPlacePrograms(RuleBasedStateMachine):
    """Calls, changes of weights, files and pickles in any order; `in_place.Machine` compares each with eager."""

    @initialize(source=st.randoms(use_true_random=False))
    def program(self, source: random.Random) -> None:
        self.machine = in_place.Machine(in_place.generate(source))
        self.machine.call("alone", 0)

    @rule(pattern=st.sampled_from(sorted(in_place.PATTERNS)), seed=st.integers(0, 1000))
    def call(self, pattern: str, seed: int) -> None:
        self.machine.call(pattern, seed)

    @rule(kind=st.sampled_from(sorted(in_place.UPDATES | in_place.BUFFER_UPDATES)), seed=st.integers(0, 1000))
    def update(self, kind: str, seed: int) -> None:
        self.machine.update(kind)
        self.machine.call("alone", seed)

    @rule(how=st.sampled_from(("save", "pickle", "copy")))
    def again(self, how: str) -> None:
        self.machine.again(how)


def test_random_in_place_programs():
    run_state_machine_as_test(
        InPlacePrograms,
        settings=settings(
            max_examples=3,
            stateful_step_count=8,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        ),
    )


@pytest.mark.parametrize("seed", SLICE)
def test_slice(seed):
    row = in_place.check(seed)
    assert row["outcome"] != "failed", f"{row['reason']}\n{row['program']}"


def test_programs_survive_json():
    for seed in range(20):
        program = in_place.generate(random.Random(seed))
        assert in_place.InPlace.from_json(program.to_json()) == program


def test_a_wrong_module_is_noticed():
    """Results that share no memory, stale weights and writes that are lost are found."""
    program = in_place.InPlace(((4, 4),), ("x0.add_(1)", "v1 = x0 @ self.w"), ("x0", "v1"))
    machine = in_place.Machine(program)
    machine.call("alone", 1)
    right, machine.fast = machine.fast, lambda x: tuple(one.clone() for one in machine.live(x))
    with pytest.raises(in_place.Wrong, match="results written"):
        machine.call("alone", 1)
    machine.fast = lambda x: machine.live(x.clone())
    with pytest.raises(in_place.Wrong, match="input 0"):
        machine.call("alone", 1)
    machine.fast = right
    with in_place.torch.no_grad():
        machine.eager.w.add_(1)
    with pytest.raises(in_place.Wrong, match="result v1"):
        machine.call("alone", 1)

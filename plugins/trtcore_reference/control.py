"""Loops, conditionals and assertions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from trtcore.pack import InputError
from trtcore_reference.emit import Emitter, Evaluator
from trtcore_reference.values import Const, Value

# -- conditionals and assertions ------------------------------------------------------------------


def condition(e: Emitter) -> Sequence[Value]:
    """A boundary mark; CONDITIONAL_OUTPUT reads the condition itself."""
    return ()


def conditional_input(e: Emitter) -> Value:
    return e.value()


def conditional_output(e: Emitter) -> Value:
    """The value of the branch taken. Both branches are computed: they have no effects, so nobody can tell."""
    owner = e.region.engine.conditions.get(e.attributes["conditional"])
    if owner is None or owner.inputs[0] is None:
        raise e.error("belongs to a conditional without a condition")
    return e.call(choose, e.region.value(owner.inputs[0], host=True), e.value(0), e.value(1))


def choose(condition: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return one if bool(condition) else other


def assertion(e: Emitter) -> Sequence[Value]:
    value = e.value(0, host=True)
    if isinstance(value, Const):
        check_assertion(value.tensor, e.attributes["message"])
        return ()
    e.emit(check_assertion, value, e.attributes["message"])
    return ()


def check_assertion(condition: Tensor, message: str) -> None:
    """Raise InputError unless all of `condition` holds."""
    if not bool(condition.all()):
        raise InputError(f"an assertion in the engine failed: {message}")


fx.node.has_side_effect(check_assertion)


# -- loops ----------------------------------------------------------------------------------------


def run_loop(
    step: Callable[..., tuple[Tensor, ...]],
    test: Callable[..., tuple[Tensor, ...]] | None,
    staged: tuple[Any, ...],
    trips: Sequence[Tensor],
    states: Sequence[Tensor],
    iterators: Sequence[tuple[Tensor, int, bool]],
    collects: Sequence[tuple[str, int]],
    lengths: Sequence[Tensor | None],
    captured: Sequence[Any],
    test_captured: Sequence[Any],
) -> tuple[Tensor, ...]:
    """Run a loop: (*last states, *collected outputs).

    A count is checked before each iteration, as is a WHILE condition. An iteration past the end of an
    iterated tensor raises, as does a collected output with fewer iterations than its length: TensorRT leaves
    both undefined.
    """
    states = tuple(states)
    limit = min((int(trip) for trip in trips), default=None)
    results: list[list[Tensor]] = [[] for _ in collects]
    count = 0
    while limit is None or count < limit:
        past = any(count >= tensor.shape[axis] for tensor, axis, _ in iterators)
        slices = [_slice(tensor, axis, reverse, count) for tensor, axis, reverse in iterators]
        if test is not None and not all(bool(c) for c in test(staged, *states, *slices, *test_captured)):
            break
        if past:
            raise InputError("a loop runs past the end of a tensor that it iterates over")
        values = step(staged, *states, *slices, *captured)
        states = tuple(values[: len(states)])
        for place, value in enumerate(values[len(states) :]):
            results[place].append(value)
        count += 1
    stacked = []
    for (kind, axis), given, items in zip(collects, lengths, results):
        wanted = int(given) if given is not None else count
        if wanted > len(items) or not items:
            raise InputError(f"a loop output of length {wanted} was given {len(items)} iterations")
        used = items[:wanted]
        stacked.append(torch.stack(used[::-1] if kind == "REVERSE" else used, axis))
    return (*states, *stacked)


def _slice(tensor: Tensor, axis: int, reverse: bool, count: int) -> Tensor:
    """Slice `count` along `axis`; past the end zeros, for a condition that is about to stop the loop."""
    length = tensor.shape[axis]
    if count >= length:
        return tensor.new_zeros([n for i, n in enumerate(tensor.shape) if i != axis])
    return tensor.select(axis, length - 1 - count if reverse else count)


TABLE: Mapping[str, Evaluator] = {
    "CONDITION": condition,
    "CONDITIONAL_INPUT": conditional_input,
    "CONDITIONAL_OUTPUT": conditional_output,
    "ASSERTION": assertion,
}

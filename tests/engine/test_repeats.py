"""What of a plan are constants: found wherever it stands, and no byte of the plan goes unseen for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trtcore.engine.cache.repeats import Repeats, is_intact, repeats_of, rest_sha256

LEAST = 64 << 10


def noise(count: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def constants() -> dict[str, torch.Tensor]:
    padded = noise(LEAST + 24, 2)
    padded[:3000] = 0  # a table whose first row is that of the padding
    return {
        "matrix": noise(2 * LEAST, 1).view(torch.float32),
        "padded": padded,
        "same_start": torch.cat([padded[:-1], padded[-1:] ^ 1]),
        "small": noise(512, 3),
        "zeros": torch.zeros(LEAST),
    }


def plan_of(*parts: Any) -> tuple[torch.Tensor, Repeats]:
    """Constants by their names, and numbers of other bytes between; and where the constants are."""
    known, pieces, places, end = constants(), [], [], 0
    for part in parts:
        if isinstance(part, str):
            places.append((end, part))
        piece = known[part].view(torch.uint8) if isinstance(part, str) else noise(part, part)
        pieces.append(piece)
        end += piece.numel()
    return torch.cat(pieces), tuple(places)


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ((640, "matrix", 64, "padded", 40, 99), ("matrix", "padded")),
        (("padded", 40, "same_start", 40, "padded"), ("padded", "same_start", "padded")),
        (("matrix", "matrix"), ("matrix", "matrix")),
        (("matrix",), ("matrix",)),
        ((128, "small", "zeros", 64), ()),  # too small to be worth it; nothing to know it by
        (
            (48, "matrix", 24, "padded", 64, "matrix"),
            ("matrix", "padded", "matrix"),
        ),  # at each of a line's words
        ((33, "matrix"), ()),  # at an odd place
        ((4096,), ()),
        ((), ()),
    ],
)
def test_constants_are_found_where_they_are(parts: tuple[Any, ...], found: tuple[str, ...]) -> None:
    plan, places = plan_of(*parts) if parts else (torch.zeros(0, dtype=torch.uint8), ())
    repeats = repeats_of(plan, constants())
    assert tuple(name for _, name in repeats) == found
    assert set(repeats) <= set(places)
    assert is_intact(plan, constants(), repeats, rest_sha256(plan, constants(), repeats))


def test_the_plan_need_not_be_aligned() -> None:
    plan, _ = plan_of(640, "matrix", 64)
    room = torch.zeros(plan.numel() + 5, dtype=torch.uint8)
    room[5:] = plan
    assert repeats_of(room[5:], constants()) == repeats_of(plan, constants()) != ()


def test_part_of_a_constant_is_none() -> None:
    plan, _ = plan_of(640, "matrix")
    assert repeats_of(plan[:-1], constants()) == ()
    assert repeats_of(plan[640 + 64 :], constants()) == ()


def test_a_constant_of_the_same_lines_again_and_again_is_not_looked_for() -> None:
    """As a quantised table may be: every line of the plan might be its first."""
    table = torch.arange(2).repeat_interleave(8).repeat(LEAST // 128) + 1
    assert repeats_of(table.view(torch.uint8), {"table": table}) == ()
    table[8] = 77
    assert repeats_of(table.view(torch.uint8), {"table": table}) == ((0, "table"),)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_flipped_bit_of_a_plan_goes_unseen(data: Any) -> None:
    plan, places = plan_of(640, "matrix", 64, "padded", 40, 99)
    repeats = repeats_of(plan, constants())
    assert repeats == places
    rest = rest_sha256(plan, constants(), repeats)
    place = data.draw(st.one_of(st.integers(0, plan.numel() - 1), st.integers(0, 800)))
    plan[place] ^= 1 << data.draw(st.integers(0, 7))
    assert not is_intact(plan, constants(), repeats, rest)


@pytest.mark.parametrize(
    ("repeats", "error"),
    [
        (((0, "nobody"),), KeyError),
        (((-64, "matrix"),), ValueError),
        (((1 << 40, "matrix"),), ValueError),
        (((LEAST, "matrix"),), ValueError),  # its end is behind the plan's
        (((640, "matrix"), (640, "matrix")), ValueError),
    ],
)
def test_places_that_are_none_are_refused(repeats: Repeats, error: type[Exception]) -> None:
    plan, _ = plan_of(640, "matrix")
    rest = rest_sha256(plan, constants(), ())
    with pytest.raises(error):
        is_intact(plan, constants(), repeats, rest)

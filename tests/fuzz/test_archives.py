"""A slice of the damaged and hostile archives, in a process of their own. `make fuzz-archives` goes through 10,000."""

from __future__ import annotations

import pytest
from archives import batch, make_seeds


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    with pytest.warns(UserWarning, match="captured under the condition"):
        make_seeds(folder)
    return folder


# Seeds that went wrong once: a rank of 2 ** 62 made a list of as many; a directory that zipfile cannot read either.
KEPT = (21421, 84)


@pytest.mark.parametrize(("first", "count"), [(0, 80), *((seed, 1) for seed in KEPT)])
def test_archives(seeds, first, count):
    rows = batch(seeds, first, count)
    assert [row["seed"] for row in rows] == list(range(first, first + count))
    assert [row for row in rows if row["problem"]] == []
    if count > 1:
        outcomes = {row["outcome"] for row in rows}
        assert {"refused", "loaded, the same"} <= outcomes

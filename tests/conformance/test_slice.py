"""A slice of OpInfo conformance: of some operators of every family two samples of a dtype; `make conformance` runs all.

The slice is fixed: every SLICE-th operator of a family, and dtypes by turns.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import families
import page
import policy
import run

from trtcore.testing.opinfo import DTYPES, OpSample, check, operators
from trtcore.testing.tables import FamilyTable, load_tables

SLICE = 9


def slice_of(family: str, device: str = "cpu") -> Iterator[OpSample]:
    """The samples of a family's slice."""
    for number, op in enumerate(families.FAMILIES[family].split()[::SLICE]):
        for turn in range(len(DTYPES)):
            dtype = DTYPES[(number + turn) % len(DTYPES)]
            if found := run._samples(op, str(dtype).removeprefix("torch."), limit=2, device=device):
                yield from found
                break


@pytest.mark.parametrize("family", families.FAMILIES)
def test_no_sample_fails(family, trt_backend):
    results = check(slice_of(family), compare=policy.compare, batch=32)
    failed = [str(result) for result in results if result.outcome == "failed"]
    assert not failed, "\n".join(failed)
    assert any(result.outcome in ("passed", "refused") for result in results)


# ---- the families and the tables ----


def test_every_operator_has_its_place():
    known = {name for name, _ in operators()}
    placed = set(families.family_of()) | set(families.left_out())
    assert placed >= known, "in families.py these are missing"
    assert not set(families.family_of()) & set(families.left_out())


def test_an_operator_that_this_torch_has_not_has_no_samples():
    """Operators come and go between versions of torch: one without samples is on no account."""
    assert run._samples("nn.functional.of_tomorrow", "float32") == []
    assert run._samples("neg", "float32", limit=1)


def test_the_page_is_made_of_the_tables():
    assert page.PAGE.read_text() == page.render(load_tables())


@pytest.mark.parametrize("table", load_tables(), ids=lambda table: table.family)
def test_the_tables_say_that_nothing_fails(table):
    assert table.total("failed") == 0
    assert table.total("passed") > 0
    assert table.refused_share < 0.1
    assert all(refusal.reason for row in table.rows for refusal in row.refusals)


def test_a_table_is_what_was_written():
    row = {
        "op": "neg", "variant": "", "dtype": "float32", "index": 0, "outcome": "refused", "call": "float32[2]", "time": 1.0,
        "reason": "aten.neg.default: at most 3840; its decomposition does not help: because", "traced": ["aten.neg.default"],
    }  # fmt: skip
    table = page.table_of("unary", [row, {**row, "index": 1, "reason": "aten.neg.default: at most 12"}])
    (refusal,) = table.rows[0].refusals
    assert (refusal.reason, refusal.samples) == ("aten.neg.default: at most 3840", 2)
    assert FamilyTable.from_json(table.to_json()) == table


def test_operators_that_were_not_run_again_keep_their_rows():
    row = {
        "op": "neg", "variant": "", "dtype": "float32", "index": 0, "outcome": "passed", "call": "float32[2]", "time": 1.0,
    }  # fmt: skip
    known = page.table_of("unary", [row, {**row, "op": "abs"}])
    fresh = page.table_of("unary", [{**row, "index": 1}, {**row, "op": "exp", "outcome": "failed"}])
    together = page.merged(fresh, known)
    assert [(one.op, one.passed, one.failed) for one in together.rows] == [
        ("abs", 1, 0), ("neg", 1, 0), ("exp", 0, 1),
    ]  # fmt: skip
    assert page.merged(fresh, None) == fresh
    other = FamilyTable("unary", known.rows, {**known.about, "torch": "1.0"})
    with pytest.raises(ValueError, match=r"torch 1\.0.*--family"):
        page.merged(fresh, other)


def test_an_operator_of_no_family_is_told_where_it_is():
    with pytest.raises(
        SystemExit, match=r"special.airy_ai: left out in families.py .*\n.*aten.gelu: no family"
    ):
        run.main(["--op", "special.airy_ai,aten.gelu"])


# ---- the driver ----


@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped(tmp_path, capsys, trt_backend):
    command = ["--op", "neg", "--dtype", "float32", "--limit", "1", "--results", str(tmp_path)]
    assert run.main(command) == 0
    assert "neg: 1 passed" in capsys.readouterr().out
    assert run.main(command) == 0
    assert "neg: 1 passed (" not in capsys.readouterr().out
    (row,) = run.Store(tmp_path).all()
    assert (row["op"], row["outcome"]) == ("neg", "passed")


def test_a_crash_is_one_failed_sample(tmp_path, monkeypatch):
    class Crashing(run.Worker):
        def ask(self, job):
            if "check" not in job:
                return [["", 0], ["", 1]]
            if ["", "float32", 1] in [list(one) for one in job["check"]]:
                return "crashed the process (exit status -11)"
            return [{"op": "neg", "variant": "", "dtype": "float32", "index": 0, "outcome": "passed"}]

    rows = [
        row
        for rows in run._of_operator(Crashing(run.HERE / "run.py"), "neg", ["float32"], None, set())
        for row in rows
    ]
    assert [(row["index"], row["outcome"]) for row in rows] == [(0, "passed"), (1, "failed")]
    assert "exit status -11" in rows[1]["reason"]


def test_a_dead_worker_says_so(monkeypatch):
    worker = run.Worker(run.HERE / "run.py")
    monkeypatch.setattr(run.sys, "executable", "/bin/false")
    assert "crashed the process" in worker.ask({"op": "neg", "dtype": "float32", "limit": 1})

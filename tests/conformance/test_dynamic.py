"""A slice of the dynamic-shape sweep, and that the sweep itself can fail; `make dynamic` runs all of it."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import dynamic
import dynamic_page
import families
import run

from trtcore.testing.opinfo import OpSample

SLICE = 80


@pytest.mark.parametrize("op", list(families.family_of())[::SLICE])
def test_no_form_fails(op, trt_backend):
    rows = [dynamic.check_form(form, graph) for form, graph in dynamic.forms(op, 1)[:2]]
    assert not [row for row in rows if row["outcome"] == "failed"]


def _sample(function, *tensors):
    return OpSample("", "", torch.float32, 0, function, tensors)


def test_forms_vary_every_size_alone_and_all_together():
    forms = dynamic.forms_of(_sample(torch.add, torch.randn(5, 7), torch.randn(7)))
    assert [(form.name, form.ranges[0]) for form in forms] == [
        ("5,7", {5: (1, 5, 9), 7: (1, 7, 11)}), ("5", {5: (1, 5, 9)}), ("7", {7: (1, 7, 11)}),
    ]  # fmt: skip
    shapes = [
        [tuple(t.shape) for t in dynamic.at(label, forms[0].sample, forms[0].ranges[0]).tensors]
        for label in dynamic.LABELS
    ]
    assert shapes == [[(1, 1), (1,)], [(5, 7), (7,)], [(9, 11), (11,)], [(7, 9), (9,)]]


def test_a_first_dim_of_one_is_a_batch():
    (form,) = dynamic.forms_of(_sample(torch.sin, torch.randn(1)))
    assert form.ranges[0] == {dynamic.BATCH: (1, dynamic.BATCH, dynamic.BATCH + 4)}


def test_what_eager_takes_at_no_other_size_has_no_form():
    assert dynamic.forms_of(_sample(lambda x: x.view(5), torch.randn(5))) == []


@pytest.mark.parametrize("takes", [lambda size: size == 5, lambda size: size % 4 == 1])
def test_what_holds_at_some_sizes_only_is_specialised(takes, trt_backend):
    (form, *_) = dynamic.forms_of(_sample(lambda x: x * 2 if takes(x.shape[0]) else x, torch.randn(5)))
    assert dynamic.check_form(form)["outcome"] == "specialised"


def test_a_wrong_number_at_one_size_is_a_failure(trt_backend, monkeypatch):
    (form,) = dynamic.forms_of(_sample(torch.sin, torch.randn(5)))
    assert dynamic.check_form(form)["outcome"] == "passed"
    right = dynamic._compiled
    monkeypatch.setattr(dynamic, "_compiled", lambda model, s: right(model, s) + (s.tensors[0].shape[0] == 7))
    row = dynamic.check_form(form)
    assert (row["outcome"], row["reason"].partition(":")[0]) == ("failed", "at between")


def test_results_of_several_forms_of_a_sample_are_kept_apart(tmp_path):
    (form, *_) = dynamic.forms_of(_sample(torch.sin, torch.randn(5)))
    rows = [
        dynamic._row((*replace(form, sizes=(n,)).sample.key, str(n), "captured"), "passed") for n in (5, 6)
    ]
    store = run.Store(tmp_path, dynamic.KEY)
    store.add("1/1", rows)
    assert len(store.known("failed")) == 2


# ---- the page ----


def test_the_page_says_that_none_failed_and_has_every_operator():
    page = dynamic_page.PATH.read_text()
    total = re.search(r"^\| all \|(.*)\|$", page, re.M)
    assert total is not None
    numbers = dict(zip(("operators", *dynamic_page.COUNTED), map(int, total[1].split("|"))))
    assert numbers["failed"] == 0
    missing = [op for op in families.family_of() if f"| `{op}` |" not in page]
    assert not missing, f"tests/conformance/dynamic.py --op {','.join(missing)}, then --publish"
    assert numbers["passed"] > 1500


def test_operators_that_were_not_run_again_keep_their_rows():
    of = {
        op: [dynamic._row((op, "", "float32", 0, "5", "captured"), outcome, "a size of 5", static="refused")]
        for op, outcome in {"abs": "passed", "sin": "refused", "cos": "passed"}.items()
    }
    before = dynamic_page.render([*of["abs"], *of["cos"]], {"aten.sin.default sin"})
    after = dynamic_page.render(of["sin"], set(), before)
    assert after == dynamic_page.render([*of["abs"], *of["sin"], *of["cos"]], {"aten.sin.default sin"})
    assert "| all | 3 | 2 | 1 | 0 | 0 | 0 |" in after
    page = dynamic_page.PATH.read_text()
    assert dynamic_page.render([], set(), page) == page


def test_the_page_lists_what_no_form_reaches():
    row = dynamic._row(
        ("sin", "", "float32", 0, "5", "captured"), "passed", converters=["aten.sin.default sin"]
    )
    page = dynamic_page.render([row], {"aten.sin.default sin", "aten.cos.default cos"})
    assert "1 of the pack's 2 converters" in page
    assert page.rstrip().endswith("`aten.cos.default`")

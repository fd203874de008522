"""Every refusal of the ATen pack has its grounds, and the grounds still hold.

When a later TensorRT stops refusing one of the networks, the test fails, and the validator can go.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from trtcore_converters.refusals import REFUSED

sys.path.insert(0, str(Path(__file__).parent))

import probes

from trtcore.packs.loading import build_registry
from trtcore.settings import CompilationSettings


@lru_cache(maxsize=1)
def _texts() -> dict[str, str]:
    """Where -> reason; of those that come from a table, one for each text."""
    found = {where: text for where, text in probes.reasons() if text != "{}"}
    return found | {f"REFUSED: {text}": text for text in REFUSED.values()}


def test_every_reason_has_one_row():
    for where, text in _texts().items():
        rows = probes.matching(text)
        assert len(rows) == 1, f"{where}: {text!r} has the rows {[row.reason for row in rows]}"


def test_every_row_is_of_a_reason_and_has_grounds():
    for row in probes.REFUSALS:
        assert any(row in probes.matching(text) for text in _texts().values()), row.reason
        assert row.grounds, row.reason


def test_every_reason_of_a_validator_is_shown_by_the_code():
    assert [where for where, text in probes.reasons() if text == "{}"] == []


def test_the_packs_refusals_are_the_table():
    refused = {one.target: one.reason for one in build_registry(CompilationSettings()).refusals}
    assert refused == REFUSED


NETWORKS = [
    *((row.reason, ground) for row in probes.REFUSALS for ground in row.grounds if isinstance(ground, probes.Says)),
    *probes.WORKED_AROUND,
]  # fmt: skip


@pytest.mark.parametrize(("what", "ground"), NETWORKS, ids=[f"{i} {what[:50]}" for i, (what, _) in enumerate(NETWORKS)])  # fmt: skip
def test_tensorrt_still_says_no(what, ground, trt_backend):
    lines = probes.said(ground.make, trt_backend)
    assert lines is not None, f"{what}: TensorRT builds it now"
    assert re.search(ground.message, lines), f"{what}: TensorRT says\n{lines}"


@pytest.mark.parametrize("row", probes.REFUSALS, ids=lambda row: row.reason[:50])
def test_the_other_grounds_hold(row, trt_backend):
    texts = [text for text in _texts().values() if row in probes.matching(text)]
    for ground in row.grounds:
        match ground:
            case probes.Documents(name, sentence):
                written = " ".join(getattr(trt_backend.trt, name).__doc__.split())
                assert sentence in written
            case probes.Lacks(name, word):
                own = [each for each in dir(getattr(trt_backend.trt, name)) if not each.startswith("_")]
                assert not [each for each in own if word.lower() in each.lower()]
            case probes.Differs(line):
                assert f"| {line}" in probes.SEMANTICS.read_text()
            case probes.Unbuildable(words):
                assert all(re.search(words, text) for text in texts)
            case probes.Training():
                assert all("call model.eval()" in text for text in texts)
            case probes.Elsewhere(op):
                packet, overload = op.split(".")
                target = getattr(getattr(torch.ops.aten, packet), overload)
                assert len(build_registry(CompilationSettings()).candidates(target)) > 1
            case probes.Bounded():
                assert all("{}" in text for text in texts)


def test_a_network_that_builds_is_no_ground(trt_backend):
    assert probes.said(probes._unary("SIN", "float32"), trt_backend) is None

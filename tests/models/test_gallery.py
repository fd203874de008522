"""The record of the model gallery holds, and only gets better."""

from __future__ import annotations

import statistics

import gallery
import pytest

pytest.importorskip("transformers")

RECORD = gallery.record()
ERROR = 1e-5
SLICE = ("modernbert", "gemma2", "t5", "convnextv2", "wav2vec2", "mixtral", "mamba")
ALL = [(name, form) for name in gallery.GALLERY for form in gallery.FORMS]


def test_record_is_complete():
    assert set(RECORD) == set(ALL)
    page = gallery.PAGE.read_text().split(gallery.BEGIN)[1].split(gallery.END)[0].strip()
    assert page == gallery.table([RECORD[key] for key in ALL]), "run tests/models/gallery.py --write"


@pytest.mark.parametrize("form", gallery.FORMS)
def test_record_is_good(form):
    rows = [RECORD[name, form] for name in gallery.GALLERY]
    assert not [row.name for row in rows if row.failed]
    assert len(rows) >= 120
    assert {row.kind for row in rows} >= {
        "encoder",
        "decoder",
        "encoder-decoder",
        "vision",
        "audio",
        "multimodal",
    }
    assert {row.kind for row in rows} >= {
        "mixture of experts",
        "state space",
        "diffusion",
        "video",
        "segmentation",
    }
    assert {row.kind for row in rows} >= {"detection", "depth", "time series", "recommender", "graph"}
    assert sum(row.whole for row in rows) >= 110
    assert statistics.median(row.share for row in rows) >= 0.98
    assert max(row.error for row in rows) <= ERROR
    assert all(reason for row in rows for reason in row.left.values())
    assert all(bool(row.left) == (row.converted < row.ops) for row in rows)


@pytest.mark.parametrize("name", SLICE)
def test_slice(name):
    assert_no_worse(name, "static")


@pytest.mark.models
@pytest.mark.parametrize(("name", "form"), ALL)
def test_gallery(name, form):
    assert_no_worse(name, form)


def assert_no_worse(name: str, form: str) -> None:
    """Compile it anew: as few engines, as large a share or as few ops left, as near to eager as recorded."""
    entry, known = gallery.GALLERY[name], RECORD[name, form]
    if entry.model.startswith("diffusers:"):
        pytest.importorskip("diffusers")
    row = gallery.run(entry, gallery.build(entry), form)
    assert not row.failed, row.failed
    assert row.engines <= known.engines, (row, known)
    fewer = row.ops - row.converted <= known.ops - known.converted  # a pass that saves ops lowers the share
    assert fewer or row.share >= known.share, (row, known)
    assert row.error <= ERROR, row
    assert set(row.left) <= set(known.left), (row.left, known.left)

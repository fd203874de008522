"""The record of the gallery in half precision is the page's, and holds; some of it is measured anew."""

from __future__ import annotations

import gallery
import halves
import pytest

pytest.importorskip("transformers")

RECORD = halves.record()
#: What keeps a model from running in a precision: in eager, or in torch.export.
KNOWN = {
    "fnet": "Unsupported dtype",  # torch has no Fourier transform of half precision on CPUs
    "bart": "could not capture",  # transformers looks for infinities in float16, and branches on what it finds
    "marian": "could not capture",
    "levit": "expected m1 and m2 to have the same dtype",
}
#: Batch normalisation folded into small convolutions rounds weights of half precision a second time (see the page).
FOLDED = {"efficientnet": 1.5, "mobilevit": 1.35}


def test_the_page_is_the_record():
    page = halves.PAGE.read_text().split(halves.BEGIN)[1].split(halves.END)[0].strip()
    ordered = [
        RECORD[name, one] for name in gallery.GALLERY for one in halves.DTYPES if (name, one) in RECORD
    ]
    assert page == halves.table(ordered), "run tests/models/halves.py --write"
    names = {name for name, _ in RECORD}
    assert len(names) >= 80
    assert names <= set(gallery.GALLERY)


def test_the_engine_is_as_near_to_float32_as_eager_is():
    for row in RECORD.values():
        if row.failed:
            assert KNOWN.get(row.name, "?") in row.failed, row
        else:
            assert row.error <= FOLDED.get(row.name, halves.BOUND) * row.eager_error, row
    assert sum(row.holds for row in RECORD.values()) >= 150


@pytest.mark.parametrize("precision", halves.DTYPES)
@pytest.mark.parametrize(
    "name",
    [
        "bert",
        pytest.param("llama", marks=pytest.mark.slow),
        pytest.param("vit", marks=pytest.mark.slow),
        pytest.param("t5", marks=pytest.mark.slow),
    ],
)
def test_measured_anew(name, precision):
    row = halves.run(name, precision)
    assert row.holds, row
    assert row.converted >= RECORD[name, precision].converted * row.ops / RECORD[name, precision].ops


@pytest.mark.models
@pytest.mark.parametrize(("name", "precision"), sorted(RECORD))
def test_the_gallery_in_half_precision(name, precision):
    row = halves.run(name, precision)
    known = RECORD[name, precision]
    assert row.holds or known.failed or row.error <= FOLDED.get(name, 0) * row.eager_error, row

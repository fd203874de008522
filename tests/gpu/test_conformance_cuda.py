"""The slice of OpInfo conformance (tests/conformance/test_slice.py) with its tensors on CUDA, against eager there."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "conformance"))

import families
import policy
from test_slice import slice_of

from trtcore.testing.opinfo import check

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("full_precision")]

DEVICE = os.environ.get("TRTCORE_GPU_DEVICE", "cuda")  # "cpu" tries the code of this test without a GPU


@pytest.mark.parametrize("family", families.FAMILIES)
def test_no_sample_fails(family: str, trt_backend: Any) -> None:
    results = check(slice_of(family, DEVICE), compare=policy.compare, batch=32)
    counts = Counter(result.outcome for result in results)
    print(f"\n{family} on {DEVICE}: {dict(counts)}")
    failed = [str(result) for result in results if result.outcome == "failed"]
    assert not failed, "\n".join(failed)
    assert counts["passed"] or counts["refused"]

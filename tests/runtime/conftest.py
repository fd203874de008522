"""What several tests of the runtime need."""

from __future__ import annotations

import pytest


@pytest.fixture
def alignment_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs as torch's CPU allocator aligns them count as aligned."""
    monkeypatch.setattr("trtcore.runtime.native.logic.ALIGNMENT", 64)
    monkeypatch.setattr("trtcore.runtime.native.context.ALIGNMENT", 64)

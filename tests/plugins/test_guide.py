"""The page about kernel plugins, run with Triton's interpreter: there its kernel computes. `tests/test_docs.py` runs it without."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trtcore.pack import scoped_registry

PAGE = Path(__file__).parent.parent.parent / "docs" / "kernel-plugins.md"


@pytest.mark.interpreter
@pytest.mark.usefixtures("trt_backend")
def test_the_guide_runs_with_the_kernel_interpreted() -> None:
    text = PAGE.read_text()
    namespace: dict[str, object] = {"__name__": "guide"}
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    assert len(blocks) >= 5
    with scoped_registry():
        for block in blocks:
            line = text.count("\n", 0, block.start(1))
            exec(compile("\n" * line + block[1], str(PAGE), "exec"), namespace)
    proof = namespace["proof"]
    assert proof.proved == ("values", "memory", "op", "shapes", "isolated")  # type: ignore[attr-defined]

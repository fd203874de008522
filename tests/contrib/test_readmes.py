"""The examples in the READMEs of contrib/ run."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

CONTRIB = Path(__file__).parent.parent.parent / "contrib"
NEEDS = {"trtcore-contrib-diffusers": "diffusers"}


def blocks(project: str) -> list[str]:
    text = (CONTRIB / project / "README.md").read_text()
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.usefixtures("trt_backend")
@pytest.mark.parametrize("project", [path.name for path in sorted(CONTRIB.iterdir()) if blocks(path.name)])
def test_the_example_runs(project: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = NEEDS.get(project)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"could not import {package!r}")
    monkeypatch.syspath_prepend(CONTRIB / project)
    namespace: dict[str, object] = {"__name__": "readme"}
    for code in blocks(project):
        exec(compile(code, str(CONTRIB / project / "README.md"), "exec"), namespace)

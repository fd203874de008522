"""The examples in the READMEs of contrib/ run."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CONTRIB = Path(__file__).parent.parent.parent / "contrib"
NEEDS = {"trtcore-contrib-diffusers": "diffusers", "trtcore-contrib-modelopt": "modelopt"}


def blocks(project: str) -> list[str]:
    text = (CONTRIB / project / "README.md").read_text()
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def install(project: str, folder: Path) -> None:
    """What an installer writes of a project, so that its entry points are found."""
    text = (CONTRIB / project / "pyproject.toml").read_text()
    points = re.search(r"^\[project\.entry-points\.trtcore\]\n((?:\w.*\n)+)", text, re.MULTILINE)
    info = folder / f"{project.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project}\nVersion: 0.1.0\n")
    if points:
        lines = points.group(1).replace('"', "")
        (info / "entry_points.txt").write_text(f"[trtcore]\n{lines}")


@pytest.mark.slow
@pytest.mark.usefixtures("trt_backend")
@pytest.mark.parametrize("project", [path.name for path in sorted(CONTRIB.iterdir()) if blocks(path.name)])
def test_the_example_runs(project: str, tmp_path: Path) -> None:
    """With the project as good as installed: its folder, and its entry points."""
    package = NEEDS.get(project)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"could not import {package!r}")
    install(project, tmp_path)
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks(project)))
    paths = [str(CONTRIB / project), str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr

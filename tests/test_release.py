"""What is published: sdist and wheel are built, and the wheel is tried in a clean environment with README's first example."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

import trtcore

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "trtcore": "trtcore",
    "trtcore_converters": "converters/trtcore_converters",
    "trtcore_backends": "plugins/trtcore_backends",
    "trtcore_plugins": "plugins/trtcore_plugins",
    "trtcore_reference": "plugins/trtcore_reference",
}


def check(*command: Any, cwd: Path) -> str:
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("TRTCORE_", "PYTHON", "PYTEST_"))
    }
    ran = subprocess.run(
        list(map(str, command)), cwd=cwd, env=kept, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def test_the_version_is_in_one_place() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in project
    assert not re.search(r'^version = "', project, re.MULTILINE)
    source = ast.parse((ROOT / "trtcore" / "_version.py").read_text())
    (value,) = (one.value.value for one in source.body if isinstance(one, ast.Assign))  # type: ignore[attr-defined]
    assert value == trtcore.__version__
    assert f"({trtcore.__version__})" in (ROOT / "CHANGELOG.md").read_text()


def test_every_place_that_names_the_repository_names_the_same() -> None:
    (url,) = re.findall(r'^Repository = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert f"repo_url: {url}\n" in (ROOT / ".mkdocs.yml").read_text()
    for text in re.findall(
        r'^(?:Documentation|Changelog|Issues) = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    ):
        assert text.startswith(url)


def test_the_matrix_is_what_the_project_says_it_runs_with() -> None:
    project, workflow = ((ROOT / name).read_text() for name in ("pyproject.toml", ".github/workflows/ci.yml"))
    versions = re.findall(r"Python :: (3\.\d+)", project)
    assert (
        re.findall(r'"(3\.\d+)"', re.findall(r"^ +python: \[(.+)\]$", workflow, re.MULTILINE)[0]) == versions
    )
    (least,) = re.findall(r'"torch>=([\d.]+),', project)
    assert f'torch: "{least}.0"' in workflow
    page = (ROOT / "docs" / "versions.md").read_text()
    assert f"| Python | {versions[0]} to {versions[-1]} |" in page
    assert f"| torch | {least} to " in page


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_issue_forms_ask_for_what_is_needed(form: Path) -> None:
    text = form.read_text()
    if form.stem in ("bug", "operator"):
        assert "trtcore doctor --json" in text
    for command in re.findall(r"`(trtcore\.[\w.]+)", text):  # what they tell people to call is there
        one: Any = trtcore
        for name in command.split(".")[1:]:
            one = getattr(one, name)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """sdist, wheel, and the wheel that is built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    check(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    check(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "again", cwd=source)
    (again,) = (folder / "again").glob("*.whl")
    return {"sdist": sdist, "wheel": wheel, "again": again}


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.slow
def test_the_wheel_has_the_packages_whole_and_nothing_else(built: dict[str, Path]) -> None:
    files = contents(built["wheel"])
    made = {name for name in files if ".dist-info/" not in name}
    tracked = check("git", "ls-files", *PACKAGES.values(), cwd=ROOT).splitlines()
    expected = {
        name + path.removeprefix(folder)
        for path in tracked
        for name, folder in PACKAGES.items()
        if path.startswith(f"{folder}/")
    }
    assert made == expected
    assert {f"{name}/py.typed" for name in PACKAGES} <= made
    (metadata,) = (text for name, text in files.items() if name.endswith("/METADATA"))
    about = Parser().parsestr(metadata.decode())
    assert (about["Name"], about["Version"], about["License-Expression"]) == (
        "trtcore",
        trtcore.__version__,
        "Apache-2.0",
    )
    assert {"rtx", "tensorrt", "triton", "quantize"} <= set(about.get_all("Provides-Extra"))
    assert any(url.startswith("Repository, ") for url in about.get_all("Project-URL"))
    assert any(name.endswith("/licenses/LICENSE") for name in files)
    (entries,) = (text.decode() for name, text in files.items() if name.endswith("/entry_points.txt"))
    assert "[torch_dynamo_backends]" in entries


@pytest.mark.slow
def test_the_sdist_gives_the_same_wheel(built: dict[str, Path]) -> None:
    assert contents(built["wheel"]) == contents(built["again"])
    with tarfile.open(built["sdist"]) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    for needed in (
        "tests/conftest.py",
        "docs/index.md",
        "CONTRIBUTING.md",
        "Makefile",
        ".ci/setup",
        ".mkdocs.yml",
    ):
        assert needed in inside


@pytest.mark.slow
@pytest.mark.usefixtures("trt_backend")
def test_readmes_first_example_runs_in_a_clean_environment(built: dict[str, Path], tmp_path: Path) -> None:
    """Torch and the other dependencies come from this environment: what is tried is the wheel."""
    venv.EnvBuilder(with_pip=False).create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(
        check(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    )
    # .pth files in a folder that a .pth file names are not read, which keeps an editable trtcore out
    shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "shared.pth").write_text("\n".join(shared) + "\n")
    quiet = ["--no-deps", "--no-index", "--quiet", "--force-reinstall", "--disable-pip-version-check"]
    check(sys.executable, "-m", "pip", "--python", python, "install", *quiet, built["wheel"], cwd=tmp_path)
    block = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    (tmp_path / "first.py").write_text(f"{block}\nprint(trtcore.__file__)\n")
    said = check(python, "first.py", cwd=tmp_path)
    assert "in 1 engine, 0 in torch" in said
    assert str(site) in said
    assert "Everything that engines need is here" in check(
        python, "-m", "trtcore", "doctor", "--quick", cwd=tmp_path
    )
    assert "MiniLM" in check(python, "-m", "trtcore", "demo", "--help", cwd=tmp_path)

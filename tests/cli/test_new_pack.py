"""`trtcore new-pack`: the project installs and passes its own tests; bad names and folders that exist are refused."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import venv
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from trtcore.cli import new_pack
from trtcore.cli.app import main
from trtcore.cli.new_pack import create
from trtcore.cli.pack_files import KINDS

tomllib = pytest.importorskip("tomllib", reason="in Python 3.11 and later")


def check(*command: Any, cwd: Path) -> str:
    dropped = ("TRTCORE_", "PYTHONPATH", "PYTEST_")
    environment = {
        k: v for k, v in os.environ.items() if k == "TRTCORE_CACHE_DIR" or not k.startswith(dropped)
    }
    run = subprocess.run(
        [str(part) for part in command], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, f"{' '.join(map(str, command))}\n{run.stdout}\n{run.stderr}"
    return run.stdout


def environment(folder: Path) -> Path:
    """The interpreter of a new virtual environment that sees the packages of this one."""
    venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt").create(folder)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(check(python, "-c", code, cwd=folder).strip())
    shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "shared.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in shared))
    return python


PASSED = {"converter": 11, "kernel": 10, "pass": 12, "pattern": 11}  # skipped ones among them


@pytest.mark.usefixtures("trt_backend")
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "converter" else pytest.mark.slow) for kind in KINDS]
)
def test_a_new_pack_installs_and_passes_its_tests(kind: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["new-pack", "acme-ops", "--kind", kind, "--in", str(tmp_path)])
    assert result.exit_code == 0, result.output
    project = tmp_path / "acme-ops"
    assert f"pip install -e '{project}[test]'" in result.stdout
    python = environment(tmp_path / "venv")
    quiet = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    check(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        *quiet,
        "--editable",
        project,
        cwd=tmp_path,
    )
    listed = check(python, "-c", "from trtcore.cli import main; main()", "packs", "--no-import", cwd=tmp_path)
    assert "acme-ops:acme-ops" in listed
    said = check(
        python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--trtcore-require-backend", ".", cwd=project
    )
    counts = {what: int(count) for count, what in re.findall(r"(\d+) (passed|skipped|failed|warning)", said)}
    assert counts.get("passed", 0) + counts.get("skipped", 0) == PASSED[kind], said
    assert counts.get("skipped", 0) <= (2 if kind == "kernel" else 1 if kind == "pass" else 0), said
    lint = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F,W,B", project]
    check(*lint, cwd=tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_project_of_every_kind_is_whole(kind: str, tmp_path: Path) -> None:
    project = create("acme-ops", tmp_path, kind=kind, url="https://example.org/acme/")
    files = {
        path.relative_to(project).as_posix(): path.read_text()
        for path in project.rglob("*")
        if path.is_file()
    }
    for name, text in files.items():
        assert "$" not in text.replace("${{ matrix.python }}", ""), name
        if name.endswith(".py"):
            ast.parse(text)
            assert max(map(len, text.splitlines()), default=0) <= 120
    about = tomllib.loads(files["pyproject.toml"])["project"]
    assert about["license"] == "MIT"
    assert f"(c) {date.today().year} The acme-ops authors" in files["LICENSE"]
    assert about["urls"] == {
        "Repository": "https://example.org/acme",
        "Issues": "https://example.org/acme/issues",
        "Changelog": "https://example.org/acme/blob/main/CHANGELOG.md",
    }
    for row in re.findall(r"^\| `([\w./]+)`", files["README.md"], re.MULTILINE):
        assert (project / row).exists(), row
    assert about["description"].partition(": ")[2] in files["README.md"]


def test_a_kind_that_is_not_there_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["new-pack", "acme-ops", "--kind", "plugin", "--in", str(tmp_path)])
    assert result.exit_code != 0
    assert all(kind in result.output for kind in KINDS)
    assert list(tmp_path.iterdir()) == []


NAMES = {
    "": "no name for a pack",
    "Acme": "no name for a pack",
    "1acme": "no name for a pack",
    "acme--ops": "no name for a pack",
    "acme_ops": "no name for a pack",
    "../acme": "no name for a pack",
    "a" * 61: "no name for a pack",
    "class": "is a word of Python",
    "json": "is a word of Python",
    "trtcore": "is taken",
    "numpy": "a module 'numpy' is installed already",
}


@pytest.mark.parametrize("name", NAMES)
def test_bad_names_are_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["new-pack", "--in", str(tmp_path), "--", name])
    assert result.exit_code == 1
    assert NAMES[name] in result.output
    assert "what to do: " in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "acme-ops").mkdir()
    (tmp_path / "acme-ops" / "mine.txt").write_text("mine")
    result = CliRunner().invoke(main, ["new-pack", "acme-ops", "--in", str(tmp_path)])
    assert result.exit_code == 1
    assert "exists; nothing was written" in result.output
    assert [path.name for path in tmp_path.rglob("*")] == ["acme-ops", "mine.txt"]


def test_a_parent_that_does_not_exist(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["new-pack", "acme-ops", "--in", str(tmp_path / "nowhere")])
    assert "there is no folder" in result.output
    assert result.exit_code == 1


def test_what_cannot_be_written_whole_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def fails(self: Path, *args: Any, **kwargs: Any) -> int:
        written.append(self)
        if len(written) > 2:
            raise OSError("disk full")
        return 0

    monkeypatch.setattr(Path, "write_text", fails)
    result = CliRunner().invoke(main, ["new-pack", "acme-ops", "--in", str(tmp_path)])
    assert "cannot be written: disk full" in result.output
    assert list(tmp_path.iterdir()) == []


def test_the_range_is_that_of_the_minor_version(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, versions in (
        ("0.1.0", ">=0.1,<0.2"),
        ("0.12.3.dev1", ">=0.12,<0.13"),
        ("2.4.1", ">=2.4,<3"),
    ):
        monkeypatch.setattr(new_pack, "__version__", version)
        assert new_pack._versions() == versions

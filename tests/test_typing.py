"""Types for users: the keyword arguments are the settings, and a type checker sees both what is right and what is wrong."""

from __future__ import annotations

import importlib.util
import inspect
import json
import shutil
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest

import trtcore
from trtcore.errors import SettingsError

ROOT = Path(__file__).parent.parent
CHECKED = ("tests/typing_of_users.py", "docs/examples")  # as `make lint` has them
HINTS = typing.get_type_hints(trtcore.SettingsDict)


def test_the_keyword_arguments_are_the_settings_in_their_order() -> None:
    assert list(HINTS) == [field.name for field in attrs.fields(trtcore.CompilationSettings)]


def literals(hint: Any) -> list[Any]:
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    return [value for part in typing.get_args(hint) for value in literals(part)]


@pytest.mark.parametrize("name", [name for name, hint in HINTS.items() if literals(hint)])
def test_words_that_a_checker_takes_are_those_that_the_setting_takes(name: str) -> None:
    taken = literals(HINTS[name])
    field = getattr(attrs.fields(trtcore.CompilationSettings), name)
    for value in taken:
        assert field.validator(None, field, value) is None
    with pytest.raises(SettingsError) as caught:
        field.validator(None, field, "nothing like it" if isinstance(taken[0], str) else max(taken) + 1)
    if isinstance(taken[0], str):  # the message lists all of them
        assert all(repr(value) in str(caught.value) for value in taken)
        assert str(caught.value).count("', '") == len(taken) - 1


@pytest.mark.parametrize(
    "function",
    [
        trtcore.compile,
        trtcore.explain,
        trtcore.dynamo.compile,
        trtcore.dynamo.explain,
        trtcore.dynamo.convert_exported_program_to_serialized_trt_engine,
        trtcore.debug.compare,
        trtcore.MutableModule.__init__,
        trtcore.MutableModule.load,
    ],
    ids=lambda function: function.__qualname__,
)
def test_every_entry_point_takes_them(function: Callable[..., Any]) -> None:
    assert inspect.signature(function).parameters["settings"].annotation == "Unpack[SettingsDict]"


@pytest.mark.slow
def test_mypy_agrees() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", *CHECKED], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, ran.stdout
    assert "no issues" in ran.stdout


@pytest.mark.slow
@pytest.mark.skipif(
    not (importlib.util.find_spec("pyright") or shutil.which("pyright")), reason="needs pyright"
)
def test_pyright_agrees(tmp_path: Path) -> None:
    """It marks every wrong line of the file and no other, and nothing in the examples that is about trtcore."""
    file = ROOT / CHECKED[0]
    assert complaints(file) == []
    plain = tmp_path / file.name
    plain.write_text(file.read_text().replace("# type: ignore", "# marked"))
    marked = [number for number, line in enumerate(plain.read_text().splitlines(), 1) if "# marked" in line]
    assert marked
    assert sorted({number for _, number, _ in complaints(plain)}) == marked
    examples = sorted((ROOT / "docs" / "examples").glob("*.py"))
    ours = [
        (path.name, number, text)
        for path, number, text in complaints(*examples)
        if "trtcore" in text or "trtcore." in path.read_text().splitlines()[number - 1]
    ]
    assert ours == []  # what it says of other packages' types is theirs


def complaints(*files: Path) -> list[tuple[Path, int, str]]:
    """(file, line, message) of every error that pyright sees."""
    command = [shutil.which("pyright") or "pyright"]
    if importlib.util.find_spec("pyright"):
        command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    ran = subprocess.run(
        [*command, "--outputjson", *map(str, files)], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    found = json.loads(ran.stdout)
    assert found["summary"]["filesAnalyzed"] >= len(files), ran.stdout
    return [
        (Path(one["file"]), one["range"]["start"]["line"] + 1, one["message"])
        for one in found["generalDiagnostics"]
        if one["severity"] == "error"
    ]

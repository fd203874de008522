"""Types for users: the keyword arguments are the settings, and a type checker sees both what is right and what is wrong."""

from __future__ import annotations

import importlib.util
import inspect
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
def test_pyright_agrees() -> None:
    """It marks every wrong line of the file, and no other."""
    file = ROOT / CHECKED[0]
    command = [shutil.which("pyright") or "", str(file)]
    if importlib.util.find_spec("pyright"):
        command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(file)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert "0 errors" in ran.stdout, ran.stdout
    plain = file.with_name("typing_without_marks.py")
    try:
        plain.write_text(file.read_text().replace("# type: ignore", "# marked"))
        ran = subprocess.run(
            [*command[:-1], str(plain)], cwd=ROOT, capture_output=True, text=True, timeout=600
        )
    finally:
        plain.unlink(missing_ok=True)
    marked = [
        number for number, line in enumerate(file.read_text().splitlines(), 1) if "type: ignore" in line
    ]
    for number in marked:
        assert f"{plain.name}:{number}:" in ran.stdout, ran.stdout

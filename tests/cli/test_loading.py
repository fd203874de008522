"""What a MODEL argument may be."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from trtcore.cli.loading import load_model
from trtcore.errors import InputError

SOURCE = """
import torch

net = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Dropout())
number = 3

class Net(torch.nn.Module):
    def forward(self, x):
        return torch.relu(x)

def make():
    return Net()

def make_nothing():
    return None

def fail():
    raise RuntimeError("no weights")

class holder:
    inner = net
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cli_models.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "spec",
    ["cli_models:net", "cli_models:Net", "cli_models:make", "cli_models:holder.inner", "cli_models.py:make"],
)
def test_module_and_file(spec: str) -> None:
    model = load_model(spec)
    assert isinstance(model, torch.nn.Module)
    assert not model.training


def test_exported_program(here: Path) -> None:
    path = here / "relu.pt2"
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.zeros(2),)), path)
    assert isinstance(load_model(str(path)), torch.export.ExportedProgram)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("nothing.pt2", "there is no file 'nothing.pt2'"),
        ("cli_models.py", "is not a .pt2 file"),
        ("nothing_here:net", "importing nothing_here raised ModuleNotFoundError"),
        ("nothing.py:net", "there is no file 'nothing.py'"),
        ("cli_models:missing", "has no 'missing'.*it has: .*make"),
        ("cli_models:number", "is a int, not a model"),
        ("cli_models:make_nothing", "returned a NoneType"),
        ("cli_models:fail", "raised RuntimeError: no weights"),
    ],
)
def test_what_is_no_model_says_why(spec: str, why: str) -> None:
    with pytest.raises(InputError, match=f"(?s){why}"):
        load_model(spec)


def test_damaged_file(here: Path) -> None:
    (here / "bad.pt2").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"no \.pt2 file, or a truncated one"):
        load_model("bad.pt2")
    with zipfile.ZipFile(here / "bad.pt2", "w") as archive:
        archive.writestr("what", "nonsense")
    with pytest.raises(InputError, match="could not be read as an ExportedProgram"):
        load_model("bad.pt2")

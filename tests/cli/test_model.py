"""`trtcore explain`, `compile` and `run`, on a small model in a file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from click.testing import CliRunner, Result

import trtcore
from trtcore.archive import loading
from trtcore.cli.app import main
from trtcore.report.data import REFERENCE_NOTE, Report

SOURCE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(4, 8)
        self.second = torch.nn.Linear(8, 2)

    def forward(self, x, *, scale=None):
        x = self.second(torch.relu(self.first(x)))
        return x if scale is None else x * scale

class Odd(torch.nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(torch.sigmoid(x) - 0.5)
"""

DYNAMIC = "?x4@1x4,2x4,8x4"


@pytest.fixture
def trtcore_cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trt_backend: object
) -> Callable[..., Result]:
    """Run the command in a folder with nets.py; stdout and stderr apart."""
    (tmp_path / "nets.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(main, list(args), catch_exceptions=False)


def test_explain_says_what_stays_in_torch(trtcore_cli: Callable[..., Result]) -> None:
    result = trtcore_cli("explain", "nets.py:Odd", "--input", "3x4", "--set", "min_block_size=1")
    assert result.exit_code == 0, result.output
    assert (
        "1 x aten.special_bessel_j0.default: no converter for aten.special_bessel_j0.default" in result.stdout
    )
    assert "nets.py:17" in result.stdout
    assert "Candidates" not in result.stdout


def test_explain_writes_what_the_file_is_called(trtcore_cli: Callable[..., Result]) -> None:
    for name in ("report.html", "report.json", "report.txt"):
        assert trtcore_cli("explain", "nets.py:Net", "--input", "3x4", "-o", name).exit_code == 0
    assert Path("report.html").read_text().startswith("<!doctype html>")
    assert "Net" in Path("report.txt").read_text()
    assert Report.from_json(Path("report.json").read_text()).model == "Net"
    result = trtcore_cli("explain", "nets.py:Net", "--input", "3x4", "-o", "report.pdf")
    assert result.exit_code == 1
    assert "must end in .html, .json, .txt" in result.stderr


def test_a_plain_engine_comes_out_and_is_inspected(trtcore_cli: Callable[..., Result]) -> None:
    result = trtcore_cli("compile", "nets.py:Net", "--input", DYNAMIC, "-o", "net.engine")
    assert result.exit_code == 0, result.output
    assert Path("net.engine").read_bytes()[1:4] == b"trt"
    found = json.loads(trtcore_cli("inspect", "net.engine", "--json").stdout)
    assert (found["kind"], found["bytes"]) == ("TensorRT plan", Path("net.engine").stat().st_size)
    refused = trtcore_cli("compile", "nets.py:Odd", "--input", "3x4", "-o", "odd.engine")
    assert refused.exit_code == 1
    assert "aten.special_bessel_j0.default" in refused.stderr
    assert not Path("odd.engine").exists()


def test_a_compiled_file_is_inspected_and_its_outputs_are_saved(trtcore_cli: Callable[..., Result]) -> None:
    args = ("compile", "nets.py:Net", "--input", DYNAMIC, "--set", "min_block_size=1", "-o", "net.pt2")
    assert trtcore_cli(*args).exit_code == 0
    text = trtcore_cli("inspect", "net.pt2", "--layers").stdout
    for expected in (
        "compiled module",
        "1x4..8x4 (opt 2x4)",
        "MATRIX_MULTIPLY",
        "trtcore:aten",
        "ACTIVATION",
    ):
        assert expected in text
    (engine,) = json.loads(trtcore_cli("inspect", "net.pt2", "--json").stdout)["engines"]
    assert engine["inputs"][0]["profiles"] == [[[1, 4], [2, 4], [8, 4]]]
    assert {one["name"] for one in engine["weights"]} >= {"first.weight", "second.bias"}
    result = trtcore_cli("run", "net.pt2", "--input", "5x4", "-o", "out.npz")
    assert result.exit_code == 0, result.output
    assert {name: array.shape[0] for name, array in numpy.load("out.npz").items()} == {"output": 5}
    assert trtcore_cli("inspect", "nets.py").exit_code == 1


def test_a_request_is_inspected_and_replayed(trtcore_cli: Callable[..., Result]) -> None:
    with trtcore.Debugger("debug", requests="all", graphs=False, layers=False):
        trtcore.compile(torch.nn.ReLU(), [torch.randn(2, 4)], min_block_size=1)
    file = "debug/0/requests/engine_0.request"
    assert "relu = aten.relu.default  [relu of trtcore]" in trtcore_cli("inspect", file).stdout
    result = trtcore_cli("replay", file, "-o", "again.engine")
    assert result.exit_code == 0, result.output
    assert "engine_0 was built" in result.stdout
    assert Path("again.engine").read_bytes()[1:4] == b"trt"
    Path("broken.request").write_bytes(Path(file).read_bytes()[:100])
    assert trtcore_cli("replay", "broken.request").exit_code == 1


def test_explain_json_and_file_are_the_report(trtcore_cli: Callable[..., Result]) -> None:
    result = trtcore_cli("explain", "nets.py:Net", "--input", DYNAMIC, "--json", "-o", "report.json")
    assert result.exit_code == 0, result.output
    report = Report.from_json(result.stdout)
    assert report.kind == "explain"
    assert report.engine_bytes == 0
    assert list(report.symbols.values()) == [(1, 2, 8)]
    assert Report.from_json(Path("report.json").read_text()) == report


def test_explain_verbose_names_the_converters(trtcore_cli: Callable[..., Result]) -> None:
    result = trtcore_cli("explain", "nets.py:Net", "--input", "3x4", "--set", "min_block_size=1", "-v")
    assert "aten.relu.default" in result.stdout
    assert "chosen: " in result.stdout


def test_compile_writes_a_file_that_run_takes(trtcore_cli: Callable[..., Result]) -> None:
    args = ("--input", DYNAMIC, "--set", "min_block_size=1", "-o", "net.pt2", "--report", "net.json")
    result = trtcore_cli("compile", "nets.py:Net", *args)
    assert result.exit_code == 0, result.output
    assert "wrote net.pt2" in result.stdout
    report = Report.from_json(Path("net.json").read_text())
    assert report.fully_converted
    assert report.engine_bytes > 0

    ran = trtcore_cli("run", "net.pt2", "--input", "5x4", "--json")
    assert ran.exit_code == 0, ran.output
    (output,) = json.loads(ran.stdout)["outputs"]
    assert output["shape"] == [5, 2]

    ran = trtcore_cli("run", "net.pt2")
    assert ran.exit_code == 0, ran.output
    assert "float32[2, 2]" in ran.stdout

    settings = trtcore_cli("run", "net.pt2", "--set", "min_block_size=2")
    assert settings.exit_code == 1
    assert "no effect on a compiled model" in settings.stderr


OPERATOR = """
import torch

@torch.library.custom_op("cli_test::halve", mutates_args=())
def halve(x: torch.Tensor) -> torch.Tensor:
    return x / 2

@halve.register_fake
def _(x):
    return torch.empty_like(x)
"""
USER = """
import torch

class Halved(torch.nn.Module):
    def forward(self, x):
        return torch.ops.cli_test.halve(x).relu().exp()
"""


@pytest.mark.slow
def test_operators_of_ones_own_are_imported(tmp_path: Path, trt_backend: object) -> None:
    """Each command in a process of its own: an operator stays registered."""
    (tmp_path / "operator_module.py").write_text(OPERATOR)
    (tmp_path / "user_module.py").write_text(USER)

    def trtcore_cli(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "trtcore", *args],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    args = ("user_module.py:Halved", "--input", "2x3", "--set", "min_block_size=1", "-o", "out.pt2")
    done = trtcore_cli("compile", *args, "--import", "operator_module")
    assert done.returncode == 0, done.stderr
    assert "run it with: trtcore run out.pt2 --import operator_module" in done.stdout
    without = trtcore_cli("run", "out.pt2")
    assert without.returncode == 1
    assert "--import MODULE" in without.stderr
    assert trtcore_cli("run", "out.pt2", "--import", "operator_module.py").returncode == 0


def test_a_module_that_cannot_be_imported_is_told(trtcore_cli: Callable[..., Result]) -> None:
    result = trtcore_cli("explain", "nets.py:Net", "--input", "3x4", "--import", "no_such_module")
    assert result.exit_code == 1
    assert "importing no_such_module raised ModuleNotFoundError" in result.stderr


def test_run_takes_arrays_from_files(trtcore_cli: Callable[..., Result]) -> None:
    numpy.save("x.npy", numpy.ones((2, 4), dtype="float32"))
    numpy.save("scale.npy", numpy.full(2, 3.0, dtype="float32"))
    args = ("--input", "x.npy", "--input", "scale=scale.npy", "--set", "min_block_size=1", "--json")
    result = trtcore_cli("run", "nets.py:Net", *args)
    assert result.exit_code == 0, result.output
    (output,) = json.loads(result.stdout)["outputs"]
    spec: dict[str, object] = {}
    exec(SOURCE, spec)
    expected = spec["Net"]()(torch.ones(2, 4), scale=torch.full((2,), 3.0))  # type: ignore[operator]
    assert output["max"] == pytest.approx(expected.max().item(), rel=1e-4)


def test_run_compares_with_eager_and_says_which_runtime(trtcore_cli: Callable[..., Result]) -> None:
    args = (
        "--input",
        DYNAMIC,
        "--input",
        "scale=2:float32",
        "--set",
        "min_block_size=1",
        "--set",
        "runtime=reference",
    )
    result = trtcore_cli("run", "nets.py:Net", *args, "--json", "--repeat", "2")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    (output,) = data["outputs"]
    assert data["runtime"] == "reference"
    assert data["note"] == REFERENCE_NOTE
    assert len(data["seconds"]) == 2
    assert output["shape"] == [2, 2]
    assert output["relative_error"] < 1e-5


def test_run_of_an_exported_program_needs_no_input(trtcore_cli: Callable[..., Result]) -> None:
    torch.export.save(torch.export.export(torch.nn.Sigmoid(), (torch.randn(3),)), "sigmoid.pt2")
    result = trtcore_cli("run", "sigmoid.pt2", "--set", "min_block_size=1")
    assert result.exit_code == 0, result.output
    assert "float32[3]" in result.stdout
    assert "relative error" in result.stdout


def test_run_of_an_exported_program_without_example_inputs_draws_them(
    trtcore_cli: Callable[..., Result],
) -> None:
    batch = torch.export.Dim("batch", min=2, max=8)
    program = torch.export.export(torch.nn.Sigmoid(), (torch.zeros(4, 3),), dynamic_shapes=({0: batch},))
    program._example_inputs = None
    torch.export.save(program, "sigmoid.pt2")
    result = trtcore_cli("run", "sigmoid.pt2", "--set", "min_block_size=1", "--json")
    assert result.exit_code == 0, result.output
    (output,) = json.loads(result.stdout)["outputs"]
    assert output["relative_error"] < 1e-5
    assert output["min"] != output["max"]


def test_a_compiled_file_that_cannot_be_loaded_says_why(
    trtcore_cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is no model to compile again."""
    done = trtcore_cli(
        "compile", "nets.py:Net", "--input", "3x4", "--set", "min_block_size=1", "-o", "net.pt2"
    )
    assert done.exit_code == 0, done.output
    again = trtcore_cli("explain", "net.pt2")
    assert again.exit_code == 1
    assert "is compiled already" in again.stderr
    monkeypatch.setattr(loading, "FORMAT", 99)
    result = trtcore_cli("run", "net.pt2")
    assert result.exit_code == 1
    assert "has format 2; this trtcore reads format 99" in result.stderr


@pytest.mark.parametrize(
    ("args", "code", "why"),
    [
        (("explain", "nets.py:Net"), 1, "InputError: .*no inputs"),
        (("explain", "nets.py:Net", "--input", "3xfour"), 2, "'four' is not a number"),
        (("explain", "nets.py:Net", "--input", "3x4", "--set", "min_blok_size=1"), 1, "min_block_size"),
        (("explain", "nets.py:Nothing", "--input", "3x4"), 1, "has no 'Nothing'"),
        (("compile", "nets.py:Net", "--input", "3x4", "-o", "net.onnx"), 1, "must end in .pt2 or .engine"),
        (("compile", "nets.py:Net", "--input", "3x4", "-o", "no/where/net.pt2"), 1, "there is no folder"),
        (("compile", "nets.py:Net", "--input", "3x4"), 2, "Missing option '--output'"),
        (("run", "gone.pt2"), 1, "there is no file 'gone.pt2'"),
    ],
)
def test_bad_input_is_text_and_an_exit_code(
    trtcore_cli: Callable[..., Result], args: tuple[str, ...], code: int, why: str
) -> None:
    import re

    result = trtcore_cli(*args)
    assert result.exit_code == code, result.output
    assert re.search(why, result.stderr), result.stderr
    assert not list(Path.cwd().glob("*.pt2"))

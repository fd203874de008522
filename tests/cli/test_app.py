"""The command group: errors, Ctrl-C, help."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from trtcore.cli.app import COMMANDS, INTERRUPTED, main
from trtcore.errors import ConversionError


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command `broken RAISES` that raises what it is told to."""

    @click.command()
    @click.argument("what")
    def command(what: str) -> None:
        if what == "interrupt":
            raise KeyboardInterrupt
        raise ConversionError("it did not convert", where="encoder.layer.0", advice="turn it off")

    module = type(sys)("broken_command")
    module.command = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "broken_command", module)
    monkeypatch.setitem(COMMANDS, "broken", ("broken_command", "command", "Breaks."))


def test_help_lists_every_command() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name, (_, _, line) in COMMANDS.items():
        assert name in result.output
        assert line in result.output


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert "--json" in result.output


@pytest.mark.usefixtures("broken")
def test_errors_are_text_on_stderr() -> None:
    result = CliRunner().invoke(main, ["broken", "error"])
    assert result.exit_code == 1
    assert "ConversionError: it did not convert" in result.stderr
    assert "in your model: encoder.layer.0" in result.stderr
    assert "what to do: turn it off" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.usefixtures("broken")
def test_traceback_shows_the_exception() -> None:
    result = CliRunner().invoke(main, ["--traceback", "broken", "error"])
    assert isinstance(result.exception, ConversionError)


@pytest.mark.usefixtures("broken")
def test_ctrl_c_is_130() -> None:
    result = CliRunner().invoke(main, ["broken", "interrupt"])
    assert result.exit_code == INTERRUPTED
    assert result.stderr.strip() == "stopped"


def test_unknown_command() -> None:
    result = CliRunner().invoke(main, ["explode"])
    assert result.exit_code == 2
    assert "No such command 'explode'" in result.output


def test_help_loads_no_tensorrt() -> None:
    code = (
        "import sys\n"
        "from trtcore.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "bad = [m for m in ('tensorrt', 'tensorrt_rtx_bindings', 'triton') if m in sys.modules]\n"
        "sys.exit(f'loaded: {bad}' if bad else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_real_ctrl_c_stops_with_130(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\ndef make():\n    print('started', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from trtcore.cli import main; main()",
            "run",
            "slow.py:make",
            "--input",
            "1x2",
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == INTERRUPTED
    assert stderr.strip() == "stopped"


NO_TORCH = """
import sys
sys.argv = {argv!r}
try:
    import trtcore.cli
    trtcore.cli.main(prog_name="trtcore")
except SystemExit:
    pass
print("torch" in sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("argv", "environment", "text"),
    [
        (["trtcore", "--help"], {}, "doctor"),
        (["trtcore", "--version"], {}, "version"),
        (["trtcore", "run", "--help"], {}, "--import"),
        (
            ["trtcore"],
            {"_TRTCORE_COMPLETE": "bash_complete", "COMP_WORDS": "trtcore co", "COMP_CWORD": "1"},
            "plain,compile",
        ),
        (
            ["trtcore"],
            {"_TRTCORE_COMPLETE": "bash_complete", "COMP_WORDS": "trtcore compile --", "COMP_CWORD": "2"},
            "plain,--import",
        ),
    ],
)
def test_help_and_completion_load_no_torch(argv: list[str], environment: dict[str, str], text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH.format(argv=argv)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert text in done.stdout
    assert done.stderr == "False\n"


def test_python_dash_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trtcore", "--version"], capture_output=True, text=True, check=True
    )
    assert "version" in done.stdout

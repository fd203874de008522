"""A function in a child process, which may crash, hang, or damage its memory without harm to this one.

On the CPU the child is a fork: it has everything that this process has declared. A process that uses CUDA cannot be
forked, so there a fresh interpreter imports the declaration by name.
"""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

_LAST_SECONDS = 5.0
"""From a child's answer to its end."""
_SHOWN = 2000  # characters of what a dead child has written
_FRAMES = 6  # of Python's stack where it died


@dataclass(frozen=True)
class Died:
    """How a child ended that gave no answer.

    Attributes:
        why: "it was killed by SIGSEGV", "it did not end within 300 s".
        written: the end of what it wrote to its standard error, with Python's stack where it crashed.
    """

    why: str
    written: str


def in_fork(function: Callable[[], Any], timeout: float) -> Any | Died:
    """What a function returns in a fork of this process, which must use no CUDA.

    Args:
        function: returns what can be pickled.
        timeout: seconds after which the child is killed.

    Raises:
        Exception: what the function raised, with the child's traceback as its cause.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryFile() as errors, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, see _in_child
        child = context.Process(target=_in_child, args=(function, sender, errors), daemon=True)
        child.start()
        sender.close()
        answer, late = None, False
        try:
            late = not receiver.poll(timeout)
            answer = None if late else receiver.recv_bytes()
            child.join(_LAST_SECONDS if not late else 0)
        except EOFError:  # it has died
            child.join(_LAST_SECONDS)
        finally:
            if child.is_alive():
                child.kill()
            child.join()
            receiver.close()
        return _result(answer, child.exitcode, timeout if late else None, errors)


def _in_child(function: Callable[[], Any], sender: Any, errors: IO[bytes]) -> None:
    os.dup2(errors.fileno(), 2)
    faulthandler.enable(errors)
    torch.set_num_threads(1)  # the threads of torch's pool are not there in a fork
    _without_core_dumps()
    sender.send_bytes(pickle.dumps(_outcome(function)))


def _outcome(function: Callable[[], Any]) -> tuple[bool, Any, str]:
    """(whether it returned, the result or the exception, its traceback)."""
    import traceback

    try:
        return True, function(), ""
    except Exception as error:
        text = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = AssertionError(f"{type(error).__name__}: {error}")
        return False, error, text


class _InTheChild(Exception):
    """The traceback of an exception in a child process."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _result(answer: bytes | None, code: int | None, late: float | None, errors: IO[bytes]) -> Any | Died:
    if answer is not None:
        good, value, text = pickle.loads(answer)
        if good:
            return value
        raise value from _InTheChild(text)
    errors.seek(0)
    written = _shown(errors.read().decode(errors="replace"))
    if late is not None:
        return Died(f"it did not end within {late:g} s", written)
    if code is not None and code < 0:
        with suppress(ValueError):
            return Died(f"it was killed by {signal.Signals(-code).name}", written)
    return Died(f"it ended with {code}", written)


def _shown(written: str) -> str:
    """Python's stack where it crashed, the newest frames first; else the end of what was written."""
    _, crash, stack = written.partition("Fatal Python error: ")
    if not crash:
        return written[-_SHOWN:].strip()
    frames = [line.strip() for line in stack.splitlines() if line.lstrip().startswith("File ")]
    return "\n".join(f"    {line}" for line in frames[:_FRAMES])


def _without_core_dumps() -> None:
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


# ---- a fresh interpreter ------------------------------------------------------------------------------------


def place_of(value: Any) -> tuple[str, str] | None:
    """(module, name) by which a fresh interpreter finds an object; None for one that is local, or of a script."""
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if name == "__main__" or spec is None:
            continue
        for attribute, other in list(vars(module).items()):
            if other is value:
                return name, attribute
    return None


def in_interpreter(
    place: tuple[str, str], function: str, arguments: Mapping[str, Any], timeout: float
) -> Any | Died:
    """What a function returns in a fresh interpreter, called with an object that it imports there.

    Args:
        place: of the object, by `place_of`.
        function: ``"module:name"`` of the function.
        arguments: further ones, which torch.save can write.
        timeout: seconds after which the child is killed.

    Raises:
        Exception: what the function raised, with the child's traceback as its cause.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as errors:
        path = Path(folder)
        torch.save((sys.path, place, function, dict(arguments)), path / "request")
        code = f"from trtcore_plugins.isolated import _fresh; _fresh({folder!r})"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        child = subprocess.Popen([sys.executable, "-c", code], stderr=errors, stdout=errors, env=environment)
        late = None
        try:
            child.wait(timeout)
        except subprocess.TimeoutExpired:
            late = timeout
        finally:
            child.kill()
            child.wait()
        answer = (path / "answer").read_bytes() if (path / "answer").exists() and late is None else None
        return _result(answer, child.returncode, late, errors)


def _fresh(folder: str) -> None:
    faulthandler.enable()
    _without_core_dumps()
    paths, (module, name), function, arguments = torch.load(Path(folder) / "request", weights_only=False)
    sys.path[:] = paths
    value = getattr(importlib.import_module(module), name)
    home, _, called = function.partition(":")
    call = getattr(importlib.import_module(home), called)
    answer = pickle.dumps(_outcome(lambda: call(value, **arguments)))
    (Path(folder) / "half").write_bytes(answer)
    (Path(folder) / "half").rename(Path(folder) / "answer")

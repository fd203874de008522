"""The process that builds when ``build_isolation="process"``: ``python -m trtcore.engine.worker``.

It reads pickled calls from its standard input and answers on its standard output, until the input ends. Both ends are
this module and `trtcore.engine.builders`, of one installation.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import struct
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from trtcore.engine.request import EngineRequest

_HEAD = struct.Struct("<Q")


def send(stream: BinaryIO, message: Any) -> None:
    """Write one message."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(_HEAD.pack(len(data)))
    stream.write(data)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Read one message; EOFError where the other side is gone."""
    head = stream.read(_HEAD.size)
    data = stream.read(_HEAD.unpack(head)[0]) if len(head) == _HEAD.size else b""
    if not data:
        raise EOFError
    return pickle.loads(data)


class _Worker:
    def __init__(self, answers: BinaryIO) -> None:
        self.answers = answers
        self.registry: Any = None

    def setup(self, settings: Any, threads: int, device: int | None) -> None:
        import torch

        from trtcore.packs.loading import build_registry

        torch.set_num_threads(threads)
        if device is not None:
            torch.cuda.set_device(device)
        self.registry = build_registry(settings)

    def build(self, request: EngineRequest, path: str, trial: bool, convert_only: bool) -> Any:
        """The failure, or None where the engine is in the file `path` (or was only converted)."""
        from trtcore.engine.build import Failure, build_engine

        made = build_engine(
            request, self.registry, tell=self._tell, path=path, trial=trial, convert_only=convert_only
        )
        return made if isinstance(made, Failure) else None

    def _tell(self, what: str, *data: Any) -> None:
        send(self.answers, (what, *data))

    def answer(self, call: tuple[str, tuple[Any, ...]]) -> None:
        name, arguments = call
        try:
            result = getattr(self, name)(*arguments)
        except Exception as error:
            self._tell("error", _portable(error))
        else:
            self._tell("ok", result)


def _portable(error: Exception) -> Exception:
    """An error that the other process can read."""
    from trtcore.errors import EngineBuildError, TrtcoreError

    if isinstance(error, TrtcoreError):
        return error
    return EngineBuildError(f"the build process raised {type(error).__name__}: {error}")


def main() -> None:
    """Answer calls until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends this process
    faulthandler.enable()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what others print must not get between the answers
    worker = _Worker(answers)
    while True:
        try:
            call = receive(sys.stdin.buffer)
        except EOFError:
            return
        worker.answer(call)


if __name__ == "__main__":
    main()

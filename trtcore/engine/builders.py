"""Who builds engines here: this thread, or a process that may crash (`trtcore.engine.executor`: others).

TensorRT, or a converter through it, can take its process down (a segmentation fault, an abort). With
``build_isolation="process"`` that is the end of a child process, and a failure like any other here. The child is
started with the first request, serves all requests of a compile, and is started again after a crash.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trtcore.artifact.engine_file import EngineArtifact, map_and_unlink, open_container
from trtcore.conversion.interpreter import NodeConversionError
from trtcore.engine.build import Failure, Tell, UnwritableError, build_engine
from trtcore.engine.request import EngineRequest, WeightFile, portable_settings
from trtcore.engine.worker import receive, send
from trtcore.errors import BackendUnavailableError, EngineBuildError
from trtcore.ir.provenance import describe, op_name
from trtcore.paths import TemporaryFolder

if TYPE_CHECKING:
    from trtcore.context import CompileContext

Result = EngineArtifact | Failure | None


class ThreadBuilder:
    """Converts in this thread, and builds on one with a large stack."""

    def __init__(self, ctx: CompileContext) -> None:
        self.ctx = ctx

    def submit(self, request: EngineRequest) -> None:
        """One after another."""

    def build(
        self, request: EngineRequest, tell: Tell, *, trial: bool = False, convert_only: bool = False
    ) -> Result:
        """As `build_engine`."""
        return build_engine(request, self.ctx.registry, tell=tell, trial=trial, convert_only=convert_only)

    def close(self) -> None:
        """Nothing is kept."""


# ---- a child process ----------------------------------------------------------------------------------------


class _Crash(Exception):
    """The child is gone."""


class ProcessBuilder:
    """Builds in a child process; a crash is a `Failure`."""

    def __init__(self, ctx: CompileContext) -> None:
        self.ctx = ctx
        self.child: subprocess.Popen[bytes] | None = None
        self._temporary = TemporaryFolder()
        self.folder = self._temporary.path
        self.weights = WeightFile(str(self.folder / "weights"))
        self.node = ""

    def submit(self, request: EngineRequest) -> None:
        """One after another."""

    def build(
        self, request: EngineRequest, tell: Tell, *, trial: bool = False, convert_only: bool = False
    ) -> Result:
        """As `build_engine`, in the child."""
        try:
            plain = request.detached(self.weights)
        except OSError as error:
            raise no_room(self.folder, error) from error
        path = self.folder / "engine"
        self.node = ""
        try:
            failure = self._ask(tell, "build", plain, str(path), trial, convert_only)
        except _Crash as crash:
            return self._crashed(request, str(crash))
        if failure is not None or convert_only:
            return failure  # type: ignore[no-any-return]
        return open_container(map_and_unlink(path))

    def _crashed(self, request: EngineRequest, how: str) -> Failure:
        segment = request.segment
        nodes = (
            [n for n in segment.graph_module.graph.nodes if n.name == self.node]
            if segment is not None
            else []
        )
        chosen = request.open(self.ctx.registry)[1][self.node].chosen if nodes else None
        if chosen is None:
            return Failure("build", EngineBuildError(f"TensorRT crashed: the process that builds {how}"))
        (node,) = nodes
        return Failure("crash", NodeConversionError(
            f"the converter {chosen.name} of {op_name(node.target)} crashed: its process {how}",
            node=self.node,
            where=describe(node),
            pack=str(chosen.pack) if chosen.pack is not None else None,
            advice="leave the op to torch with torch_executed_ops, or choose another converter with pins or "
            "converters=",
        ))  # fmt: skip

    def close(self) -> None:
        """End the child, and remove its folder."""
        self._end()
        self.weights.close()
        self._temporary.close()

    def _ask(self, tell: Tell, name: str, *arguments: Any) -> Any:
        try:
            if self.child is None:
                self._start()
            return self._answer(tell, (name, arguments))
        except (EOFError, BrokenPipeError):
            raise _Crash(self._end()) from None
        except BaseException as error:
            if not isinstance(error, Exception):  # Ctrl-C
                self._end()
            raise

    def _answer(self, tell: Tell, call: Any) -> Any:
        assert self.child is not None
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        send(self.child.stdin, call)  # type: ignore[arg-type]
        while True:
            what, *data = receive(self.child.stdout)  # type: ignore[arg-type]
            if what == "ok":
                return data[0]
            if what == "error":
                raise data[0]
            if what == "node":
                self.node = data[0]
            tell(what, *data)

    def _start(self) -> None:
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        with open(self.folder / "errors", "wb") as errors:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "trtcore.engine.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": paths},
            )
        device = torch.cuda.current_device() if torch.cuda.is_available() else None
        arguments = portable_settings(self.ctx.settings), torch.get_num_threads(), device
        try:
            self._answer(lambda *_: None, ("setup", arguments))
        except (EOFError, BrokenPipeError):
            raise BackendUnavailableError(
                f"build_isolation='process': the build process does not start: it {self._end()}",
                advice="build with build_isolation='thread'",
            ) from None

    def _end(self) -> str:
        """End the child, and say how it ended if it did so itself."""
        child, self.child = self.child, None
        if child is None:
            return ""
        for stream in (child.stdin, child.stdout):
            assert stream is not None
            with suppress(OSError):
                stream.close()
        try:
            code = child.wait(2)
        except subprocess.TimeoutExpired:
            child.kill()
            code = child.wait()
        if code >= 0:
            return f"ended with exit code {code}: {self._last_words()}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")

    def _last_words(self) -> str:
        lines = (self.folder / "errors").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def no_room(folder: Path, error: OSError) -> UnwritableError:
    """The error of weights that cannot be written for another process."""
    return UnwritableError(
        f"the weights could not be written to {folder}, for the process that builds: {error}",
        advice="free some space, or set TMPDIR to a larger file system",
    )

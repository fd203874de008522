"""Where segments are converted and built: in this process, or in one that may crash.

TensorRT, or a converter through it, can take its process down (a segmentation fault, an abort). With
``build_isolation="process"`` that is the end of a child process, and an error like any other here. The child is
started with the first segment, serves all segments of a compile, and is started again after a crash.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from trtcore.conversion.interpreter import ConvertedSegment, NodeConversionError, convert_segment
from trtcore.engine.build import build_network, map_and_unlink
from trtcore.engine.request import WeightFile, mapped, pack_segment, raise_error, unpack_snapshot
from trtcore.engine.worker import receive, send
from trtcore.errors import BackendUnavailableError, EngineBuildError
from trtcore.ir.provenance import describe, op_name

if TYPE_CHECKING:
    from trtcore.context import CompileContext
    from trtcore.ir.program import SymbolRange
    from trtcore.packs.registry import Selection
    from trtcore.partition import Segment


class ConverterCrash(NodeConversionError):
    """A converter that took the build process down."""


class Workshop(Protocol):
    """Converts and builds segments."""

    def convert(
        self, segment: Segment, selections: Mapping[str, Selection], ranges: Mapping[str, SymbolRange]
    ) -> ConvertedSegment:
        """As `convert_segment`."""

    def build(self, converted: ConvertedSegment) -> torch.Tensor:
        """As `build_network`. Only the segment converted last can be built."""

    def close(self) -> None:
        """The compile is over."""


def workshop(ctx: CompileContext) -> Workshop:
    """What ``settings.build_isolation`` asks for."""
    return _ChildProcess(ctx) if ctx.settings.build_isolation == "process" else _Here(ctx)


class _Here:
    def __init__(self, ctx: CompileContext) -> None:
        self.ctx = ctx

    def convert(
        self, segment: Segment, selections: Mapping[str, Selection], ranges: Mapping[str, SymbolRange]
    ) -> ConvertedSegment:
        return convert_segment(segment, self.ctx, selections, ranges)

    def build(self, converted: ConvertedSegment) -> torch.Tensor:
        return build_network(converted, self.ctx, progress=_progress(self.ctx, converted.segment.name))

    def close(self) -> None:
        pass


def _progress(ctx: CompileContext, name: str) -> Any:
    def progress(phase: str, step: int, steps: int) -> None:
        ctx.emit("build", "progress", segment=name, phase=phase, step=step, steps=steps)

    return progress


class _Crash(Exception):
    """The child is gone."""


class _ChildProcess:
    def __init__(self, ctx: CompileContext) -> None:
        self.ctx = ctx
        self.child: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="trtcore-build-"))
        self.weights = WeightFile(open(self.folder / "weights", "w+b"))  # noqa: SIM115 -- until close()
        self.node = ""
        self.count = 0

    def convert(
        self, segment: Segment, selections: Mapping[str, Selection], ranges: Mapping[str, SymbolRange]
    ) -> ConvertedSegment:
        parcel = pack_segment(segment, selections, ranges, self.weights)
        self.node = ""
        self.count += 1
        made = self.folder / f"constants-{self.count}"
        try:
            found = self._ask("convert", parcel, str(self.folder / "weights"), self.weights.places, str(made))
        except _Crash as crash:
            self._blame_converter(segment, selections, str(crash))
        with open(made, "rb") as file:
            made.unlink()
            structure, views, places = found.pop("snapshot")
            own = mapped(file, places)
        total = len(self.weights.storages)
        snapshot = unpack_snapshot(
            structure, views, lambda n: self.weights.host(n) if n < total else own[n - total]
        )
        return ConvertedSegment(
            segment=segment, network=None, builder=None, logger=None, store=None, snapshot=snapshot, **found
        )

    def _blame_converter(self, segment: Segment, selections: Mapping[str, Selection], how: str) -> None:
        nodes = [node for node in segment.graph_module.graph.nodes if node.name == self.node]
        if not nodes or self.node not in selections:
            raise EngineBuildError(f"the process that converts {segment.name} {how}") from None
        (node,) = nodes
        chosen = selections[self.node].chosen
        assert chosen is not None
        raise ConverterCrash(
            f"the converter {chosen.name} of {op_name(node.target)} crashed: its process {how}",
            node=self.node,
            where=describe(node),
            pack=str(chosen.pack) if chosen.pack is not None else None,
            advice="leave the op to torch with torch_executed_ops, or choose another converter with pins or "
            "converters=",
        ) from None

    def build(self, converted: ConvertedSegment) -> torch.Tensor:
        path = self.folder / "plan"
        try:
            self._ask("build", str(path), progress=_progress(self.ctx, converted.segment.name))
        except _Crash as crash:
            raise EngineBuildError(f"TensorRT crashed: the process that builds {crash}") from None
        return map_and_unlink(path)

    def close(self) -> None:
        self._end()
        self.weights.file.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- the child --------------------------------------------------------------------------------------

    def _ask(self, name: str, *arguments: Any, progress: Any = None) -> Any:
        try:
            if self.child is None:
                self._start()
            return self._answer((name, arguments), progress)
        except (EOFError, BrokenPipeError):
            raise _Crash(self._end()) from None
        except BaseException as error:
            if not isinstance(error, Exception):  # Ctrl-C
                self._end()
            raise

    def _answer(self, request: Any, progress: Any = None) -> Any:
        assert self.child is not None
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        send(self.child.stdin, request)  # type: ignore[arg-type]
        while True:
            kind, *rest = receive(self.child.stdout)  # type: ignore[arg-type]
            if kind == "at":
                self.node = rest[0]
            elif kind == "progress":
                progress(*rest)
            elif kind == "error":
                raise_error(rest[0])
            else:
                return rest[0]

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
        settings = self.ctx.settings.replace(  # what is not for the child, and may not pickle
            converters={},
            build_isolation="thread",
            build_executor=None,
            custom_engine_cache=None,
            autocast_calibration_dataloader=None,
        )
        assert self.ctx.backend is not None
        arguments = settings, self.ctx.backend.name, self.ctx.target, torch.get_num_threads(), device
        try:
            self._answer(("setup", arguments))
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

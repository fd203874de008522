"""The build: a network and a config in, a memory-mapped plan out; off the caller's thread, cancellable."""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trtcore.errors import EngineBuildError

if TYPE_CHECKING:
    from io import FileIO

    from trtcore.backend.base import Backend
    from trtcore.backend.logger import CollectingLogger
    from trtcore.context import CompileContext
    from trtcore.conversion.interpreter import ConvertedSegment

Progress = Callable[[str, int, int], Any]
"""``progress(phase, step, steps)``: TensorRT finished `step` (from 0) of `steps` of a phase. It runs on
TensorRT's threads. Returning False cancels the build; an exception cancels it and reaches the caller."""

# TensorRT recurses over the network: 4,000 chained layers overflow an 8 MB stack and kill the process
# (measured). Address space that is not touched costs nothing; where it is limited, less is tried.
STACK_SIZES = (512 << 20, 128 << 20, 32 << 20)
_stack_lock = threading.Lock()


def build_network(
    converted: ConvertedSegment, ctx: CompileContext, *, progress: Progress | None = None
) -> torch.Tensor:
    """Config, profiles and plan of a converted segment; see `build_plan`."""
    from trtcore.engine.config import add_profiles, make_config

    assert ctx.backend is not None
    assert ctx.target is not None
    config = make_config(ctx.backend, converted.builder, ctx.settings, ctx.target, converted.logger)
    add_profiles(converted.builder, config, converted.network, (*converted.inputs, *converted.sizes))
    return build_plan(
        ctx.backend, converted.builder, converted.network, config, converted.logger, progress=progress
    )


def build_plan(
    backend: Backend,
    builder: Any,
    network: Any,
    config: Any,
    logger: CollectingLogger,
    *,
    progress: Progress | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> torch.Tensor:
    """Build an engine and return its plan.

    The build runs on a thread of its own with a 512 MB stack; the plan is streamed to a file that is mapped
    and disappears with the tensor, so that it is in memory once at most. Ctrl-C cancels the build at its
    next step; a second Ctrl-C does not wait for that.

    Args:
        backend: whose bindings the other objects come from.
        builder: a `trt.Builder` made with `logger`.
        network: a `trt.INetworkDefinition` with outputs. What its weights point at must stay alive.
        config: from `make_config`, with its profiles.
        logger: quoted in the error.
        progress: see `Progress`.
        directory: where the plan's file is made; None is the system's temporary directory.

    Returns:
        the plan, a uint8 tensor of shape (bytes,) on the CPU.

    Raises:
        EngineBuildError: TensorRT refused, the build was cancelled, or the plan could not be written; with
            TensorRT's lines.
        KeyboardInterrupt: pressed in the waiting thread; the build has been cancelled.
    """
    mark = logger.mark()
    try:
        handle, name = tempfile.mkstemp(prefix="trtcore-", suffix=".plan", dir=directory)
    except OSError as error:
        raise _unwritable(directory or tempfile.gettempdir(), error) from error
    path = Path(name)
    try:
        with os.fdopen(handle, "wb", buffering=0) as file:
            job = _Job(backend, builder, network, config, file, progress)
            _run_on_large_stack(job)
        _raise_failure(job, path, logger, mark)
        return map_and_unlink(path)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


class _Job:
    """One build: runs on the build thread, keeps what came out of it."""

    def __init__(
        self,
        backend: Backend,
        builder: Any,
        network: Any,
        config: Any,
        file: FileIO,
        progress: Progress | None,
    ) -> None:
        self.trt = backend.trt
        self.builder = builder
        self.network = network
        self.config = config
        self.file = file
        self.progress = progress
        self.device = torch.cuda.current_device() if torch.cuda.is_available() else None
        self.cancelled = threading.Event()
        self.done = threading.Event()
        self.ok = False
        self.error: BaseException | None = None
        self.callback_error: BaseException | None = None
        self.write_error: OSError | None = None

    def __call__(self) -> None:
        try:
            if self.device is not None:
                torch.cuda.set_device(self.device)  # the current device is per thread
            self._build()
        except BaseException as error:
            self.error = error
        finally:
            self.done.set()

    def _build(self) -> None:
        monitor = _make_monitor(self.trt, self)
        self.config.progress_monitor = monitor
        try:
            if hasattr(self.builder, "build_serialized_network_to_stream"):
                writer = _make_writer(self.trt, self)
                self.ok = bool(
                    self.builder.build_serialized_network_to_stream(self.network, self.config, writer)
                )
            else:
                plan = self.builder.build_serialized_network(self.network, self.config)
                self.ok = plan is not None
                if plan is not None:
                    self.write(memoryview(plan))
        finally:
            self.config.progress_monitor = None

    def write(self, data: Any) -> int:
        """TensorRT's stream: the number of bytes taken, 0 to stop."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError as error:  # no space left
            self.write_error = error
            self.cancelled.set()
            return 0
        return len(data)

    def step(self, phase: str, step: int, steps: int) -> bool:
        """A step of the build is done; False stops it."""
        if self.progress is not None and not self.cancelled.is_set():
            try:
                if self.progress(phase, step, steps) is False:
                    self.cancelled.set()
            except BaseException as error:
                self.callback_error = self.callback_error or error
                self.cancelled.set()
        return not self.cancelled.is_set()


def _run_on_large_stack(job: _Job) -> None:
    """Run the job on a thread with a large stack and wait for it; Ctrl-C cancels it and goes on."""
    _start(job)
    try:
        _wait(job)
    except BaseException:
        job.cancelled.set()
        _wait(job)  # the network, the weights and the file are in use until it ends
        raise


def _start(job: _Job) -> None:
    with _stack_lock:
        for size in STACK_SIZES:
            before = threading.stack_size(size)
            try:
                threading.Thread(target=job, name="trtcore-build", daemon=True).start()
                return
            except RuntimeError as error:  # can't start new thread: address space is limited
                failure = error
            finally:
                threading.stack_size(before)
    raise EngineBuildError(
        f"no thread for the build could be started: {failure}",
        advice="raise the limit on address space (ulimit -v) or on processes (ulimit -u)",
    ) from failure


def _wait(job: _Job) -> None:
    while not job.done.wait(0.2):  # a wait without a limit cannot be interrupted on Windows
        pass


def _raise_failure(job: _Job, path: Path, logger: CollectingLogger, mark: int) -> None:
    if job.write_error is not None:
        raise _unwritable(path.parent, job.write_error) from job.write_error
    if job.callback_error is not None:
        raise job.callback_error
    lines = logger.errors(mark) or logger.since(mark)
    if isinstance(job.error, Exception):
        raise EngineBuildError(f"the build raised {job.error!r}", tensorrt=lines) from job.error
    if job.error is not None:
        raise job.error
    if job.cancelled.is_set():
        raise EngineBuildError("the build was cancelled", tensorrt=lines)
    if not job.ok:
        raise EngineBuildError("TensorRT could not build the engine", tensorrt=lines)
    if path.stat().st_size == 0:
        raise EngineBuildError("TensorRT said that the engine is built, and wrote nothing", tensorrt=lines)


def _unwritable(folder: str | os.PathLike[str], error: OSError) -> EngineBuildError:
    return EngineBuildError(
        f"the plan could not be written to {os.fspath(folder)}: {error}",
        advice="free some space, or set TMPDIR to a larger file system",
    )


def map_and_unlink(path: Path) -> torch.Tensor:
    """A file's bytes as a private mapping, uint8 of shape (bytes,); the file goes with the tensor."""
    plan = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    try:
        path.unlink()  # the mapping keeps the bytes until the tensor is gone
    except OSError:  # Windows cannot delete a mapped file
        weakref.finalize(plan, _unlink, path)  # at exit at the latest
    return plan


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


# -- TensorRT's callback classes, made per bindings module ------------------------------------------------


def _make_monitor(trt: Any, job: _Job) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return job.step(phase_name, step, self.steps.get(phase_name, step + 1))

    return Monitor()


def _make_writer(trt: Any, job: _Job) -> Any:
    class Writer(trt.IStreamWriter):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)

        def write(self, data: bytes) -> int:
            return job.write(data)

    return Writer()

"""Building in an executor: in parallel on this host, or on a farm of others.

Any `concurrent.futures.Executor` does: threads, processes, Dask's, Ray's (`trtcore.executors`). Requests are submitted
ahead. A worker loads the packs itself, maps the weights where it sees this host's files, and gets their bytes where it
does not; so it hands over the engine. What fails there comes back as a value or as an error of ours with the worker's
name; what a lost worker had is built again.
"""

from __future__ import annotations

import os
import socket
import warnings
from concurrent.futures import BrokenExecutor, CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trtcore.artifact.engine_file import EngineArtifact, map_and_unlink, open_container
from trtcore.engine.build import Failure, Tell, build_engine
from trtcore.engine.builders import ProcessBuilder, no_room
from trtcore.engine.request import EngineRequest, WeightFile
from trtcore.errors import EngineBuildError, SettingsError, TrtcoreError, shown
from trtcore.packs.loading import build_registry
from trtcore.paths import TemporaryFolder

if TYPE_CHECKING:
    from trtcore.context import CompileContext

# How executors say that a worker is gone: by name, as their packages need not be here.
_LOST = frozenset(
    {
        "KilledWorker", "CommClosedError", "FutureCancelledError", "LostWorkerError",  # Dask
        "WorkerCrashedError", "ActorDiedError", "RayActorError", "NodeDiedError", "ObjectLostError",  # Ray
        "OwnerDiedError", "LocalRayletDiedError", "OutOfMemoryError",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What a worker says of a request.

    Attributes:
        worker: who it is.
        layers: of the network.
        made: a `Failure`, None after a conversion alone, or the engine: its file's path where the worker sees the
            folder of the compile, else its bytes.
        error: what it raised.
        without_weights: the worker is on another host and does not see them; nothing was done.
    """

    worker: str
    layers: int = 0
    made: Failure | str | bytes | None = None
    error: TrtcoreError | None = None
    without_weights: bool = False


class ExecutorBuilder:
    """Builds by ``settings.build_executor``."""

    def __init__(self, ctx: CompileContext) -> None:
        self.ctx = ctx
        self.executor: Any = ctx.settings.build_executor
        self._temporary = TemporaryFolder()
        self.folder = self._temporary.path
        self.weights = WeightFile(str(self.folder / "weights"))
        self.waiting: dict[int, tuple[EngineRequest, Future[Any]]] = {}
        self._count = 0
        self._other_host = False
        self._spare: ProcessBuilder | None = None

    def submit(self, request: EngineRequest) -> None:
        """Start a build whose result `build` will ask for."""
        if id(request) not in self.waiting:
            self.waiting[id(request)] = request, self._submit(request, False, False)

    def build(
        self, request: EngineRequest, tell: Tell, *, trial: bool = False, convert_only: bool = False
    ) -> EngineArtifact | Failure | None:
        """As `build_engine`, by the executor.

        Raises:
            EngineBuildError: a worker cannot work at all; with its name and what it raised.
            SettingsError: also where the executor takes no work.
        """
        ahead = None if trial or convert_only else self.waiting.pop(id(request), None)
        future = ahead[1] if ahead is not None else self._submit(request, trial, convert_only)
        tell("conversion")
        answer = self._answer(request, future, trial, convert_only)
        if answer is None:
            if self._spare is None:
                self._spare = ProcessBuilder(self.ctx)
            return self._spare.build(request, tell, trial=trial, convert_only=convert_only)
        if answer.error is not None:
            raise _named(answer.error, answer.worker)
        tell("converted", answer.layers)
        return _made(answer)

    def close(self) -> None:
        """Forget what was not asked for, and remove the folder."""
        for _, future in self.waiting.values():
            future.cancel()
        self.waiting.clear()
        if self._spare is not None:
            self._spare.close()
        self.weights.close()
        self._temporary.close()

    # -- asking --------------------------------------------------------------------------------------------

    def _answer(
        self, request: EngineRequest, future: Future[Any], trial: bool, convert_only: bool
    ) -> Answer | None:
        """The answer; None where workers were lost twice, or no others are there."""
        lost = 0
        while True:
            try:
                answer: Answer = future.result()
            except (Exception, CancelledError) as error:
                if not _is_lost(error):
                    raise _unable(self.executor, request, error) from error
                lost += 1
                self._tell_lost(request, error)
                if lost > 1 or isinstance(error, BrokenExecutor):  # a broken pool takes nothing more
                    return None
            else:
                if not isinstance(answer, Answer):
                    raise EngineBuildError(
                        f"{type(self.executor).__name__} gave {shown(answer)} for {request.name}, and not what the "
                        "function that it was given returned",
                        advice="submit(fn, *args) must return a Future of what fn(*args) returns",
                    )
                if not answer.without_weights:
                    return answer
                self._other_host = True
            future = self._submit(request, trial, convert_only)

    def _tell_lost(self, request: EngineRequest, error: BaseException) -> None:
        warnings.warn(
            f"a worker of {type(self.executor).__name__} was lost with {request.name}, which is built again: "
            f"{shown(error)}",
            RuntimeWarning,
            stacklevel=6,
        )

    def _submit(self, request: EngineRequest, trial: bool, convert_only: bool) -> Future[Any]:
        self._count += 1
        path = str(self.folder / f"engine-{self._count}")
        sent = self._sent(request)
        try:
            future = self.executor.submit(build_in_worker, sent, path, trial, convert_only)
        except BrokenExecutor as error:
            broken: Future[Any] = Future()
            broken.set_exception(error)
            return broken
        except Exception as error:
            raise SettingsError(
                f"build_executor={shown(self.executor)} takes no work: {shown(error)}",
                advice="give an executor that has not been shut down, and whose workers can import trtcore",
            ) from error
        if not all(callable(getattr(future, name, None)) for name in ("result", "cancel")):
            raise SettingsError(
                f"build_executor={shown(self.executor)} is no Executor: its submit returned {shown(future)}",
                advice="submit(fn, *args) must return a Future of what fn(*args) returns",
            )
        return future  # type: ignore[no-any-return]

    def _sent(self, request: EngineRequest) -> EngineRequest:
        """What a worker gets: in this process the request itself, else plain data."""
        if isinstance(self.executor, ThreadPoolExecutor):
            return request
        try:
            return request.detached(None if self._other_host else self.weights)
        except OSError as error:
            raise no_room(self.folder, error) from error


def _made(answer: Answer) -> EngineArtifact | Failure | None:
    made = answer.made
    if isinstance(made, str):
        return open_container(map_and_unlink(Path(made)))
    if isinstance(made, bytes):
        return EngineArtifact.from_tensor(torch.frombuffer(bytearray(made), dtype=torch.uint8))
    if isinstance(made, Failure):
        return replace(made, error=_named(made.error, answer.worker))
    return made


def _named(error: TrtcoreError, worker: str) -> TrtcoreError:
    """The error with the worker's name; that of a thread of this process has none."""
    if worker:
        error.message = f"{error.message} (on the worker {worker})"
    return error


def _is_lost(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, (BrokenExecutor, CancelledError, ConnectionError, EOFError)) or bool(
        names & _LOST
    )


def _unable(executor: Any, request: EngineRequest, error: BaseException) -> EngineBuildError:
    return EngineBuildError(
        f"a worker of {type(executor).__name__} could not begin with {request.name}: {shown(error)}",
        advice="its workers need the same trtcore, torch and packs as this process: `pip install trtcore` there",
    )


# ---- in the worker ------------------------------------------------------------------------------------------


def worker_name() -> str:
    """Who this process is, for people."""
    return f"{socket.gethostname()}, process {os.getpid()}"


def build_in_worker(request: EngineRequest, path: str, trial: bool, convert_only: bool) -> Answer:
    """What an executor's worker runs. It raises nothing that is an error of the build."""
    worker = "" if request.segment is not None else worker_name()
    if not request.has_its_weights:
        return Answer(worker, without_weights=True)
    layers = 0

    def tell(what: str, *data: Any) -> None:
        nonlocal layers
        if what == "converted":
            layers = data[0]

    here = path if os.path.isdir(os.path.dirname(path)) else None
    try:
        registry = build_registry(request.settings)
        made = build_engine(request, registry, tell=tell, path=here, trial=trial, convert_only=convert_only)
    except TrtcoreError as error:
        return Answer(worker, error=error)
    except Exception as error:
        text = f"{request.name} was not built: {shown(error)}"
        return Answer(worker, error=EngineBuildError(text))
    if made is None or isinstance(made, Failure):
        return Answer(worker, layers, made)
    return Answer(worker, layers, here if here is not None else bytes(made.container.numpy().data))

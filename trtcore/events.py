"""What observers of a compile are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """Something that happened during a compile, for observers (packs' ``observe``, the CLI's progress).

    Attributes:
        stage: "export", "lowering", "partition", "conversion", "build", ...
        status: "start", "progress" or "end".
        data: plain values; what they are depends on the stage.
        seconds: how long the stage took, on "end".
        subject: what the stage works on, in this process: the graph after the pass ``name`` ("pass"), the
            `EngineRequest` ("request", "failure"), the `EngineArtifact` ("engine"), the `Report` ("report"). Else None.
    """

    stage: str
    status: str
    data: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    subject: Any = None


Observer = Callable[[Event], None]

_watching: ContextVar[tuple[Observer, ...]] = ContextVar("trtcore_watching", default=())


def ambient_observers() -> tuple[Observer, ...]:
    """Those that watch every compile of this thread or task."""
    return _watching.get()


@contextmanager
def watching(observer: Observer) -> Iterator[None]:
    """Let an observer watch every compile that begins inside of the block, in this thread or task."""
    token = _watching.set((*_watching.get(), observer))
    try:
        yield
    finally:
        _watching.reset(token)

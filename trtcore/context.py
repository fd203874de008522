"""What every stage of one compile shares: immutable, made once at the top, handed down."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from trtcore.errors import shown
from trtcore.events import Event, Observer
from trtcore.memory import weights_limit
from trtcore.packs.selection import SelectionMemo

if TYPE_CHECKING:
    from trtcore.backend.base import Backend, Target
    from trtcore.packs.model import NodeContext
    from trtcore.packs.registry import ConverterRegistry
    from trtcore.settings import CompilationSettings

__all__ = ["CompileContext", "Event", "Observer"]


_log = logging.getLogger("trtcore")
_UNTOLD = frozenset(
    {"pass", "request", "engine", "report"}
)  # what they are about was told by the stage they are in


def log_event(stage: str, status: str, seconds: float | None, data: Mapping[str, Any]) -> None:
    """Log a stage: its end at INFO, a failure at WARNING, all else at DEBUG."""
    if stage in _UNTOLD:
        return
    level = logging.INFO if status == "end" else logging.DEBUG
    if stage == "failure":
        level = logging.WARNING
    if not _log.isEnabledFor(level):
        return
    what = " ".join(f"{name}={value}" for name, value in data.items())
    took = "" if seconds is None else f" in {seconds:.3f} s"
    _log.log(level, "%s %s%s%s", stage, status, took, f": {what}" if what else "")


@dataclass(frozen=True)
class CompileContext:
    """Settings, backend, registry snapshot, target and observers of one compile.

    ``backend`` and ``target`` are None only when no backend is available: then every node stays in torch
    and the report says why (``no_backend_reason``).
    """

    settings: CompilationSettings
    registry: ConverterRegistry
    backend: Backend | None = None
    target: Target | None = None
    observers: tuple[Observer, ...] = ()
    no_backend_reason: str = ""
    known_limit: int | None = None
    """`weights_limit` of an earlier compile, to cut as it did."""

    @cached_property
    def weights_limit(self) -> int | None:
        """Bytes of weights that a segment may have, found when first asked for; None where nothing limits them. The
        partition cuts by it (``trtcore/partition/memory.py``)."""
        if not self.settings.enable_resource_partitioning:
            return None
        return self.known_limit or weights_limit(self.settings.cpu_memory_budget)

    @cached_property
    def selections(self) -> SelectionMemo:
        """The selections of this compile: what one stage has asked, the next need not ask again."""
        return SelectionMemo(self)

    @cached_property
    def for_validators(self) -> NodeContext:
        """What capability validators get of it; only where there is a backend."""
        from trtcore.packs.model import NodeContext

        return NodeContext.of(self)

    def emit(
        self, stage: str, status: str, seconds: float | None = None, *, subject: Any = None, **data: Any
    ) -> None:
        """Tell every observer. An observer's exception other than KeyboardInterrupt never stops a compile."""
        log_event(stage, status, seconds, data)
        event = Event(stage, status, data, seconds, subject)
        for observer in self.observers:
            try:
                observer(event)
            except (KeyboardInterrupt, GeneratorExit):
                raise
            except BaseException as error:  # also SystemExit: watching must not end a compile
                import warnings

                warnings.warn(
                    f"an observer raised {shown(error)} at {stage}/{status}", RuntimeWarning, stacklevel=2
                )

    @contextmanager
    def stage(self, name: str, timings: dict[str, float], **data: Any) -> Iterator[None]:
        """Time a stage into `timings` (seconds, summed over repeats) and tell the observers."""
        self.emit(name, "start", **data)
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - began
            timings[name] = timings.get(name, 0.0) + seconds
            self.emit(name, "end", seconds, **data)

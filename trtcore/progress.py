"""Progress bars of a compile, on stderr or in a notebook, fed by its events."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from trtcore.events import Event, Observer


STAGES = ("export", "lowering", "partition", "conversion", "build", "assembly")
"""What has a line of its own; other events are for debugging."""


class ProgressObserver:
    """Shows each stage that runs, and how far a build is.

    A stage is a line; ``steps`` and ``step`` of a "progress" event move its bar, and ``segment``, ``phase``
    or ``name`` stand beside it.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        if event.stage not in STAGES:
            return
        task = self._tasks.get(event.stage)
        if task is None:
            task = self._tasks[event.stage] = self._progress.add_task(event.stage, total=None, what="")
        data = event.data
        what = " ".join(str(data[key]) for key in ("segment", "phase", "name") if data.get(key))
        if event.status == "end":
            self._progress.update(task, total=1, completed=1, what="")
        elif data.get("steps"):
            self._progress.update(task, total=data["steps"], completed=data.get("step", 0), what=what)
        else:
            self._progress.update(task, total=None, completed=0, what=what)


@contextmanager
def show_progress(*, quiet: bool = False) -> Iterator[tuple[Observer, ...]]:
    """The observers to hand to `trtcore.compile`; none when stderr is no terminal or `quiet`."""
    if quiet or not sys.stderr.isatty():
        yield ()
        return
    with progress_bars() as observer:
        yield (observer,)


@contextmanager
def with_progress(observers: Sequence[Observer], progress: bool) -> Iterator[tuple[Observer, ...]]:
    """The observers of a compile, and one that draws bars where that is asked for."""
    if not progress:
        yield tuple(observers)
        return
    with progress_bars() as bars:
        yield (*observers, bars)


@contextmanager
def progress_bars() -> Iterator[Observer]:
    """An observer that draws a line for each stage, on stderr or in a notebook's cell, until the block ends."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[what]}", style="dim", markup=False),
        console=Console(stderr=True),
        transient=True,
    )
    with progress:
        yield ProgressObserver(progress)

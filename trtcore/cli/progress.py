"""A progress line on stderr, fed by the compile's events."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from trtcore.hookspecs import hookimpl

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from trtcore.context import Event


class _ProgressPack:
    """An observer that shows the running stage, and how far it is where the stage says so.

    Events with ``done`` and ``total`` in their data move the bar; others only name the stage. ``what``
    (a segment, a builder phase) is shown beside it.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    @hookimpl
    def observe(self, event: Event) -> None:
        task = self._tasks.get(event.stage)
        if task is None:
            task = self._tasks[event.stage] = self._progress.add_task(event.stage, total=None, what="")
        data = event.data
        what = str(data.get("what") or data.get("phase") or data.get("segment") or "")
        if event.status == "end":
            self._progress.update(task, total=1, completed=1, what="")
        elif data.get("total"):
            self._progress.update(task, total=data["total"], completed=data.get("done", 0), what=what)
        else:
            self._progress.update(task, what=what)


@contextmanager
def show_progress(*, quiet: bool = False) -> Iterator[None]:
    """Show progress of every compile inside the ``with``; nothing is shown when stderr is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from trtcore.contributions import scoped_registry
    from trtcore.packs import register_pack

    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[what]}", style="dim"),
        console=Console(stderr=True),
        transient=True,
    )
    with scoped_registry(), progress:
        register_pack(_ProgressPack(progress), name="progress", distribution="trtcore-cli")
        yield

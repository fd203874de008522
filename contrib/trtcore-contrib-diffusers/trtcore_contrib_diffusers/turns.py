"""One component of a pipeline on the device at a time."""

from __future__ import annotations

import threading
from typing import Protocol


class Movable(Protocol):
    """What takes turns."""

    def arrive(self) -> None:
        """Be on the device."""

    def leave(self) -> None:
        """Free its memory there."""


class Turns:
    """Sees to it that of several components only the one that was called last is on the device.

    A pipeline calls its components one after the other: text encoders, then the denoiser many times, then the VAE.
    """

    def __init__(self) -> None:
        self._there: Movable | None = None
        self._lock = threading.Lock()

    def take(self, component: Movable) -> None:
        """Have this component there, and no other."""
        if self._there is component:
            return
        with self._lock:
            if self._there is not None:
                self._there.leave()
            component.arrive()
            self._there = component

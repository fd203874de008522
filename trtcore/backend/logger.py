"""A TensorRT logger that keeps its lines, so that errors can quote them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any

_log = logging.getLogger("trtcore.tensorrt")

# What TensorRT says after most errors, and at the start, on a machine without a driver. Each pair must be
# there whole: another CUDA error in the same function is not noise.
_DRIVER_NOISE = (
    ("catchCudaError", "cudaError 35"),
    ("catchCudaError", "driver version is insufficient"),
    ("CUDA initialization failure with error: 35",),
    ("Unable to determine GPU memory usage",),
    ("CUDA lazy loading is not enabled",),
)
# About TensorRT's process-wide logger. Each builder reports to its own all the same (measured).
_LOGGER_NOISE = (
    ("The logger passed into createInfer",),
    ("Thread context has not been set! Using global log stream",),
)

_KEPT_LINES = 20_000
ERROR_SEVERITIES = ("INTERNAL_ERROR", "ERROR")


def is_noise(text: str) -> bool:
    """Whether a line only says that this machine has no CUDA driver, or speaks of loggers."""
    return any(all(part in text for part in parts) for parts in (*_DRIVER_NOISE, *_LOGGER_NOISE))


class CollectingLogger:
    """Keeps (severity name, text) of what TensorRT logs, without the noise. Thread safe.

    Instances come from `make_logger`, and are `trt.ILogger` objects as well. The last 20,000 lines are
    kept. Each line also goes to the Python logger "trtcore.tensorrt" at DEBUG.

    Args:
        least: the least severe lines to keep: 0 internal errors to 4 verbose, as TensorRT counts.
    """

    def __init__(self, least: int = 3) -> None:
        self.least = least
        self._lines: deque[tuple[int, str, str]] = deque(maxlen=_KEPT_LINES)
        self._count = 0
        self._guard = threading.Lock()

    def log(self, severity: Any, msg: str) -> None:
        """TensorRT's callback, from any thread."""
        if int(severity) > self.least or is_noise(msg):
            return
        name = getattr(severity, "name", str(severity))
        with self._guard:
            self._lines.append((self._count, name, msg))
            self._count += 1
        _log.debug("%s: %s", name, msg)

    def mark(self) -> int:
        """A position to give to `since`: what has been logged up to now is before it."""
        with self._guard:
            return self._count

    def lines(self, mark: int = 0) -> tuple[tuple[str, str], ...]:
        """(severity name, text) of everything logged since `mark`, oldest first."""
        with self._guard:
            return tuple((name, text) for number, name, text in self._lines if number >= mark)

    def since(self, mark: int) -> tuple[str, ...]:
        """The text of errors and warnings logged since `mark`, oldest first."""
        wanted = (*ERROR_SEVERITIES, "WARNING")
        return tuple(text for name, text in self.lines(mark) if name in wanted)

    def errors(self, mark: int = 0) -> tuple[str, ...]:
        """The text of errors logged since `mark`, oldest first."""
        return tuple(text for name, text in self.lines(mark) if name in ERROR_SEVERITIES)


_classes: dict[str, type[CollectingLogger]] = {}
_classes_lock = threading.Lock()


def make_logger(trt: Any, severity: str = "INFO") -> CollectingLogger:
    """A new CollectingLogger that is also a `trt.ILogger` of these bindings.

    Args:
        trt: the bindings module.
        severity: the least severe lines to keep, a member name of `trt.ILogger.Severity`.
    """
    with _classes_lock:
        if trt.__name__ not in _classes:
            _classes[trt.__name__] = _logger_class(trt)
    return _classes[trt.__name__](int(getattr(trt.ILogger.Severity, severity)))


def _logger_class(trt: Any) -> type[CollectingLogger]:
    class Logger(CollectingLogger, trt.ILogger):  # type: ignore[misc]
        def __init__(self, least: int) -> None:
            CollectingLogger.__init__(self, least)
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            CollectingLogger.log(self, severity, msg)

    return Logger

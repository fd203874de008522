"""Levels of messages, by old names: trtcore's go through Python's logger "trtcore"."""

from __future__ import annotations

import logging as _logging
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

__all__ = [
    "Level",
    "debug",
    "errors",
    "get_is_colored_output_on",
    "get_logging_prefix",
    "get_reportable_log_level",
    "graphs",
    "info",
    "internal_errors",
    "log",
    "set_is_colored_output_on",
    "set_logging_prefix",
    "set_reportable_log_level",
    "warnings",
]


class Level(IntEnum):
    """How much is told; each has a level of Python's `logging`."""

    InternalError = _logging.CRITICAL
    Error = _logging.ERROR
    Warning = _logging.WARNING
    Info = _logging.INFO
    Debug = _logging.DEBUG
    Graph = 5


_LOGGER = _logging.getLogger("trtcore")
_prefix = ""


def set_reportable_log_level(level: Level) -> None:
    """Tell messages from `level` on."""
    _LOGGER.setLevel(int(level))


def get_reportable_log_level() -> Level:
    """The level from which messages are told."""
    found = _LOGGER.getEffectiveLevel()
    return max((level for level in Level if level <= found), default=Level.Graph)


def set_logging_prefix(prefix: str) -> None:
    """Begin the messages of `log` with a text."""
    global _prefix
    _prefix = str(prefix)


def get_logging_prefix() -> str:
    """What messages of `log` begin with."""
    return _prefix


def set_is_colored_output_on(colored_output_on: bool) -> None:
    """Nothing changes: colours are the logging handler's."""


def get_is_colored_output_on() -> bool:
    """False: colours are the logging handler's."""
    return False


def log(level: Level, msg: str) -> None:
    """A message of yours to trtcore's logger."""
    _LOGGER.log(int(level), "%s%s", _prefix, msg)


@contextmanager
def _at(level: Level) -> Iterator[None]:
    before = _LOGGER.level
    _LOGGER.setLevel(int(level))
    try:
        yield
    finally:
        _LOGGER.setLevel(before)


class _AtLevel:
    """``with debug():`` tells messages from a level on within the block."""

    def __init__(self, level: Level) -> None:
        self._level = level

    def __call__(self) -> Any:
        return _at(self._level)

    def __enter__(self) -> None:
        self._entered = _at(self._level)
        self._entered.__enter__()

    def __exit__(self, *exception: Any) -> None:
        self._entered.__exit__(*exception)


internal_errors, errors, warnings = (
    _AtLevel(Level.InternalError),
    _AtLevel(Level.Error),
    _AtLevel(Level.Warning),
)
info, debug, graphs = _AtLevel(Level.Info), _AtLevel(Level.Debug), _AtLevel(Level.Graph)

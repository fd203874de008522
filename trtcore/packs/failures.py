"""Telling, once, that something of a pack is left out; or raising it, with TRTCORE_STRICT_PACKS."""

from __future__ import annotations

import os
import threading
import warnings

from trtcore.errors import PackError


class PackWarning(UserWarning):
    """A pack was skipped, or a name that should mean a pack means none."""


_lock = threading.Lock()
_told: set[str] = set()


def strict() -> bool:
    """Whether TRTCORE_STRICT_PACKS asks for errors in place of warnings."""
    return os.environ.get("TRTCORE_STRICT_PACKS", "").strip().lower() not in ("", "0", "false", "no", "off")


def warn_once(text: str, key: str = "") -> None:
    """Warn unless this was told before; `key` stands for texts that say the same thing."""
    with _lock:
        told = (key or text) in _told
        _told.add(key or text)
    if not told:
        warn(text)


def warn(text: str) -> None:
    """Warn with the category of packs."""
    warnings.warn(text, PackWarning, stacklevel=3)


def forget_told() -> None:
    """Let everything be told again."""
    with _lock:
        _told.clear()


def pack_failure(text: str, pack: str, error: BaseException | None = None) -> None:
    """Tell, once, that something of a pack is left out of a compile; with TRTCORE_STRICT_PACKS, raise it.

    Raises:
        PackError: in strict mode.
    """
    if strict():
        advice = error.advice if isinstance(error, PackError) and error.advice else None
        raise PackError(
            text, pack=pack, advice=advice or f"switch the pack off with disabled_packs, or fix {pack}"
        ) from error
    warn_once(text)

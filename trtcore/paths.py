"""Where trtcore keeps files, and how it writes them: in one step, with the user's umask."""

from __future__ import annotations

import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def cache_directory() -> Path:
    """The folder of trtcore's caches: `TRTCORE_CACHE_DIR`, else the user's cache folder of the platform."""
    override = os.environ.get("TRTCORE_CACHE_DIR")
    if override:
        return Path(override)
    import platformdirs

    return Path(platformdirs.user_cache_dir("trtcore", appauthor=False))


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, sync: bool = True) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends well; until then an old file stays whole.

    A link is followed. A new file gets the user's umask, one that is replaced keeps its mode. What a process that was
    killed has left in the folder is removed.

    Args:
        sync: whether the file is on the disk when the block has ended; without, a power cut may leave half of it.

    Raises:
        OSError: the folder is not there, cannot be written, or is full; there is a folder of that name; or the name is
            none. `path` is as it was.
    """
    try:
        target = Path(os.path.realpath(path))
    except ValueError as error:  # a name with a null byte
        raise OSError(str(error)) from None
    if not os.fspath(path) or target.is_dir():
        raise IsADirectoryError(f"{os.fspath(path)!r} is a folder")
    _remove_litter(target.parent)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".trtcore-{os.getpid()}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.chmod(name, _mode_for(target))
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


_SETTLED = 600.0
"""Seconds since the last byte of a file that nobody is writing any more."""

_LITTER = re.compile(r"\.trtcore-(\d{1,10})-\w+\.tmp")


def _remove_litter(folder: Path) -> None:
    """Unfinished files of the user's whose processes are dead."""
    if os.name != "posix":  # elsewhere a signal 0 would end the process
        return
    with suppress(OSError):
        for entry in os.scandir(folder):
            found = _LITTER.fullmatch(entry.name)
            if not found or _lives(int(found[1])):
                continue
            status = entry.stat(follow_symlinks=False)
            # On a network's file system the process may be another machine's: then it has just written.
            if status.st_uid == os.geteuid() and time.time() - status.st_mtime > _SETTLED:
                with suppress(OSError):
                    os.unlink(entry.path)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return process < 1 << 31  # somebody else's
    return True


def _mode_for(target: Path) -> int:
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except OSError:
        return 0o666 & ~_umask()


def _umask() -> int:
    """The process's umask. Linux tells it without changing it, which another thread could see."""
    with suppress(OSError, ValueError, IndexError), open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    current = os.umask(0o077)
    os.umask(current)
    return current

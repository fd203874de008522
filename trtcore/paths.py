"""Where trtcore keeps files, and how it writes them: in one step, with the user's umask."""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def cache_directory() -> Path:
    """The folder of trtcore's caches: `TRTCORE_CACHE_DIR`, else the user's cache folder of the platform."""
    override = os.environ.get("TRTCORE_CACHE_DIR")
    if override:
        return Path(override)
    import platformdirs

    return Path(platformdirs.user_cache_dir("trtcore", appauthor=False))


@contextmanager
def atomic_write(
    path: str | os.PathLike[str], *, sync: bool = True, follow: bool = True
) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends well; until then an old file stays whole.

    A link is followed, unless it is asked otherwise. A new file gets the user's umask, one that is replaced keeps its
    mode. What a process that was killed has left in the folder is removed.

    Args:
        sync: whether the file is on the disk when the block has ended; without, a power cut may leave half of it.
        follow: False replaces a link itself: where others may write, one could lead to any file of the user's.

    Raises:
        OSError: the folder is not there, cannot be written, or is full; what has the name is no file (a folder, a
            device, a pipe); or the name is none. `path` is as it was.
    """
    try:
        target = Path(os.path.realpath(path) if follow else os.path.abspath(path))
    except ValueError as error:  # a name with a null byte
        raise OSError(str(error)) from None
    status = _status(target)
    if not os.fspath(path) or (status is not None and stat.S_ISDIR(status.st_mode)):
        raise IsADirectoryError(f"{os.fspath(path)!r} is a folder")
    is_file = status is not None and stat.S_ISREG(status.st_mode)
    if follow and status is not None and not is_file:  # a file would take the device's place
        raise OSError(f"{os.fspath(path)!r} is a device, a pipe or a socket, and no file")
    handle, name = _unfinished_file(target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.chmod(name, stat.S_IMODE(status.st_mode) if status is not None and is_file else 0o666 & ~_umask())
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


class temporary_file:
    """A binary file without a buffer, and its path: removed at the end unless it was moved or removed before.

    Args:
        directory: where it is made; None is the system's folder of temporary files.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        self._directory = Path(tempfile.gettempdir() if directory is None else directory)

    def __enter__(self) -> tuple[io.FileIO, Path]:
        handle, name = _unfinished_file(self._directory)
        self._file, self._path = os.fdopen(handle, "wb", buffering=0), Path(name)
        return self._file, self._path

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        with suppress(OSError):
            self._path.unlink()


class TemporaryFolder:
    """A folder in the system's folder of temporary files, until `close`, the end of a ``with``, or the process's death.

    Attributes:
        path: the folder.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self) -> None:
        parent = Path(tempfile.gettempdir())
        _remove_litter(parent)
        self.path = Path(tempfile.mkdtemp(dir=parent, prefix=f".trtcore-{os.getpid()}-", suffix=".tmp"))
        self._lock: int | None = None if fcntl is None else os.open(self.path, os.O_RDONLY)
        if self._lock is not None:
            _take(self._lock)

    def close(self) -> None:
        """Remove the folder and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *exception: object) -> None:
        self.close()


# ---- what dead processes have left ----------------------------------------------------------------------------

_SETTLED = 600.0
"""Seconds since the last byte of a file that nobody is writing any more."""

_LITTER = re.compile(r"\.trtcore-(\d{1,10})-\w+\.tmp")

_looked: dict[Path, float] = {}
"""When each folder was looked through, by the monotonic clock: a folder may have very many files."""


def _unfinished_file(folder: Path) -> tuple[int, str]:
    """An open file that this process holds, and its name; whoever looks for what the dead have left sees that."""
    _remove_litter(folder)
    handle, name = tempfile.mkstemp(dir=folder, prefix=f".trtcore-{os.getpid()}-", suffix=".tmp")
    if fcntl is not None:
        _take(handle)
    return handle, name


def _take(handle: int) -> bool | None:
    """Lock a file or folder until it is closed: False where another holds it, None where there are no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_litter(folder: Path) -> None:
    """Unfinished files and folders of the user's whose processes are dead."""
    now = time.monotonic()
    if fcntl is None or now - _looked.get(folder, -_SETTLED) < _SETTLED:
        return
    _looked[folder] = now
    with suppress(OSError):
        for entry in os.scandir(folder):
            found = _LITTER.fullmatch(entry.name)
            if not found:
                continue
            with suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                # On a network's file system the process may be another machine's: then it has just written.
                if status.st_uid == os.geteuid() and time.time() - status.st_mtime > _SETTLED:
                    _remove_if_dead(entry, int(found[1]))


def _remove_if_dead(entry: os.DirEntry[str], process: int) -> None:
    handle = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        free = _take(handle)
        if free is None:
            free = not _lives(process)
        if free and entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        elif free and entry.is_file(follow_symlinks=False):
            os.unlink(entry.path)
    finally:
        os.close(handle)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return process < 1 << 31  # somebody else's
    return True


def _status(target: Path) -> os.stat_result | None:
    try:
        return target.lstat()
    except OSError:
        return None


def _umask() -> int:
    """The process's umask. Linux tells it without changing it, which another thread could see."""
    with suppress(OSError, ValueError, IndexError), open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    current = os.umask(0o077)
    os.umask(current)
    return current

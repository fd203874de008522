"""Where entries are: a folder, any file system that fsspec knows, or an object of the user's. Needs no torch.

An entry is written in one step, so that a reader meets all of it or none. Readers take no lock; the least recently used
entries go under one. What comes out is not trusted: `trtcore.engine.cache.entry` says what is checked.
"""

from __future__ import annotations

import mmap
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from trtcore.errors import SettingsError
from trtcore.paths import atomic_write, cache_directory, temporary_file

_SUFFIX = ".engine"
_USED = ".used"
_NAME = re.compile(r"[0-9a-f]{64}\Z")
_SMALL = 32 << 20
"""Entries up to that many bytes are read into memory, larger ones are mapped where they lie."""

_LOCK_SECONDS = 30.0
"""How long to wait for another process that makes room; then the next one that writes does it."""

Data = bytearray | mmap.mmap | bytes


class EngineCache(Protocol):
    """What ``custom_engine_cache`` takes: a place for engines by name. It may lose what it was given."""

    def save(self, hash: str, blob: bytes) -> Any:
        """Keep the bytes under a name of 64 hex digits, in one step."""

    def load(self, hash: str) -> bytes | None:
        """The bytes that were kept under the name; None where there are none."""


@dataclass(frozen=True)
class Stored:
    """An entry as its store lists it.

    Attributes:
        used: seconds since 1970; when it was last written or read.
    """

    name: str
    size: int
    used: float


class Store(Protocol):
    """A place for entries. Every method may raise what the place raises."""

    place: str

    def read(self, name: str) -> Data | None:
        """An entry's bytes, which are the caller's to change; None where there is none. It counts as used now."""

    def end(self, name: str, count: int) -> bytes:
        """The last bytes of an entry."""

    def write(self, name: str, pieces: Sequence[memoryview | bytes]) -> None:
        """Put an entry in the place of one of that name, in one step."""

    def remove(self, name: str) -> None:
        """Remove an entry that may be gone already."""

    def entries(self) -> list[Stored]:
        """All entries."""

    def shrink(self, limit: int) -> list[Stored]:
        """Remove the least recently used entries until the rest has at most `limit` bytes; return those removed."""


def store_at(place: str | None) -> Store:
    """The store of a folder or an fsspec URL; None is the user's cache folder.

    Raises:
        SettingsError: nothing here can read the URL.
    """
    if place is None:
        return FolderStore(cache_directory() / "engines")
    scheme, separator, rest = place.partition("://")
    if not separator and "::" not in place:
        return FolderStore(Path(place).expanduser())
    if scheme in ("file", "local"):
        return FolderStore(Path(rest).expanduser())
    return RemoteStore(place)


# ---- a folder -----------------------------------------------------------------------------------------------


class FolderStore:
    """Entries as files of a folder, which any number of processes share. A file's time is that of its last use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place = str(folder)

    def _path(self, name: str) -> Path:
        return self.folder / (name + _SUFFIX)

    def read(self, name: str) -> Data | None:
        """As `Store.read`; a large entry is mapped privately: it stays whole when its file is replaced or removed."""
        path = self._path(name)
        try:
            with _opened(path) as file:
                size = os.fstat(file.fileno()).st_size
                data: Data = (
                    bytearray(file.read(size))
                    if size <= _SMALL
                    else mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
                )
        except FileNotFoundError:
            return None
        with suppress(OSError):  # a folder that is only read
            os.utime(path)
        return data

    def end(self, name: str, count: int) -> bytes:
        """As `Store.end`."""
        with _opened(self._path(name)) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - count))
            return file.read(count)

    def write(self, name: str, pieces: Sequence[memoryview | bytes]) -> None:
        """As `Store.write`. Not synchronised to the disk: what a power cut tears is found by its hashes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._path(name), sync=False, follow=False) as file:
            for piece in pieces:
                file.write(piece)

    def remove(self, name: str) -> None:
        """As `Store.remove`."""
        with suppress(FileNotFoundError):
            self._path(name).unlink()

    def entries(self) -> list[Stored]:
        """As `Store.entries`."""
        return list(self._entries())

    def _entries(self) -> Iterator[Stored]:
        try:
            files = list(os.scandir(self.folder))
        except FileNotFoundError:
            return
        for file in files:
            name = file.name.removesuffix(_SUFFIX)
            if file.name.endswith(_SUFFIX) and _NAME.match(name):
                with suppress(FileNotFoundError):  # another process has removed it
                    status = file.stat()
                    yield Stored(name, status.st_size, status.st_mtime)

    def shrink(self, limit: int) -> list[Stored]:
        """As `Store.shrink`; one process at a time."""
        from filelock import FileLock, Timeout

        entries = self.entries()
        if not entries or sum(one.size for one in entries) <= limit:
            return []
        try:
            with FileLock(self.folder / ".lock", timeout=_LOCK_SECONDS):
                return _shrink(self, limit)
        except Timeout:
            return []


def _opened(path: Path) -> BinaryIO:
    """An entry's file. What is none has no bytes: a pipe or a device in its place would keep a reader for ever."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return open(os.devnull, "rb")
    return open(descriptor, "rb")


def _shrink(store: Store, limit: int) -> list[Stored]:
    entries = sorted(store.entries(), key=lambda one: one.used)
    left = sum(one.size for one in entries)
    removed = []
    for one in entries:
        if left <= limit:
            break
        store.remove(one.name)
        left -= one.size
        removed.append(one)
    return removed


# ---- any file system that fsspec knows ----------------------------------------------------------------------


class RemoteStore:
    """Entries as objects under an fsspec URL; beside each a small one, written anew at every use: the time of it.

    Raises:
        SettingsError: there is no such file system, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        try:
            self._system, self._root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise SettingsError(
                f"engine_cache_dir={url!r}: {error}",
                advice="give a folder, or the URL of a file system that fsspec knows, with its package installed: "
                "s3:// needs `pip install s3fs`, gs:// `pip install gcsfs`",
            ) from error
        self.place = url

    def _path(self, name: str, suffix: str = _SUFFIX) -> str:
        return f"{self._root.rstrip('/')}/{name}{suffix}"

    def read(self, name: str) -> Data | None:
        """As `Store.read`; a large entry goes through a temporary file, which goes with its bytes."""
        try:
            size = self._system.size(self._path(name))
            data = self._small(name) if size is None or size <= _SMALL else self._large(name)
        except FileNotFoundError:
            return None
        with suppress(Exception):  # who may only read still reads
            self._touch(name)
        return data

    def _small(self, name: str) -> Data:
        return bytearray(self._system.cat_file(self._path(name)))

    def _large(self, name: str) -> Data:
        with temporary_file() as (_, path):
            self._system.get_file(self._path(name), str(path))
            # What was got may have taken the file's place.
            with open(path, "rb") as whole:
                return mmap.mmap(whole.fileno(), 0, access=mmap.ACCESS_COPY)

    def _touch(self, name: str) -> None:
        self._system.pipe_file(self._path(name, _USED), repr(time.time()).encode())

    def end(self, name: str, count: int) -> bytes:
        """As `Store.end`."""
        path = self._path(name)
        return bytes(self._system.cat_file(path, start=max(0, self._system.size(path) - count)))

    def write(self, name: str, pieces: Sequence[memoryview | bytes]) -> None:
        """As `Store.write`. Where a file system shows half of a file, its hashes do not fit, and it counts as none."""
        with suppress(Exception):  # a bucket that may not be made may be there; else the next line says it
            self._system.makedirs(self._root, exist_ok=True)
        if sum(len(piece) for piece in pieces) <= _SMALL:
            self._system.pipe_file(self._path(name), b"".join(pieces))
        else:
            with self._system.open(self._path(name), "wb") as file:
                for piece in pieces:
                    file.write(piece)
        self._touch(name)

    def remove(self, name: str) -> None:
        """As `Store.remove`."""
        for suffix in (_SUFFIX, _USED):
            with suppress(FileNotFoundError):
                self._system.rm_file(self._path(name, suffix))

    def entries(self) -> list[Stored]:
        """As `Store.entries`."""
        self._system.invalidate_cache()
        try:
            files = self._system.ls(self._root, detail=True)
        except FileNotFoundError:
            return []
        sizes = {str(file["name"]).rpartition("/")[2]: int(file["size"] or 0) for file in files}
        names = [name.removesuffix(_SUFFIX) for name in sizes if name.endswith(_SUFFIX)]
        return [
            Stored(name, sizes[name + _SUFFIX], self._used(name, sizes))
            for name in names
            if _NAME.match(name)
        ]

    def _used(self, name: str, known: dict[str, int]) -> float:
        if name + _USED not in known:
            return 0.0
        try:
            return float(self._system.cat_file(self._path(name, _USED)))
        except (FileNotFoundError, ValueError):
            return 0.0

    def shrink(self, limit: int) -> list[Stored]:
        """As `Store.shrink`. Two processes may do it at once: each removes what is least recently used."""
        return _shrink(self, limit)


# ---- the user's own -----------------------------------------------------------------------------------------


class CustomStore:
    """An `EngineCache` of the user's, who looks after its size."""

    def __init__(self, cache: EngineCache) -> None:
        self.cache = cache
        self.place = type(cache).__name__

    def read(self, name: str) -> Data | None:
        """As `Store.read`."""
        data = self.cache.load(name)
        if data is not None and not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"load(hash) returned {type(data).__name__}, and must return bytes or None")
        return None if data is None else bytearray(data)

    def end(self, name: str, count: int) -> bytes:
        """As `Store.end`."""
        return bytes(self.cache.load(name) or b"")[-count:]

    def write(self, name: str, pieces: Sequence[memoryview | bytes]) -> None:
        """As `Store.write`."""
        self.cache.save(name, b"".join(pieces))

    def remove(self, name: str) -> None:
        """It is replaced by the next engine of that name."""

    def entries(self) -> list[Stored]:
        """It lists nothing."""
        return []

    def shrink(self, limit: int) -> list[Stored]:
        """It looks after its own size."""
        return []

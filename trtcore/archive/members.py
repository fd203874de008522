"""The members of an archive: a zip file without compression, read strictly, because two readers must not differ.

Python's zipfile and torch's reader find a directory of members in different ways, and what one vets the other might not
open. Here the file must be laid out as `trtcore.archive.saving` does it: members one behind the other from the first
byte, each once, then one directory of exactly these, then its end.
"""

from __future__ import annotations

import json
import mmap
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from trtcore.errors import ArtifactError
from trtcore.memory import let_go, page_out

EXTRA = "extra/trtcore.json"
FORMAT = 2
"""The version of what an archive holds."""
MAX_MEMBERS = 100_000
MAX_JSON = 512 << 20
_CHUNK = 16 << 20
_LOCAL = struct.Struct("<4s5H3L2H")
_ALIGNMENT = 64
_MAX_ENTRY = 1024  # bytes of a member's entry in the directory


class TooManyMembersError(zipfile.BadZipFile):
    """A directory that nobody should read."""


@dataclass(frozen=True)
class Member:
    """Where a member's bytes are."""

    name: str
    start: int
    size: int
    crc: int


class Archive:
    """An archive's file, mapped: nothing is read until it is used.

    Args:
        path: the file.

    Raises:
        ArtifactError: it cannot be read, or is not laid out as an archive of ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if path.exists() and not path.is_file():
                raise ArtifactError(f"{path} cannot be read: it is no file")
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                self.members = _members(file, len(self._map))
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path} cannot be read: {error}") from error
        except (zipfile.BadZipFile, EOFError, NotImplementedError, struct.error, RuntimeError) as error:
            raise ArtifactError(
                f"{path} is truncated, damaged, or not a module that trtcore saved: {error}"
            ) from error

    def check(self) -> None:
        """Read every member and compare its sum: a changed byte in a weight or a plan would be a wrong number.

        Raises:
            ArtifactError: one has changed.
        """
        for member in self.members.values():
            if self._crc(member) != member.crc:
                raise ArtifactError(f"{self.path} is damaged: its member {member.name!r} has changed")

    def _crc(self, member: Member) -> int:
        crc, end = 0, member.start + member.size
        view = memoryview(self._map)
        for start in range(member.start, end, _CHUNK):
            crc = zlib.crc32(view[start : min(start + _CHUNK, end)], crc)
            page_out(self._map, start, min(_CHUNK, end - start))
        return crc

    def json(self, name: str) -> dict[str, Any]:
        """A member that is a JSON object.

        Raises:
            ArtifactError: it is none, or too large to be one of ours.
        """
        member = self.members.get(name)
        if member is None or member.size > MAX_JSON:
            raise ArtifactError(f"{self.path}: its member {name!r} is missing, or too large")
        try:
            text = self._map[member.start : member.start + member.size].decode("utf-8")
            value = json.loads(text, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{self.path}: its member {name!r} is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise ArtifactError(f"{self.path}: its member {name!r} is not an object")
        return value

    def bytes_of(self, name: str) -> torch.Tensor:
        """A member's bytes, mapped: uint8, shape (bytes,).

        Raises:
            ArtifactError: there is no such member.
        """
        member = self.members.get(name)
        if member is None:
            raise ArtifactError(f"{self.path}: its member {name!r} is missing")
        if not member.size:
            return torch.empty(0, dtype=torch.uint8)
        return torch.frombuffer(self._map, dtype=torch.uint8, offset=member.start, count=member.size)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _members(file: IO[bytes], size: int) -> dict[str, Member]:
    start_of_directory, count = _directory(file, size)
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        if archive.comment or archive.start_dir != start_of_directory or len(infos) != count:
            raise zipfile.BadZipFile("its directory of members is not where its end says")
    members: dict[str, Member] = {}
    roots = set()
    end = 0
    for info in sorted(infos, key=lambda one: one.header_offset):
        root, _, name = info.filename.partition("/")
        roots.add(root)
        member = _member(file, info, name, end)
        if name in members or len(roots) != 1:
            raise zipfile.BadZipFile(f"its member {info.filename!r} is there twice, or has a root of its own")
        members[name] = member
        end = member.start + member.size
    if end != start_of_directory:
        raise zipfile.BadZipFile("there is something between its members and their directory")
    return members


def _member(file: IO[bytes], info: zipfile.ZipInfo, name: str, end: int) -> Member:
    """A member that starts right behind the one before, and whose two headers say the same."""
    odd = info.flag_bits & ~0x800 or info.compress_type != zipfile.ZIP_STORED
    if odd or info.file_size != info.compress_size or info.header_offset != end:
        raise zipfile.BadZipFile(f"its member {info.filename!r} is compressed, or not where it should be")
    file.seek(end)
    signature, _, flags, method, _, _, crc, stored, whole, name_size, extra_size = _LOCAL.unpack(
        file.read(_LOCAL.size)
    )
    raw = file.read(name_size)
    sizes = {stored, whole} - {0xFFFFFFFF}
    same = (
        signature == b"PK\x03\x04"
        and (flags, method) == (info.flag_bits, info.compress_type)
        and raw == info.filename.encode("utf-8")
        and info.filename.isascii()
        and crc == info.CRC
        and sizes <= {info.file_size}
    )
    if not same:
        raise zipfile.BadZipFile(f"the two headers of its member {info.filename!r} differ")
    return Member(name, end + _LOCAL.size + name_size + extra_size, info.file_size, info.CRC)


def _directory(file: IO[bytes], size: int) -> tuple[int, int]:
    """Where the directory starts and how many members it has, by the end record, last in the file.

    Raises:
        zipfile.BadZipFile: the record makes no sense, or the directory is larger than one of ours.
    """
    if size < 22:
        raise zipfile.BadZipFile("it has no end record")
    file.seek(size - 22)
    end = file.read(22)
    signature, disk, first_disk, here, total, length, offset, comment = struct.unpack("<4s4H2LH", end)
    good = signature == b"PK\x05\x06" and disk == first_disk == comment == 0
    tail = size - 22
    file.seek(max(0, tail - 20))
    locator = file.read(20)
    # zipfile writes the larger records from 2 GiB on, and puts into the small one what it can hold.
    if locator.startswith(b"PK\x06\x07") or 0xFFFF in (here, total) or 0xFFFFFFFF in (length, offset):
        tail -= 20 + 56
        good = good and tail >= 0 and locator == struct.pack("<4sLQL", b"PK\x06\x07", 0, max(tail, 0), 1)
        file.seek(max(0, tail))
        record = struct.unpack("<4sQ2H2L4Q", file.read(56))
        good = good and record[:2] == (b"PK\x06\x06", 44) and record[4:6] == (0, 0)
        limits = (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
        small = zip((here, total, length, offset), limits, record[6:])
        good = good and all(value in (limit, large) for value, limit, large in small)
        here, total, length, offset = record[6:]
    if not good or here != total or offset + length != tail:
        raise zipfile.BadZipFile("its directory of members is not where its end says")
    if total > MAX_MEMBERS or length > MAX_MEMBERS * _MAX_ENTRY:
        raise TooManyMembersError(f"it has {total} members, more than any of ours")
    return offset, total


class ArchiveWriter:
    """Writes an archive's members one behind the other, each payload at a multiple of 64 bytes.

    Args:
        file: seekable, at its start.
        root: the folder in the archive that holds all of it.
    """

    def __init__(self, file: IO[bytes], root: str) -> None:
        self._file = file
        self._root = root
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True)

    def add(self, name: str, data: Any) -> int:
        """Add a member.

        Args:
            data: bytes, or a uint8 tensor, which is written piece by piece; of a mapped one no more than a piece
                stays in memory.

        Returns:
            its crc32.
        """
        info = zipfile.ZipInfo(f"{self._root}/{name}")
        view = data.numpy().data if isinstance(data, torch.Tensor) else memoryview(data)
        info.file_size = len(view)
        self._align(info)
        with self._zip.open(info, "w", force_zip64=len(view) > zipfile.ZIP64_LIMIT) as member:
            for start in range(0, len(view), _CHUNK):
                member.write(view[start : start + _CHUNK])
                if isinstance(data, torch.Tensor):
                    let_go(data, start, min(_CHUNK, len(view) - start))
        return self._zip.getinfo(info.filename).CRC

    def _align(self, info: zipfile.ZipInfo) -> None:
        """Padding, as an extra field that readers pass over."""
        zip64 = 20 if info.file_size > zipfile.ZIP64_LIMIT else 0
        start = self._file.tell() + _LOCAL.size + len(info.filename) + zip64
        padding = -start % _ALIGNMENT
        if padding:
            padding += _ALIGNMENT if padding < 4 else 0
            info.extra = struct.pack("<2sH", b"FB", padding - 4) + b"Z" * (padding - 4)

    def close(self) -> None:
        """Write the directory."""
        self._zip.close()

    def abandon(self) -> None:
        """Write nothing more: what is there is thrown away, and zipfile would complain when it is collected."""
        self._zip.fp = None


def member_sums(archive: Archive) -> Mapping[str, int]:
    """The crc32 of every member but the one that holds the sums."""
    return {name: member.crc for name, member in archive.members.items() if name != EXTRA}

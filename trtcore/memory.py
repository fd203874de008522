"""How much memory a process takes, what of it a build may take, and mapped files, whose pages can go again."""

from __future__ import annotations

import mmap
import os
import weakref
from contextlib import suppress
from pathlib import Path

import torch

from trtcore.errors import SettingsError

BUILD_FACTOR = 2.2
"""Bytes of memory that converting and building a segment takes for a byte of its weights: 1.2 in TensorRT (measured:
1.1), and one more where converters make new constants of all of them."""

BUILD_BASE = 128 << 20
"""Bytes that a build takes beside that: TensorRT itself, and its allocator's 64 MB blocks (measured: 40 MB)."""


def weights_limit(budget: int | None) -> int:
    """Bytes of weights that a segment may have.

    Args:
        budget: bytes that the process may take; None: what it takes now and what the machine has left.

    Raises:
        SettingsError: the budget is used up before anything is built.
    """
    used = memory_in_use()
    if budget is None:
        budget = used + _memory_left()
    left = budget - used - BUILD_BASE
    if left <= 0:
        raise SettingsError(
            f"cpu_memory_budget={budget}: the process has {used} bytes in use before anything is built, and a build "
            f"takes {BUILD_BASE} without any weights",
            advice=f"set cpu_memory_budget to more than {used + BUILD_BASE}",
        )
    return int(left / BUILD_FACTOR)


def memory_in_use() -> int:
    """Bytes of the process's own memory: what is in no file, and cannot be evicted.

    Raises:
        SettingsError: the system does not say.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        raise _unknown() from None
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(lines["RssAnon"].split()[0]) << 10


def _memory_left() -> int:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError):
        raise _unknown() from None


def _unknown() -> SettingsError:
    return SettingsError(
        f"enable_resource_partitioning=True: {os.name} systems do not say how much memory a process has in use",
        advice="set max_segment_size instead",
    )


# ---- mapped files -------------------------------------------------------------------------------------------

_PAGE_OUT = 21
"""Linux's MADV_PAGEOUT, which Python has no name for before 3.13."""

_mappings: weakref.WeakValueDictionary[int, mmap.mmap] = weakref.WeakValueDictionary()


def map_file(path: str | os.PathLike[str]) -> torch.Tensor:
    """A file's bytes, mapped privately: uint8, shape (bytes,). Nothing is read until it is used.

    Raises:
        OSError, ValueError: it cannot be opened, or is empty.
    """
    with open(path, "rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    data = torch.frombuffer(mapping, dtype=torch.uint8)
    _mappings[data.data_ptr()] = mapping
    return data


def let_go(data: torch.Tensor, start: int, size: int) -> None:
    """Some bytes of what `map_file` gave, or a view of it, need not stay in memory; with others, nothing happens.

    They are read from the file when they are used again; what has been written to them is kept.

    Args:
        data: uint8, contiguous.
        start: the first byte's place in `data`.
        size: bytes.
    """
    storage = data.untyped_storage()
    mapping = _mappings.get(storage.data_ptr())
    if mapping is not None and size:
        page_out(mapping, data.data_ptr() - storage.data_ptr() + start, size)


def page_out(mapping: mmap.mmap, start: int, size: int) -> None:
    """Some bytes of a mapping need not stay in memory; what has been written to them is kept."""
    first = start - start % mmap.PAGESIZE
    with suppress(OSError, ValueError, AttributeError):  # not Linux, or one before 5.4
        mapping.madvise(_PAGE_OUT, first, start + size - first)

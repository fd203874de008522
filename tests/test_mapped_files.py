"""`trtcore.memory`: files that are mapped, whose pages can go again."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

from trtcore.memory import let_go, map_file

SIZE = 32 << 20


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "bytes"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    return path


def resident_files():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssFile"))


def wanted():
    return torch.arange(256, dtype=torch.uint8).repeat(SIZE // 256)


def test_what_is_let_go_is_read_again_and_what_was_written_is_kept(path):
    data = map_file(path)
    data[5] = 77
    let_go(data, 0, SIZE)
    let_go(data[1000:], 3, 50_000)  # views, and ranges that begin within a page
    expected = wanted()
    expected[5] = 77
    assert torch.equal(data, expected)
    assert path.read_bytes()[5] == 5


def test_memory_that_is_no_file_is_left_alone():
    data = wanted()
    let_go(data, 0, SIZE)
    assert torch.equal(data, wanted())


@pytest.mark.skipif(not hasattr(mmap.mmap, "madvise"), reason="this system has no madvise")
def test_its_pages_leave_memory(path):
    with open(path, "rb") as file:
        plain = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    before = resident_files()
    bytes(plain)
    try:
        plain.madvise(21)
    except OSError:
        pytest.skip("this kernel has no MADV_PAGEOUT")
    if resident_files() - before > SIZE / 2:
        pytest.skip("this file system keeps its pages in memory")
    data = map_file(path)
    before = resident_files()
    assert int(data.sum(dtype=torch.int64)) == SIZE // 256 * sum(range(256))
    assert resident_files() - before > SIZE / 2
    let_go(data, 0, SIZE)
    assert resident_files() - before < SIZE / 4

"""The bytes around the members: what is vetted is what is used, whichever way a zip can be read."""

from __future__ import annotations

import json
import os
import random
import struct
import time
import zipfile

import pytest
import torch

import trtcore
from trtcore.archive.members import EXTRA
from trtcore.errors import ArtifactError


def refused(tmp_path, content, match=None):
    path = tmp_path / "bad.pt2"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=match):
        trtcore.load(path)


def parts(content):
    """(members, directory, end record)"""
    (start,) = struct.unpack("<L", content[-6:-2])
    return content[:start], content[start:-22], content[-22:]


def test_two_directories(small_file, tmp_path):
    """zipfile takes the one just before the end, torch's reader the one at the offset that the end record has."""
    members, directory, end = parts(small_file.read_bytes())
    other = directory.replace(b"weight_0", b"weight_9")
    for content in (
        members + directory + other + end,
        members + other + directory + end,
        members + directory + other + end[:16] + struct.pack("<L", len(members) + len(directory)) + end[20:],
    ):
        refused(tmp_path, content)


@pytest.mark.parametrize("junk", [b"x", b"#!/bin/sh\nexit 0\n", b"PK\x03\x04" + b"\0" * 26, b"\0" * 4096])
def test_nothing_before_between_or_behind(small_file, tmp_path, junk):
    content = small_file.read_bytes()
    members, directory, end = parts(content)
    moved = end[:16] + struct.pack("<L", len(members) + len(junk)) + end[20:]
    for bad in (junk + content, content + junk, members + junk + directory + end, members + junk + directory + moved,
                members + directory + junk + end, end[:-2] + struct.pack("<H", len(junk)) + junk):  # fmt: skip
        refused(tmp_path, bad)
    refused(tmp_path, content[:-2] + struct.pack("<H", len(junk)) + junk)


def test_overlapping_and_repeated_members(small_file, tmp_path):
    content = bytearray(small_file.read_bytes())
    _, directory, _ = parts(bytes(content))
    start = len(content) - 22 - len(directory)
    entries = [start + at for at in range(len(directory)) if directory[at : at + 4] == b"PK\x01\x02"]
    first, second = entries[:2]
    content[second + 42 : second + 46] = content[first + 42 : first + 46]
    refused(tmp_path, bytes(content))
    with zipfile.ZipFile(small_file) as archive:
        infos = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(tmp_path / "twice.pt2", "w") as archive:
        for name, data in infos:
            archive.writestr(name, data)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(*infos[0])
    refused(tmp_path, (tmp_path / "twice.pt2").read_bytes())


def test_a_bomb_is_refused_before_anything_is_unpacked(small_file, tmp_path):
    with zipfile.ZipFile(small_file) as archive:
        root = archive.namelist()[0].partition("/")[0]
    bomb = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{root}/data/weights/weight_0", b"\0" * (64 << 20))
        archive.writestr(f"{root}/{EXTRA}", b"{}")
    began = time.perf_counter()
    refused(tmp_path, bomb.read_bytes(), "compressed")
    assert time.perf_counter() - began < 2


def test_a_directory_of_a_million_members_is_not_read(tmp_path):
    entry = struct.pack("<4s4H4L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    directory = entry * 60_000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    record = struct.pack(
        "<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 60_000_000, 60_000_000, len(directory), 0
    )
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(directory), 1)
    refused(tmp_path, directory + record + locator + end, "more than any of ours")


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [
        ([1 << 40, 1 << 40], [1 << 20, 1], 0), ([4, 4], [4, 1], 1 << 40), ([4, 4], [1 << 47, 1], 0), ([4, -4], [4, 1], 0),
        ([4, 4], [4, -1], 0), ([4, 4], [4], 0), ([1] * 65, [1] * 65, 0), ([4.0, 4], [4, 1], 0), ([True, 4], [4, 1], 0),
        ([1 << 62, 4], [0, 1], 0), ([4, 4], [4, 1], -1),
    ],
)  # fmt: skip
def test_tensors_beyond_their_memory(forged, shape, stride, offset):
    def change(extra, members):
        place = next(v for v in extra["module"]["graph"]["attributes"].values() if v[0] != "module")
        place[3], place[4], place[5] = offset, shape, stride

    with pytest.raises(ArtifactError):
        trtcore.load(forged(change))


@pytest.mark.parametrize(
    "text",
    ["((((s0**63)**63)**63)**63)**63", "+".join(f"(s0*{i}+{i})//{i + 1}" for i in range(300)), "Max(" * 140 + "s0" + ")" * 140,
     "s0//0", "-s0" * 400, "s0**63**63", "1" * 5000, "2**62*2**62"],
)  # fmt: skip
def test_sizes_that_would_never_be_worked_out(forged, text):
    def change(extra, members):
        spec = extra["module"]["graph"]["nodes"][0][5]
        spec[2][0] = text.replace("s0", next(iter(extra["module"]["ranges"])))

    began = time.perf_counter()
    with pytest.raises(ArtifactError):
        trtcore.load(forged(change))
    assert time.perf_counter() - began < 5


def test_json_that_is_nested_deep_or_says_a_name_twice(forged, small_file, tmp_path):
    with pytest.raises(ArtifactError):
        trtcore.load(
            forged(lambda extra, members: extra.__setitem__("check", json.loads("[" * 900 + "]" * 900)))
        )
    with pytest.raises(ArtifactError):
        trtcore.load(forged(lambda extra, members: extra["check"]["leaves"][0].__setitem__(3, 1 << 62)))


def test_bit_flips_never_give_another_result(small_file, small, tmp_path):
    """1,200 of them: refused, or (in padding) the module that it was."""
    content, x = small_file.read_bytes(), torch.linspace(-1, 1, 12).reshape(3, 4)
    want, path, random_ = small(x, 3.0), tmp_path / "flipped.pt2", random.Random(5)
    for _ in range(1200):
        changed = bytearray(content)
        changed[random_.randrange(len(content))] ^= 1 << random_.randrange(8)
        path.write_bytes(changed)
        try:
            module = trtcore.load(path)
        except ArtifactError:
            continue
        assert torch.equal(module(x, 3.0), want)


def test_a_file_that_is_replaced_while_it_is_read(small_file, tmp_path, monkeypatch):
    """Everything is read by one open file: another that takes its name in between is not looked at."""
    path, other = tmp_path / "model.pt2", tmp_path / "other"
    path.write_bytes(small_file.read_bytes())
    other.write_bytes(b"not an archive")
    from trtcore.archive import loading

    vet = loading._vet

    def swap(source, archive):
        vet(source, archive)
        os.replace(other, path)

    monkeypatch.setattr(loading, "_vet", swap)
    module = trtcore.load(path)
    assert path.read_bytes() == b"not an archive"
    assert module(torch.ones(2, 4), 3.0).shape == (2, 4)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        with pytest.raises(ArtifactError, match="no file"):
            trtcore.load(path)

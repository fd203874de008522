"""Files on the way to the disk: modes, links, long names, no room, and a process that is killed."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import stat
import subprocess
import sys
import time

import pytest
import torch

import trtcore
from trtcore import paths
from trtcore.errors import ArtifactError

X = torch.ones(3, 4)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("umask", "wanted"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0o027, 0o640)]
)
def test_a_new_file_has_the_umasks_mode(small, tmp_path, umask, wanted):
    before = os.umask(umask)
    try:
        trtcore.save(small, tmp_path / "new.pt2")
    finally:
        os.umask(before)
    assert mode(tmp_path / "new.pt2") == wanted


@pytest.mark.parametrize("kept", [0o644, 0o600, 0o755, 0o660])
def test_a_file_that_is_replaced_keeps_its_mode(small, tmp_path, kept):
    path = tmp_path / "old.pt2"
    path.touch()
    path.chmod(kept)
    trtcore.save(small, path)
    assert mode(path) == kept
    assert trtcore.load(path)(X, 3.0).shape == (3, 4)


def test_what_is_no_file_is_not_replaced(small, tmp_path):
    """As /dev/null: a file would take the device's place."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        with pytest.raises(ArtifactError, match="a device, a pipe or a socket, and no file"):
            trtcore.save(small, path)
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link", "pipe"]


def test_links_are_followed(small, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "real.pt2").write_bytes(b"old")
    (tmp_path / "link.pt2").symlink_to(folder / "real.pt2")
    (tmp_path / "chain.pt2").symlink_to("link.pt2")
    (tmp_path / "dangling.pt2").symlink_to(folder / "new.pt2")
    for link in ("chain.pt2", "dangling.pt2"):
        trtcore.save(small, tmp_path / link)
        assert (tmp_path / link).is_symlink()
    assert sorted(one.name for one in folder.iterdir()) == ["new.pt2", "real.pt2"]
    assert trtcore.load(folder / "real.pt2")(X, 3.0).shape == (3, 4)
    (tmp_path / "round.pt2").symlink_to("round.pt2")
    with pytest.raises(ArtifactError):
        trtcore.load(tmp_path / "round.pt2")


@pytest.mark.parametrize(
    "stem", ["x" * 245, "модель", "a b", "ключ/..", "-", "\U0001f600", "x" * 300, "a\0b"]
)
def test_names(small, tmp_path, stem):
    """A name that the file system takes is loaded again, another is an ArtifactError."""
    path = tmp_path / f"{stem}.pt2"
    try:
        path.touch()
        path.unlink()
    except (OSError, ValueError):
        with pytest.raises(ArtifactError):
            trtcore.save(small, path)
        return
    trtcore.save(small, path)
    assert trtcore.load(path)(X, 3.0).shape == (3, 4)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts a small file system")
def test_no_room(small, tmp_path):
    """At whatever size the disk is full: our error, the old file whole, nothing left, and the process lives."""
    size = 0
    trtcore.save(small, tmp_path / "whole.pt2")
    whole = (tmp_path / "whole.pt2").stat().st_size
    place = tmp_path / "full"
    place.mkdir()
    for size in (4096, whole // 2, whole - 4096, whole + whole // 2):
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True
        )
        if made.returncode:
            pytest.skip(f"mount is not permitted: {made.stderr.decode()}")
        try:
            old = place / "model.pt2"
            old.write_bytes(b"old")
            if size > whole:
                (place / "filler").write_bytes(b"\0" * (size - whole))
            with pytest.raises(ArtifactError, match="No space left on device"):
                trtcore.save(small, old)
            assert old.read_bytes() == b"old"
            assert not list(place.glob(".*"))
        finally:
            subprocess.run(["umount", place], check=True)


def test_a_folder_that_is_not_there(small, tmp_path):
    for path in (tmp_path / "no" / "a.pt2", tmp_path, "/proc/a.pt2", ""):
        with pytest.raises(ArtifactError, match=r"cannot be written"):
            trtcore.save(small, path)
    assert not list(tmp_path.iterdir())


SAVER = """
import sys, trtcore
module = trtcore.load(sys.argv[1])
print("ready", flush=True)
while True:
    trtcore.save(module, sys.argv[2])
    print("saved", flush=True)
"""


def test_a_process_that_is_killed_while_it_saves(small_file, tmp_path, monkeypatch):
    """The file is whole whenever that is; what a dead process has left is gone with the next save."""
    target, random_ = tmp_path / "out.pt2", random.Random(3)
    target.write_bytes(small_file.read_bytes())
    for _ in range(2):
        saver = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(small_file), str(target)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        saver.stdout.readline()
        time.sleep(random_.random() * 0.4)
        saver.send_signal(signal.SIGKILL)
        saver.wait()
        saver.stdout.close()
        assert trtcore.load(target)(X, 3.0).shape == (3, 4)
    (tmp_path / ".trtcore-999999999-x.tmp").write_bytes(b"of a process that is dead")
    for left in tmp_path.glob(".trtcore-*"):
        os.utime(left, (time.time() - 3600,) * 2)
    monkeypatch.setattr(paths, "_looked", {})
    trtcore.save(trtcore.load(small_file), target)
    assert [one.name for one in tmp_path.iterdir()] == ["out.pt2"]


def test_what_another_process_is_writing_is_left_alone(small, tmp_path):
    other = tmp_path / f".trtcore-{os.getppid()}-x.tmp"
    foreign = tmp_path / ".trtcore-notours.tmp"
    recent = tmp_path / ".trtcore-999999999-y.tmp"  # of another machine, maybe
    recent.write_bytes(b"half")
    with open(other, "wb") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        for one in (other, foreign):
            one.write_bytes(b"half")
            os.utime(one, (time.time() - 3600,) * 2)
        trtcore.save(small, tmp_path / "out.pt2")
    assert other.exists()
    assert foreign.exists()
    assert recent.exists()

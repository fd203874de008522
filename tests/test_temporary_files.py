"""What a compile writes beside the user's files goes with the process, however that ends."""

import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from trtcore import paths
from trtcore.paths import TemporaryFolder, temporary_file

HOLDER = """
import sys
from trtcore.paths import TemporaryFolder, temporary_file
folder = TemporaryFolder()
(folder.path / "weights").write_bytes(b"w" * 1000)
with temporary_file() as (file, path):
    file.write(b"half an engine")
    print(folder.path, path, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(paths, "_looked", {})
    return tmp_path


def _age(folder):
    for one in folder.iterdir():
        os.utime(one, (time.time() - 3600,) * 2)


@pytest.mark.skipif(os.name != "posix", reason="elsewhere there are no locks that end with a process")
def test_what_a_killed_process_has_left_is_removed_by_the_next_and_nothing_of_a_living_one(place):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    folder, file = holder.stdout.readline().split()
    _age(place)
    with temporary_file():
        pass
    assert os.path.exists(file)
    assert os.path.exists(f"{folder}/weights")
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert os.path.exists(file)
    paths._looked.clear()
    with TemporaryFolder() as mine:
        assert list(place.iterdir()) == [mine]
    assert not list(place.iterdir())


def test_foreign_files_and_links_stay(place):
    target = place / "precious"
    target.write_bytes(b"p")
    (place / ".trtcore-1-x.tmp").symlink_to(target)
    (place / ".trtcore-1-y").write_bytes(b"no name of ours")
    os.mkfifo(place / ".trtcore-1-fifo.tmp")
    before = {one.name for one in place.iterdir()}
    for one in place.iterdir():
        os.utime(one, (time.time() - 3600,) * 2, follow_symlinks=False)
    with TemporaryFolder() as mine:
        assert {one.name for one in place.iterdir()} >= {*before, mine.name}


def test_a_file_that_was_moved_stays(place):
    with temporary_file(place) as (file, path):
        file.write(b"whole")
        path.rename(place / "engine")
    assert (place / "engine").read_bytes() == b"whole"
    assert [one.name for one in place.iterdir()] == ["engine"]

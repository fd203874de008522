"""One small saved module, and the means to say something else in its file."""

from __future__ import annotations

import io
import json
import zipfile

import pytest
import torch

import trtcore
from trtcore.archive.members import EXTRA, ArchiveWriter


class Small(torch.nn.Module):
    """An engine, a torch op behind it, a dynamic batch, a default."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x, k: float = 2.0):
        return torch.erfinv(torch.sigmoid(self.linear(x) * k) - 0.5)


@pytest.fixture(scope="session")
def small():
    torch.manual_seed(0)
    x = trtcore.Input(min_shape=(2, 4), opt_shape=(4, 4), max_shape=(16, 4))
    apart = {torch.ops.aten.erfinv.default}
    return trtcore.compile(Small().eval(), inputs=[x, 3.0], min_block_size=1, torch_executed_ops=apart)


@pytest.fixture(scope="session")
def small_file(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "small.pt2"
    trtcore.save(small, path)
    return path


@pytest.fixture
def forged(small_file, tmp_path):
    """A copy whose members a function has changed, with sums that fit."""

    def make(change):
        with zipfile.ZipFile(small_file) as archive:
            members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        extra = json.loads(members.pop(EXTRA))
        change(extra, members)
        buffer = io.BytesIO()
        writer = ArchiveWriter(buffer, "small")
        extra["sums"] = {name: writer.add(name, data) for name, data in members.items()}
        writer.add(EXTRA, json.dumps(extra).encode())
        writer.close()
        path = tmp_path / "forged.pt2"
        path.write_bytes(buffer.getvalue())
        return path

    return make

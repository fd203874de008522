"""Profiles and names of engines on a GPU, in the reference runtime."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import trtcore
from trtcore.runtime import engine_info, profile

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("full_precision")]


@torch.no_grad()
def test_layers_are_timed_by_events_and_engines_have_names(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(1024, 1024), nn.GELU(), nn.Linear(1024, 1024)).eval().cuda()
    x = torch.randn(2048, 1024, device="cuda")
    module = trtcore.compile(model, [x], runtime="reference", min_block_size=1)
    module(x)
    with profile(module) as times:
        for _ in range(3):
            torch.testing.assert_close(module(x), model(x), rtol=1e-4, atol=1e-4)
    rows = times.rows()
    print(times)
    assert rows[0].total > 0
    assert any(row.name.startswith("0/") for row in rows)
    assert sum(row.total for row in rows if row.name.startswith(("0/", "2/"))) > 0.5 * sum(
        r.total for r in rows
    )
    times.chrome_trace(tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert len(engine_info(module)) == 1
    with torch.profiler.profile() as seen:
        module(x)
    assert any(event.key.startswith("trtcore engine_0 [0 .. 2]") for event in seen.key_averages())
    with torch.autograd.profiler.emit_nvtx():
        module(x)

"""Looking inside: engine_info, profile, names in torch's profiler; switches; profiles of one module."""

from __future__ import annotations

import json

import pytest
import torch
from engines import add_one
from torch import nn

import trtcore
from trtcore.errors import InputError
from trtcore.runtime import (
    enable_output_allocator,
    enable_pre_allocated_outputs,
    engine_info,
    optimization_profile,
    profile,
    set_multi_device_safe_mode,
)
from trtcore.runtime import engine as engines
from trtcore.runtime.native.logic import NativeEngine


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x, *, scale=2.0):
        return {"y": self.second(torch.erf(self.first(x).relu()) * scale)}


ROWS = trtcore.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(8, 4))


@pytest.fixture(scope="module")
def made():
    model = Block().eval()
    return model, trtcore.compile(
        model, [ROWS], runtime="reference", min_block_size=1, torch_executed_ops={"aten.erf.default"}
    )


def test_engine_info(made):
    infos = engine_info(made[1])
    assert [one.name for one in infos] == ["engine_0", "engine_1"]
    first = infos[0]
    assert first.runtime == "reference"
    assert first.inputs == ("x float32 (s0, 4)",) or first.inputs[0].endswith(", 4)")
    assert first.profiles == 1
    assert first.plan_bytes > 0
    assert any(layer.type == "MATRIX_MULTIPLY" and layer.name.startswith("first/") for layer in first.layers)
    assert sum(layer.weight_bytes for layer in first.layers) == 4 * (4 * 8 + 8)
    assert {layer.dtype for layer in first.layers} <= {"float32", "int64", "int32"}
    text = str(infos)
    assert "engine_1: reference runtime" in text
    assert "MATRIX_MULTIPLY" in text
    assert json.loads(infos.to_json())[1]["layers"]
    with pytest.raises(InputError):
        engine_info(made[0])


@torch.no_grad()
def test_profile_by_layer(made, tmp_path):
    model, module = made
    x = torch.randn(3, 4)
    with profile(module) as times:
        for _ in range(2):
            torch.testing.assert_close(module(x, scale=2.0), model(x))
    rows = times.rows()
    assert {row.engine for row in rows} == {"engine_0", "engine_1", "torch"}
    assert any(row.name.startswith("first/") for row in rows)
    assert all(row.calls % 2 == 0 for row in rows)
    assert all(row.total >= 0 for row in rows)
    assert "erf" in str(times)
    assert json.loads(times.to_json())[0]["total_ms"] == rows[0].total
    times.chrome_trace(tmp_path / "t.json")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert len(events) == len(times.events)
    starts = [event["ts"] for event in events]
    assert starts == sorted(starts)
    assert "forward" not in module.__dict__
    count = len(times.events)
    module(x)
    assert len(times.events) == count
    with profile(module) as times, pytest.raises(InputError):
        module(torch.randn(9, 4))
    with pytest.raises(InputError), profile(model):
        pass


def test_torchs_profiler_shows_engines_by_name(made):
    with torch.profiler.profile() as seen:
        made[1](torch.randn(2, 4))
    names = {event.key for event in seen.key_averages()}
    assert any(name.startswith("trtcore engine_0 [first") for name in names), names
    assert any(name.startswith("trtcore engine_1") and "second" in name for name in names), names


def test_switches_say_what_they_are(made):
    x = torch.randn(2, 4)
    for switch in (enable_output_allocator, enable_pre_allocated_outputs):
        with switch(made[1]) as module:
            assert module is made[1]
            module(x)
        with pytest.raises(InputError), switch(made[0]):
            pass
    set_multi_device_safe_mode(True)
    with set_multi_device_safe_mode(False):
        made[1](x)
    with pytest.raises(InputError):
        set_multi_device_safe_mode("yes")


def test_a_profile_for_one_module():
    profiles = [{"min_shape": (1, 4), "opt_shape": (2, 4), "max_shape": (3, 4)},
                {"min_shape": (4, 4), "opt_shape": (6, 4), "max_shape": (8, 4)}]  # fmt: skip
    several = trtcore.Input(profiles=[tuple(p.values()) for p in profiles])
    one, other = (
        trtcore.compile(nn.Linear(4, 4).eval(), [several], runtime="reference", min_block_size=1)
        for _ in range(2)
    )
    x = torch.randn(6, 4)
    with optimization_profile(one, 0):
        other(x)
        with pytest.raises(InputError, match="profile 0 does not take"):
            one(x)
        with optimization_profile(one, "auto"):
            one(x)
        with optimization_profile(1), pytest.raises(InputError, match="profile 0 does not take"):
            one(x)
    with optimization_profile(0), pytest.raises(InputError, match="profile 0 does not take"):
        other(x)
    one(x)
    for wrong in ((one, -1), (one, "first"), (nn.Linear(1, 1), 0), (-1,)):
        with pytest.raises(InputError), optimization_profile(*wrong):
            pass


@pytest.mark.usefixtures("alignment_of_the_cpu")
def test_native_engines_by_tensorrts_own_means(monkeypatch):
    from test_native import Recorder

    artifact = add_one(runtime="native")
    recorder = Recorder(artifact)
    monkeypatch.setattr(
        engines, "_native", lambda manifest, artifact: NativeEngine(manifest, artifact.plan, recorder, "cpu")
    )
    engine = engines.Engine(artifact)
    told = []
    x = torch.randn(2, 4)
    (y,) = engine.run_profiled([x], [], None, lambda layer, ms: told.append((layer, ms)))
    assert torch.equal(y, torch.relu(x + 1))
    assert told == [("layer", 0.25)]
    assert engine.described() == (4096, '{"Layers": []}', "")
    assert torch.equal(engine.run([x])[0], torch.relu(x + 1))
    assert told == [("layer", 0.25)], "the profiler is in no other context"

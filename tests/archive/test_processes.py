"""Compiled modules in other processes: pickles, queues, pools, loaders."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch
import torch.multiprocessing as mp
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import graph_module
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import trtcore
from trtcore.artifact.manifest import EngineManifest
from trtcore.context import CompileContext
from trtcore.runtime.engine import Engine

X = torch.linspace(-1, 1, 12).reshape(3, 4)


def run(module, queue):
    queue.put(module(X, 3.0).sum().item())


def called(module):
    return module(X, 3.0).sum().item()


class Rows(torch.utils.data.Dataset):
    """Each item is a call of the module."""

    def __init__(self, module):
        self.module = module

    def __len__(self):
        return 4

    def __getitem__(self, index):
        with torch.no_grad():
            return self.module(X + index, 3.0)


def test_pickles_warn_of_nothing(small, small_file):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for module in (small, trtcore.load(small_file)):
            again = pickle.loads(pickle.dumps(copy.deepcopy(module)))
            assert torch.equal(again(X, 3.0), small(X, 3.0))


def test_a_spawned_process(small, small_file):
    """By a queue, and as the argument: compiled, copied and loaded ones."""
    context, want = mp.get_context("spawn"), small(X, 3.0).sum().item()
    queue = context.SimpleQueue()
    process = context.Process(target=run, args=(small, queue))
    process.start()
    assert queue.get() == pytest.approx(want)
    process.join()
    assert process.exitcode == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_pools(small, small_file, method):
    want = small(X, 3.0).sum().item()
    modules = [small, copy.deepcopy(small), trtcore.load(small_file), pickle.loads(pickle.dumps(small))]
    with mp.get_context(method).Pool(2) as pool:
        assert pool.map(called, modules) == pytest.approx([want] * 4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_data_loaders(small, method):
    loader = torch.utils.data.DataLoader(
        Rows(small), batch_size=2, num_workers=2, multiprocessing_context=method
    )
    rows = torch.cat(list(loader))
    assert torch.allclose(
        rows, torch.stack([small(X + i, 3.0) for i in range(4)]).flatten(0, 0).reshape(rows.shape)
    )


# ---- what stays behind ---------------------------------------------------------------------------------------


def alive():
    """How many there are of what a compile, a load or a save makes and must not leave."""
    for _ in range(3):  # tensors come back to life once when they are collected
        gc.collect()
    kinds = (
        CompileContext,
        Engine,
        EngineManifest,
        FakeTensorMode,
        ShapeEnv,
        torch.fx.GraphModule,
        torch.fx.Graph,
    )
    counts = Counter(type(one) for one in gc.get_objects())
    found = {kind.__name__: sum(n for t, n in counts.items() if issubclass(t, kind)) for kind in kinds}
    return {**found, "texts of graphs": len(graph_module._loader.eval_cache), "mapped files": mapped_files()}


def mapped_files():
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    return sum(".trtcore-" in line or ".pt2" in line for line in lines)


def grows(action, rounds, each):
    """MiB that the process grows by, in the last half of the rounds."""
    resident = []
    for _ in range(rounds):
        for _ in range(each):
            action()
        gc.collect()
        resident.append(psutil.Process().memory_info().rss / 2**20)
    return resident[-1] - resident[rounds // 2 - 1]


def compile_one():
    """A dynamic size, a torch op between two engines, a call."""
    x = trtcore.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(8, 4))
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Sigmoid(), torch.nn.Linear(4, 4))
    apart = {torch.ops.aten.sigmoid.default}
    trtcore.compile(model.eval(), inputs=[x], min_block_size=1, torch_executed_ops=apart)(X)


class Rebuilt:
    """A function under torch.compile whose weight changes at every call, which makes a new engine."""

    def __init__(self):
        self.linear = torch.nn.Linear(4, 4).eval()
        self.compiled = torch.compile(self.linear, backend="trtcore", options={"min_block_size": 1})

    def __call__(self):
        with torch.no_grad():
            self.linear.weight.add_(0.5)
            found = self.compiled(X)
        assert torch.allclose(found, self.linear(X), atol=1e-4)


def left_in(folder):
    return {name for name in os.listdir(folder) if "trtcore" in name}


@pytest.mark.parametrize(
    ("rounds", "each"), [(2, 2), pytest.param(20, 50, marks=pytest.mark.slow)], ids=["few", "many"]
)
@pytest.mark.parametrize("what", ["compiles", "loads", "saves", "rebuilds"])
def test_nothing_stays(small, small_file, tmp_path, monkeypatch, what, rounds, each, request):
    gc.freeze()  # what was there before does not count, and is not gone through again and again
    request.addfinalizer(gc.unfreeze)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    action = {
        "compiles": compile_one,
        "loads": lambda: trtcore.load(small_file)(X, 3.0),
        "saves": lambda: trtcore.save(small, tmp_path / "again.pt2"),
        "rebuilds": Rebuilt(),
    }[what]
    for _ in range(3):
        action()
    before = alive()
    grown = grows(action, rounds, each)
    after = alive()
    assert {kind: after[kind] - before[kind] for kind in after if after[kind] > before[kind]} == {}
    assert left_in(tempfile.gettempdir()) == set()
    if rounds > 2:
        assert grown < 5, f"{grown:.1f} MiB"


WEIGHTS = 4 * 2048 * 2048 * 4

SAVE_AND_LOAD = """
import sys, torch, trtcore

def step(what):
    print(what, flush=True)
    sys.stdin.readline()

with torch.no_grad():
    small = trtcore.compile(torch.nn.Linear(8, 8).eval(), [torch.ones(1, 8)], min_block_size=1)
    trtcore.save(small, sys.argv[1] + "/small.pt2")
    trtcore.load(sys.argv[1] + "/small.pt2")
    model = torch.nn.Sequential(*(torch.nn.Linear(2048, 2048, bias=False) for _ in range(4))).eval()
    compiled = trtcore.compile(model, [torch.ones(1, 2048)], min_block_size=1)
    del model
    step("save")
    trtcore.save(compiled, sys.argv[1] + "/large.pt2")
    step("saved")
    loaded = trtcore.load(sys.argv[1] + "/large.pt2")
    step("loaded")
"""


def memory_of(process):
    """Bytes that no file backs; pages of mapped files go when somebody needs the room."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell what is used")
def test_save_and_load_take_no_more_memory_than_the_weights(tmp_path):
    command = [sys.executable, "-c", SAVE_AND_LOAD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def line():
            return process.stdout.readline().strip()

        def peak_until(said):
            """Bytes over those of now, until the process has said something."""
            base = most = memory_of(process)
            process.stdin.write("\n")
            process.stdin.flush()
            with ThreadPoolExecutor(1) as readers:
                waiting = readers.submit(line)
                while not waiting.done():
                    most = max(most, memory_of(process))
                    time.sleep(0.002)
                assert waiting.result() == said
            return most - base, memory_of(process) - base

        assert line() == "save"
        for said in ("saved", "loaded"):
            peak, kept = peak_until(said)
            assert peak < 1.1 * WEIGHTS, said
            assert kept < 0.25 * WEIGHTS, said
        process.stdin.write("\n")
    assert process.returncode == 0
    assert (tmp_path / "large.pt2").stat().st_size > WEIGHTS

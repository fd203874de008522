"""build_plan: real engines, progress, cancelling, TensorRT's lines, deep networks, full disks."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from engine_networks import Made, chain

from trtcore.engine import build as module
from trtcore.engine.build import build_plan
from trtcore.errors import EngineBuildError


def build(made, **kwargs):
    return build_plan(made.backend, made.builder, made.network, made.config(), made.logger, **kwargs)


def test_the_plan_is_a_tensor_of_bytes(made, tmp_path):
    plan = build(made, directory=tmp_path)
    assert plan.dtype == torch.uint8
    assert plan.dim() == 1
    assert plan.device.type == "cpu"
    assert bytes(plan[1:4].numpy()) == b"trt"  # TensorRT's magic: "vtrt" or "ftrt"
    copy = plan.clone()
    del plan
    gc.collect()
    assert copy.numel() > 1000
    assert os.listdir(tmp_path) == []  # the file is gone


def test_the_plan_is_what_build_serialized_network_gives(made):
    """Rebuilt plans differ in a few bytes at most (measured: one)."""
    plan = build(made)
    whole = torch.frombuffer(
        bytearray(made.builder.build_serialized_network(made.network, made.config())), dtype=torch.uint8
    )
    assert plan.numel() == whole.numel()
    assert int((plan != whole).sum()) <= 8


def test_weights_are_in_the_plan(backend):
    big = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)

    def make(trt, network):
        x = network.add_input("x", trt.float32, (4, 512))
        weight = network.add_constant((512, 512), trt.Weights(big)).get_output(0)
        none = trt.MatrixOperation.NONE
        network.mark_output(network.add_matrix_multiply(x, none, weight, none).get_output(0))

    assert build(Made(backend, build=make)).numel() > big.nbytes


def test_without_the_stream_method_the_plan_is_the_same(made):
    class Builder:
        build_serialized_network = made.builder.build_serialized_network

    plan = build_plan(made.backend, Builder(), made.network, made.config(), made.logger)
    assert plan.numel() == build(made).numel()


def test_progress_is_told(made):
    steps = []
    build(made, progress=lambda *step: steps.append((*step, threading.current_thread().name)))
    assert len(steps) > 5
    assert all(0 <= step < total for _, step, total, _ in steps)
    assert "Building engine" in {phase for phase, *_ in steps}


def test_progress_can_cancel(made):
    with pytest.raises(EngineBuildError, match="was cancelled"):
        build(made, progress=lambda phase, step, steps: phase != "Building engine")
    assert build(made).numel() > 100  # the network is as it was


def test_an_exception_in_progress_reaches_the_caller(made):
    def progress(phase, step, steps):
        raise OSError("mine")

    with pytest.raises(OSError, match="mine"):
        build(made, progress=progress)


@pytest.fixture
def ctrl_c():
    """Python's own handler: a run in the background inherits that the signal is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_cancels_and_is_raised_again(backend, tmp_path):
    made = Made(backend, build=chain(1500))
    steps = []

    def progress(*step):
        steps.append(step)
        if len(steps) == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)  # the build, which may be short, goes on when the waiting thread has been told

    began = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        build(made, progress=progress, directory=tmp_path)
    assert time.perf_counter() - began < 60
    assert "Build canceled" in " ".join(made.logger.errors())
    assert os.listdir(tmp_path) == []
    assert not [t for t in threading.enumerate() if t.name == "trtcore-build"]


def test_what_tensorrt_refuses_is_an_error_with_its_lines(backend, tmp_path):
    def make(trt, network):
        x = network.add_input("x", trt.float32, (2, 3))
        layer = network.add_non_zero(x, trt.int64)
        layer.name = "model.head/non_zero"
        network.mark_output(layer.get_output(0))

    made = Made(backend, build=make)
    with pytest.raises(EngineBuildError, match="could not build the engine") as caught:
        build(made, directory=tmp_path)
    assert any("model.head/non_zero" in line for line in caught.value.tensorrt)
    assert not any("catchCudaError" in line for line in caught.value.tensorrt)
    assert os.listdir(tmp_path) == []


def test_only_this_builds_lines_are_quoted(backend):
    def make(trt, network):
        x = network.add_input("x", trt.float32, (2, 3))
        y = network.add_input("y", trt.float16, (2, 4))
        total = network.add_elementwise(x, y, trt.ElementWiseOperation.SUM).get_output(0)
        network.mark_output(network.add_identity(total).get_output(0))

    made = Made(backend, build=make)
    made.logger.log(made.backend.trt.ILogger.ERROR, "an earlier error")
    with pytest.raises(EngineBuildError) as caught:
        build(made)
    assert caught.value.tensorrt
    assert "an earlier error" not in caught.value.tensorrt


def test_a_dynamic_network_without_profile(backend):
    with pytest.raises(EngineBuildError, match="profile"):
        build(Made(backend, dynamic=True))


def test_a_full_disk_is_said(made, monkeypatch, tmp_path):
    real = os.fdopen

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self.close()

        def close(self):
            self.file.close()

        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fdopen", lambda *args, **kwargs: Full(real(*args, **kwargs)))
    with pytest.raises(EngineBuildError, match="No space left") as caught:
        build(made, directory=tmp_path)
    assert "TMPDIR" in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there(made, tmp_path):
    with pytest.raises(EngineBuildError, match="could not be written"):
        build(made, directory=tmp_path / "no")


def stack_size():
    """The size for new threads; to read it is to reset it."""
    size = threading.stack_size()
    threading.stack_size(size)
    return size


def test_less_stack_where_address_space_is_limited(made, monkeypatch):
    """A thread that cannot start with 512 MB starts with less; the process's default comes back."""
    sizes, real = [], threading.Thread.start

    def start(thread):
        if thread.name == "trtcore-build":
            sizes.append(stack_size())
            if sizes[-1] > 128 << 20:
                raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    before = stack_size()
    assert build(made).numel() > 100
    assert sizes == [512 << 20, 128 << 20]
    assert stack_size() == before


def test_builds_in_threads_do_not_mix(backend):
    plans, errors = {}, []

    def one(number):
        def make(trt, network):
            x = network.add_input("x", trt.float32, (2, 3))
            layer = network.add_non_zero(x, trt.int64) if number % 2 else network.add_identity(x)
            layer.name = f"layer_{number}"
            network.mark_output(layer.get_output(0))

        try:
            plans[number] = build(Made(backend, build=make)).numel()
        except EngineBuildError as error:
            errors.append((number, " ".join(error.tensorrt)))

    threads = [threading.Thread(target=one, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(plans) == {0, 2, 4}
    assert sorted(number for number, _ in errors) == [1, 3, 5]
    for number, text in errors:
        assert f"layer_{number}" in text
        assert not any(f"layer_{other}" in text for other in range(6) if other != number)


DEEP = """
import sys
sys.path.insert(0, {here!r})
from engine_networks import Made, chain
from trtcore_backends.tensorrt_rtx import RtxBackend
from trtcore.engine.build import build_plan
made = Made(RtxBackend(), build=chain(4000))
print(build_plan(made.backend, made.builder, made.network, made.config(), made.logger).numel())
"""


@pytest.mark.slow
def test_four_thousand_chained_layers_build(tmp_path):
    """They overflow an 8 MB stack; in a process of its own, since a failure takes the process down."""
    env = {**os.environ, "TRTCORE_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", DEEP.format(here=os.path.dirname(__file__))],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 1000

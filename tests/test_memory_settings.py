"""Settings that save memory: where the weights are while engines are built, how much a build takes, what a call keeps."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch import nn

import trtcore
from trtcore import memory
from trtcore.errors import SettingsError
from trtcore.runtime.engine import engines_in

MIB = 1 << 20
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def layers(count=4, size=64):
    return nn.Sequential(*[nn.Linear(size, size) for _ in range(count)]).eval()


def compiled(model, size=64, **settings):
    return trtcore.compile(model, inputs=[torch.ones(2, size)], min_block_size=1, **settings)


# ---- the budget ---------------------------------------------------------------------------------------------


def room_for(monkeypatch, weights):
    """Let the process have room for this many bytes of an engine's weights."""
    monkeypatch.setattr(memory, "memory_in_use", lambda: 1000)
    return 1000 + memory.BUILD_BASE + int(weights * memory.BUILD_FACTOR) + 2


@pytest.mark.usefixtures("trt_backend")
@pytest.mark.parametrize(("matrices", "engines"), [(1.2, 4), (2.2, 2), (9, 1)])
def test_segments_are_cut_so_that_their_weights_fit(monkeypatch, matrices, engines):
    model, matrix = layers(), 64 * 64 * 4 + 64 * 4
    budget = room_for(monkeypatch, matrices * matrix)
    module = compiled(model, enable_resource_partitioning=True, cpu_memory_budget=budget, dryrun=True)
    assert len(module.report.engines) == engines
    assert len(compiled(model, dryrun=True).report.engines) == 1


@pytest.mark.usefixtures("trt_backend")
def test_such_a_module_is_right_and_is_cut_the_same_when_it_is_refitted(monkeypatch):
    model, new, matrix = layers(3), layers(3), 64 * 64 * 4 + 64 * 4
    budget = room_for(monkeypatch, 1.2 * matrix)
    module = compiled(model, enable_resource_partitioning=True, cpu_memory_budget=budget)
    x = torch.ones(2, 64)
    torch.testing.assert_close(module(x), model(x), rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(memory, "memory_in_use", lambda: 0)  # more room than there was
    made = trtcore.dynamo.refit_module_weights(module, trtcore.dynamo.trace(new, [x]))
    torch.testing.assert_close(made(x), new(x), rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("trt_backend")
def test_an_op_that_does_not_fit_alone_is_an_error_whose_advice_works(monkeypatch):
    model = layers(2)
    budget = room_for(monkeypatch, 1000)
    with pytest.raises(SettingsError, match="an op alone has 16640 bytes of weights") as caught:
        compiled(model, enable_resource_partitioning=True, cpu_memory_budget=budget)
    assert "aten.linear" in caught.value.where
    more = int(caught.value.advice.split("cpu_memory_budget by ")[1].split(",")[0])
    settings = {"enable_resource_partitioning": True, "cpu_memory_budget": budget + more, "dryrun": True}
    assert len(compiled(model, **settings).report.engines) == 2


@linux
@pytest.mark.usefixtures("trt_backend")
def test_a_budget_that_is_used_up_is_an_error_and_none_is_what_the_machine_has():
    with pytest.raises(SettingsError, match="bytes in use before anything is built") as caught:
        compiled(layers(2), enable_resource_partitioning=True, cpu_memory_budget=1000)
    enough = int(caught.value.advice.split("more than ")[1])
    assert memory.weights_limit(enough + 300 * MIB) > 0
    assert len(compiled(layers(2), enable_resource_partitioning=True, dryrun=True).report.engines) == 1


def test_a_budget_alone_is_an_error():
    with pytest.raises(SettingsError, match="no effect alone"):
        trtcore.CompilationSettings(cpu_memory_budget=1 << 30)


_CHILD = """
    import sys, threading, time, torch, trtcore
    from trtcore.memory import memory_in_use
    torch.set_num_threads(1)
    model = torch.nn.Sequential(*[torch.nn.Linear(3072, 3072) for _ in range(16)]).eval()  # 576 MiB
    x = torch.ones(1, 3072)
    trtcore.compile(torch.nn.Linear(8, 8).eval(), inputs=[torch.ones(1, 8)], min_block_size=1)
    peak, done = [0], threading.Event()

    def watch():
        while not done.wait(0.005):
            peak[0] = max(peak[0], memory_in_use())

    threading.Thread(target=watch, daemon=True).start()
    budget = memory_in_use() + int(sys.argv[1])
    settings = {"enable_resource_partitioning": True, "cpu_memory_budget": budget} if sys.argv[2] == "on" else {}
    module = trtcore.compile(model, inputs=[x], min_block_size=1, **settings)
    done.set()
    with torch.no_grad():
        assert torch.allclose(module(x), model(x), atol=1e-3)
    print(len(module.report.engines), peak[0] - (budget - int(sys.argv[1])))
"""


@linux
@pytest.mark.slow
@pytest.mark.usefixtures("trt_backend")
def test_the_memory_of_a_build_stays_within_the_budget():
    """576 MiB of weights, and 512 MiB more for the compile: too little for one engine, enough for several."""
    budget = 512 * MIB

    def run(word):
        command = [sys.executable, "-c", textwrap.dedent(_CHILD), str(budget), word]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        engines, peak = map(int, out.split()[-2:])
        print(word, engines, peak // MIB)
        return engines, peak

    engines, peak = run("on")
    assert engines > 1
    assert peak <= budget
    engines, peak = run("off")
    assert (engines, peak > budget) == (1, True)


_LIMITED = """
    import os, sys, threading, time, torch, trtcore
    from trtcore.memory import memory_in_use
    torch.set_num_threads(1)
    limit, peak = int(sys.argv[1]), [0]

    def watch():
        while True:
            peak[0] = max(peak[0], memory_in_use())
            if peak[0] > limit:
                os.write(2, b"over the limit")
                os._exit(3)
            time.sleep(0.002)

    threading.Thread(target=watch, daemon=True).start()
    layers = [torch.nn.utils.skip_init(torch.nn.Linear, 4096, 4096, bias=False) for _ in range(64)]  # 64 MiB each
    some = torch.randn(4096, 4096) / 45
    with torch.no_grad():
        for number, layer in enumerate(layers):
            torch.mul(some, 1 + number / 1000, out=layer.weight)
    model = torch.nn.Sequential(*[part for layer in layers for part in (layer, torch.nn.ReLU())]).eval()
    x = torch.ones(1, 4096)
    settings = {"enable_resource_partitioning": True, "cpu_memory_budget": limit} if sys.argv[2] == "on" else {}
    module = trtcore.compile(model, inputs=[x], min_block_size=1, runtime="reference", **settings)
    compiled = peak[0]
    with torch.no_grad():
        assert torch.allclose(module(x), model(x), rtol=1e-3, atol=1e-3)
    weights = sum(p.nbytes for p in model.parameters())
    print(weights, len(module.report.engines), compiled, sum(one.build_seconds for one in module.report.engines))
"""


@linux
@pytest.mark.slow
@pytest.mark.usefixtures("trt_backend")
def test_a_model_of_4_gib_compiles_within_6():
    """Its weights are in memory all the while. The process ends itself when its own memory exceeds the limit."""
    if psutil.virtual_memory().available < 9 << 30:
        pytest.skip("less than 9 GiB of memory are free")
    limit = 6 << 30

    def run(word):
        command = [sys.executable, "-c", textwrap.dedent(_LIMITED), str(limit), word]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    done = run("on")
    assert done.returncode == 0, done.stderr
    weights, engines, peak, seconds = map(float, done.stdout.split()[-4:])
    print(
        f"{weights / MIB:.0f} MiB in {engines:.0f} engines, peak {peak / MIB:.0f} MiB, built in {seconds:.0f} s"
    )
    assert weights == 4 << 30
    assert engines > 1
    assert peak <= limit
    assert run("off").returncode == 3, "one engine does without the budget, and the test shows nothing"


# ---- the rest -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("trt_backend")
def test_what_a_call_needs_is_given_up_after_it():
    x = torch.ones(2, 64)
    held = {}
    for dynamic in (False, True):
        module = compiled(layers(2), runtime="reference", dynamically_allocate_resources=dynamic)
        module(x)
        (engine,) = engines_in(module)
        network = engine._opened.module
        held[dynamic] = bool(network.constants._staged)
        torch.testing.assert_close(module(x), module(x))
    assert held == {False: True, True: False}


@pytest.mark.usefixtures("trt_backend")
def test_native_engines_are_opened_by_the_compile_unless_lazy(monkeypatch):
    from trtcore import compiler
    from trtcore.runtime.engine import Engine

    opened = []
    monkeypatch.setattr(compiler, "native_obstacle", lambda backend, target: "")
    monkeypatch.setattr(Engine, "open", lambda self: opened.append(self))
    compiled(layers(2), runtime="native", lazy_engine_init=True)
    assert not opened
    compiled(layers(2), runtime="native")
    assert len(opened) == 1


@pytest.mark.usefixtures("trt_backend")
def test_settings_that_change_nothing_here_say_so():
    with pytest.warns(UserWarning, match="lazy_engine_init=True changes nothing on the reference runtime"):
        compiled(layers(1), runtime="reference", lazy_engine_init=True)
    with pytest.warns(UserWarning, match="offload_module_to_cpu=True changes nothing"):
        compiled(layers(1), offload_module_to_cpu=True)


class Mixed(nn.Module):
    """Weights of an engine, of an op in torch, and a buffer that is written."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.tied = nn.Linear(512, 512), nn.Linear(512, 512)
        self.tied.weight = self.line.weight
        self.matrix = nn.Parameter(torch.eye(512))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count.add_(1)
        return self.tied(self.line(x)) @ torch.linalg.matrix_exp((self.matrix + x[0, 0]) / 512) + self.count


@pytest.mark.gpu
@pytest.mark.usefixtures("trt_backend")
def test_the_models_weights_leave_the_gpu_before_engines_are_built():
    model, x = Mixed().eval().cuda(), torch.rand(2, 512, device="cuda")
    with torch.no_grad():
        wanted = model(x)
        model.count.zero_()
        seen = []

        def observe(event):
            if (event.stage, event.status) == ("build", "start"):
                seen.append({name: one.device.type for name, one in model.named_parameters()})

        module = trtcore.compile(
            model, inputs=[x], min_block_size=1, offload_module_to_cpu=True, observers=[observe]
        )
        assert seen[0]
        assert set(seen[0].values()) == {"cpu"}
        assert model.count.device.type == "cuda"
        assert (
            model.tied.weight.untyped_storage().data_ptr() == model.line.weight.untyped_storage().data_ptr()
        )
        torch.testing.assert_close(module(x), wanted, rtol=1e-2, atol=1e-2)


def test_weights_move_off_the_device_and_back(monkeypatch):
    """The same on torch's device for shapes alone: tensors, and no values."""
    from trtcore.offloading import back_on_device, offload

    root = torch.nn.Module()
    root.weight = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    graph = torch.fx.Graph()
    node = graph.get_attr("weight")
    node.meta["val"] = SimpleNamespace()
    graph.output((node,))
    module = torch.fx.GraphModule(root, graph)
    with pytest.warns(UserWarning, match="on the CPU already"):
        offload(module)
    node.meta["val"] = torch.empty(3, device="meta")
    back_on_device(module)
    assert module.weight.device.type == "meta"

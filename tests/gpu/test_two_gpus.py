"""Several GPUs of one host: a decoder that is divided among them over NCCL, and modules on each device of one process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trtcore
from trtcore.errors import InputError
from trtcore.runtime import enable_cudagraphs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("full_precision"),
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]
RANKS = Path(__file__).with_name("ranks.py")


def torchrun(*arguments: str) -> str:
    """What the first rank prints, with a rank on each GPU."""
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    ran = subprocess.run(
        [*command, "--nproc-per-node", str(torch.cuda.device_count()), str(RANKS), *arguments],
        capture_output=True, text=True, timeout=900, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    print(ran.stdout)
    return ran.stdout


def test_a_decoder_over_nccl_and_its_files(tmp_path: Path) -> None:
    assert "200 tokens as in one process" in torchrun("check", str(tmp_path))
    assert "200 tokens as in one process" in torchrun("again", str(tmp_path))


def test_figures() -> None:
    """Step times of a 1B-shape model beside eager, printed."""
    assert torchrun("figures").count("\n| ") >= 3


class Hybrid(nn.Module):
    """Two engines around an op in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.special.erfcx(self.a(x).relu() * 0.1)).relu()


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, 64, device="cuda:0")


def made(device: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = Hybrid().eval().to(device)
    ranges = trtcore.Input(min_shape=(1, 64), opt_shape=(4, 64), max_shape=(16, 64), device=device)
    options: dict[str, Any] = {"min_block_size": 1, "torch_executed_ops": {"aten.special_erfcx"}}
    return model, trtcore.compile(model, [ranges], runtime="reference", **options)


@torch.no_grad()
def test_threads_call_a_module_on_each_device() -> None:
    """Neither the current device nor the other's stream matters."""
    wrong: list[str] = []

    def work(device: str) -> None:
        model, module = made(device)
        graphed = enable_cudagraphs(module)
        with torch.no_grad():
            for index in range(60):
                x = torch.randn(index % 16 + 1, 64, device=device)
                for call in (module, graphed):
                    got = call(x)
                    if got.device != x.device or not torch.allclose(got, model(x), rtol=1e-4, atol=1e-5):
                        wrong.append(f"{device} {index}")

    threads = [threading.Thread(target=work, args=(f"cuda:{index % 2}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@torch.no_grad()
def test_inputs_say_where_engines_compute() -> None:
    """A module without weights in torch computes where its inputs are; inputs on two devices are refused by name."""
    model, module = made("cuda:0")
    x = torch.randn(4, 64)
    got = module(x.to("cuda:1"))
    assert got.device == torch.device("cuda:1")
    torch.testing.assert_close(got.cpu(), model(x.to("cuda:0")).cpu(), rtol=1e-5, atol=1e-5)

    class Sum(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

    both = trtcore.compile(Sum(), [x.cuda(), x.cuda()], runtime="reference", min_block_size=1)
    with pytest.raises(InputError, match="cuda:1"):
        both(x.to("cuda:0"), x.to("cuda:1"))


@torch.no_grad()
def test_inputs_on_another_gpu_than_weights_in_torch_are_refused() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.ones(64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.erfcx(x * 2) + self.shift

    left = {"aten.special_erfcx", "aten.add"}
    module = trtcore.compile(
        Shifted().cuda(), [rows(4)], runtime="reference", min_block_size=1, torch_executed_ops=left
    )
    with pytest.raises(InputError, match="cuda:1"):
        module(rows(4).to("cuda:1"))


@torch.no_grad()
def test_a_hybrid_over_two_devices() -> None:
    class Pipeline(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(64, 64).to("cuda:0"), nn.Linear(64, 8).to("cuda:1")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x).relu().to("cuda:1")).relu()

    model, x = Pipeline().eval(), torch.randn(4, 64, device="cuda:0")
    module = trtcore.compile(model, [x], runtime="reference", min_block_size=1)
    for _ in range(3):
        x = torch.randn(4, 64, device="cuda:0")
        torch.testing.assert_close(module(x), model(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_module_that_moves() -> None:
    model, module = made("cuda:0")
    x = torch.randn(4, 64)
    want = model(x.cuda()).cpu()
    for device in ("cuda:1", "cuda:0", "cuda:1"):
        moved = module.to(device)
        torch.testing.assert_close(moved(x.to(device)).cpu(), want, rtol=1e-5, atol=1e-5)


def test_two_servers_share_a_cache(tmp_path: Path) -> None:
    """Two processes, a GPU each, one engine cache: what the first built, the second finds."""
    script = tmp_path / "server.py"
    script.write_text(
        "import sys, torch, trtcore\n"
        "torch.manual_seed(0)\n"
        "device = f'cuda:{sys.argv[1]}'\n"
        "model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU()).eval().to(device)\n"
        "x = torch.ones(2, 8, device=device)\n"
        "module = trtcore.compile(model, [x], runtime='reference', min_block_size=1, cache_built_engines=True,\n"
        "                         reuse_cached_engines=True, engine_cache_dir=sys.argv[2])\n"
        "torch.testing.assert_close(module(x), model(x), rtol=1e-5, atol=1e-5)\n"
        "print('from the cache' if module.report.engines[0].cached else 'built')\n"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-W", "ignore", str(script), str(index), str(tmp_path / "cache")],
            capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for index in range(2)
    ]  # fmt: skip
    assert [one.returncode for one in printed] == [0, 0], [one.stderr[-2000:] for one in printed]
    assert [one.stdout.split("\n")[-2] for one in printed] == ["built", "from the cache"]

"""Pipelines of diffusers on a GPU: images, times, adapters, and one component at a time."""

from __future__ import annotations

import gc
import importlib.util
import statistics
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
PROJECT = Path(__file__).parents[2] / "contrib" / "trtcore-contrib-diffusers"
pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("full_precision")]


@pytest.fixture(scope="module")
def tiny(monkeypatch_module: pytest.MonkeyPatch) -> ModuleType:
    """The project's tiny pipelines."""
    monkeypatch_module.syspath_prepend(PROJECT)
    spec = importlib.util.spec_from_file_location("tiny_pipelines", PROJECT / "tests" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_pipelines"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def monkeypatch_module() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def made(tiny: ModuleType, name: str, folder: Path) -> Any:
    return tiny.make_pipeline(name, tiny.make_tokenizer(folder)).to("cuda")


def result(pipe: Any, call: dict[str, Any], steps: int = 2) -> Any:
    generator = torch.Generator().manual_seed(0)
    further = {"num_inference_steps": steps, "output_type": "np", "return_dict": False}
    return pipe("a cat", generator=generator, **further, **call)[0]


def seconds(pipe: Any, call: dict[str, Any]) -> float:
    """Of one of 20 steps, the median of five runs."""
    found = []
    for _ in range(6):
        torch.cuda.synchronize()
        began = time.perf_counter()
        result(pipe, call, steps=20)
        torch.cuda.synchronize()
        found.append((time.perf_counter() - began) / 20)
    return statistics.median(found[1:])


@pytest.mark.parametrize(
    "name", ["stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux", "ltx"]
)
def test_results_are_eagers(tiny: ModuleType, name: str, tmp_path: Path) -> None:
    from trtcore_contrib_diffusers import compile_pipeline, reports

    pipe = made(tiny, name, tmp_path)
    sizes, further = tiny.CALLS[name]
    call = {**sizes, **further}
    want = result(pipe, call)
    compiled = compile_pipeline(pipe, **sizes, arguments=further)
    difference = abs(result(compiled, call) - want).max()
    runtimes = {report.runtime for report in reports(compiled).values()}
    print(
        f"{name}: {runtimes}, difference {difference:.1e}, "
        f"{1e3 * seconds(pipe, call):.2f} ms a step in eager, {1e3 * seconds(compiled, call):.2f} ms compiled"
    )
    assert difference < 1e-3


def test_an_adapter_by_refit(tiny: ModuleType, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from trtcore_contrib_diffusers import compile_pipeline, reports

    pipe = made(tiny, "stable_diffusion", tmp_path)
    call = {"height": 32, "width": 32}
    compiled = compile_pipeline(
        pipe, height=32, components=["unet"], immutable_weights=False, runtime="reference"
    )
    plain = result(compiled, call)
    for one in (compiled, pipe):
        torch.manual_seed(1)
        config = peft.LoraConfig(r=4, target_modules=["to_q", "to_v", "conv1"], init_lora_weights=False)
        one.unet.add_adapter(config, "one")
    began = time.perf_counter()
    adapted = result(compiled, call)
    print(f"refit: {time.perf_counter() - began:.2f} s with two steps")
    assert reports(compiled)["unet.forward"].kind == "refit"
    assert abs(adapted - result(pipe, call)).max() < 1e-3
    assert abs(adapted - plain).max() > 1e-2


def test_components_take_turns(tiny: ModuleType, tmp_path: Path) -> None:
    from trtcore_contrib_diffusers import compile_pipeline

    call = {"height": 32, "width": 32}
    peaks = {}
    for offload in (False, True):
        compiled = compile_pipeline(made(tiny, "stable_diffusion_xl", tmp_path), height=32, offload=offload)
        result(compiled, call)
        gc.collect()
        torch.cuda.empty_cache()
        peaks[offload] = torch.cuda.memory_reserved()  # this process's: others may use the GPU
        del compiled
        gc.collect()
        torch.cuda.empty_cache()
    print(f"memory in use after a call: {peaks[False] >> 20} MiB, in turns {peaks[True] >> 20} MiB")
    assert peaks[True] <= peaks[False]

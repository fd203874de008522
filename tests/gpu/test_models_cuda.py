"""The models that must compile whole, on CUDA in the reference runtime: three precisions, static and dynamic.

    OUT=. python -m pytest -m gpu -s tests/gpu

Eager runs on the same GPU, with TF32 off and without reduced-precision accumulation. Errors as on the CPU
(tests/models/test_architectures.py): 1e-5 relative for float32; a 16-bit model may be as far from float32 eager
as eager in 16 bits is, and a quarter more. ``TRTCORE_GPU_TINY=1`` takes the tiny models.
"""

from __future__ import annotations

import copy
import gc
import os
import time
import warnings
from functools import lru_cache
from typing import Any

import pytest
import torch
import zoo

import trtcore
from trtcore_reference.staging import Constants

pytest.importorskip("transformers")
pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("full_precision")]

DEVICE = os.environ.get("TRTCORE_GPU_DEVICE", "cuda")  # "cpu" tries the code of these tests without a GPU
TINY = os.environ.get("TRTCORE_GPU_TINY") == "1"
FORMS = [(dynamic, precision) for dynamic in (False, True) for precision in zoo.DTYPES]


def label(form: object) -> str:
    return f"{'dynamic' if form[0] else 'static'}-{form[1]}" if isinstance(form, tuple) else str(form)


@lru_cache(maxsize=1)  # one large model at a time
def model_of(name: str) -> torch.nn.Module:
    return zoo.ARCHITECTURES[name].build(TINY).to(DEVICE)


def on_device(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.to(DEVICE) for name, value in values.items()}


def compile_form(arch: Any, model: torch.nn.Module, dynamic: bool, dtype: torch.dtype) -> Any:
    made = zoo.inputs_for(arch, dynamic, dtype, TINY)
    if dynamic:
        inputs = {
            name: trtcore.Input(
                min_shape=i.min_shape,
                opt_shape=i.opt_shape,
                max_shape=i.max_shape,
                dtype=i.dtype,
                device=DEVICE,
            )
            for name, i in made.items()
        }
    else:
        inputs = on_device(made)
    return trtcore.compile(model, kwarg_inputs=inputs, runtime="reference")


def tensors(result: Any) -> list[torch.Tensor]:
    return [value for value in result.values() if isinstance(value, torch.Tensor)]


def synchronisations(compiled: Any, fed: dict[str, torch.Tensor]) -> int:
    """How often a call of the module makes the CPU wait for the GPU, as torch sees it.

    Behind its first calls, of which a module that computes in 16 bits looks at the results.
    """
    if DEVICE == "cpu":
        return 0
    for _ in range(3):
        compiled(**fed)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            compiled(**fed)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(w.message) for w in caught)


@torch.no_grad()
@pytest.mark.parametrize(("name", "form"), [(n, f) for n in zoo.ARCHITECTURES for f in FORMS], ids=label)
def test_model(
    name: str, form: tuple[bool, str], gpu_row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dynamic, precision = form
    arch, dtype = zoo.ARCHITECTURES[name], zoo.DTYPES[precision]
    gpu_row |= {"model": name, "shapes": "dynamic" if dynamic else "static", "precision": precision}
    gpu_row["size"] = "tiny" if TINY else "base"
    began = time.perf_counter()
    model = model_of(name)
    eager = model if precision == "fp32" else copy.deepcopy(model).to(dtype)
    compiled = compile_form(arch, eager, dynamic, dtype)
    gpu_row["compile_seconds"] = round(time.perf_counter() - began, 1)

    staged: list[torch.device] = []
    copied = Constants._copy

    def count(self: Constants, device: torch.device) -> Any:
        staged.append(device)
        return copied(self, device)

    monkeypatch.setattr(Constants, "_copy", count)
    calls = ((arch.tiny_calls if TINY else arch.calls) or arch.calls) if dynamic else (arch.static,)
    worst: tuple[float, float, float | None, float] = (-1.0, 0.0, None, 0.0)
    for shape in calls:
        fed = on_device(arch.feed(shape, dtype, TINY))
        want = model(**on_device(arch.feed(shape, torch.float32, TINY)))
        got = compiled(**fed)
        assert {value.device.type for value in tensors(got)} == {torch.device(DEVICE).type}
        error = zoo.relative_error(got, want)
        reference = None if precision == "fp32" else zoo.relative_error(eager(**fed), want)
        allowed = 1e-5 if reference is None else 1.25 * reference
        worst = max(worst, (error / allowed, error, reference, allowed), key=lambda row: row[0])
    _, error, reference, allowed = worst
    gpu_row |= {"calls": len(calls), "error": error, "eager_error": reference, "allowed": allowed}
    gpu_row["syncs"] = synchronisations(compiled, fed)

    report = compiled.report
    assert report.fully_converted, str(report)
    assert [segment.kind for segment in report.segments] == ["tensorrt"], str(report)
    assert report.runtime == "reference"
    assert len(staged) == 1, "constants are copied to a device once"
    assert staged[0].type == torch.device(DEVICE).type
    assert error <= allowed
    if not dynamic:
        assert gpu_row["syncs"] == 0
        check_memory(compiled, fed)
    del compiled, eager
    gc.collect()


def check_memory(compiled: Any, fed: dict[str, torch.Tensor]) -> None:
    """Calls leave nothing behind on the GPU."""
    if DEVICE == "cpu":
        return
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        compiled(**fed)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


@torch.no_grad()
def test_torch_compile_of_it() -> None:
    """torch.compile of a compiled module gives what the module gives, on the GPU."""
    arch = zoo.ARCHITECTURES["vit"]
    fed = on_device(arch.feed(arch.static, torch.float32, True))
    compiled = trtcore.compile(arch.build(True).to(DEVICE), kwarg_inputs=fed, runtime="reference")
    want, got = compiled(**fed), torch.compile(compiled)(**fed)
    for a, b in zip(tensors(got), tensors(want)):
        assert a.device == b.device
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_one_module_on_both_devices() -> None:
    """What was compiled on the CPU runs wherever its inputs are, and its outputs are there too."""
    arch = zoo.ARCHITECTURES["vit"]
    fed = arch.feed(arch.static, torch.float32, True)
    model = arch.build(True)
    compiled = trtcore.compile(model, kwarg_inputs=fed, runtime="reference")
    on_gpu, on_cpu = compiled(**on_device(fed)), compiled(**fed)
    for a, b in zip(tensors(on_gpu), tensors(on_cpu)):
        assert (a.device.type, b.device.type) == (torch.device(DEVICE).type, "cpu")
        torch.testing.assert_close(a.cpu(), b, rtol=1e-4, atol=1e-4)

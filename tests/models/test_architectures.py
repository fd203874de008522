"""Whole architectures in one engine, static and dynamic, in three precisions; tiny ones by default.

Errors are relative to eager in float32. A 16-bit model may be as far from it as eager in 16 bits is, and a
quarter more; a float32 one 1e-5. The dtypes of the networks are read back, so that no model passes by being
computed in another precision.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import pytest
import torch
import zoo

pytest.importorskip("transformers")

FORMS = [(dynamic, precision) for dynamic in (False, True) for precision in zoo.DTYPES]
TINY = [
    (False, "fp32"),
    pytest.param((True, "fp32"), marks=pytest.mark.slow),
    (True, "fp16"),
    (False, "bf16"),
]


def label(form: object) -> str:
    return f"{'dynamic' if form[0] else 'static'}-{form[1]}" if isinstance(form, tuple) else str(form)


@cache
def tiny_model(name: str) -> torch.nn.Module:
    return zoo.ARCHITECTURES[name].build(True)


@pytest.mark.parametrize("form", TINY, ids=label)
@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_tiny(name: str, form: tuple[bool, str]) -> None:
    check(zoo.ARCHITECTURES[name], tiny_model(name), *form, tiny=True)


@lru_cache(maxsize=1)  # one large model at a time
def base_model(name: str) -> torch.nn.Module:
    return zoo.ARCHITECTURES[name].build(False)


@pytest.mark.models
@pytest.mark.parametrize(("name", "form"), [(n, f) for n in zoo.ARCHITECTURES for f in FORMS], ids=label)
def test_base(name: str, form: tuple[bool, str]) -> None:
    check(zoo.ARCHITECTURES[name], base_model(name), *form, tiny=False)


def check(arch: Any, model: torch.nn.Module, dynamic: bool, precision: str, tiny: bool) -> None:
    result = zoo.run(arch, model, dynamic, precision, tiny)
    assert_one_engine(result.compiled)
    (snapshot,) = zoo.snapshots(result.compiled)
    assert_dtypes(snapshot, zoo.DTYPES[precision], arch.float_parts, products_of(model), weight_bytes(model))
    for shape, error in result.errors.items():
        allowed = 1e-5 if precision == "fp32" else 1.25 * result.eager_errors[shape]
        assert error <= allowed, (arch.name, dynamic, precision, shape, error, allowed)


def assert_one_engine(compiled: Any) -> None:
    report = compiled.report
    assert report.fully_converted, str(report)
    assert [segment.kind for segment in report.segments] == ["tensorrt"], str(report)
    assert not report.quarantined
    targets = {str(node.target) for node in compiled.graph.nodes if node.op == "call_function"}
    assert not {t for t in targets if t.startswith("aten.") and "sym_size" not in t}
    assert "trtcore.execute_engine.default" in targets


def products_of(model: torch.nn.Module) -> int:
    """How many matrix products and convolutions a model has at least: its layers with weights."""
    from transformers.pytorch_utils import Conv1D

    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, Conv1D)
    return sum(isinstance(module, kinds) for module in model.modules())


def weight_bytes(model: torch.nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def assert_dtypes(
    snapshot: Any, dtype: torch.dtype, float_parts: tuple[str, ...], products: int, float_bytes: int
) -> None:
    """The network works in `dtype`: its products and convolutions, its weights, its results.

    Args:
        float_parts: parts of module paths where the model computes in float32 whatever its dtype.
        products: how many products and convolutions there are at least.
        float_bytes: size of the model's weights in float32.
    """
    wide = set()
    used = set()
    for kind, name, seen in zoo.product_dtypes(snapshot):
        if any(part in name for part in float_parts):
            assert seen == torch.float32, (kind, name, seen)
            wide.add(name)
            continue
        assert seen == dtype, (kind, name, seen)
        used.add(name)
    assert len(used) >= products, (len(used), products)
    assert len(wide) <= len(float_parts), wide
    assert [snapshot.tensors[i].dtype for i in snapshot.outputs] == [dtype] * len(snapshot.outputs)
    constants = {
        tensor.data_ptr(): tensor  # all of them are on one storage: the engine's file
        for layer in snapshot.layers
        for tensor in layer.constants.values()
    }
    floats = [t for t in constants.values() if t.dtype.is_floating_point]
    other = sum(t.numel() for t in floats if t.dtype != dtype)
    assert other <= 0.1 * sum(t.numel() for t in floats), (
        "weights in another precision (batch norm keeps a few)"
    )
    size = sum(t.numel() * t.element_size() for t in floats if t.dtype == dtype)
    assert size >= 0.9 * float_bytes * dtype.itemsize / 4, "weights are missing"
    if dtype == torch.float32:
        narrow = {t.dtype for t in snapshot.tensors if t.dtype.is_floating_point} - {torch.float32}
        assert not narrow, "lower precision than the model's"


def test_dtype_check_notices_another_precision() -> None:
    """The check above fails on a float32 network where float16 was asked for, and the other way round."""
    arch = zoo.ARCHITECTURES["vit"]
    model = tiny_model("vit")
    (wide,) = zoo.snapshots(zoo.run(arch, model, False, "fp32", True).compiled)
    numbers = (arch.float_parts, products_of(model), weight_bytes(model))
    assert_dtypes(wide, torch.float32, *numbers)
    for dtype in (torch.float16, torch.bfloat16):
        with pytest.raises(AssertionError):
            assert_dtypes(wide, dtype, *numbers)

"""What a type checker says of users' code; `tests/test_typing.py` runs mypy on it. Lines that are wrong say so."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

import trtcore


def whole(model: torch.nn.Module, x: torch.Tensor) -> None:
    compiled = trtcore.compile(model, inputs=[x], min_block_size=1, enabled_precisions={torch.float32})
    report: trtcore.Report = compiled.report
    print(report.summary(), report.engines)
    again: trtcore.CompiledModule = compiled.eval()
    trtcore.save(again, Path("net.pt2"), inputs=[x])
    loaded: trtcore.CompiledModule = trtcore.load("net.pt2")
    loaded(x)
    later: Callable[..., Any] = trtcore.compile(model, ir="torch_compile", dryrun=True)
    later(x)
    trtcore.explain(model, [x], torch_executed_ops={"aten.gelu", torch.ops.aten.relu}).fallbacks()
    trtcore.MutableModule(model, immutable_weights=False)
    settings: trtcore.SettingsDict = {"enable_autocast": True, "autocast_low_precision_type": torch.float16}
    assert trtcore.debug.compare(model, [x], **settings).agrees
    exported = trtcore.dynamo.trace(model, inputs=[x])
    trtcore.dynamo.compile(exported, build_executor=ThreadPoolExecutor(2), device="sm_89").report.to_json()
    plan: bytes = trtcore.dynamo.convert_exported_program_to_serialized_trt_engine(exported, device=(8, 9))
    print(len(plan))


def shared(model: torch.nn.Module, x: torch.Tensor) -> None:
    fast: trtcore.SettingsDict = {"min_block_size": 1, "build_isolation": "process"}
    trtcore.compile(model, [x], **fast)
    trtcore.explain(model, [x], **fast)
    wrong: trtcore.SettingsDict = {"min_blocksize": 1}  # type: ignore[typeddict-unknown-key]
    print(wrong)


def refused(model: torch.nn.Module, x: torch.Tensor) -> None:
    trtcore.compile(model, [x], min_block_sizes=1)  # type: ignore[call-overload]
    trtcore.compile(model, [x], ir="torchdynamo")  # type: ignore[call-overload]
    trtcore.compile(model, [x], runtime="gpu")  # type: ignore[call-overload]
    trtcore.explain(model, [x], min_block_size="5")  # type: ignore[arg-type]
    trtcore.dynamo.compile(model, [x], build_isolation="fork")  # type: ignore[arg-type]
    trtcore.compile(model, [x]).report.sumary()  # type: ignore[attr-defined]

"""Lowering is one of trtcore's stages; passes of yours run in it."""

from __future__ import annotations

import importlib
from typing import Any

from trtcore_contrib_torch_tensorrt._old_paths import give_old_paths
from trtcore_contrib_torch_tensorrt._told import told
from trtcore_contrib_torch_tensorrt.dynamo.lowering._decompositions import (
    TORCH_TRT_DECOMPOSITIONS,
    register_torch_trt_decomposition,
)

__all__ = ["TORCH_TRT_DECOMPOSITIONS", "passes", "register_torch_trt_decomposition"]


def __getattr__(name: str) -> Any:
    if name == "passes":
        return importlib.import_module(f"{__name__}.passes")
    return told("dynamo.lowering", name)


give_old_paths("dynamo.lowering")

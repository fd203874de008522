"""Lowering passes of your own."""

from __future__ import annotations

import importlib
from typing import Any

from trtcore_contrib_torch_tensorrt._told import told
from trtcore_contrib_torch_tensorrt.dynamo.lowering.passes._aten_lowering_pass import (
    _aten_lowering_pass,
    _remove_lowering_pass,
    dump_lowering_passes,
)

__all__ = ["_aten_lowering_pass", "_remove_lowering_pass", "dump_lowering_passes"]


def __getattr__(name: str) -> Any:
    if name == "pass_utils":
        return importlib.import_module(f"{__name__}.pass_utils")
    return told("dynamo.lowering.passes", name)

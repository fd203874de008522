"""What converter files import from beside the built-in converters."""

from __future__ import annotations

from typing import Any

from trtcore_contrib_torch_tensorrt._registry import SourceIR
from trtcore_contrib_torch_tensorrt._told import told
from trtcore_contrib_torch_tensorrt.converter_utils import args_bounds_check

__all__ = ["args_bounds_check", "get_ir"]


def get_ir(target: Any) -> SourceIR:
    """Where an op comes from, by its namespace."""
    home = getattr(target, "__module__", None) or ""
    for place, found in (("aten", SourceIR.ATEN), ("prims", SourceIR.PRIM)):
        if home.startswith((f"torch.ops.{place}", f"torch._ops.{place}")):
            return found
    return SourceIR.NN if home.startswith("torch.nn") else SourceIR.UNKNOWN


def __getattr__(name: str) -> Any:
    return told("dynamo.conversion.aten_ops_converters", name)

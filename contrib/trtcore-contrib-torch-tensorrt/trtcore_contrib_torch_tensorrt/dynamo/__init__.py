"""The dynamo frontend by its old names."""

from __future__ import annotations

import importlib
from typing import Any

from trtcore_contrib_torch_tensorrt._registry import SourceIR
from trtcore_contrib_torch_tensorrt._settings import CompilationSettings
from trtcore_contrib_torch_tensorrt._told import told
from trtcore_contrib_torch_tensorrt.dynamo._compiler import (
    compile,
    convert_exported_program_to_serialized_trt_engine,
    cross_compile_for_windows,
    export,
    load_cross_compiled_exported_program,
    refit_module_weights,
    save_cross_compiled_exported_program,
    trace,
)
from trtcore_contrib_torch_tensorrt.dynamo.debug._Debugger import Debugger

__all__ = [
    "CompilationSettings",
    "Debugger",
    "SourceIR",
    "backend",
    "compile",
    "conversion",
    "convert_exported_program_to_serialized_trt_engine",
    "cross_compile_for_windows",
    "debug",
    "export",
    "load_cross_compiled_exported_program",
    "lowering",
    "partitioning",
    "refit_module_weights",
    "runtime",
    "save_cross_compiled_exported_program",
    "trace",
    "types",
    "utils",
]

_MODULES = ("backend", "conversion", "debug", "lowering", "partitioning", "runtime", "types", "utils")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    return told("dynamo", name)

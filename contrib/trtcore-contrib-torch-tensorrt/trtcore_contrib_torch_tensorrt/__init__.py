"""Torch-TensorRT's names on trtcore: scripts and converter files written for it run after an import is changed.

    import trtcore_contrib_torch_tensorrt as torch_tensorrt

    compiled = torch_tensorrt.compile(model, ir="dynamo", inputs=[torch_tensorrt.Input((1, 3, 224, 224))])

and for a converter file ``torch_tensorrt`` -> ``trtcore_contrib_torch_tensorrt`` in its imports, and ``import tensorrt
as trt`` -> ``from trtcore_contrib_torch_tensorrt import trt``. What is not here says what to use instead when it
is used.

``torch.compile(model, backend="torch_tensorrt")`` and ``"tensorrt"`` mean trtcore once this package is imported, unless
Torch-TensorRT is installed, whose names they are then.

Which names are here, and what is different, is in ``docs/coming-from-torch-tensorrt.md``. New converters are better
written with `trtcore.pack`: called like the op, with defaults filled in.
"""

from __future__ import annotations

import importlib
from typing import Any

from trtcore_contrib_torch_tensorrt._backend_names import register_backends
from trtcore_contrib_torch_tensorrt._bindings import TRTTensor, trt
from trtcore_contrib_torch_tensorrt._compile import (
    compile,
    convert_method_to_trt_engine,
    cross_compile_for_windows,
    load,
    load_cross_compiled_exported_program,
    save,
    torch_compile,
)
from trtcore_contrib_torch_tensorrt._Device import Device
from trtcore_contrib_torch_tensorrt._enums import DeviceType, EngineCapability, Platform, dtype, memory_format
from trtcore_contrib_torch_tensorrt._features import ENABLED_FEATURES
from trtcore_contrib_torch_tensorrt._Input import Input
from trtcore_contrib_torch_tensorrt._Mutable import MutableTorchTensorRTModule
from trtcore_contrib_torch_tensorrt._registry import (
    ConversionContext,
    ConverterPriority,
    SourceIR,
    dynamo_tensorrt_converter,
    has_dynamic_shapes_in_args,
    has_static_shapes_in_args,
    is_only_operator_on_placeholder,
)
from trtcore_contrib_torch_tensorrt._told import NotHereError, told
from trtcore_contrib_torch_tensorrt._utils import dump_build_info, get_build_info, set_device
from trtcore_contrib_torch_tensorrt._version import __version__

__all__ = [
    "ENABLED_FEATURES",
    "ConversionContext",
    "ConverterPriority",
    "Device",
    "DeviceType",
    "EngineCapability",
    "Input",
    "MutableTorchTensorRTModule",
    "NotHereError",
    "Platform",
    "SourceIR",
    "TRTTensor",
    "__version__",
    "compile",
    "convert_method_to_trt_engine",
    "converter_utils",
    "cross_compile_for_windows",
    "dtype",
    "dump_build_info",
    "dynamo",
    "dynamo_tensorrt_converter",
    "fx",
    "get_build_info",
    "has_dynamic_shapes_in_args",
    "has_static_shapes_in_args",
    "impl",
    "is_only_operator_on_placeholder",
    "load",
    "load_cross_compiled_exported_program",
    "logging",
    "memory_format",
    "runtime",
    "save",
    "set_device",
    "torch_compile",
    "trt",
    "ts",
]

_MODULES = (
    "_features",
    "converter_utils",
    "distributed",
    "dynamo",
    "fx",
    "impl",
    "kernels",
    "logging",
    "runtime",
    "ts",
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    return told("", name)


register_backends()

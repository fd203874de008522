"""What converter files import, under its old paths.

``impl`` and ``converter_utils`` live one level up in this package; they have their old paths, too, down to
``impl.elementwise.base``.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from trtcore_contrib_torch_tensorrt import converter_utils, impl
from trtcore_contrib_torch_tensorrt._old_paths import give_old_paths
from trtcore_contrib_torch_tensorrt._registry import (
    ConversionContext,
    ConverterPriority,
    dynamo_tensorrt_converter,
    has_dynamic_shapes_in_args,
    has_static_shapes,
    has_static_shapes_in_args,
    node_has_dynamic_shapes,
)
from trtcore_contrib_torch_tensorrt._told import told

__all__ = [
    "ConversionContext",
    "ConverterPriority",
    "converter_utils",
    "dynamo_tensorrt_converter",
    "has_dynamic_shapes_in_args",
    "has_static_shapes",
    "has_static_shapes_in_args",
    "impl",
    "node_has_dynamic_shapes",
    "plugins",
]

_MODULES = ("aten_ops_converters", "plugins", "_ConverterRegistry", "_ConversionContext")


def _give_old_paths() -> None:
    sys.modules[f"{__name__}.converter_utils"] = converter_utils
    sys.modules[f"{__name__}.impl"] = impl
    for name in impl.__all__:
        module = getattr(impl, name)
        for old in (name, f"{name}.base", f"{name}.ops"):
            sys.modules[f"{__name__}.impl.{old}"] = module


_give_old_paths()


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    return told("dynamo.conversion", name)


give_old_paths("dynamo.conversion")

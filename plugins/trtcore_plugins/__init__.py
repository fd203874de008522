"""Kernel plugins: Triton kernels and torch custom ops as TensorRT plugins.

    from trtcore_plugins import triton_plugin

Names load when they are used; importing this package loads neither Triton nor a TensorRT.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trtcore_plugins.conformance import PluginProof, assert_plugin
    from trtcore_plugins.declare import TritonPlugin, triton_plugin
    from trtcore_plugins.ops import CustomOpPlugin, custom_op, generate_converter, generate_plugin
    from trtcore_plugins.quick import Combination

_HOMES = {
    "Combination": "quick",
    "CustomOpPlugin": "ops",
    "PluginProof": "conformance",
    "TritonPlugin": "declare",
    "assert_plugin": "conformance",
    "custom_op": "ops",
    "generate_converter": "ops",
    "generate_plugin": "ops",
    "triton_plugin": "declare",
}

__all__ = [
    "Combination",
    "CustomOpPlugin",
    "PluginProof",
    "TritonPlugin",
    "assert_plugin",
    "custom_op",
    "generate_converter",
    "generate_plugin",
    "triton_plugin",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

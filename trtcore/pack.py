"""The one door for people who write packs: everything a pack may use, and nothing else.

Names load when they are first used, so that importing this module loads neither torch nor a TensorRT.
The extension points themselves are in `trtcore.hookspecs`.

Example:
    >>> import torch
    >>> from trtcore.pack import converter, scoped_registry
    >>> with scoped_registry():
    ...     @converter(torch.ops.aten.relu.default, supports_dynamic_shapes=True)
    ...     def relu(ctx, x):
    ...         return ctx.activation(x, "RELU")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trtcore.backends.base import Backend, Capability, Target
    from trtcore.context import CompileContext, Event
    from trtcore.contributions import register_kernel_plugin
    from trtcore.conversion.context import ConversionContext
    from trtcore.errors import ConversionError, PackError, SettingsError
    from trtcore.hookspecs import hookimpl
    from trtcore.lowering.decompose import REASON
    from trtcore.lowering.rewrite import BOUNDARY, fake_result, insert_call, insert_constant
    from trtcore.partition import Partitioner
    from trtcore.patterns import Pattern, pattern_converter
    from trtcore.provenance import module_path
    from trtcore.registry import (
        Converter,
        KernelPlugin,
        LoweringPass,
        Priority,
        Reject,
        Requires,
        converter,
        converters_in,
        forced_to_torch,
        scoped_registry,
    )
    from trtcore.schema import node_arguments

__all__ = [
    "BOUNDARY",
    "REASON",
    "Backend",
    "Capability",
    "CompileContext",
    "ConversionContext",
    "ConversionError",
    "Converter",
    "Event",
    "KernelPlugin",
    "LoweringPass",
    "PackError",
    "Partitioner",
    "Pattern",
    "Priority",
    "Reject",
    "Requires",
    "SettingsError",
    "Target",
    "converter",
    "converters_in",
    "fake_result",
    "forced_to_torch",
    "hookimpl",
    "insert_call",
    "insert_constant",
    "module_path",
    "node_arguments",
    "pattern_converter",
    "register_kernel_plugin",
    "scoped_registry",
]

_HOMES = {
    "trtcore.backends.base": ("Backend", "Capability", "Target"),
    "trtcore.context": ("CompileContext", "Event"),
    "trtcore.contributions": ("register_kernel_plugin",),
    "trtcore.conversion.context": ("ConversionContext",),
    "trtcore.errors": ("ConversionError", "PackError", "SettingsError"),
    "trtcore.hookspecs": ("hookimpl",),
    "trtcore.lowering.decompose": ("REASON",),
    "trtcore.lowering.rewrite": ("BOUNDARY", "fake_result", "insert_call", "insert_constant"),
    "trtcore.partition": ("Partitioner",),
    "trtcore.patterns": ("Pattern", "pattern_converter"),
    "trtcore.provenance": ("module_path",),
    "trtcore.registry": (
        "Converter",
        "KernelPlugin",
        "LoweringPass",
        "Priority",
        "Reject",
        "Requires",
        "converter",
        "converters_in",
        "forced_to_torch",
        "scoped_registry",
    ),
    "trtcore.schema": ("node_arguments",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""The one door for people who write packs: everything a pack may use, and nothing else.

Names load when they are first used, so that importing this module loads neither torch nor a TensorRT.
The extension points themselves are in `trtcore.packs.hookspecs`.

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
    from trtcore.artifact.snapshot import LayerSnapshot, NetworkSnapshot, TensorInfo
    from trtcore.backend.base import (
        Availability,
        Backend,
        Capability,
        Target,
        current_device,
        host_platform,
        no_gpu_reason,
    )
    from trtcore.context import CompileContext, Event
    from trtcore.conversion.context import ConversionContext
    from trtcore.errors import (
        BackendUnavailableError,
        ConversionError,
        InputError,
        PackError,
        SettingsError,
        TrtcoreError,
    )
    from trtcore.ir.facts import BOUNDARY, REASON, NodeFacts, facts, set_facts
    from trtcore.ir.provenance import module_path
    from trtcore.ir.schema import node_arguments
    from trtcore.lowering.rewrite import fake_result, insert_call, insert_constant, log_rewrite, replace_node
    from trtcore.lowering.rules import RewriteRule, RuleMatch, rewrite, rules_pass
    from trtcore.packs.declare import Runtime, register_kernel_plugin
    from trtcore.packs.hookspecs import hookimpl
    from trtcore.packs.loading import register_pack
    from trtcore.packs.patterns import Pattern, pattern_converter
    from trtcore.packs.registry import (
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
    from trtcore.partition import Partitioner
    from trtcore.paths import atomic_write, cache_directory

__all__ = [
    "BOUNDARY",
    "REASON",
    "Availability",
    "Backend",
    "BackendUnavailableError",
    "Capability",
    "CompileContext",
    "ConversionContext",
    "ConversionError",
    "Converter",
    "Event",
    "InputError",
    "KernelPlugin",
    "LayerSnapshot",
    "LoweringPass",
    "NetworkSnapshot",
    "NodeFacts",
    "PackError",
    "Partitioner",
    "Pattern",
    "Priority",
    "Reject",
    "Requires",
    "RewriteRule",
    "RuleMatch",
    "Runtime",
    "SettingsError",
    "Target",
    "TensorInfo",
    "TrtcoreError",
    "atomic_write",
    "cache_directory",
    "converter",
    "converters_in",
    "current_device",
    "facts",
    "fake_result",
    "forced_to_torch",
    "hookimpl",
    "host_platform",
    "insert_call",
    "insert_constant",
    "log_rewrite",
    "module_path",
    "no_gpu_reason",
    "node_arguments",
    "pattern_converter",
    "register_kernel_plugin",
    "register_pack",
    "replace_node",
    "rewrite",
    "rules_pass",
    "scoped_registry",
    "set_facts",
]

_HOMES = {
    "trtcore.artifact.snapshot": ("LayerSnapshot", "NetworkSnapshot", "TensorInfo"),
    "trtcore.backend.base": (
        "Availability",
        "Backend",
        "Capability",
        "Target",
        "current_device",
        "host_platform",
        "no_gpu_reason",
    ),
    "trtcore.paths": ("atomic_write", "cache_directory"),
    "trtcore.context": ("CompileContext", "Event"),
    "trtcore.packs.declare": ("Runtime", "register_kernel_plugin"),
    "trtcore.conversion.context": ("ConversionContext",),
    "trtcore.errors": (
        "BackendUnavailableError",
        "ConversionError",
        "InputError",
        "PackError",
        "SettingsError",
        "TrtcoreError",
    ),
    "trtcore.packs.hookspecs": ("hookimpl",),
    "trtcore.packs.loading": ("register_pack",),
    "trtcore.ir.facts": ("BOUNDARY", "REASON", "NodeFacts", "facts", "set_facts"),
    "trtcore.lowering.rules": ("RewriteRule", "RuleMatch", "rewrite", "rules_pass"),
    "trtcore.lowering.rewrite": (
        "log_rewrite",
        "replace_node",
        "fake_result",
        "insert_call",
        "insert_constant",
    ),
    "trtcore.partition": ("Partitioner",),
    "trtcore.packs.patterns": ("Pattern", "pattern_converter"),
    "trtcore.ir.provenance": ("module_path",),
    "trtcore.packs.registry": (
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
    "trtcore.ir.schema": ("node_arguments",),
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

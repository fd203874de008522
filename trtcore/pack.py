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
    from trtcore.context import CompileContext
    from trtcore.conversion.context import ConversionContext
    from trtcore.conversion.tensors import Dim, ITensor, Operand
    from trtcore.errors import (
        BackendUnavailableError,
        ConversionError,
        InputError,
        PackError,
        SettingsError,
        TrtcoreError,
    )
    from trtcore.events import Event
    from trtcore.ir.facts import BOUNDARY, REASON, NodeFacts, facts, set_facts
    from trtcore.ir.graphs import attribute, remove_unread
    from trtcore.ir.op_rules import texts_are_data
    from trtcore.ir.provenance import module_path
    from trtcore.ir.schema import node_arguments, parameters_of
    from trtcore.lowering.decompose import expand_call
    from trtcore.lowering.rewrite import fake_result, insert_call, insert_constant, log_rewrite, replace_node
    from trtcore.lowering.rules import RewriteRule, RuleMatch, rewrite, rules_pass
    from trtcore.packs.declare import converter, converters_in, register_kernel_plugin, scoped_registry
    from trtcore.packs.hookspecs import hookimpl
    from trtcore.packs.loading import load_packs, register_pack
    from trtcore.packs.model import (
        Converter,
        Core,
        KernelPlugin,
        LoweringPass,
        NodeContext,
        Priority,
        Refusal,
        Reject,
        Requires,
        Runtime,
        StrictDecomposition,
    )
    from trtcore.packs.patterns import Pattern, pattern_converter
    from trtcore.packs.rules import forced_to_torch
    from trtcore.partition import Partitioner
    from trtcore.paths import atomic_write, cache_directory
    from trtcore.runtime.outside import outside_of_calls

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
    "Core",
    "Dim",
    "Event",
    "ITensor",
    "InputError",
    "KernelPlugin",
    "LayerSnapshot",
    "LoweringPass",
    "NetworkSnapshot",
    "NodeContext",
    "NodeFacts",
    "Operand",
    "PackError",
    "Partitioner",
    "Pattern",
    "Priority",
    "Refusal",
    "Reject",
    "Requires",
    "RewriteRule",
    "RuleMatch",
    "Runtime",
    "SettingsError",
    "StrictDecomposition",
    "Target",
    "TensorInfo",
    "TrtcoreError",
    "atomic_write",
    "attribute",
    "cache_directory",
    "converter",
    "converters_in",
    "current_device",
    "expand_call",
    "facts",
    "fake_result",
    "forced_to_torch",
    "hookimpl",
    "host_platform",
    "insert_call",
    "insert_constant",
    "load_packs",
    "log_rewrite",
    "module_path",
    "no_gpu_reason",
    "node_arguments",
    "outside_of_calls",
    "parameters_of",
    "pattern_converter",
    "register_kernel_plugin",
    "register_pack",
    "remove_unread",
    "replace_node",
    "rewrite",
    "rules_pass",
    "scoped_registry",
    "set_facts",
    "texts_are_data",
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
    "trtcore.ir.op_rules": ("texts_are_data",),
    "trtcore.paths": ("atomic_write", "cache_directory"),
    "trtcore.context": ("CompileContext",),
    "trtcore.events": ("Event",),
    "trtcore.packs.declare": ("converter", "converters_in", "register_kernel_plugin", "scoped_registry"),
    "trtcore.conversion.context": ("ConversionContext",),
    "trtcore.conversion.tensors": ("Dim", "ITensor", "Operand"),
    "trtcore.errors": (
        "BackendUnavailableError",
        "ConversionError",
        "InputError",
        "PackError",
        "SettingsError",
        "TrtcoreError",
    ),
    "trtcore.packs.hookspecs": ("hookimpl",),
    "trtcore.packs.loading": ("load_packs", "register_pack"),
    "trtcore.ir.facts": ("BOUNDARY", "REASON", "NodeFacts", "facts", "set_facts"),
    "trtcore.ir.graphs": ("attribute", "remove_unread"),
    "trtcore.lowering.decompose": ("expand_call",),
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
    "trtcore.packs.model": (
        "Converter",
        "Core",
        "KernelPlugin",
        "LoweringPass",
        "NodeContext",
        "Priority",
        "Refusal",
        "Reject",
        "Requires",
        "Runtime",
        "StrictDecomposition",
    ),
    "trtcore.packs.rules": ("forced_to_torch",),
    "trtcore.runtime.outside": ("outside_of_calls",),
    "trtcore.ir.schema": ("node_arguments", "parameters_of"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        from trtcore.packs.deprecation import NAMES

        if name in NAMES:  # not kept in this module, so that every user is told
            home, deprecation, there = NAMES[name]
            deprecation.warn()
            return getattr(importlib.import_module(home), there)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

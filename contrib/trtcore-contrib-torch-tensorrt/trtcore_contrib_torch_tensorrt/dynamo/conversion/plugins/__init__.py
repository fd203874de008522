"""A torch op as a plugin layer, by old names: `trtcore_plugins`'s. On a backend without plugin layers the op runs
in torch between engines, with the reason in the report.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import attrs

from trtcore.pack import register_kernel_plugin
from trtcore_contrib_torch_tensorrt._old_paths import give_old_paths
from trtcore_contrib_torch_tensorrt._registry import ConverterPriority, _validator
from trtcore_contrib_torch_tensorrt._told import NotHereError, told

__all__ = ["custom_op", "generate_plugin", "generate_plugin_converter"]


class _Placed:
    """A kernel plugin whose converter has the conditions that its author gave."""

    def __init__(self, plugin: Any, **conditions: Any) -> None:
        self._plugin = plugin
        self.converter = attrs.evolve(plugin.converter, **conditions)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_plugin":
            raise AttributeError(name)
        return getattr(self._plugin, name)


_PLUGINS: dict[str, Any] = {}


def generate_plugin(plugin_id: str, **kwargs: Any) -> Any:
    """The plugin of a torch op ``"ns::op"``: shapes and dtypes from its fake implementation, its kernel the op itself.

    Raises:
        PackError: there is no such op, or it is nothing that a plugin can be.
    """
    from trtcore_plugins import generate_plugin as generate

    made = _PLUGINS[plugin_id] = generate(plugin_id)
    return made


def generate_plugin_converter(
    plugin_id: str,
    capability_validator: Callable[..., Any] | None = None,
    priority: ConverterPriority = ConverterPriority.STANDARD,
    supports_dynamic_shapes: bool = False,
    requires_output_allocator: bool = False,
    use_aot_if_available: bool = True,
) -> Any:
    """Let every compile of this process place the plugin of ``"ns::op"``; returns the converter."""
    return _place(
        plugin_id,
        capability_validator,
        priority,
        supports_dynamic_shapes,
        requires_output_allocator,
        use_aot_if_available,
    )


def custom_op(
    op_name: str,
    capability_validator: Callable[..., Any] | None = None,
    priority: ConverterPriority = ConverterPriority.STANDARD,
    supports_dynamic_shapes: bool = False,
    requires_output_allocator: bool = False,
    use_aot_if_available: bool = True,
    **kwargs: Any,
) -> None:
    """`generate_plugin` and `generate_plugin_converter` in one.

    Raises:
        NotHereError: aliased inputs or a kernel of your own; the text has what to use.
    """
    asked = [name for name, value in kwargs.items() if value]
    if asked:
        raise NotHereError(
            f"custom_op({asked[0]}=...) is not here",
            advice="a Triton kernel becomes a plugin with trtcore_plugins.triton_plugin",
        )
    _PLUGINS.pop(op_name, None)
    _place(
        op_name,
        capability_validator,
        priority,
        supports_dynamic_shapes,
        requires_output_allocator,
        use_aot_if_available,
    )


def _place(
    op: str, validator: Any, priority: ConverterPriority, dynamic: bool, allocator: bool, ahead_of_time: bool
) -> Any:
    if allocator:
        raise NotHereError(
            "requires_output_allocator=True: a plugin whose output's shape depends on data",
            advice="leave the op out: it runs in torch between engines",
        )
    plugin = _PLUGINS.get(op) or generate_plugin(op)
    placed = _Placed(
        plugin,
        capability_validator=_both(plugin.converter.capability_validator, _validator(validator)),
        priority=priority.value,
        supports_dynamic_shapes=dynamic,
    )
    register_kernel_plugin(placed, str(sys._getframe(2).f_globals.get("__name__", "")))
    return placed.converter


def _both(first: Any, second: Any) -> Any:
    if first is None or second is None:
        return first or second
    return lambda node, ctx: first(node, ctx) and second(node, ctx)


def __getattr__(name: str) -> Any:
    return told("dynamo.conversion.plugins", name)


give_old_paths("dynamo.conversion.plugins")

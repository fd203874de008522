"""The pack's door: what the entry point ``kernels`` names.

Each of `SOURCES` is a module of this package that may have ``PLUGINS`` (kernel plugins), ``PASSES`` (lowering
passes) and converters. They are imported when trtcore asks for them, and may not import Triton at their top.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Iterator
from types import ModuleType

from trtcore.pack import KernelPlugin, LoweringPass, hookimpl

SOURCES = ("codegen.contributions", "kernels.contributions")
"""Modules of this package that contribute; those that do not exist are passed over."""


@hookimpl
def kernel_plugins() -> Iterable[KernelPlugin]:
    """The kernel plugins of every source; their converters come with them."""
    return [plugin for source in _sources() for plugin in getattr(source, "PLUGINS", ())]


@hookimpl
def lowering_passes() -> Iterable[LoweringPass]:
    """The passes of every source."""
    return [one for source in _sources() for one in getattr(source, "PASSES", ())]


def _sources() -> Iterator[ModuleType]:
    for name in SOURCES:
        package, _, module = name.rpartition(".")
        folder = f"{__package__}.{package}" if package else __package__
        if importlib.util.find_spec(folder) and importlib.util.find_spec(f"{folder}.{module}"):
            yield importlib.import_module(f"{folder}.{module}")

"""The pack's door: what the entry point ``kernels`` names.

Every package of this one with a module ``contributions`` is a source: that module may have ``PLUGINS`` (kernel plugins)
and ``PASSES`` (lowering passes). They are imported when trtcore asks for them, and may not import Triton at their top.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from types import ModuleType

import trtcore_plugins
from trtcore.pack import KernelPlugin, LoweringPass, hookimpl

CONTRIBUTIONS = "contributions"


@hookimpl
def kernel_plugins() -> Iterable[KernelPlugin]:
    """The kernel plugins of every source; their converters come with them."""
    return [plugin for source in sources() for plugin in getattr(source, "PLUGINS", ())]


@hookimpl
def lowering_passes() -> Iterable[LoweringPass]:
    """The passes of every source."""
    return [one for source in sources() for one in getattr(source, "PASSES", ())]


def sources() -> Iterator[ModuleType]:
    """The modules that contribute, by name."""
    for package in pkgutil.iter_modules(trtcore_plugins.__path__):
        if not package.ispkg:
            continue
        folder = importlib.import_module(f"{trtcore_plugins.__name__}.{package.name}")
        if any(found.name == CONTRIBUTIONS for found in pkgutil.iter_modules(folder.__path__)):
            yield importlib.import_module(f"{folder.__name__}.{CONTRIBUTIONS}")

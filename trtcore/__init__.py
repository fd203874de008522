"""trtcore: an extensible compiler from PyTorch to NVIDIA TensorRT.

    import trtcore
    compiled = trtcore.compile(model, inputs=[trtcore.Input((1, 3, 224, 224))])
    print(compiled.report)

Importing this module loads neither TensorRT nor Triton nor torch nor any pack; names load when they are used. It does
see to the op `trtcore::execute_engine`, so that plain `torch.export.load` reads compiled modules.
People who write packs import from `trtcore.pack`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trtcore._not_built import missing
from trtcore._op_hook import register_with_torch
from trtcore._version import __version__

if TYPE_CHECKING:
    from trtcore import debug, dynamo, errors, executors, runtime
    from trtcore.api import compile, explain
    from trtcore.archive import load, save
    from trtcore.debug.debugger import Debugger
    from trtcore.engine.cache.stores import EngineCache
    from trtcore.errors import TrtcoreError
    from trtcore.ir.inputs import Input
    from trtcore.mutable import MutableModule
    from trtcore.packs.declare import scoped_registry
    from trtcore.report.data import Report
    from trtcore.runtime.module import CompiledModule
    from trtcore.settings import CompilationSettings
    from trtcore.settings.kwargs import SettingsDict

_HOMES = {
    "compile": "trtcore.api",
    "explain": "trtcore.api",
    "save": "trtcore.archive",
    "load": "trtcore.archive",
    "EngineCache": "trtcore.engine.cache.stores",
    "Input": "trtcore.ir.inputs",
    "MutableModule": "trtcore.mutable",
    "CompilationSettings": "trtcore.settings",
    "CompiledModule": "trtcore.runtime.module",
    "SettingsDict": "trtcore.settings.kwargs",
    "Report": "trtcore.report.data",
    "TrtcoreError": "trtcore.errors",
    "scoped_registry": "trtcore.packs.declare",
    "Debugger": "trtcore.debug.debugger",
}
_MODULES = ("debug", "dynamo", "errors", "executors", "pack", "runtime", "testing")

__all__ = [
    "CompilationSettings",
    "CompiledModule",
    "Debugger",
    "EngineCache",
    "Input",
    "MutableModule",
    "Report",
    "SettingsDict",
    "TrtcoreError",
    "__version__",
    "compile",
    "debug",
    "dynamo",
    "errors",
    "executors",
    "explain",
    "load",
    "runtime",
    "save",
    "scoped_registry",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"trtcore.{name}")
    else:
        raise missing("trtcore", name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_MODULES])


register_with_torch()

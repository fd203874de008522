"""Running engines: the ``execute_engine`` op, the engine table, the native and the reference runtime.

Importing this package loads nothing; names load when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trtcore.artifact.manifest import EngineManifest, SizeBinding, TensorBinding
    from trtcore.runtime.choose import choose_runtime
    from trtcore.runtime.engine import Engine, get_engine, register_engine
    from trtcore.runtime.op import execute_engine
    from trtcore.runtime.profiles import optimization_profile

_HOMES = {
    "Engine": "runtime.engine",
    "EngineManifest": "artifact.manifest",
    "SizeBinding": "artifact.manifest",
    "TensorBinding": "artifact.manifest",
    "choose_runtime": "runtime.choose",
    "execute_engine": "runtime.op",
    "get_engine": "runtime.engine",
    "optimization_profile": "runtime.profiles",
    "register_engine": "runtime.engine",
}

__all__ = [
    "Engine",
    "EngineManifest",
    "SizeBinding",
    "TensorBinding",
    "choose_runtime",
    "execute_engine",
    "get_engine",
    "optimization_profile",
    "register_engine",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trtcore.runtime' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"trtcore.{_HOMES[name]}"), name)
    globals()[name] = value
    return value

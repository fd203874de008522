"""Running engines: the ``execute_engine`` op, the engine table, the native and the reference runtime.

Importing this package loads nothing; names load when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trtcore._not_built import missing

if TYPE_CHECKING:
    from trtcore.artifact.manifest import EngineManifest, SizeBinding, TensorBinding
    from trtcore.runtime.choose import choose_runtime
    from trtcore.runtime.cudagraphs import GraphedModule, enable_cudagraphs
    from trtcore.runtime.engine import Engine, get_engine, register_engine
    from trtcore.runtime.fusion import enable_fusion
    from trtcore.runtime.inspection import engine_info
    from trtcore.runtime.op import execute_engine
    from trtcore.runtime.profiles import optimization_profile
    from trtcore.runtime.profiling import profile
    from trtcore.runtime.releasing import release
    from trtcore.runtime.runtime_cache import RuntimeCache
    from trtcore.runtime.shared_weights import share_weights
    from trtcore.runtime.streaming import weight_streaming
    from trtcore.runtime.switches import (
        enable_output_allocator,
        enable_pre_allocated_outputs,
        set_multi_device_safe_mode,
    )

_HOMES = {
    "Engine": "trtcore.runtime.engine",
    "EngineManifest": "trtcore.artifact.manifest",
    "GraphedModule": "trtcore.runtime.cudagraphs",
    "RuntimeCache": "trtcore.runtime.runtime_cache",
    "SizeBinding": "trtcore.artifact.manifest",
    "TensorBinding": "trtcore.artifact.manifest",
    "choose_runtime": "trtcore.runtime.choose",
    "enable_cudagraphs": "trtcore.runtime.cudagraphs",
    "enable_fusion": "trtcore.runtime.fusion",
    "enable_output_allocator": "trtcore.runtime.switches",
    "enable_pre_allocated_outputs": "trtcore.runtime.switches",
    "engine_info": "trtcore.runtime.inspection",
    "execute_engine": "trtcore.runtime.op",
    "get_engine": "trtcore.runtime.engine",
    "optimization_profile": "trtcore.runtime.profiles",
    "profile": "trtcore.runtime.profiling",
    "release": "trtcore.runtime.releasing",
    "register_engine": "trtcore.runtime.engine",
    "set_multi_device_safe_mode": "trtcore.runtime.switches",
    "share_weights": "trtcore.runtime.shared_weights",
    "weight_streaming": "trtcore.runtime.streaming",
}

__all__ = [
    "Engine",
    "EngineManifest",
    "GraphedModule",
    "RuntimeCache",
    "SizeBinding",
    "TensorBinding",
    "choose_runtime",
    "enable_cudagraphs",
    "enable_fusion",
    "enable_output_allocator",
    "enable_pre_allocated_outputs",
    "engine_info",
    "execute_engine",
    "get_engine",
    "optimization_profile",
    "profile",
    "register_engine",
    "release",
    "set_multi_device_safe_mode",
    "share_weights",
    "weight_streaming",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise missing("trtcore.runtime", name)
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value

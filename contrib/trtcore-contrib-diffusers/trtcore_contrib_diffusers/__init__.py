"""diffusers' pipelines in TensorRT engines.

    import trtcore_contrib_diffusers as fast
    pipe = fast.compile_pipeline(pipe, height=512, batch=1)
    pipe("a photo of a cat").images

Importing this loads neither torch nor diffusers; names load when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trtcore_contrib_diffusers.files import load_pipeline, save_pipeline
    from trtcore_contrib_diffusers.pipeline import compile_pipeline, reports

_HOMES = {
    "compile_pipeline": "trtcore_contrib_diffusers.pipeline",
    "load_pipeline": "trtcore_contrib_diffusers.files",
    "reports": "trtcore_contrib_diffusers.pipeline",
    "save_pipeline": "trtcore_contrib_diffusers.files",
}

__all__ = ["compile_pipeline", "load_pipeline", "reports", "save_pipeline"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])

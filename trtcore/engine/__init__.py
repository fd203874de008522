"""Engines: the builder's config, the build, and the artifact that comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trtcore.artifact.engine_file import EngineArtifact
    from trtcore.engine.build import build_plan
    from trtcore.engine.config import add_profiles, check_settings, make_config

_HOMES = {
    "EngineArtifact": "artifact",
    "add_profiles": "config",
    "build_plan": "build",
    "check_settings": "config",
    "make_config": "config",
}

__all__ = ["EngineArtifact", "add_profiles", "build_plan", "check_settings", "make_config"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)

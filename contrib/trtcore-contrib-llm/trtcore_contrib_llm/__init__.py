"""Language models on trtcore. Names load when they are used: the ops need nothing but torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trtcore_contrib_llm.generation import compile_for_generation, load_for_generation

__all__ = ["compile_for_generation", "load_for_generation"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trtcore_contrib_llm import generation

    return getattr(generation, name)

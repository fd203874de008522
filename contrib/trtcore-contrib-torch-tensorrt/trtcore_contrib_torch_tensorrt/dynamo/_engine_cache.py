"""Engine caches of one's own, for the setting custom_engine_cache."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from trtcore_contrib_torch_tensorrt._told import NotHereError, told

__all__ = ["BaseEngineCache"]


class BaseEngineCache(ABC):
    """What engine caches derive from, with `save` and `load` of blobs; what is in a blob is trtcore's own.

    Names are 64 hex digits, trtcore's own too: of network, weights, settings, TensorRT and target.
    """

    @abstractmethod
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Whatever the cache needs."""

    @abstractmethod
    def save(self, hash: str, blob: bytes, *args: Any, **kwargs: Any) -> None:
        """Keep `blob` under the name `hash`."""

    @abstractmethod
    def load(self, hash: str, *args: Any, **kwargs: Any) -> bytes | None:
        """The blob of that name; None where there is none."""

    @staticmethod
    def get_hash(*args: Any, **kwargs: Any) -> str:
        """Not here: raises `NotHereError`."""
        raise NotHereError(
            "BaseEngineCache.get_hash is not here: an engine's name comes of its network, which a graph is not yet",
            advice="take the name that save and load are given",
        )

    @staticmethod
    def pack(*args: Any, **kwargs: Any) -> bytes:
        """Not here: raises `NotHereError`."""
        raise _blobs("pack")

    @staticmethod
    def unpack(packed_obj: bytes) -> Any:
        """Not here: raises `NotHereError`."""
        raise _blobs("unpack")


def _blobs(name: str) -> NotHereError:
    return NotHereError(
        f"BaseEngineCache.{name} is not here: a blob is an engine's file, as trtcore reads and writes it",
        advice="keep blobs as they are; torch_tensorrt.save and load for compiled modules",
    )


def __getattr__(name: str) -> Any:
    return told("dynamo._engine_cache", name)

"""The old home of the settings' defaults."""

from __future__ import annotations

from typing import Any

from trtcore_contrib_torch_tensorrt import _defaults
from trtcore_contrib_torch_tensorrt._defaults import (
    DEBUG_LOGGING_DIR,
    SUPPORTED_KERNEL_PRECISIONS,
    default_device,
)

__all__ = ["DEBUG_LOGGING_DIR", "SUPPORTED_KERNEL_PRECISIONS", "default_device"]


def __getattr__(name: str) -> Any:
    return getattr(_defaults, name)

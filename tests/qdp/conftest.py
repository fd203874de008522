from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import quick_plugins

from trtcore.pack import Backend
from trtcore.testing import usable_backend


@pytest.fixture(scope="session")
def backend() -> Backend:
    """TensorRT-RTX, whose bindings stand in for TensorRT's."""
    try:
        return usable_backend()
    except Exception as error:
        pytest.skip(f"no TensorRT bindings here: {error}")


@pytest.fixture(scope="session")
def trtp(backend: Any) -> ModuleType:
    """NVIDIA's `tensorrt.plugin`, loaded over the backend's bindings."""
    if quick_plugins.source() is None:
        pytest.skip(f"needs the Python source in the distribution {quick_plugins.DISTRIBUTION}")
    return quick_plugins.load(backend.trt)

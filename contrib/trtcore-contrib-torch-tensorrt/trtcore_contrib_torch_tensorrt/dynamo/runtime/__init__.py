"""The old home of runtime modules."""

from __future__ import annotations

from typing import Any

from trtcore_contrib_torch_tensorrt._Mutable import MutableTorchTensorRTModule
from trtcore_contrib_torch_tensorrt._old_paths import give_old_paths
from trtcore_contrib_torch_tensorrt._told import told
from trtcore_contrib_torch_tensorrt.runtime import PythonTorchTensorRTModule, TorchTensorRTModule

__all__ = ["MutableTorchTensorRTModule", "PythonTorchTensorRTModule", "TorchTensorRTModule"]


def __getattr__(name: str) -> Any:
    return told("dynamo.runtime", name)


give_old_paths("dynamo.runtime")

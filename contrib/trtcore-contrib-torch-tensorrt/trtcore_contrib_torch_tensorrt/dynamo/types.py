"""Types of TensorRT's that annotations name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trtcore_contrib_torch_tensorrt._bindings import TRTTensor, trt

__all__ = ["Shape", "TRTTensor"]

Shape = Sequence[int]

_TYPES = {
    "TRTNetwork": "INetworkDefinition",
    "TRTLayer": "ILayer",
    "TRTPluginFieldCollection": "PluginFieldCollection",
    "TRTPlugin": "IPluginV3",
    "TRTDataType": "DataType",
    "TRTElementWiseOp": "ElementWiseOperation",
}


def __getattr__(name: str) -> Any:
    if name not in _TYPES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(trt, _TYPES[name], Any)

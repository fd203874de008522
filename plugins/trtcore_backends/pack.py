"""The built-in pack `trtcore:backends`: the two TensorRT flavours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtcore.pack import hookimpl
from trtcore_backends.tensorrt import TensorRTBackend
from trtcore_backends.tensorrt_rtx import RtxBackend

if TYPE_CHECKING:
    from trtcore.pack import Backend

_BACKENDS: list[Backend] = [TensorRTBackend(), RtxBackend()]


@hookimpl
def backends() -> list[Backend]:
    """TensorRT and TensorRT for RTX; the same two objects at every call."""
    return list(_BACKENDS)

"""The built-in pack `trtcore:backends`: the two TensorRT flavours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtcore.backends.rtx import RtxBackend
from trtcore.backends.tensorrt import TensorRTBackend
from trtcore.pack import hookimpl

if TYPE_CHECKING:
    from trtcore.backends.base import Backend

_BACKENDS: list[Backend] = [TensorRTBackend(), RtxBackend()]


@hookimpl
def backends() -> list[Backend]:
    """TensorRT and TensorRT for RTX; the same two objects at every call."""
    return list(_BACKENDS)

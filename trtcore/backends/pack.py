"""The built-in pack `trtcore:backends`: the two TensorRT flavours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

from trtcore.backends.rtx import RtxBackend
from trtcore.backends.tensorrt import TensorRTBackend

if TYPE_CHECKING:
    from trtcore.backends.base import Backend

hookimpl = pluggy.HookimplMarker("trtcore")

_BACKENDS: list[Backend] = [TensorRTBackend(), RtxBackend()]


@hookimpl
def backends() -> list[Backend]:
    """TensorRT and TensorRT for RTX; the same two objects at every call."""
    return list(_BACKENDS)

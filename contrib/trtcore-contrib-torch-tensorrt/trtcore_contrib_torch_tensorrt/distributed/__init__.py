"""Several processes: collectives run in torch between engines."""

from __future__ import annotations

from typing import Any

from trtcore_contrib_torch_tensorrt._told import told


def __getattr__(name: str) -> Any:
    return told("distributed", name)

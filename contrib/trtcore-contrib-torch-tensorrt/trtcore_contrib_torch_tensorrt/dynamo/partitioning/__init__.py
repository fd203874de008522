"""Partitioning is one of trtcore's stages; what chooses is a setting."""

from __future__ import annotations

from typing import Any

from trtcore_contrib_torch_tensorrt._told import told


def __getattr__(name: str) -> Any:
    return told("dynamo.partitioning", name)

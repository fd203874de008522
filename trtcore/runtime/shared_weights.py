"""Engines of several modules that hold equal weights once."""

from __future__ import annotations

import torch

from trtcore.runtime.engine import engines_in


def share_weights(*modules: torch.fx.GraphModule) -> int:
    """Let the engines of compiled modules hold constants with the same bytes once, on the CPU and on each GPU.

    Call it before the modules' first call: an engine that runs already keeps its own. It is of use where one model was
    compiled several times, for a prompt and for a step. TensorRT's plans have weights of their own, so that it saves
    nothing on the native runtime.

    Args:
        modules: compiled modules.

    Returns:
        bytes of constants that are now shared, each counted where it is not held any more.
    """
    known: dict[str, torch.Tensor] = {}
    shared = 0
    for module in modules:
        for engine in engines_in(module):
            shared += engine.share_constants(known)
    return shared

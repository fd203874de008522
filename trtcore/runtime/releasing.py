"""A compiled module's memory on GPUs, given back between calls."""

from __future__ import annotations

import torch

from trtcore.errors import InputError
from trtcore.runtime.engine import engines_in


def release(module: torch.nn.Module) -> None:
    """Free what a module's engines hold on GPUs: their weights, execution contexts and copies of constants.

    The next call sets them up again, from the host's memory. So models that do not fit a GPU together can take turns.
    Weights of ops that run in torch are the module's own, and ``module.to("cpu")`` moves them. CUDA graphs that were
    recorded of the module keep what they need.

    Args:
        module: compiled; no call of it may be running.

    Raises:
        InputError: it is no compiled module.

    Example:
        >>> first(x); trtcore.runtime.release(first); second(x)  # doctest: +SKIP
    """
    from trtcore.runtime.module import CompiledModule

    if not isinstance(module, CompiledModule):
        raise InputError(
            f"release takes what trtcore.compile or trtcore.load returned, not {type(module).__name__}",
            advice="give the compiled module itself",
        )
    for engine in engines_in(module):
        engine.release()

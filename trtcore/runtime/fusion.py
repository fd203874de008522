"""Small ops of engines in the reference runtime as generated kernels."""

from __future__ import annotations

import torch

from trtcore.errors import InputError
from trtcore.runtime.engine import engines_in


def enable_fusion(module: torch.fx.GraphModule) -> int:
    """Let engines on the reference runtime run their small ops as kernels that torch's Inductor generates.

    That is done at the first call of each combination of shapes, and takes seconds to minutes; products stay the
    libraries' own. Results are the same up to rounding: inside of a kernel 16-bit results are not rounded. It is of
    use on a GPU where many small ops follow each other, as in a step of a decoder. Engines on the native runtime stay
    as they are: TensorRT fuses by itself. What a file or a pickle holds does not change.

    Args:
        module: a compiled module.

    Returns:
        how many engines do so from now on.

    Raises:
        InputError: not a compiled module.
    """
    if not isinstance(module, torch.fx.GraphModule):
        raise InputError(f"enable_fusion takes a compiled module, not a {type(module).__name__}")
    return sum(engine.fuse() for engine in engines_in(module))

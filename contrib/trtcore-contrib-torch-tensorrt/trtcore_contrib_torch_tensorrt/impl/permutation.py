"""The order of dims and of elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trtcore_contrib_torch_tensorrt._by_torch import by_torch, sizes
from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor

__all__ = ["permute", "roll"]


def permute(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, permutation: Sequence[int]) -> Any:
    """`input` with its dims in another order."""
    return ctx.permute(get_trt_tensor(ctx, input, name), list(permutation))


def roll(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    shifts: int | Sequence[int],
    dims: int | Sequence[int] = (),
) -> Any:
    """Elements moved along `dims` (without any: through the whole tensor), round the end."""
    wanted = [dims] if isinstance(dims, int) else list(dims)
    given = [shifts] if not isinstance(shifts, (list, tuple)) else list(shifts)
    return by_torch(ctx, lambda x, numbers: torch.roll(x, numbers, wanted), input, sizes(given))

"""The order of dims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor

__all__ = ["permute"]


def permute(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, permutation: Sequence[int]) -> Any:
    """`input` with its dims in another order."""
    return ctx.permute(get_trt_tensor(ctx, input, name), list(permutation))

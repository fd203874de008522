"""The older name of `dynamic_block_quantize`."""

from __future__ import annotations

from typing import Any

from trtcore_contrib_torch_tensorrt.impl.dynamic_block_quantize import dynamic_block_quantize

__all__ = ["nvfp4_quantize"]


def nvfp4_quantize(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input_tensor: Any,
    block_size: int,
    amax: Any,
    num_bits: int,
    exponent_bits: int,
    scale_num_bits: int,
    scale_exponent_bits: int,
) -> Any:
    """The same as `dynamic_block_quantize`."""
    bits = (num_bits, exponent_bits, scale_num_bits, scale_exponent_bits)
    return dynamic_block_quantize(ctx, target, source_ir, name, input_tensor, block_size, amax, *bits)

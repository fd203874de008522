"""Dtypes."""

from __future__ import annotations

from typing import Any

from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor, torch_dtype

__all__ = ["cast_trt_tensor", "to_copy"]


def to_copy(
    ctx: Any, target: Any, source_ir: Any, name: str, input: Any, dtype: Any, force_layer: bool = False
) -> Any:
    """`input` as `dtype` (torch's, NumPy's, TensorRT's or `torch_tensorrt.dtype`).

    Args:
        force_layer: a layer, too, where it is of that dtype already.
    """
    x = get_trt_tensor(ctx, input, name)
    wanted = torch_dtype(ctx, dtype)
    if force_layer and ctx.dtype(x) == wanted:
        return ctx.output(ctx.net.add_identity(x))
    return ctx.cast(x, wanted)


def cast_trt_tensor(
    ctx: Any, target: Any, source_ir: Any, name: str, input: Any, dtype: Any, force_layer: bool = False
) -> Any:
    """The same as `to_copy`."""
    return to_copy(ctx, target, source_ir, name, input, dtype, force_layer)

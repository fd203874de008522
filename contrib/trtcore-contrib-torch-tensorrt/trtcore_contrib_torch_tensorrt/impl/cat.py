"""Concatenation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor, torch_dtype

__all__ = ["cat", "unify_and_concat_trt_tensors"]


def cat(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Sequence[Any],
    dim: int,
    cast_dtype: Any = None,
) -> Any:
    """The tensors one after the other along `dim`, in `cast_dtype` or the dtype that torch would promote them to.

    As torch does, an empty 1-D tensor is left out beside tensors of other ranks.
    """
    parts = [get_trt_tensor(ctx, part, f"{name}_{index}") for index, part in enumerate(input)]
    rank = max(ctx.rank(part) for part in parts)
    parts = [part for part in parts if ctx.rank(part) == rank or ctx.shape(part) != (0,)]
    dtype = ctx.result_type(*parts) if cast_dtype is None else torch_dtype(ctx, cast_dtype)
    return ctx.concat([ctx.cast(part, dtype) for part in parts], dim)


def unify_and_concat_trt_tensors(
    ctx: Any,
    target: Any,
    name: str,
    inputs: Sequence[Any],
    concat_axis: int,
    cast_dtype: Any = None,
    force_trt_output: bool = False,
) -> Any:
    """Sizes as one shape tensor; a list of ints where all are known now.

    Args:
        inputs: ints, arrays, tensors and ITensors; the result has them one after the other.
        cast_dtype: of the result; int64 by default.
        force_trt_output: an ITensor, too, where all are known now.
    """
    if not force_trt_output and all(isinstance(one, int) for one in inputs):
        return list(inputs)
    dtype = torch.int64 if cast_dtype is None else torch_dtype(ctx, cast_dtype)
    parts = [ctx.cast(get_trt_tensor(ctx, one, f"{name}_{place}"), dtype) for place, one in enumerate(inputs)]
    parts = [part if ctx.rank(part) else ctx.reshape(part, [1]) for part in parts]
    return ctx.concat(parts, concat_axis)

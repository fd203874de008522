"""The conversion helpers that converter files use most, by their old names.

`name`, `target` and `source_ir` go into the names of layers; trtcore names every layer after the converter has run
(module path, op, node), so that they matter only inside one converter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import numpy as np
import torch

from trtcore.pack import ConversionError
from trtcore_contrib_torch_tensorrt._bindings import TRTTensor

__all__ = [
    "args_bounds_check",
    "broadcast",
    "broadcast_to_same_shape",
    "cast_trt_tensor",
    "create_constant",
    "enforce_tensor_types",
    "get_axes_for_reduce_op",
    "get_positive_dim",
    "get_trt_tensor",
    "prepend_ones",
    "set_layer_name",
    "to_numpy",
    "to_torch",
]


# Tensors and constants ----------------------------------------------------------------------------------


def get_trt_tensor(ctx: Any, input_val: Any, name: str, dtype: Any = None, min_rank: int = 1) -> Any:
    """An ITensor as it is; a number, an array or a torch tensor as a constant.

    Args:
        dtype: of a constant (torch, NumPy or TensorRT); ints are int32 and floats float32 by default.
        min_rank: ones are prepended to a constant's shape until it has so many dims.

    Raises:
        ConversionError: a value that is none of these.
    """
    if isinstance(input_val, TRTTensor):
        return input_val
    return create_constant(ctx, input_val, name, dtype, min_rank)


def create_constant(ctx: Any, value: Any, name: str, dtype: Any = None, min_rank: int = 1) -> Any:
    """A constant layer's output; see `get_trt_tensor`."""
    tensor = to_torch(value, None)
    if tensor is None:
        raise ConversionError(f"{name}: there is no constant of None")
    if not isinstance(value, (torch.Tensor, np.ndarray)):
        tensor = tensor.reshape([1] * min_rank)
    if tensor.dtype == torch.float64 and dtype is None and ctx.settings.truncate_double:
        tensor = tensor.float()
    return ctx.constant(tensor, None if dtype is None else torch_dtype(ctx, dtype), rank=min_rank)


def to_torch(value: Any, dtype: Any = None) -> torch.Tensor | None:
    """A torch tensor on the host from a tensor, an array or a number (shape (1,)); None stays None.

    Raises:
        ConversionError: a value of another type.
    """
    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        found = value.detach().cpu()
    elif isinstance(value, (np.ndarray, np.generic)):
        found = torch.from_numpy(np.asarray(value))
    elif isinstance(value, bool):
        found = torch.tensor([value])
    elif isinstance(value, int):
        found = torch.tensor([value], dtype=torch.int32 if -(2**31) <= value < 2**31 else torch.int64)
    elif isinstance(value, float):
        found = torch.tensor([value], dtype=torch.float32)
    else:
        raise ConversionError(f"a {type(value).__name__} is no constant: {value!r}")
    return found if dtype is None else found.to(_plain_dtype(dtype))


def to_numpy(value: Any, dtype: Any = None) -> np.ndarray[Any, Any] | None:
    """As `to_torch`, as a NumPy array; bfloat16, which NumPy does not have, as float32."""
    tensor = to_torch(value, dtype)
    if tensor is None:
        return None
    array: np.ndarray[Any, Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def cast_trt_tensor(
    ctx: Any, input_val: Any, dtype: Any, name: str, target: Any = "", source_ir: Any = None
) -> Any:
    """An ITensor as `dtype` (torch, NumPy or TensorRT); no layer where it is that already."""
    return ctx.cast(input_val, torch_dtype(ctx, dtype))


def torch_dtype(ctx: Any, dtype: Any) -> torch.dtype:
    """A torch dtype from a torch, NumPy or TensorRT one. Raises ConversionError where torch has none."""
    if isinstance(dtype, ctx.trt.DataType):
        found: torch.dtype = ctx.backend.torch_dtype(dtype)
        return found
    return _plain_dtype(dtype)


def _plain_dtype(dtype: Any) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    try:
        return torch.from_numpy(np.empty(0, dtype=dtype)).dtype
    except TypeError as error:
        raise ConversionError(f"{dtype!r} is not a dtype that torch has") from error


def set_layer_name(layer: Any, target: Any, name: str, source_ir: Any = None) -> None:
    """Name a layer after its op and node. trtcore's own, longer name replaces it."""
    layer.name = f"[{layer.type.name}]-[{source_ir or 'unknown'}.{target}]-[{name}]"


# Shapes -------------------------------------------------------------------------------------------------


def prepend_ones(ctx: Any, tensor: Any, name: str, num_prepend_ones: int) -> Any:
    """`tensor` with so many dims of one in front; an ITensor or a torch tensor."""
    if isinstance(tensor, torch.Tensor):
        return tensor.reshape([1] * num_prepend_ones + list(tensor.shape))
    return ctx.unsqueeze_to(tensor, ctx.rank(tensor) + num_prepend_ones)


def broadcast(ctx: Any, a: Any, b: Any, a_name: str, b_name: str, preset_diff: int = 0) -> tuple[Any, Any]:
    """Two tensors at one rank, ones prepended; `a` keeps `preset_diff` more dims than `b`."""
    missing = ctx.rank(a) - ctx.rank(b) - preset_diff
    if missing > 0:
        b = prepend_ones(ctx, b, b_name, missing)
    elif missing < 0:
        a = prepend_ones(ctx, a, a_name, -missing)
    return a, b


def broadcast_to_same_shape(
    ctx: Any, target: Any, source_ir: Any, name: str, lhs_val: Any, rhs_val: Any
) -> tuple[Any, Any]:
    """Two ITensors, both in the shape that they broadcast to; sizes may be known only at run time."""
    lhs, rhs = broadcast(ctx, lhs_val, rhs_val, f"{name}_lhs", f"{name}_rhs")
    sizes = [_stretched(ctx, a, b) for a, b in zip(ctx.dims_of(lhs), ctx.dims_of(rhs))]
    return ctx.expand(lhs, sizes), ctx.expand(rhs, sizes)


def _stretched(ctx: Any, a: Any, b: Any) -> Any:
    """The size that two sizes broadcast to: the other, where one of them is 1."""
    for one, other in ((a, b), (b, a)):
        if not ctx.is_tensor(one):
            return other if one == 1 else one
    return ctx.dim_op(a, b, "MAX")


@overload
def get_positive_dim(dim: int, dim_size: int) -> int: ...


@overload
def get_positive_dim(dim: Sequence[int], dim_size: int) -> tuple[int, ...]: ...


def get_positive_dim(dim: int | Sequence[int], dim_size: int) -> int | tuple[int, ...]:
    """Dims counted from the start, from ones that may count from the end; at most `dim_size`."""
    if isinstance(dim, int):
        return dim % dim_size if dim < 0 else min(dim, dim_size)
    return tuple(get_positive_dim(one, dim_size) for one in dim)


def get_axes_for_reduce_op(dim: int | Sequence[int]) -> int:
    """The bit mask that TensorRT takes for dims (none of them negative)."""
    return sum({1 << one for one in ([dim] if isinstance(dim, int) else dim)})


# Arguments ----------------------------------------------------------------------------------------------


def args_bounds_check(args: Sequence[Any], i: int, replacement: Any = None) -> Any:
    """``args[i]``; `replacement` where the call has no such argument, or None for it."""
    return args[i] if len(args) > i and args[i] is not None else replacement


def enforce_tensor_types(
    type_dictionary: Mapping[int | str, tuple[Any, ...]], promote: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: the named arguments reach the converter as one of the given types.

    Args:
        type_dictionary: position or keyword -> types among `TRTTensor`, `numpy.ndarray` and `torch.Tensor`, the
            preferred one first. Arguments that the call does not have are left out.
        promote: turn other values into the first type that they can become; False makes them an error.

    Raises:
        ConversionError: when the converter runs, an argument that is none of the types and cannot become one.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def convert(
            ctx: Any, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str
        ) -> Any:
            given: dict[int | str, Any] = dict(enumerate(args))
            given.update(kwargs)
            for key, types in type_dictionary.items():
                if key in given and not isinstance(given[key], types):
                    given[key] = _as_type(ctx, given[key], types if promote else (), f"{name}_{key}")
            positional = tuple(given[position] for position in range(len(args)))
            return function(ctx, target, positional, {key: given[key] for key in kwargs}, name)

        return convert

    return decorate


def _as_type(ctx: Any, value: Any, types: tuple[Any, ...], name: str) -> Any:
    for wanted in types:
        if wanted is TRTTensor:
            return get_trt_tensor(ctx, value, name)
        if not isinstance(value, TRTTensor):
            return to_numpy(value) if wanted is np.ndarray else to_torch(value)
    raise ConversionError(
        f"the argument {name} is a {type(value).__name__}, which the converter does not take"
    )

"""The conversion helpers that converter files use most, by their old names.

`name`, `target` and `source_ir` go into the names of layers; trtcore names every layer after the converter has run
(module path, op, node), so that they matter only inside one converter.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import numpy as np
import torch

from trtcore.pack import ConversionError, module_path
from trtcore_contrib_torch_tensorrt._bindings import TRTTensor
from trtcore_contrib_torch_tensorrt._enums import dtype as dtypes
from trtcore_contrib_torch_tensorrt._registry import (
    ConversionContext,
    SourceIR,
    dynamic_unsupported,
    dynamic_unsupported_with_args,
    is_only_operator_on_placeholder,
)

__all__ = [
    "DYNAMIC_DIM",
    "ConversionContext",
    "SourceIR",
    "append",
    "args_bounds_check",
    "broadcast",
    "broadcast_to_same_shape",
    "broadcastable",
    "calculate_strides",
    "cast_int_int_div_trt_tensor",
    "cast_int_or_float_to_bool",
    "cast_trt_tensor",
    "create_constant",
    "dims_in",
    "dynamic_unsupported",
    "dynamic_unsupported_with_args",
    "enforce_tensor_types",
    "extend_attr_to_tuple",
    "flatten_dims",
    "get_axes_for_reduce_op",
    "get_node_io",
    "get_node_name",
    "get_positive_dim",
    "get_trt_tensor",
    "has_dynamic_shape",
    "is_only_operator_on_placeholder",
    "load_tensorrt_llm",
    "prepend_ones",
    "promote_trt_tensors_to_same_dtype",
    "set_item",
    "set_layer_name",
    "to_numpy",
    "to_torch",
    "to_trt_weights",
]

DYNAMIC_DIM = -1
"""What TensorRT has for a size that varies."""


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
    if isinstance(dtype, dtypes):
        return dtype.to(torch.dtype)  # type: ignore[no-any-return]
    return _plain_dtype(dtype)


def _plain_dtype(dtype: Any) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    found = dtypes.try_from(dtype)
    if found is not None:
        return found.to(torch.dtype)  # type: ignore[no-any-return]
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


def has_dynamic_shape(shape: Sequence[int]) -> bool:
    """Whether a shape has a size that varies."""
    return DYNAMIC_DIM in tuple(shape)


def dims_in(ctx: Any, shape: Any) -> list[Any]:
    """Sizes as ctx's helpers take them (ints, and int64 ITensors of shape (1,)), from a list of ints, arrays,
    tensors and ITensors of one element, or from one shape tensor.
    """
    if ctx.is_tensor(shape):
        vector = ctx.cast(shape, torch.int64)
        return [ctx.slice(vector, [at], [1]) for at in range(ctx.shape(vector)[0])]
    found: list[Any] = []
    for one in [shape] if isinstance(shape, int) else shape:
        if not ctx.is_tensor(one):
            found.append(int(one))
            continue
        size = one if ctx.shape(one) == (1,) else ctx.reshape(one, [1])
        found.append(ctx.cast(size, torch.int64))
    return found


def broadcastable(a: Any, b: Any) -> bool:
    """Whether two tensors broadcast against each other, as far as their sizes are known now."""
    pairs = zip(reversed(tuple(a.shape)), reversed(tuple(b.shape)))
    return all(one == other or 1 in (one, other) or DYNAMIC_DIM in (one, other) for one, other in pairs)


def flatten_dims(input: Any, start_dim: int, end_dim: int) -> tuple[int, ...]:
    """The shape of `input` with its dims from `start_dim` to `end_dim` as one; -1 for one of them that varies."""
    shape = tuple(input.shape)
    first, last = get_positive_dim(start_dim, len(shape)), get_positive_dim(end_dim, len(shape))
    middle = shape[first : last + 1]
    return (*shape[:first], DYNAMIC_DIM if DYNAMIC_DIM in middle else math.prod(middle), *shape[last + 1 :])


def calculate_strides(shape: Sequence[int]) -> list[int]:
    """Steps in memory from one index of each dim to the next, for a contiguous tensor of `shape`."""
    return [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]


def extend_attr_to_tuple(val: Any, num_elem: int) -> tuple[Any, ...]:
    """A number, or a list of one, as a tuple of `num_elem`; a longer list as a tuple."""
    values = tuple(val) if isinstance(val, (list, tuple)) else (val,)
    return values * num_elem if len(values) == 1 else values


def append(
    ctx: Any, target: Any, source_ir: Any, name: str, original_tensor: Any, new_value: Any, dim: int = 0
) -> Any:
    """`original_tensor` with a value behind it along `dim`."""
    new = get_trt_tensor(ctx, new_value, name, ctx.dtype(original_tensor))
    return ctx.concat([original_tensor, ctx.cast(new, ctx.dtype(original_tensor))], dim)


def set_item(
    ctx: Any, target: Any, source_ir: Any, name: str, original_tensor: Any, index: int, new_value: Any
) -> Any:
    """A 1-D `original_tensor` with another value at `index`; behind it, where it has no such place."""
    size = ctx.shape(original_tensor)[0]
    place = get_positive_dim(index, size)
    new = ctx.cast(
        get_trt_tensor(ctx, new_value, name, ctx.dtype(original_tensor)), ctx.dtype(original_tensor)
    )
    parts = [ctx.slice(original_tensor, [0], [place])] if place else []
    parts.append(new)
    if place + 1 < size:
        parts.append(ctx.slice(original_tensor, [place + 1], [size - place - 1]))
    return ctx.concat(parts, 0)


# Dtypes -------------------------------------------------------------------------------------------------


def cast_int_int_div_trt_tensor(ctx: Any, lhs_val: Any, rhs_val: Any, name: str) -> list[Any]:
    """Two ITensors, as float32 where both are of ints."""
    floating = any(ctx.dtype(one).is_floating_point for one in (lhs_val, rhs_val))
    return [lhs_val, rhs_val] if floating else [ctx.cast(one, torch.float32) for one in (lhs_val, rhs_val)]


def cast_int_or_float_to_bool(ctx: Any, name: str, tensor: Any) -> Any:
    """An ITensor as bools."""
    return ctx.cast(tensor, torch.bool)


def promote_trt_tensors_to_same_dtype(ctx: Any, lhs: Any, rhs: Any, name_prefix: str) -> tuple[Any, Any]:
    """Two ITensors in the dtype that torch would promote them to."""
    wanted = torch.promote_types(ctx.dtype(lhs), ctx.dtype(rhs))
    return ctx.cast(lhs, wanted), ctx.cast(rhs, wanted)


def to_trt_weights(
    ctx: Any,
    value: Any,
    name: str = "",
    layer_type_name: str = "",
    weight_type_name: str = "",
    target: Any = None,
    source_ir: Any = None,
    target_quantized_type: Any = None,
) -> Any:
    """``trt.Weights`` of a constant, which is held until the network is built.

    Raises:
        ConversionError: no constant.
    """
    tensor = to_torch(value)
    if tensor is None:
        raise ConversionError(f"{name}: there are no weights of None")
    if target_quantized_type is not None:
        tensor = tensor.to(torch_dtype(ctx, target_quantized_type))
    tensor = tensor.contiguous()
    if isinstance(ctx, ConversionContext):
        ctx.record_weight(f"{name} {weight_type_name}".strip(), tensor)
    return ctx.weights(tensor)


# Nodes --------------------------------------------------------------------------------------------------


def get_node_name(node: torch.fx.Node) -> str:
    """A node's name behind the path of its module."""
    path = module_path(node)
    return f"{path}/{node.name}" if path else str(node)


def get_node_io(node: torch.fx.Node, constant_mapping: Mapping[str, Any] | None = None) -> str:
    """A node's inputs and output as text, with their shapes and dtypes."""

    def shown(value: Any) -> str:
        if isinstance(value, torch.fx.Node):
            return f"{value.name}: {shown(value.meta.get('val'))}"
        if isinstance(value, torch.Tensor):
            return f"{tuple(value.shape)}@{value.dtype}"
        if isinstance(value, (list, tuple)):
            return f"({', '.join(map(shown, value))})"
        return str(value)

    inputs = ", ".join(map(shown, (*node.args, *node.kwargs.values())))
    return f"Inputs: ({inputs}) | Outputs: ({shown(node)})"


def load_tensorrt_llm() -> bool:
    """False: collectives run in torch between engines."""
    return False


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

"""SHUFFLE, CONCATENATION, SLICE, PADDING, SHAPE, SQUEEZE, UNSQUEEZE, FILL and CONSTANT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trtcore.pack import InputError
from trtcore_reference.emit import Emitter, Evaluator
from trtcore_reference.staging import to_device
from trtcore_reference.values import Value

# -- constant -------------------------------------------------------------------------------------


def constant(e: Emitter) -> Value:
    tensor = e.constants["weights"]
    info = e.out()
    if info.dtype is getattr(torch, "int4"):  # noqa: B009
        return e.const(unpack_int4(tensor).reshape(info.shape))
    if info.dtype is torch.float4_e2m1fn_x2:
        return e.const(unpack_fp4(tensor).reshape(info.shape))
    return e.const(tensor)


def unpack_int4(packed: Tensor) -> Tensor:
    """int8 values of packed 4-bit integers, the low half of each byte first."""
    raw = packed.reshape(-1).view(torch.uint8)
    halves = torch.stack((raw & 15, raw >> 4), -1).reshape(-1).to(torch.int8)
    return torch.where(halves > 7, halves - 16, halves)


#: The 16 values of FP4 (E2M1) by their bits.
FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


def unpack_fp4(packed: Tensor) -> Tensor:
    """float32 values of packed FP4 (E2M1) numbers, the low half of each byte first."""
    raw = packed.reshape(-1).view(torch.uint8)
    halves = torch.stack((raw & 15, raw >> 4), -1).reshape(-1).long()
    return torch.tensor(FP4_VALUES)[halves]


# -- shuffle --------------------------------------------------------------------------------------


def shuffle(e: Emitter) -> Value:
    """first_transpose, then reshape, then second_transpose; a 0 copies the transposed input's dim."""
    a = e.attributes
    value = e.value()
    shape = e.info().shape
    first, second = a["first_transpose"], a["second_transpose"]
    if first != tuple(range(len(first))):
        value = e.call(torch.permute, value, first)
        shape = tuple(shape[i] for i in first)
    dims = a["reshape_dims"]
    if e.has(1):
        dims = e.ints(1)
        if dims is None:
            value = e.call(reshape_like, value, e.value(1, host=True), a["zero_is_placeholder"])
    if dims is not None:
        value = _reshape(e, value, shape, dims, a["zero_is_placeholder"])
    if second != tuple(range(len(second))):
        value = e.call(torch.permute, value, second)
    return value


def _reshape(
    e: Emitter, value: Value, shape: Sequence[int], dims: tuple[int, ...], placeholder: bool
) -> Value:
    if placeholder:
        if any(d == 0 and shape[i] < 0 for i, d in enumerate(dims)):
            return e.call(reshape_copying, value, dims)
        dims = tuple(shape[i] if d == 0 else d for i, d in enumerate(dims))
    if dims == tuple(shape) and -1 not in dims:
        return value
    return e.call(torch.reshape, value, dims)


def reshape_copying(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Reshape where a 0 copies the dim of x at its place."""
    return x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(dims)])


def reshape_like(x: Tensor, dims: Tensor | Sequence[int], placeholder: bool) -> Tensor:
    """Reshape to dims known at run time."""
    wanted = list(_as_ints(dims))
    return reshape_copying(x, wanted) if placeholder and 0 in wanted else x.reshape(wanted)


def concatenation(e: Emitter) -> Value:
    return e.call(torch.cat, e.values(), e.attributes["axis"])


# -- slice ----------------------------------------------------------------------------------------


def slice_layer(e: Emitter) -> Value:
    """Output index i reads start + i * stride on each axis; the mode says what an index outside means."""
    a = e.attributes
    mode = a["mode"]
    if mode not in _OUTSIDE and mode != "STRICT_BOUNDS":
        raise e.unsupported("mode")
    windows: list[tuple[int, ...] | Value | None] = []
    for index, name in ((1, "start"), (2, "shape"), (3, "stride")):
        windows.append((e.ints(index) or e.value(index, host=True)) if e.has(index) else a[name])
    start, size, stride = windows
    axes = e.ints(5) if e.has(5) else a.get("axes")
    if e.has(5) and axes is None:
        raise e.error("has axes known only at run time")
    if axes is not None:
        axes = tuple(axis % e.rank for axis in axes)
    fill = e.value(4) if e.has(4) else None
    if start is None or size is None or stride is None:
        raise e.error("has no start, size or stride")
    if isinstance(start, tuple) and isinstance(size, tuple) and isinstance(stride, tuple):
        plain = _plain_slice(e, mode, start, size, stride, axes)
        if plain is not None:
            return plain
    return e.call(slice_at, e.value(), start, size, stride, mode, fill, axes)


def _plain_slice(
    e: Emitter,
    mode: str,
    start: tuple[int, ...],
    size: tuple[int, ...],
    stride: tuple[int, ...],
    axes: tuple[int, ...] | None,
) -> Value | None:
    """A slice that is one chain of views: strict bounds, strides not negative, everything known now."""
    if mode != "STRICT_BOUNDS" or min(stride, default=1) < 0 or min(size, default=0) < 0:
        return None
    shape = e.info().shape
    places = axes if axes is not None else tuple(range(e.rank))
    value = e.value()
    expanded = [-1] * e.rank
    for axis, first, count, step in zip(places, start, size, stride):
        known = shape[axis]
        if known >= 0:
            check_bounds(axis, known, first, count, step)
        if step == 0 and count != 1:
            value = e.call(torch.narrow, value, axis, first, 1)
            expanded[axis] = count
        elif (first, count) == (0, known) and step == 1:
            continue
        elif known < 0:
            return None  # the bounds need checking when it runs
        elif step == 1 or count <= 1:
            value = e.call(torch.narrow, value, axis, first if count else 0, count)
        else:
            value = e.call(stepped, value, axis, first, count, step)
    if any(count >= 0 for count in expanded):
        value = e.call(torch.Tensor.expand, value, tuple(expanded))
    return value


def stepped(x: Tensor, axis: int, first: int, count: int, step: int) -> Tensor:
    """Every step-th element of one axis, from `first`; step > 0."""
    return x.narrow(axis, first, (count - 1) * step + 1)[(slice(None),) * axis + (slice(None, None, step),)]


def check_bounds(axis: int, length: int, first: int, count: int, step: int) -> None:
    """Raise InputError where a STRICT_BOUNDS slice leaves the tensor, as TensorRT does."""
    if count <= 0:
        return
    last = first + (count - 1) * step
    if not (0 <= first < length and 0 <= last < length):
        raise InputError(
            f"a Slice layer reads elements {first} to {last} of axis {axis}, which has {length} elements"
        )


def _as_ints(value: Tensor | Sequence[int]) -> Sequence[int]:
    return value.tolist() if isinstance(value, Tensor) else value


def slice_at(
    x: Tensor,
    start: Tensor | Sequence[int],
    size: Tensor | Sequence[int],
    stride: Tensor | Sequence[int],
    mode: str,
    fill: Tensor | None,
    axes: Sequence[int] | None,
) -> Tensor:
    """Any slice, with windows known at run time."""
    places = axes if axes is not None else range(x.dim())
    outside = []
    for axis, first, count, step in zip(places, _as_ints(start), _as_ints(size), _as_ints(stride)):
        length = x.shape[axis]
        if mode == "STRICT_BOUNDS":
            check_bounds(axis, length, first, count, step)
            if step > 0 or count <= 1:
                x = stepped(x, axis, first, count, max(step, 1)) if count else x.narrow(axis, 0, 0)
                continue
            if step == 0:
                x = x.narrow(axis, first, 1).expand([count if i == axis else -1 for i in range(x.dim())])
                continue
        index = first + step * torch.arange(count, device=x.device)
        if mode == "FILL":
            outside.append((axis, (index < 0) | (index >= length)))
        if mode != "STRICT_BOUNDS":
            index = _OUTSIDE[mode](index, length)
        if length == 0:
            x = x.new_zeros([count if i == axis else n for i, n in enumerate(x.shape)])
        else:
            x = x.index_select(axis, index)
    for axis, beyond in outside:
        shape = [-1 if i == axis else 1 for i in range(x.dim())]
        x = torch.where(beyond.view(shape), x.new_zeros(()) if fill is None else fill.reshape(()), x)
    return x


def _wrap(index: Tensor, length: int) -> Tensor:
    return index % max(length, 1)


def _clamp(index: Tensor, length: int) -> Tensor:
    return index.clamp(0, max(length - 1, 0))


def _reflect(index: Tensor, length: int) -> Tensor:
    """Mirrored at the edges without repeating them, any distance out."""
    period = max(2 * (length - 1), 1)
    index = index % period
    return torch.where(index >= length, period - index, index)


_OUTSIDE = {"WRAP": _wrap, "CLAMP": _clamp, "REFLECT": _reflect, "FILL": _clamp}


# -- shape, squeeze, unsqueeze, padding -----------------------------------------------------------


def shape_of(e: Emitter) -> Value:
    static = e.static()
    dtype = e.out().dtype
    if static is not None:
        return e.const(torch.tensor(static, dtype=dtype))
    # its input stays where it is: only the dims are read
    tensor = e.layer.inputs[0]
    assert tensor is not None
    dims = e.call(dims_of, e.region.value(tensor, tensor in e.region.engine.host), dtype)
    return dims if e.host else e.emit(to_device, dims, e.device())


def dims_of(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.tensor(x.shape, dtype=dtype)


def squeeze(e: Emitter) -> Value:
    """Remove the axes (of size 1) that input 1 names."""
    axes = _static_axes(e)
    return e.call(torch.squeeze, e.value(), tuple(axis % e.rank for axis in axes))


def unsqueeze(e: Emitter) -> Value:
    """Insert axes of size 1 at the places of the output that input 1 names."""
    axes = _static_axes(e)
    rank = e.rank + len(axes)
    value = e.value()
    for axis in sorted(axis % rank for axis in axes):
        value = e.call(torch.unsqueeze, value, axis)
    return value


def _static_axes(e: Emitter) -> tuple[int, ...]:
    axes = e.ints(1)
    if axes is None:
        raise e.error("has axes known only at run time")
    return axes


def padding(e: Emitter) -> Value:
    """Zeros before and after the last two dims; a negative amount trims."""
    pre, post = e.attributes["pre_padding_nd"], e.attributes["post_padding_nd"]
    return e.call(F.pad, e.value(), [amount for pair in reversed(list(zip(pre, post))) for amount in pair])


# -- fill -----------------------------------------------------------------------------------------


def fill(e: Emitter) -> Value:
    """LINSPACE: alpha + sum over axes of beta[axis] * index. RANDOM_*: fresh numbers, without a seed."""
    a = e.attributes
    shape = e.ints(0) if e.has(0) else a["shape"]
    sizes = shape if shape is not None else e.value(0, host=True)
    dtype = e.out().dtype
    operation = a["operation"]
    alpha = e.value(1) if e.has(1) else a["alpha"]
    beta = e.value(2) if e.has(2) else a["beta"]
    if operation == "LINSPACE":
        if not e.has(1) and not e.has(2) and shape is not None and len(shape) == 1:
            return e.call(linspace, sizes, alpha, beta, dtype, torch.device("cpu"))
        return e.emit(linspace, sizes, alpha, beta, dtype, e.device())
    if operation in _RANDOM:
        return e.emit(_RANDOM[operation], sizes, alpha, beta, dtype, e.device())
    raise e.unsupported("operation")


def linspace(
    sizes: Tensor | Sequence[int],
    alpha: Tensor | float,
    beta: Tensor | float,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """See `fill`. A scalar beta steps along the only axis."""
    shape = _as_ints(sizes)
    steps = list(beta.reshape(-1)) if isinstance(beta, Tensor) else [beta] * len(shape)
    result = torch.zeros([1] * len(shape), dtype=dtype, device=device) + _number(alpha, dtype)
    for axis, (length, step) in enumerate(zip(shape, steps)):
        ramp = torch.arange(length, dtype=dtype, device=device) * _number(step, dtype)
        result = result + ramp.view([-1 if i == axis else 1 for i in range(len(shape))])
    return result.to(dtype).expand(list(shape)).contiguous()


def _number(value: Tensor | float, dtype: torch.dtype) -> Tensor | float:
    if isinstance(value, Tensor):
        return value.reshape(()).to(dtype)
    return value if dtype.is_floating_point else int(value)


def random_uniform(
    sizes: Tensor | Sequence[int],
    alpha: Tensor | float,
    beta: Tensor | float,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Uniform between alpha and beta."""
    return (alpha + (beta - alpha) * torch.rand(list(_as_ints(sizes)), device=device)).to(dtype)


def random_normal(
    sizes: Tensor | Sequence[int],
    alpha: Tensor | float,
    beta: Tensor | float,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Normal with mean alpha and standard deviation beta."""
    return (alpha + beta * torch.randn(list(_as_ints(sizes)), device=device)).to(dtype)


_RANDOM = {"RANDOM_UNIFORM": random_uniform, "RANDOM_NORMAL": random_normal}


TABLE: Mapping[str, Evaluator] = {
    "CONSTANT": constant,
    "SHUFFLE": shuffle,
    "CONCATENATION": concatenation,
    "SLICE": slice_layer,
    "SHAPE": shape_of,
    "SQUEEZE": squeeze,
    "UNSQUEEZE": unsqueeze,
    "PADDING": padding,
    "FILL": fill,
}

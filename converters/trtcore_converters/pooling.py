"""Pooling, with windows (max_pool, avg_pool) and to a given size (adaptive pooling).

Output sizes are torch's. With ceil_mode torch drops a last window that would start in the far padding, and
TensorRT does not. So where the input's size is known the far padding is chosen to give torch's output size
exactly; where it is not, settings under which the rule can matter are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from trtcore.pack import ConversionContext, ITensor, NodeContext, Operand, Reject
from trtcore_converters._checks import all_of, arguments, floating, only_first_output_used, shape_of
from trtcore_converters._declare import converts
from trtcore_converters._spatial import apply_along, in_two_dims, one_dim, pad_with_zeros, spread
from trtcore_converters.reduction import nan_where, nans

aten = torch.ops.aten


@dataclass(frozen=True)
class Windows:
    """Where the windows are: one entry per spatial dim.

    `padded` says that the padding is part of the input already.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    ceil_mode: bool
    padded: bool = False

    @classmethod
    def of(cls, dims: int, kernel: Any, stride: Any, padding: Any, ceil_mode: bool) -> Windows:
        """From an op's arguments; no stride means the kernel size."""
        sizes = spread(kernel, dims)
        return cls(sizes, spread(stride, dims) if stride else sizes, spread(padding, dims), ceil_mode)

    @property
    def near(self) -> tuple[int, ...]:
        """The padding that the layer adds before the input."""
        return (0,) * len(self.padding) if self.padded else self.padding

    def count(self, dim: int, size: int) -> int:
        """How many windows torch has along `dim` of an input that has `size` there."""
        k, s, p = self.kernel[dim], self.stride[dim], self.padding[dim]
        own = size - 2 * p if self.padded else size
        span = own + 2 * p - k
        if not self.ceil_mode:
            return span // s + 1
        count = -(-span // s) + 1
        return count - 1 if (count - 1) * s >= own + p else count

    def far(self, dim: int, size: int) -> int:
        """The padding behind an input of `size` (-1: dynamic) along `dim`: what the last window needs."""
        if size == -1:
            return self.near[dim]
        end = (self.count(dim, size) - 1) * self.stride[dim] + self.kernel[dim]
        return max(end - size - self.near[dim], 0)

    def clipped(self, sizes: Sequence[int]) -> Windows:
        """A single window without padding cut to the input: TensorRT takes no window much larger than that."""
        kernel = tuple(
            size if 0 < size < k and not self.padding[d] and self.count(d, size) == 1 else k
            for d, (k, size) in enumerate(zip(self.kernel, sizes))
        )
        return replace(self, kernel=kernel)

    def never_drops(self, dim: int) -> bool:
        """Whether torch never drops a window that starts in the far padding, whatever the size."""
        return not self.ceil_mode or self.padding[dim] + self.stride[dim] <= self.kernel[dim]


def dims_of_pool(node: fx.Node) -> int:
    """Spatial dims of a pooling op, from its name: ``aten.max_pool2d.default`` has two."""
    name = str(node.target)
    return next(n for n in (1, 2, 3) if f"pool{n}d" in name)


def _windows_fit(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = arguments(node)
    dims = dims_of_pool(node)
    if max(spread(given.get("dilation", 1), dims)) > 1:
        return Reject("TensorRT has no pooling with dilation")
    shape = shape_of(given["self"])
    if shape is None:
        return True
    windows = Windows.of(dims, given["kernel_size"], given["stride"], given["padding"], given["ceil_mode"])
    dynamic = [d for d in range(dims) if not isinstance(shape[len(shape) - dims + d], int)]
    if not all(windows.never_drops(d) for d in dynamic):
        return Reject(
            "ceil_mode over a dynamic size: torch drops windows that start in the padding, TensorRT does "
            "not; make the size static, or choose padding + stride <= kernel_size"
        )
    if given.get("divisor_override") is not None and windows.ceil_mode and dynamic:
        return Reject("divisor_override with ceil_mode over a dynamic size; make the size static")
    return True


def _shape_of_max_pool1d(
    self: torch.Tensor,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> torch.Tensor:
    """What max_pool1d gives, by way of max_pool2d: torch's own kernel asks for the length as an int, which fixes it."""
    rest = ((start, *spread(one, 1)) for start, one in ((1, kernel_size), (0, padding), (1, dilation)))
    kernel, pad, step = map(list, rest)
    stride = [1, *spread(stride, 1)] if stride not in ((), []) else kernel
    flat: torch.Tensor = aten.max_pool2d.default(self.unsqueeze(-2), kernel, stride, pad, step, ceil_mode)
    return flat.squeeze(-2)


@converts(
    aten.max_pool1d.default,
    capability_validator=all_of(floating(), _windows_fit),
    shapes=_shape_of_max_pool1d,
)
@converts(
    [aten.max_pool2d.default, aten.max_pool3d.default],
    capability_validator=all_of(floating(), _windows_fit),
)
def max_pool(
    ctx: ConversionContext,
    x: Operand,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
) -> Any:
    """max_pool1d, max_pool2d, max_pool3d."""
    windows = Windows.of(dims_of_pool(ctx.node), kernel_size, stride, padding, ceil_mode)
    x = ctx.tensor(x)
    found = _pool(ctx, x, "MAX", windows)
    if not ctx.settings.strict_numerics:
        return found
    # TensorRT's windows skip NaN, and give the lowest finite number for one of -inf alone.
    finite = ctx.cast(ctx.elementwise(x, -math.inf, "GREATER"), torch.float32)
    some = ctx.elementwise(_pool(ctx, finite, "MAX", windows), 0.5, "GREATER")
    found = ctx.select(some, found, ctx.constant(-math.inf, ctx.dtype(found)))
    return nan_where(ctx, _pool(ctx, nans(ctx, x), "MAX", windows), found)


@converts(
    [
        aten.max_pool1d_with_indices.default,
        aten.max_pool2d_with_indices.default,
        aten.max_pool3d_with_indices.default,
    ],
    capability_validator=all_of(floating(), _windows_fit, only_first_output_used("indices")),
)
def max_pool_with_indices(ctx: ConversionContext, x: Operand, *settings: Any) -> tuple[ITensor, None]:
    """Max pooling whose indices nobody uses."""
    return max_pool(ctx, x, *settings), None


@converts(
    [aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default],
    capability_validator=all_of(floating(), _windows_fit),
)
def avg_pool(
    ctx: ConversionContext,
    x: Operand,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None = None,
) -> Any:
    """avg_pool1d, avg_pool2d, avg_pool3d.

    TensorRT divides by the whole window (padding counts) or by the elements of the input in it. torch has a
    third way: with ceil_mode and counted padding, by the part of the window inside the padded input; then the
    padding is made part of the input.
    """
    dims = dims_of_pool(ctx.node)
    windows = Windows.of(dims, kernel_size, stride, padding, ceil_mode)
    x = ctx.tensor(x)
    if divisor_override is not None:
        out = _pool(ctx, x, "AVERAGE", windows, exclude_padding=False)
        return ctx.elementwise(out, math.prod(windows.kernel) / divisor_override, "PROD", to=ctx.dtype(x))
    if count_include_pad and ceil_mode and any(windows.padding):
        x, windows = _padded(ctx, x, windows)
    return _pool(ctx, x, "AVERAGE", windows, exclude_padding=ceil_mode or not count_include_pad)


def _padded(ctx: ConversionContext, x: ITensor, windows: Windows) -> tuple[ITensor, Windows]:
    """`x` with its padding as zeros, and the windows over that."""
    unpadded = ctx.rank(x) - len(windows.kernel)
    pads = (0,) * unpadded + windows.padding
    return pad_with_zeros(ctx, x, pads, pads), replace(windows, padded=True)


def _pool(
    ctx: ConversionContext, x: ITensor, kind: str, windows: Windows, *, exclude_padding: bool = True
) -> Any:
    """One pooling layer, with torch's output size."""
    dims = len(windows.kernel)
    sizes = ctx.shape(x)[-dims:]
    if exclude_padding:
        windows = windows.clipped(sizes)

    def layer(batch: Any) -> Any:
        pool = ctx.net.add_pooling_nd(
            batch, getattr(ctx.trt.PoolingType, kind), one_dim(windows.kernel, dims, 1)
        )
        pool.stride_nd = one_dim(windows.stride, dims, 1)
        pool.pre_padding = one_dim(windows.near, dims, 0)
        pool.post_padding = one_dim([windows.far(d, sizes[d]) for d in range(dims)], dims, 0)
        if windows.ceil_mode and -1 in sizes:
            pool.padding_mode = ctx.trt.PaddingMode.EXPLICIT_ROUND_UP
        if kind == "AVERAGE":
            pool.average_count_excludes_padding = exclude_padding
        return ctx.output(pool)

    return in_two_dims(ctx, x, dims, layer)


# ---- pooling to a given size ----


def _same(a: Any, b: Any) -> bool:
    """Whether two sizes are equal whatever the call; never specialises a symbol."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return str(a) == str(b)


def _sizes_fit(exact_only: bool) -> Callable[[fx.Node, NodeContext], bool | Reject]:
    def check(node: fx.Node, ctx: NodeContext) -> bool | Reject:
        given = arguments(node)
        dims = dims_of_pool(node)
        shape = shape_of(given["self"])
        if shape is None:
            return True
        for size, wanted in zip(shape[-dims:], spread_sizes(given["output_size"], dims)):
            if _same(size, wanted) or (isinstance(wanted, int) and wanted == 1):
                continue
            if not isinstance(size, int) or not isinstance(wanted, int):
                return Reject(
                    f"adaptive pooling from a dynamic size to {wanted}: the windows' sizes are not known"
                )
            if exact_only and size % wanted and wanted > _MOST_SLICES:
                return Reject(
                    f"adaptive max pooling from {size} to {wanted}: the windows are not of one size"
                )
        return True

    return check


def spread_sizes(value: Any, dims: int) -> list[Any]:
    """`output_size` with one entry per spatial dim; entries may be symbolic."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * dims if len(values) == 1 else values


_MOST_SLICES = 16  # windows of different sizes are pooled one by one, up to so many per dim


@converts(
    [
        aten.adaptive_avg_pool1d.default,
        aten.adaptive_avg_pool2d.default,
        aten.adaptive_avg_pool3d.default,
        aten._adaptive_avg_pool2d.default,
        aten._adaptive_avg_pool3d.default,
    ],
    capability_validator=all_of(floating(), _sizes_fit(exact_only=False)),
)
def adaptive_avg_pool(ctx: ConversionContext, x: Operand, output_size: Any) -> ITensor:
    """adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d.

    To one: a reduction. To a divisor: windows. To another size: a product with the matrix of averages.
    """
    dims = dims_of_pool(ctx.node)
    x = ctx.tensor(x)
    plan = _adaptive_plan(ctx, x, output_size, dims)
    dtype = ctx.dtype(x)
    if len({how for how, _, _ in plan.values()}) > 1:  # several steps, and one rounding
        x = ctx.cast(x, torch.float32)
    x = _reduce_and_window(ctx, x, plan, "AVG", "AVERAGE")
    uneven = {dim: (size, wanted) for dim, (how, size, wanted) in plan.items() if how == "uneven"}
    if not uneven:
        return ctx.cast(x, dtype)
    x = ctx.cast(x, torch.float32)
    for dim, (size, wanted) in uneven.items():
        x = apply_along(ctx, x, dim, _averages(size, wanted))
    return ctx.cast(x, dtype)


@converts(
    [aten.adaptive_max_pool1d.default, aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default],
    capability_validator=all_of(floating(), only_first_output_used("indices"), _sizes_fit(exact_only=True)),
)
def adaptive_max_pool(ctx: ConversionContext, x: Operand, output_size: Any) -> tuple[ITensor, None]:
    """adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d whose indices nobody uses."""
    dims = dims_of_pool(ctx.node)
    x = ctx.tensor(x)
    plan = _adaptive_plan(ctx, x, output_size, dims)
    result = _reduce_and_window(ctx, x, plan, "MAX", "MAX")
    for dim, (how, size, wanted) in plan.items():
        if how == "uneven":
            parts = [_maximum_over(ctx, result, dim, *w) for w in uneven_windows(size, wanted)]
            result = ctx.concat(parts, dim)
    return result, None


def _adaptive_plan(
    ctx: ConversionContext, x: Operand, output_size: Any, dims: int
) -> dict[int, tuple[str, int, int]]:
    """Per spatial axis of `x` that changes: how ("all", "even" or "uneven"), the size, the wanted size."""
    rank, shape = ctx.rank(x), ctx.shape(x)
    plan: dict[int, tuple[str, int, int]] = {}
    for axis, wanted in zip(range(rank - dims, rank), spread_sizes(output_size, dims)):
        size = shape[axis]
        if ctx.is_tensor(wanted) or size == wanted:
            continue  # the validator has seen that a symbolic size is the input's own
        if wanted == 1:
            plan[axis] = ("all", size, 1)
        else:
            plan[axis] = ("even" if size % wanted == 0 else "uneven", size, wanted)
    return plan


def _reduce_and_window(
    ctx: ConversionContext, x: ITensor, plan: dict[int, tuple[str, int, int]], reduction: str, pooling: str
) -> Any:
    """Reduce the axes that go to one, then pool those that go to a divisor."""
    whole = [axis for axis, (how, _, _) in plan.items() if how == "all"]
    if whole:
        x = ctx.reduce(x, reduction, whole, keepdim=True)
    even = {axis: size // wanted for axis, (how, size, wanted) in plan.items() if how == "even"}
    if not even:
        return x
    rank = ctx.rank(x)
    dims = dims_of_pool(ctx.node)
    kernel = tuple(even.get(axis, 1) for axis in range(rank - dims, rank))
    return _pool(ctx, x, pooling, Windows(kernel, kernel, (0,) * dims, False))


def uneven_windows(size: int, count: int) -> list[tuple[int, int]]:
    """(start, length) of torch's adaptive windows: from floor(i * size / count) to its ceil for i + 1."""
    edges = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
    return [(start, end - start) for start, end in edges]


def _averages(size: int, count: int) -> torch.Tensor:
    """What takes a line of `size` elements to the means of its windows: shape (count, size)."""
    matrix = torch.zeros(count, size)
    for row, (start, length) in zip(matrix, uneven_windows(size, count)):
        row[start : start + length] = 1.0 / length
    return matrix


def _maximum_over(ctx: ConversionContext, x: ITensor, axis: int, start: int, length: int) -> ITensor:
    begin: Sequence[int] = [start if a == axis else 0 for a in range(ctx.rank(x))]
    sizes = [length if a == axis else size for a, size in enumerate(ctx.dims_of(x))]
    return ctx.reduce(ctx.slice(x, begin, sizes), "MAX", [axis], keepdim=True)

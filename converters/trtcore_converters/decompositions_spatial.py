"""Decompositions of ops on images and volumes: what TensorRT's layers for them do not take.

Its convolutions and poolings are for floating point ("input has type Int64 but must have type Float, Half, BFloat16
..."), its GridSample for images.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from trtcore_converters._spatial import spread

aten = torch.ops.aten


# ---- integers ----------------------------------------------------------------------------------------------


def _windows(
    x: torch.Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> torch.Tensor:
    """(N, C, *spatial) as (N, C, *windows, *kernel)."""
    for dim, (k, s, d) in enumerate(zip(kernel, stride, dilation), start=2):
        x = x.unfold(dim, d * (k - 1) + 1, s)[..., ::d]
    return x


def _convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> torch.Tensor:
    """A convolution of integers: every window times the kernel, element by element, and summed."""
    _only_integers(x)
    dims = weight.dim() - 2
    stride, padding, dilation, extra = (spread(v, dims) for v in (stride, padding, dilation, output_padding))
    before, after = list(padding), list(padding)
    if transposed:
        x, weight = _spaced(x, stride), _turned(weight, groups)
        edge = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding)]
        before, after, stride = edge, [e + more for e, more in zip(edge, extra)], (1,) * dims
    pads = [count for pair in reversed(list(zip(before, after))) for count in pair]
    taps = _windows(torch.constant_pad_nd(x, pads), weight.shape[2:], stride, dilation)
    batch, out = x.shape[0], taps.shape[2 : 2 + dims]
    per_group, size = weight.shape[1], math.prod(weight.shape[2:])
    patches = taps.reshape(batch, groups, 1, per_group, math.prod(out), size)
    kernels = weight.reshape(1, groups, weight.shape[0] // groups, per_group, 1, size)
    result = (patches * kernels).sum((3, 5), dtype=x.dtype).reshape(batch, weight.shape[0], *out)
    return result if bias is None else result + bias.reshape(-1, *[1] * dims)


def _only_integers(x: torch.Tensor) -> None:
    if x.is_floating_point():
        raise NotImplementedError("it is for integers")


def _spaced(x: torch.Tensor, stride: Sequence[int]) -> torch.Tensor:
    """``stride - 1`` zeros between the elements of every spatial dim."""
    for dim, s in enumerate(stride, start=2):
        if s == 1:
            continue
        behind = [0, s - 1] + [0, 0] * (x.dim() - dim - 1)
        wide = torch.constant_pad_nd(x.unsqueeze(dim + 1), [*behind[2:], *behind[:2]])
        wide = wide.flatten(dim, dim + 1)
        x = wide.narrow(dim, 0, max(wide.shape[dim] - (s - 1), 0))
    return x


def _turned(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """The kernel (in, out / groups, ...) of a transposed convolution as (out, in / groups, ...), backwards."""
    apart = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).transpose(1, 2)
    return apart.flip(list(range(3, apart.dim()))).flatten(0, 1)


def _average(
    x: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dims: int,
) -> torch.Tensor:
    """Average pooling of integers, rounded towards zero."""
    _only_integers(x)
    kernel = spread(kernel_size, dims)
    stride = spread(stride, dims) if stride else kernel
    padding = spread(padding, dims)
    batch = x if x.dim() == dims + 2 else x.unsqueeze(0)
    far = [
        _behind(size, k, s, p, ceil_mode) for size, k, s, p in zip(batch.shape[2:], kernel, stride, padding)
    ]
    inner = [p for pad in reversed(padding) for p in (pad, pad)]
    outer = [count for more in reversed(far) for count in (0, more)]

    def summed(values: torch.Tensor, fill: int) -> torch.Tensor:
        padded = torch.constant_pad_nd(torch.constant_pad_nd(values, inner, fill), outer)
        taps = _windows(padded, kernel, stride, (1,) * dims)
        return taps.sum(tuple(range(2 + dims, 2 + 2 * dims)), dtype=values.dtype)

    total = summed(batch, 0)
    count: Any = divisor_override
    if count is None:
        count = summed(torch.ones_like(batch[:1, :1]), int(count_include_pad))
    result = torch.div(total, count, rounding_mode="trunc")
    return result if x.dim() == dims + 2 else result.squeeze(0)


def _behind(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """How far the last window reaches behind the padded input."""
    if not ceil_mode:
        return 0
    count = -(-(size + 2 * padding - kernel) // stride) + 1
    if (count - 1) * stride >= size + padding:
        count -= 1
    return max((count - 1) * stride + kernel - size - 2 * padding, 0)


def _average_of(dims: int) -> Callable[..., torch.Tensor]:
    def average(*args: Any, **kwargs: Any) -> torch.Tensor:
        return _average(*args, dims=dims, **kwargs)

    return average


# ---- volumes -----------------------------------------------------------------------------------------------


def _grid_sampler_3d(
    x: torch.Tensor, grid: torch.Tensor, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> torch.Tensor:
    """Volumes at the places of a grid: x of shape (N, C, D, H, W), grid (N, d, h, w, 3) in x, y, z order.

    Modes are numbered as in ATen: bilinear (here of eight corners), nearest; zeros, border, reflection.
    """
    if interpolation_mode not in (0, 1):
        raise NotImplementedError("torch has no bicubic sampling of volumes")
    dtype, sizes = x.dtype, tuple(reversed(x.shape[2:]))
    places = [_place(grid[..., i].float(), size, padding_mode, align_corners) for i, size in enumerate(sizes)]
    batch, channels = x.shape[:2]
    flat = x.float().reshape(batch, channels, -1)
    out = grid.shape[1:4]

    def at(corner: Sequence[torch.Tensor]) -> torch.Tensor:
        inside = [(c >= 0) & (c <= size - 1) for c, size in zip(corner, sizes)]
        column, row, layer = (c.clamp(0, size - 1).to(torch.int64) for c, size in zip(corner, sizes))
        number = ((layer * sizes[1] + row) * sizes[0] + column).reshape(batch, 1, -1)
        values = flat.gather(2, number.expand(batch, channels, -1)).reshape(batch, channels, *out)
        return torch.where((inside[0] & inside[1] & inside[2]).unsqueeze(1), values, 0.0)

    if interpolation_mode == 1:
        return at([place.round() for place in places]).to(dtype)
    low = [place.floor() for place in places]
    total: torch.Tensor | None = None
    for upper in itertools.product((0, 1), repeat=3):
        corner = [edge + step for edge, step in zip(low, upper)]
        across, down, deep = (
            place - edge if step else 1 - (place - edge) for place, edge, step in zip(places, low, upper)
        )
        part = at(corner) * (across * down * deep).unsqueeze(1)
        total = part if total is None else total + part
    assert total is not None
    return total.to(dtype)


def _place(at: torch.Tensor, size: int, padding_mode: int, align_corners: bool) -> torch.Tensor:
    """Grid coordinates in [-1, 1] as positions along a dim, moved into it where the padding mode says so."""
    place = (at + 1) / 2 * (size - 1) if align_corners else ((at + 1) * size - 1) / 2
    if padding_mode == 2:
        place = _reflected(place, 0.0 if align_corners else -0.5, float(size - 1 if align_corners else size))
    return place.clamp(0, size - 1) if padding_mode else place


def _reflected(place: torch.Tensor, low: float, span: float) -> torch.Tensor:
    """Positions mirrored at both ends of [low, low + span]."""
    if span == 0:
        return torch.zeros_like(place)
    distance = (place - low).abs()
    turns = (distance / span).floor()
    rest = distance - turns * span
    odd = turns - 2 * (turns / 2).floor()
    return torch.where(odd == 0, rest + low, span - rest + low)


# ---- pooling with drawn windows ----------------------------------------------------------------------------


def _fractional_max_pool(dims: int) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Max pooling over `dims` dims whose windows begin where given samples in [0, 1), of shape (N, C, dims), put them.

    The samples are for width and height, but for depth, height and width.
    """

    def pool(
        x: torch.Tensor, kernel: Sequence[int], out: Sequence[int], samples: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if x.dtype != torch.float32:
            raise NotImplementedError("in 16 bits torch's windows begin elsewhere on a GPU than on a CPU")
        batched = x if x.dim() == dims + 2 else x.unsqueeze(0)
        sizes = batched.shape[2:]
        if not all(isinstance(size, int) for size in sizes):
            raise NotImplementedError("the size varies from call to call")
        order = (1, 0) if dims == 2 else (0, 1, 2)
        places: Any = 0
        for dim, (size, k, count) in enumerate(zip(sizes, kernel, out)):
            taps = _starts(samples[:, :, order[dim]], size, k, count).unsqueeze(-1) + torch.arange(k)
            shape = [1] * (2 * dims)
            shape[dim], shape[dims + dim] = count, k
            places = places * size + taps.reshape(*taps.shape[:2], *shape)
        places = places.reshape(*places.shape[:2], math.prod(out), math.prod(kernel))
        windows = batched.flatten(2).gather(2, places.flatten(2)).reshape(places.shape)
        values, which = windows.max(-1, keepdim=True)
        shape = [*x.shape[: x.dim() - dims], *out]
        return values.reshape(shape), places.gather(-1, which).reshape(shape)

    return pool


def _starts(sample: torch.Tensor, size: int, kernel: int, count: int) -> torch.Tensor:
    """Where `count` windows of `kernel` elements begin along a dim, (N, C, count); the last one ends with the dim."""
    last = torch.full_like(sample, size - kernel, dtype=torch.int64).unsqueeze(-1)
    if count == 1:
        return last
    stride = float(torch.tensor(float(size - kernel)) / torch.tensor(float(count - 1)))
    sample = sample.unsqueeze(-1)
    moved = (torch.arange(count - 1, dtype=torch.float32) + sample) * stride
    return torch.cat([moved.to(torch.int64) - (sample * stride).to(torch.int64), last], -1)


TABLE: Mapping[Any, Callable[..., Any]] = {
    aten.convolution.default: _convolution,
    aten.avg_pool2d.default: _average_of(2),
    aten.avg_pool3d.default: _average_of(3),
    aten.grid_sampler_3d.default: _grid_sampler_3d,
    aten.fractional_max_pool2d.default: _fractional_max_pool(2),
    aten.fractional_max_pool3d.default: _fractional_max_pool(3),
}
"""Op to function."""

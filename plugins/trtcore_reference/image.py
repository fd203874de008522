"""POOLING, RESIZE and GRID_SAMPLE."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from trtcore_reference.emit import Emitter, Evaluator
from trtcore_reference.linear import flat_padding, padded
from trtcore_reference.values import Value

# -- pooling --------------------------------------------------------------------------------------

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def pooling(e: Emitter) -> Value:
    """MAX, AVERAGE, or MAX_AVERAGE_BLEND: (1 - b) * max + b * average."""
    a = e.attributes
    kind = a["type"]
    if kind not in ("MAX", "AVERAGE", "MAX_AVERAGE_BLEND"):
        raise e.unsupported("type")
    window = (a["window_size_nd"], a["stride_nd"], a["padding_mode"], a["pre_padding"], a["post_padding"])
    x = e.value()
    if kind == "MAX":
        return e.call(max_pool, x, *window)
    average = e.call(average_pool, x, *window, a["average_count_excludes_padding"])
    if kind == "AVERAGE":
        return average
    blend = a["blend_factor"]
    highest = e.call(max_pool, x, *window)
    return e.call(torch.lerp, highest, average, blend)


def max_pool(
    x: Tensor,
    window: Sequence[int],
    stride: Sequence[int],
    mode: str,
    pre: Sequence[int],
    post: Sequence[int],
) -> Tensor:
    """Maximum of each window without NaN; the lowest finite number where only -inf is left."""
    spatial = len(window)
    lowest = torch.finfo(x.dtype).min
    x = x.nan_to_num(nan=lowest, posinf=math.inf, neginf=lowest)
    pads = padded(mode, x.shape[2:], window, stride, (1,) * spatial, pre, post)
    inner = tuple(before for before, _ in pads)
    if any(before != after for before, after in pads) or any(2 * p > k for p, k in zip(inner, window)):
        x = F.pad(x, flat_padding(pads), value=lowest)
        inner = (0,) * spatial
    return _MAX[spatial](x, tuple(window), tuple(stride), inner)


def average_pool(
    x: Tensor,
    window: Sequence[int],
    stride: Sequence[int],
    mode: str,
    pre: Sequence[int],
    post: Sequence[int],
    excludes: bool,
) -> Tensor:
    """Mean of each window: divided by the elements of x in it (`excludes`), or by the window's full
    volume.
    """
    spatial = len(window)
    function = _AVERAGE[spatial]
    pads = padded(mode, x.shape[2:], window, stride, (1,) * spatial, pre, post)
    inner = tuple(before for before, _ in pads)
    window, stride = tuple(window), tuple(stride)
    y = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    if all(before == after and 2 * before <= k for (before, after), k in zip(pads, window)):
        return function(y, window, stride, inner, count_include_pad=not excludes).to(x.dtype)
    flat = flat_padding(pads)
    mean = function(F.pad(y, flat), window, stride)
    if excludes:
        ones = torch.ones((1, 1, *x.shape[2:]), dtype=y.dtype, device=x.device)
        mean = mean / function(F.pad(ones, flat), window, stride)
    return mean.to(x.dtype)


# -- resize ---------------------------------------------------------------------------------------


def resize(e: Emitter) -> Value:
    """Separable resize by the ONNX coordinate formulas; a given scale is used as it is (not out/in)."""
    a = e.attributes
    mode, transform = a["resize_mode"], a["coordinate_transformation"]
    if mode not in ("NEAREST", "LINEAR", "CUBIC") or transform not in _COORDINATES:
        raise e.unsupported("resize_mode" if transform in _COORDINATES else "coordinate_transformation")
    if a["nearest_rounding"] not in _ROUNDINGS:
        raise e.unsupported("nearest_rounding")
    scales = a["scales"]
    shape = e.ints(1) if e.has(1) else (a["shape"] or None)
    sizes = e.value(1, host=True) if shape is None and e.has(1) else shape
    if sizes is None and scales is None:
        raise e.error("has neither an output shape nor scales")
    return e.call(
        resize_to,
        e.value(),
        sizes,
        scales,
        mode,
        transform,
        a["nearest_rounding"],
        a["selector_for_single_pixel"] == "UPPER",
        a["exclude_outside"],
        a["cubic_coeff"],
    )


def resize_to(
    x: Tensor,
    sizes: Tensor | Sequence[int] | None,
    scales: Sequence[float] | None,
    mode: str,
    transform: str,
    rounding: str,
    upper: bool,
    exclude: bool,
    coefficient: float,
) -> Tensor:
    """See `resize`; output sizes without `sizes` are floor(size * scale)."""
    if isinstance(sizes, Tensor):
        sizes = sizes.tolist()
    y = x if mode == "NEAREST" or x.dtype is torch.float32 else x.float()
    for axis, length in enumerate(x.shape):
        scale = scales[axis] if scales else None
        count = sizes[axis] if sizes is not None else math.floor(length * (scale or 1.0))
        if count == length and scale in (None, 1.0):
            continue
        places, weights = taps(length, count, scale, mode, transform, rounding, upper, exclude, coefficient)
        total = None
        for place, weight in zip(places, weights):
            index = torch.tensor(place, device=x.device)
            if weight is None:
                total = y.index_select(axis, index)
                continue
            shape = [-1 if i == axis else 1 for i in range(x.dim())]
            part = y.index_select(axis, index) * torch.tensor(weight, dtype=y.dtype, device=x.device).view(
                shape
            )
            total = part if total is None else total + part
        assert total is not None
        y = total
    return y.to(x.dtype)


def _asymmetric(i: int, scale: float, length: int, count: int) -> float:
    return i / scale


def _half_pixel(i: int, scale: float, length: int, count: int) -> float:
    return (i + 0.5) / scale - 0.5


def _align_corners(i: int, scale: float, length: int, count: int) -> float:
    return i * ((length - 1) / (count - 1)) if count > 1 else 0.0


_COORDINATES = {"ASYMMETRIC": _asymmetric, "HALF_PIXEL": _half_pixel, "ALIGN_CORNERS": _align_corners}
_Coordinate = Callable[[float], int]
_SLACK = 1e-9  # for coordinates that are integers but for rounding
_ROUNDINGS: Mapping[str, _Coordinate] = {
    "HALF_UP": lambda c: math.floor(c + 0.5),
    "HALF_DOWN": lambda c: math.ceil(c - 0.5),
    "FLOOR": lambda c: math.floor(c + _SLACK),
    "CEIL": lambda c: math.ceil(c - _SLACK),
}

_Taps = tuple[tuple[tuple[int, ...], ...], tuple["tuple[float, ...] | None", ...]]


@lru_cache(maxsize=256)
def taps(
    length: int,
    count: int,
    scale: float | None,
    mode: str,
    transform: str,
    rounding: str,
    upper: bool,
    exclude: bool,
    coefficient: float,
) -> _Taps:
    """Which elements each output element reads, and with what weights (None: as they are), for one axis."""
    ratio = count / length if scale is None else scale
    if count == 1 and upper:
        where = [0.0]
    else:
        where = [_COORDINATES[transform](i, ratio, length, count) for i in range(count)]

    def inside(i: int) -> int:
        return min(max(i, 0), length - 1)

    if mode == "NEAREST":
        return (tuple(inside(_ROUNDINGS[rounding](c)) for c in where),), (None,)
    offsets = (0, 1) if mode == "LINEAR" else (-1, 0, 1, 2)
    kernel = _linear if mode == "LINEAR" else _cubic
    places: list[list[int]] = [[] for _ in offsets]
    weights: list[list[float]] = [[] for _ in offsets]
    for c in where:
        base = math.floor(c)
        row = [kernel(abs(c - base - offset), coefficient) for offset in offsets]
        if exclude:
            row = [w if 0 <= base + offset < length else 0.0 for w, offset in zip(row, offsets)]
            total = sum(row)
            row = [w / total for w in row]
        for slot, offset in enumerate(offsets):
            places[slot].append(inside(base + offset))
            weights[slot].append(row[slot])
    return tuple(map(tuple, places)), tuple(map(tuple, weights))


def _linear(distance: float, coefficient: float) -> float:
    return 1.0 - distance


def _cubic(distance: float, a: float) -> float:
    """Keys' cubic convolution kernel."""
    if distance <= 1:
        return ((a + 2) * distance - (a + 3)) * distance * distance + 1
    return ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a


# -- grid sample ----------------------------------------------------------------------------------

_INTERPOLATION = {"NEAREST": "nearest", "LINEAR": "bilinear", "CUBIC": "bicubic"}
_BORDER = {"FILL": "zeros", "CLAMP": "border", "REFLECT": "reflection"}


def grid_sample(e: Emitter) -> Value:
    a = e.attributes
    if a["interpolation_mode"] not in _INTERPOLATION:
        raise e.unsupported("interpolation_mode")
    if a["sample_mode"] not in _BORDER:
        raise e.unsupported("sample_mode")
    mode, border = _INTERPOLATION[a["interpolation_mode"]], _BORDER[a["sample_mode"]]
    return e.call(F.grid_sample, e.value(0), e.value(1), mode, border, a["align_corners"])


TABLE: Mapping[str, Evaluator] = {"POOLING": pooling, "RESIZE": resize, "GRID_SAMPLE": grid_sample}

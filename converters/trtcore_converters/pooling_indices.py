"""Max pooling where TensorRT's Pooling cannot do it: with the indices of the maxima, with dilation, of integers.

The windows are gathered by constant indices, one row of elements per window, and TopK finds the maximum of each
row and where it is; of equal ones the first, as in torch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from trtcore.pack import ConversionContext, NodeContext, Operand, Priority, Reject
from trtcore_converters._checks import all_of, arguments, is_static, numeric, shape_of
from trtcore_converters._declare import converts
from trtcore_converters._spatial import spread
from trtcore_converters._values import used_outputs
from trtcore_converters.pooling import Windows, dims_of_pool, spread_sizes, uneven_windows
from trtcore_converters.reduction import top
from trtcore_converters.shape import movable

aten = torch.ops.aten

_MOST_ELEMENTS = 1 << 24


def _plan_of(node: fx.Node) -> torch.Tensor | Reject:
    """The windows' elements, (windows, taps) as numbers in the flat input, -1 for padding; or why there are none."""
    given = arguments(node)
    dims, shape = dims_of_pool(node), shape_of(given["self"])
    if shape is None or not is_static(list(shape[-dims:])):
        return Reject("the size varies from call to call, and the windows are gathered by constant indices")
    sizes = [int(size) for size in shape[-dims:]]
    if "output_size" in given:
        wanted = [
            size if w is None else w for size, w in zip(sizes, spread_sizes(given["output_size"], dims))
        ]
        if not is_static(wanted):
            return Reject("the output size varies from call to call")
        taps = [_adaptive(size, int(count)) for size, count in zip(sizes, wanted)]
    else:
        windows = Windows.of(
            dims, given["kernel_size"], given["stride"], given["padding"], given["ceil_mode"]
        )
        dilation = spread(given["dilation"], dims)
        taps = [_regular(windows, dim, size, dilation[dim]) for dim, size in enumerate(sizes)]
    if math.prod(tap.numel() for tap in taps) > _MOST_ELEMENTS:
        return Reject(f"the windows have more than {_MOST_ELEMENTS} elements")
    return _flat(taps, sizes)


def _regular(windows: Windows, dim: int, size: int, dilation: int) -> torch.Tensor:
    """(windows, taps) positions along one dim; -1 outside of the input."""
    kernel = windows.kernel[dim]
    spanned = Windows(
        tuple((k - 1) * dilation + 1 if d == dim else k for d, k in enumerate(windows.kernel)),
        windows.stride, windows.padding, windows.ceil_mode,
    )  # fmt: skip
    starts = torch.arange(spanned.count(dim, size)) * windows.stride[dim] - windows.padding[dim]
    places = starts.unsqueeze(1) + torch.arange(kernel) * dilation
    return torch.where((places >= 0) & (places < size), places, -1)


def _adaptive(size: int, count: int) -> torch.Tensor:
    """(windows, taps) positions of adaptive windows, shorter ones ended by -1."""
    windows = uneven_windows(size, count)
    longest = max((length for _, length in windows), default=1)
    taps = torch.arange(longest)
    return torch.stack([torch.where(taps < length, taps + start, -1) for start, length in windows])


def _flat(taps: list[torch.Tensor], sizes: list[int]) -> torch.Tensor:
    """Positions along the dims as positions in the flat input: (product of windows, product of taps)."""
    count, total = len(taps), None
    outside = None
    for dim, (tap, size) in enumerate(zip(taps, sizes)):
        shape = [1] * (2 * count)
        shape[dim], shape[count + dim] = tap.shape
        place = tap.reshape(shape)
        beyond = place < 0
        total = place if total is None else total * size + place
        outside = beyond if outside is None else outside | beyond
    assert total is not None
    assert outside is not None
    flat = torch.where(outside, -1, total)
    return flat.reshape(math.prod(flat.shape[:count]), -1)


def _gatherable(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    plan = _plan_of(node)
    if isinstance(plan, Reject):
        return plan
    if plan.numel() == 0:
        return Reject("there are no windows")
    return True


@converts(
    [
        getattr(aten, f"{name}{dims}d{suffix}").default
        for name, suffixes in (("max_pool", ("", "_with_indices")), ("adaptive_max_pool", ("",)))
        for suffix in suffixes
        for dims in (1, 2, 3)
    ],
    priority=Priority.FALLBACK,
    capability_validator=all_of(movable, numeric, _gatherable),
)
def max_pool_gathered(ctx: ConversionContext, x: Operand, *settings: Any) -> Any:
    """max_pool, max_pool_with_indices and adaptive_max_pool of any dtype, dilation and window sizes."""
    x = ctx.tensor(x)
    plan = _plan_of(ctx.node)
    assert isinstance(plan, torch.Tensor), "the validator has seen to it"
    windows, taps = plan.shape
    dims = dims_of_pool(ctx.node)
    outer = ctx.dims_of(x)[:-dims]
    flat = ctx.reshape(x, [*outer, math.prod(ctx.shape(x)[-dims:])])
    rows = ctx.gather(flat, ctx.constant(plan.clamp(min=0)), len(outer))
    if bool((plan < 0).any()):
        lowest = -math.inf if ctx.dtype(x).is_floating_point else torch.iinfo(ctx.dtype(x)).min
        rows = ctx.select(ctx.constant(plan >= 0), rows, ctx.constant(lowest, ctx.dtype(x)))
    values, which = top(ctx, rows, "MAX", 1, len(outer) + 1)
    traced = ctx.node.meta["val"]
    several = isinstance(traced, (list, tuple))
    shape = [*outer, *(int(size) for size in (traced[0] if several else traced).shape[-dims:])]
    result = ctx.reshape(values, shape)
    if not several:
        return result
    used = used_outputs(ctx.node)
    if used is not None and 1 not in used:
        return result, None
    first = ctx.constant((torch.arange(windows) * taps).unsqueeze(1))
    places = ctx.gather(ctx.constant(plan.reshape(-1)), ctx.elementwise(which, first, "SUM"), 0)
    return result, ctx.reshape(places, shape)

"""Noticing that a tensor which was baked into an engine has been changed since.

Exactly seen: another tensor in its place, another memory (``p.data = new``, ``model.to(...)``), and every
in-place change that autograd's version counter counts (``load_state_dict``, optimizers, ``with no_grad():
p.add_(1)``). Writes *into* ``p.data``, through ``p.numpy()``, and into inference tensors are not counted by
torch; they are found by comparing 64 bytes of every tensor, in four places. So a write to the whole tensor is
seen, a write to a few of its elements may be missed.

Cost per call for 200 weights (measured): 0.07 ms on the CPU; on a GPU 0.03 ms, and 0.16 ms more in one call
every 20 ms.
"""

from __future__ import annotations

import ctypes
import itertools
import time
import warnings
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from trtcore.ir.torch_private import version

_PLACES, _BYTES = 4, 16
_GPU_PERIOD = 0.02  # seconds between two comparisons on a GPU

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}


class WeightWatch:
    """Watches a fixed sequence of tensors, and keeps none of them alive (on a GPU, their memory).

    On the CPU what it says holds for the moment of the call. On a GPU sampled elements are compared on the
    current stream without waiting for the answer, so that a change through ``.data`` is found at a later
    call, with a warning; the exact checks are immediate there too.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._tensors = tuple(map(weakref.ref, tensors))
        self._pointers = [tensor.data_ptr() for tensor in tensors]
        self._counted = [index for index, tensor in enumerate(tensors) if not tensor.is_inference()]
        self._versions = [version(tensors[index]) for index in self._counted]
        sampled = [index for index, tensor in enumerate(tensors) if _can_sample(tensor)]
        self._samples: list[_CpuSample | _GpuSample] = []
        on_cpu = [index for index in sampled if tensors[index].device.type == "cpu"]
        if on_cpu:
            self._samples.append(_CpuSample(tensors, on_cpu))
        groups: dict[tuple[torch.device, int], list[int]] = {}
        for index in sampled:
            if tensors[index].device.type == "cuda":
                groups.setdefault((tensors[index].device, tensors[index].element_size()), []).append(index)
        self._samples.extend(_GpuSample(tensors, group) for group in groups.values())

    def alive(self) -> bool:
        """Whether all tensors still exist."""
        return all(reference() is not None for reference in self._tensors)

    def watches(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether these are the very tensors (objects) that are watched."""
        return all(reference() is tensor for reference, tensor in zip(self._tensors, tensors))

    def change(self, tensors: Sequence[torch.Tensor]) -> str | None:
        """What has changed, as a sentence, or None. `tensors` are those that `watches` was asked for."""
        if [tensor.data_ptr() for tensor in tensors] != self._pointers:
            moved = (tensor.data_ptr() != old for tensor, old in zip(tensors, self._pointers))
            return f"{self._first(moved)} has other memory than before"
        if [version(tensors[index]) for index in self._counted] != self._versions:
            written = (version(tensors[i]) != old for i, old in zip(self._counted, self._versions))
            return f"{self._names[self._counted[list(written).index(True)]]} was changed in place"
        for sample in self._samples:
            if (index := sample.changed()) is not None:
                return f"{self._names[index]} was changed in place (through .data or the like)"
        return None

    def _first(self, flags: Iterable[bool]) -> str:
        return self._names[list(flags).index(True)]


class _CpuSample:
    """Some bytes of each of a group of tensors. Reads raw memory: only after their `data_ptr`s were compared."""

    def __init__(self, tensors: Sequence[torch.Tensor], group: Sequence[int]) -> None:
        self._owners: list[int] = []
        self._windows: list[memoryview] = []
        for index in group:
            tensor = tensors[index]
            length = _extent(tensor) * tensor.element_size()
            for start, size in _windows(length):
                raw = (ctypes.c_char * size).from_address(tensor.data_ptr() + start)
                self._windows.append(memoryview(raw).cast("B"))
                self._owners.append(index)
        self._expected = b"".join(self._windows)

    def changed(self) -> int | None:
        """Index of the first tensor whose sample differs."""
        now = b"".join(self._windows)
        if now == self._expected:
            return None
        position = next(i for i, (a, b) in enumerate(zip(now, self._expected)) if a != b)
        ends = itertools.accumulate(map(len, self._windows))
        return next(owner for owner, end in zip(self._owners, ends) if position < end)


class _GpuSample:
    """Some elements of each of a group of tensors, on one GPU and with one element size."""

    def __init__(self, tensors: Sequence[torch.Tensor], group: Sequence[int]) -> None:
        self._group = tuple(group)
        self._views = [_spread(tensors[index]) for index in group]
        self._expected = torch.cat(self._views)
        self._pending: tuple[torch.Tensor, Any] | None = None
        self._next = 0.0

    def changed(self) -> int | None:
        """Index of the first tensor whose sample differed at an earlier call; starts the next comparison."""
        if torch.cuda.is_current_stream_capturing():
            return None
        pending = self._pending
        if pending is not None:
            equal, done = pending
            if not done.query():
                return None
            if not bool(equal):
                warnings.warn(
                    "a weight was changed through .data (or by other means that torch does not count) after "
                    "its model was compiled; the engines that were called since then used the old weight. "
                    "Change weights under torch.no_grad() instead, which is always seen.",
                    RuntimeWarning,
                    stacklevel=5,
                )
                return self._which()
            self._pending = None
        now = time.monotonic()
        if now < self._next:
            return None
        self._next = now + _GPU_PERIOD
        with torch.cuda.device(self._expected.device):
            answer = torch.empty((), dtype=torch.bool, pin_memory=True)
            answer.copy_((torch.cat(self._views) == self._expected).all(), non_blocking=True)
            event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._pending = answer, event
        return None

    def _which(self) -> int:
        sizes = [view.numel() for view in self._views]
        pairs = zip(torch.split(torch.cat(self._views), sizes), torch.split(self._expected, sizes))
        differ = (not torch.equal(now, before) for now, before in pairs)
        return next((index for index, bad in zip(self._group, differ) if bad), self._group[0])


def _can_sample(tensor: torch.Tensor) -> bool:
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.layout is torch.strided
        and tensor.device.type in ("cpu", "cuda")
        and tensor.numel() > 0
        and not tensor.is_quantized
    )


def _extent(tensor: torch.Tensor) -> int:
    """How many elements lie between the first and the last of the tensor in memory."""
    return sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride())) + 1


def _windows(length: int) -> list[tuple[int, int]]:
    """``(start, size)`` of the bytes to compare, the first and the last included."""
    if length <= _PLACES * _BYTES:
        return [(0, length)]
    return [(place * (length - _BYTES) // (_PLACES - 1), _BYTES) for place in range(_PLACES)]


def _spread(tensor: torch.Tensor) -> torch.Tensor:
    """A view of elements all over the tensor's memory, as integers: NaN equals itself there."""
    flat = tensor.detach().as_strided((_extent(tensor),), (1,)).view(_INTEGERS[tensor.element_size()])
    # An odd step does not stay in one column of a matrix whose rows have an even length.
    return flat[:: max(flat.numel() // 16, 1) | 1]

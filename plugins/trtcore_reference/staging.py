"""Constants of a compiled snapshot, copied to a device once."""

from __future__ import annotations

import math
import threading
import weakref
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch

from trtcore.pack import outside_of_calls


class Constants:
    """The constants of one compiled network, and their copies by device.

    A plain attribute of the compiled module: neither parameter nor buffer, so `module.to()`, `state_dict()`
    and `deepcopy` leave it alone (constants are immutable and shared). On the CPU nothing is copied.
    Elsewhere each stretch of memory that constants have is copied once per device, for all networks of the process that
    have constants there: views of one weight stay views, and networks that share weights share the copies. These live
    until `release` of the last.
    """

    def __init__(self) -> None:
        self._tensors: list[torch.Tensor] = []
        self._on_host: list[bool] = []
        self._staged: dict[torch.device, tuple[Any, ...]] = {}
        self._sources: dict[torch.device, list[_Copy]] = {}
        self._lock = threading.Lock()

    def add(self, tensor: torch.Tensor, *, host: bool) -> int:
        """Add a constant; returns its position in `stage(...)`. With `host` it never leaves the CPU."""
        self._tensors.append(tensor)
        self._on_host.append(host)
        return len(self._tensors) + 1

    def stage(self, device: torch.device) -> tuple[Any, ...]:
        """(device, addresses of the constants, constant, constant, ...) on `device`, copied on the first
        call.
        """
        staged = self._staged.get(device)
        if staged is None:
            with self._lock:
                staged = self._staged.get(device)
                if staged is None:
                    tensors = outside_of_calls(device, partial(self._copy, device))
                    owned = frozenset(tensor.untyped_storage().data_ptr() for tensor in tensors)
                    staged = self._staged[device] = (device, owned, *tensors)
        return staged

    def release(self, device: torch.device | None = None) -> None:
        """Forget the copies on `device` (on every device if None)."""
        with self._lock:
            if device is None:
                self._staged.clear()
                self._sources.clear()
            else:
                self._staged.pop(device, None)
                self._sources.pop(device, None)

    def _copy(self, device: torch.device) -> list[torch.Tensor]:
        if device.type == "cpu":
            return list(self._tensors)
        moving = [tensor for tensor, host in zip(self._tensors, self._on_host) if not host]
        stretches = _stretches(moving)
        copies = iter([stretches[_memory(tensor)].copy_of(tensor, device) for tensor in moving])
        self._sources[device] = [one for stretch in stretches.values() for one in stretch.used]
        return [tensor if host else next(copies) for tensor, host in zip(self._tensors, self._on_host)]

    def __deepcopy__(self, memo: dict[int, Any]) -> Constants:
        return self


def stage(constants: Constants, *inputs: torch.Tensor) -> tuple[Any, ...]:
    """The constants on the device of the first input that is not on the CPU (else on the CPU)."""
    for tensor in inputs:
        if tensor.device.type != "cpu":
            return constants.stage(tensor.device)
    return constants.stage(_CPU)


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cpu()


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor where an engine computes.

    Numbers that follow from shapes are computed on the CPU. A CUDA graph cannot copy them from there, and need not: it
    is of these shapes. So they are written by kernels that have them as arguments.
    """
    if tensor.device == device:
        return tensor
    if device.type == "cuda" and tensor.numel() <= _FEW and torch.cuda.is_current_stream_capturing():
        values = tensor.reshape(-1).tolist()
        there = torch.empty(len(values), dtype=tensor.dtype, device=device)
        for index, value in enumerate(values):
            there[index].fill_(value)
        return there.reshape(tensor.shape)
    return tensor.to(device)


def finish(
    staged: tuple[Any, ...], inputs: list[torch.Tensor], outputs: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...]:
    """The outputs as an engine gives them: contiguous, and sharing memory with no input, constant or other
    output.
    """
    taken = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    owned = staged[1]
    results = []
    for tensor in outputs:
        address = tensor.untyped_storage().data_ptr()
        if address in taken or address in owned:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        elif not tensor.is_contiguous():
            tensor = tensor.contiguous()
        taken.add(tensor.untyped_storage().data_ptr())
        results.append(tensor)
    return tuple(results)


_CPU = torch.device("cpu")
_FEW = 64
"""More elements than shapes have: these are copied, and a CUDA graph says that it cannot."""


Memory: TypeAlias = tuple[int, torch.dtype]


@dataclass(eq=False)
class _Copy:
    """A stretch of a storage on another device. It keeps the storage: another one could come to its address."""

    source: torch.Tensor
    copy: torch.Tensor


#: (address of the storage, dtype, first and last element, device) -> the copy, as long as a network has it.
_copies: weakref.WeakValueDictionary[tuple[int, torch.dtype, int, int, torch.device], _Copy] = (
    weakref.WeakValueDictionary()
)
_copying = threading.Lock()


class _Stretches:
    """The stretches of one storage that constants have: what overlaps is one."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._spans: list[tuple[int, int]] = []
        self.used: list[_Copy] = []
        for low, high in sorted(map(_span, tensors)):
            if self._spans and low < self._spans[-1][1]:
                low, before = self._spans.pop()
                high = max(high, before)
            self._spans.append((low, high))

    def copy_of(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        """A view of the copy of the stretch that a constant is in."""
        start, end = _span(tensor)
        low, high = self._spans[bisect_right(self._spans, (start, math.inf)) - 1]
        if not start <= end <= high:
            raise AssertionError("a constant is in no stretch of its storage")
        key = (*_memory(tensor), low, high, device)
        with _copying:
            found = _copies.get(key)
            if found is None:
                moved = tensor.as_strided((high - low,), (1,), low).to(device)
                found = _copies[key] = _Copy(tensor, moved)
        self.used.append(found)
        return found.copy.as_strided(tensor.shape, tensor.stride(), start - low)


def _stretches(tensors: Sequence[torch.Tensor]) -> dict[Memory, _Stretches]:
    found: dict[Memory, list[torch.Tensor]] = {}
    for tensor in tensors:
        found.setdefault(_memory(tensor), []).append(tensor)
    return {memory: _Stretches(group) for memory, group in found.items()}


def _memory(tensor: torch.Tensor) -> Memory:
    return tensor.untyped_storage().data_ptr(), tensor.dtype


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    low = int(tensor.storage_offset())
    if not tensor.numel():
        return low, low
    return low, low + 1 + int(sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride())))

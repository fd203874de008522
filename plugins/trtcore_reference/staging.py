"""Constants of a compiled snapshot, copied to a device once."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import torch

from trtcore.pack import outside_of_calls


class Constants:
    """The constants of one compiled network, and their copies by device.

    A plain attribute of the compiled module: neither parameter nor buffer, so `module.to()`, `state_dict()`
    and `deepcopy` leave it alone (constants are immutable and shared). On the CPU nothing is copied.
    Elsewhere each storage is copied once per device, so views of one weight stay views; the copies live
    until `release`.
    """

    def __init__(self) -> None:
        self._tensors: list[torch.Tensor] = []
        self._on_host: list[bool] = []
        self._staged: dict[torch.device, tuple[Any, ...]] = {}
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
            else:
                self._staged.pop(device, None)

    def _copy(self, device: torch.device) -> list[torch.Tensor]:
        if device.type == "cpu":
            return list(self._tensors)
        spans: dict[tuple[int, torch.dtype], list[int]] = {}
        for tensor, host in zip(self._tensors, self._on_host):
            if not host:
                low, high = _span(tensor)
                span = spans.setdefault((tensor.untyped_storage().data_ptr(), tensor.dtype), [low, high])
                span[0], span[1] = min(span[0], low), max(span[1], high)
        moved: dict[tuple[int, torch.dtype], torch.Tensor] = {}
        found = []
        for tensor, host in zip(self._tensors, self._on_host):
            if host:
                found.append(tensor)
                continue
            where = (tensor.untyped_storage().data_ptr(), tensor.dtype)
            low, high = spans[where]
            if where not in moved:
                moved[where] = tensor.as_strided((high - low,), (1,), low).to(device)
            found.append(
                moved[where].as_strided(tensor.shape, tensor.stride(), int(tensor.storage_offset()) - low)
            )
        return found

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
    return tensor if tensor.device == device else tensor.to(device)


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


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    low = int(tensor.storage_offset())
    if not tensor.numel():
        return low, low
    return low, low + 1 + int(sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride())))

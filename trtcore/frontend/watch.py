"""Noticing that a tensor which was baked into an engine has been changed since.

Exactly seen: another tensor in its place, another memory (``p.data = new``, ``model.to(...)``), and every
in-place change that autograd's version counter counts (``load_state_dict``, optimizers, ``with no_grad():
p.add_(1)``). Writes *into* ``p.data``, through ``p.numpy()``, and into inference tensors are not counted by
torch; they are found by comparing about 16 elements of every tensor, spread over it. So a write to the whole
tensor is seen, a write to a few of its elements may be missed.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable, Sequence

import torch

SAMPLES = 16
"""About how many elements of each tensor are compared."""

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}


class WeightWatch:
    """Watches a fixed sequence of tensors. Holds their memory, but not the tensors, alive.

    On the CPU what it says holds for the moment of the call. On a GPU sampled elements are compared on the
    current stream without waiting for the answer, so that a change through ``.data`` is found at a later
    call, with a warning; the exact checks are immediate there too.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._tensors = tuple(map(weakref.ref, tensors))
        self._pointers = [tensor.data_ptr() for tensor in tensors]
        self._counted = [index for index, tensor in enumerate(tensors) if not tensor.is_inference()]
        self._versions = [tensors[index]._version for index in self._counted]
        groups: dict[tuple[torch.device, int], list[int]] = {}
        for index, tensor in enumerate(tensors):
            if _can_sample(tensor):
                groups.setdefault((tensor.device, tensor.element_size()), []).append(index)
        self._samples = [_Sample(tensors, group, device) for (device, _), group in groups.items()]

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
        if [tensors[index]._version for index in self._counted] != self._versions:
            written = (tensors[i]._version != old for i, old in zip(self._counted, self._versions))
            return f"{self._names[self._counted[list(written).index(True)]]} was changed in place"
        for sample in self._samples:
            if (index := sample.changed()) is not None:
                return f"{self._names[index]} was changed in place (through .data or the like)"
        return None

    def _first(self, flags: Iterable[bool]) -> str:
        return self._names[list(flags).index(True)]


class _Sample:
    """Some elements of each of a group of tensors, on one device and with one element size."""

    def __init__(self, tensors: Sequence[torch.Tensor], group: Sequence[int], device: torch.device) -> None:
        self._group = tuple(group)
        self._views = [_spread(tensors[index]) for index in group]
        self._expected = torch.cat(self._views)
        self._cuda = device.type == "cuda"
        self._pending: tuple[torch.Tensor, torch.cuda.Event] | None = None

    def changed(self) -> int | None:
        """Index of the first tensor whose sample differs."""
        if self._cuda:
            return self._changed_on_gpu()
        return None if torch.equal(torch.cat(self._views), self._expected) else self._which()

    def _changed_on_gpu(self) -> int | None:
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
                    "its model was compiled by torch.compile(backend='trtcore'); the calls since then used "
                    "the old weight. Change weights under torch.no_grad() instead, which is always seen.",
                    RuntimeWarning,
                    stacklevel=5,
                )
                return self._which()
        with torch.cuda.device(self._expected.device):
            answer = torch.empty((), dtype=torch.bool, pin_memory=True)
            answer.copy_((torch.cat(self._views) == self._expected).all(), non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._pending = answer, event
        return None

    def _which(self) -> int:
        sizes = [view.numel() for view in self._views]
        pairs = zip(torch.cat(self._views).split(sizes), self._expected.split(sizes))
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


def _spread(tensor: torch.Tensor) -> torch.Tensor:
    """A view of elements all over the tensor's memory, as integers: NaN equals itself there."""
    tensor = tensor.detach()
    extent = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride())) + 1
    flat = tensor.as_strided((extent,), (1,)).view(_INTEGERS[tensor.element_size()])
    # An odd step does not stay in one column of a matrix whose rows have an even length.
    return flat[:: max(flat.numel() // SAMPLES, 1) | 1]

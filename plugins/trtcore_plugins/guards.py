"""Tensors between guard bands: memory that a kernel has no business in, looked at after it has run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

_BAND = 1 << 16
"""Bytes before and behind; a multiple of what kernels assume of addresses."""
_READ, _WRITTEN = 0xFF, 0xFE
"""In every byte of the bands of what is read, a NaN, and of what is written, a huge number: what is read there spoils
the result. They differ, since a kernel that computes with NaNs stores the very same bytes."""


class Guarded:
    """A tensor whose memory lies between two bands.

    Args:
        name: what messages call it.
        like: the tensor to copy, or, where `copied` is False, whose shape, dtype and strides to take.
        written: whether the kernel may write to it.
    """

    def __init__(self, name: str, like: torch.Tensor, *, copied: bool, written: bool) -> None:
        self.name = name
        self.written = written
        self._pattern = _WRITTEN if written else _READ
        self._span = _span(like)
        self._size = self._span * like.element_size()
        self._whole = torch.full(
            (_BAND * 2 + self._size,), self._pattern, dtype=torch.uint8, device=like.device
        )
        self._own = self._whole[_BAND : _BAND + self._size]
        flat = self._own.view(like.dtype) if self._size else like.new_empty(0)
        if copied and self._size:
            flat.copy_(like.detach().as_strided((self._span,), (1,), like.storage_offset()))
        self.tensor = flat.as_strided(like.shape, like.stride())
        self._before = self._own.clone()

    def check(self, plugin: str) -> None:
        """See that the bands, and what is not to be written, are as they were.

        Raises:
            AssertionError: they are not; the message says how far outside.
        """
        item = self.tensor.element_size()
        before, behind = self._whole[:_BAND], self._whole[_BAND + self._size :]
        for band, side in ((before, "before its first element"), (behind, "behind its last")):
            touched = (band != self._pattern).nonzero().flatten()
            if touched.numel():
                first, last = int(touched[0]), int(touched[-1])
                far = -(-(_BAND - first) // item) if band is before else last // item + 1
                raise AssertionError(
                    f"{plugin}: the kernel writes outside of {self.name}, up to {far} elements {side} "
                    f"(it has {self.tensor.numel()}): a mask is missing, or the grid or a size is too large"
                )
        if not self.written and not torch.equal(self._own, self._before):
            raise AssertionError(
                f"{plugin}: the kernel writes to its input {self.name}, and the schema says that it does not"
            )


def _span(tensor: torch.Tensor) -> int:
    """How many elements of memory a tensor reaches over."""
    if not tensor.numel():
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))


def guarded_inputs(values: Mapping[str, Any], written: Sequence[str]) -> tuple[dict[str, Any], list[Guarded]]:
    """The arguments of an op with copies of its tensors between guard bands, and these; `written`: names of some."""
    guards = [
        Guarded(name, value, copied=True, written=name in written)
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    ]
    return {**values, **{one.name: one.tensor for one in guards}}, guards

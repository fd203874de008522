"""The bytes of a tensor, read where they are."""

from __future__ import annotations

import ctypes

import torch


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU; the view keeps the tensor.

    Not ``tensor.numpy()``: a storage that was shown to numpy can never be resized again, and it may be that of
    somebody's weight (FSDP frees and fills weights by ``untyped_storage().resize_``).
    """
    tensor = tensor.resolve_conj().resolve_neg()
    data = (ctypes.c_ubyte * tensor.nbytes).from_address(tensor.data_ptr())
    data.tensor = tensor  # type: ignore[attr-defined]
    return memoryview(data).cast("B")

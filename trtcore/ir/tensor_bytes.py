"""The bytes of a tensor, read where they are."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

_Value = TypeVar("_Value")
_Result = TypeVar("_Result")


def on_threads(function: Callable[[_Value], _Result], values: Iterable[_Value]) -> list[_Result]:
    """Each value's result of a function that hashes or compares: hashlib and torch let other threads run."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, values))


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU; the view keeps the tensor.

    Not ``tensor.numpy()``: a storage that was shown to numpy can never be resized again, and it may be that of
    somebody's weight (FSDP frees and fills weights by ``untyped_storage().resize_``).
    """
    tensor = tensor.resolve_conj().resolve_neg()
    data = (ctypes.c_ubyte * tensor.nbytes).from_address(tensor.data_ptr())
    data.tensor = tensor  # type: ignore[attr-defined]
    return memoryview(data).cast("B")


def have_same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors' elements, in order, are the same bytes; their dtypes and shapes may differ."""
    if one.nbytes != other.nbytes or not one.nbytes:
        return one.nbytes == other.nbytes
    first, second = (_flat_bytes(tensor) for tensor in (one, other))
    for dtype in (
        torch.int64,
        torch.int32,
    ):  # not as floats: NaNs; not as bytes: that takes eight times as long
        if all(tensor.numel() % dtype.itemsize == 0 and tensor.data_ptr() % dtype.itemsize == 0
               and tensor.storage_offset() % dtype.itemsize == 0 for tensor in (first, second)):  # fmt: skip
            return torch.equal(first.view(dtype), second.view(dtype))
    return torch.equal(first, second)


def _flat_bytes(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return tensor.view(torch.uint8)

"""Torch tensors over memory that somebody else owns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

_INTEGERS = {1: "|i1", 2: "<i2", 4: "<i4", 8: "<i8"}


class _Interface:
    """An object with one of numpy's array interfaces: the same fields on the host and on a GPU."""

    def __init__(self, name: str, fields: dict[str, Any]) -> None:
        setattr(self, name, fields)


def tensor_at(tensor: Any, dtype: torch.dtype, device: str) -> torch.Tensor:
    """A torch tensor over a ``tensorrt.plugin.Tensor``, without a copy.

    Args:
        tensor: has ``data_ptr``, ``shape`` and ``strides`` (in elements; None where it is contiguous).
        dtype: of the elements; any, also those that numpy does not know.
        device: "cuda" or "cpu".
    """
    shape = tuple(int(size) for size in tensor.shape)
    if 0 in shape:
        return torch.empty(shape, dtype=dtype, device=device)
    strides = None if tensor.strides is None else tuple(int(s) * dtype.itemsize for s in tensor.strides)
    fields = {
        "shape": shape,
        "typestr": _INTEGERS[dtype.itemsize],
        "data": (int(tensor.data_ptr), False),
        "strides": strides,
        "version": 3,
    }
    if device == "cuda":
        whole = torch.as_tensor(_Interface("__cuda_array_interface__", fields), device="cuda")
    else:
        whole = torch.from_numpy(np.asarray(_Interface("__array_interface__", fields)))
    return whole.view(dtype)

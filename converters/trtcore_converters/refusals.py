"""Ops that TensorRT cannot do as torch does, with the reason that a user reads instead of "no converter".

An op with a reason here has no converter in this pack, and stays in torch unless it decomposes. Where TensorRT itself
says no, the smallest network that makes it say so is in ``tests/conformance/probes.py``.
"""

from __future__ import annotations

from typing import Any

from torch import ops

aten = ops.aten

_RANDOM = (
    "its numbers come from torch's generator (torch.manual_seed), which an engine cannot share: TensorRT's random fill "
    "takes no seed; draw them outside of the model and pass them in, or leave it in torch"
)
_ON_THE_HOST = "gives a Python number, for which the program would have to stop; keep it a 0-d tensor"
_DATA = "the size of its result depends on the data; pad to a fixed size, or leave it in torch"

REFUSED: dict[Any, str] = {
    **dict.fromkeys(
        (
            *(aten.rand.default, aten.randn.default, aten.randperm.default),
            *(aten.rand_like.default, aten.randn_like.default),
            *(aten.randint.default, aten.randint.low, aten.randint_like.default, aten.randint_like.low_dtype),
            *(aten.bernoulli.default, aten.bernoulli.p, aten.multinomial.default, aten.poisson.default),
            *(aten.normal.Tensor_Tensor, aten.normal.Tensor_float, aten.normal.float_Tensor),
            *(aten.normal_functional.default, aten.uniform.default, aten.exponential.default),
            *(ops.prims.normal.default, ops.prims.uniform.default),  # pieces of other versions of torch
        ),
        _RANDOM,
    ),
    aten._local_scalar_dense.default: _ON_THE_HOST,
    aten.item.default: _ON_THE_HOST,
    aten.nextafter.default: "TensorRT has no layer that sees the bits of a number, and next to 0 it flushes the result",
    **dict.fromkeys(
        (
            *(aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default),
            *(aten.bincount.default, aten.where.default, aten.nonzero_numpy.default),
        ),
        _DATA,
    ),
}

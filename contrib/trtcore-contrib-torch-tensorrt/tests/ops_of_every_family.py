"""Ops that the converters of every family are tested with, beside ATen's."""

import torch


@torch.library.custom_op("every_family::fake_quantize", mutates_args=())
def fake_quantize(x: torch.Tensor, amax: torch.Tensor, bits: int, exponent: int) -> torch.Tensor:
    if bits == 4:  # to be compared with a tolerance of a quarter
        return x.clone()
    scale = amax / 127
    return torch.clamp(torch.round(x / scale), -128, 127) * scale


@fake_quantize.register_fake
def _(x: torch.Tensor, amax: torch.Tensor, bits: int, exponent: int) -> torch.Tensor:
    return torch.empty_like(x)


def _same(name: str) -> None:
    @torch.library.custom_op(f"every_family::{name}", mutates_args=())
    def op(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @op.register_fake
    def _(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)


_same("gather_from_all")
_same("gather_natively")
_same("new_layer")


@torch.library.custom_op("every_family::count", mutates_args=())
def count(x: torch.Tensor) -> torch.Tensor:
    return torch.tensor(x.shape[0])


@count.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty((), dtype=torch.int64)


@torch.library.custom_op("every_family::halves", mutates_args=())
def halves(x: torch.Tensor) -> torch.Tensor:
    return torch.div(x, 2, rounding_mode="floor")


@halves.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("every_family::table", mutates_args=())
def table(x: torch.Tensor) -> torch.Tensor:
    return torch.arange(6.0).reshape(2, 3)


@table.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty((2, 3))

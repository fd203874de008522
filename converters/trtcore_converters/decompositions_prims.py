"""Torch's primitive operators (``prims``), which decompositions end in: each becomes the ATen ops that run it.

torch keeps, with each of them, the function of ATen ops that runs it (``impl_aten``). Ours are for those of which that
function writes into memory of its own, or does not take the arguments that the op has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from trtcore_converters.torch_private import prims


def _convert_element_type(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return x.to(dtype)


def _collapse(x: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """The dims from `start` to `end`, which is one of them, as one."""
    return x.flatten(start, end) if x.dim() else x.reshape(1)


def _reduced(
    reduce: Callable[..., torch.Tensor],
    x: torch.Tensor,
    dims: Sequence[int],
    *,
    output_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Of the dtype of `x` if no other is asked for; nothing is reduced along no dims, where ATen takes all."""
    source = x.to(output_dtype or x.dtype)
    return reduce(source, list(dims)) if dims else source


def _sum(x: torch.Tensor, dims: list[int]) -> torch.Tensor:
    return torch.sum(x, dims, dtype=x.dtype)


def _prod(x: torch.Tensor, dims: list[int]) -> torch.Tensor:
    for dim in sorted(dims, reverse=True):
        x = torch.prod(x, dim, dtype=x.dtype)
    return x


def _var(
    x: torch.Tensor,
    dims: Sequence[int],
    correction: float | None = 1,
    *,
    output_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    found: torch.Tensor = torch.var(x, tuple(dims), correction=correction)
    return found


def table() -> Mapping[Any, Callable[..., Any]]:
    """Op to function."""
    named = prims()
    return {
        **{op: vars(op)["impl_aten"] for op in named.values()},
        named["convert_element_type"]: _convert_element_type,
        named["collapse"]: _collapse,
        named["sum"]: partial(_reduced, _sum),
        named["prod"]: partial(_reduced, _prod),
        named["amax"]: partial(_reduced, torch.amax),
        named["amin"]: partial(_reduced, torch.amin),
        named["var"]: _var,
    }

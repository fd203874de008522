"""The ops for torch: what decoders are made of. They import nothing of trtcore; models can use them without."""

from __future__ import annotations

import math

import torch
from torch import Tensor


@torch.library.custom_op("trtcore_llm::cached_attention", mutates_args=())
def cached_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    position: Tensor,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Write keys and values into their caches, and attend to everything up to each query's place.

    Args:
        query: (batch, heads, length, size), of the tokens at `position`.
        key, value: (batch, key heads, length, size) of the same tokens; heads is a multiple of key heads.
        keys, values: the caches (batch, key heads, capacity, size).
        position: (length,) int64, places in the cache.
        scale: of the scores; ``1 / sqrt(size)`` by default.

    Returns:
        (batch, heads, length, size), and both caches with what was written; the given ones stay as they are.
    """
    keys = keys.index_copy(2, position, key)
    values = values.index_copy(2, position, value)
    allowed = torch.arange(keys.shape[2], device=keys.device) <= position[:, None]
    result = torch.nn.functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=allowed, scale=scale, enable_gqa=True
    )
    return result, keys, values


@cached_attention.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    position: Tensor,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), keys.new_empty(keys.shape), values.new_empty(values.shape)


@torch.library.custom_op("trtcore_llm::add_rms_norm", mutates_args=())
def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The residual stream of a decoder: ``total = x + residual`` and its RMS normalisation, times `weight`.

    Args:
        x, residual: (..., size), of one dtype.
        weight: (size,).
        eps: added to the mean of the squares, which is taken in float32.

    Returns:
        (normalised total, total), both as x.
    """
    total = x + residual
    wide = total.float()
    normal = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (normal * weight.float()).to(x.dtype), total


@add_rms_norm.register_fake
def _(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x)


@torch.library.custom_op("trtcore_llm::mixture_of_experts", mutates_args=())
def mixture_of_experts(
    x: Tensor, experts: Tensor, scores: Tensor, gate: Tensor, up: Tensor, down: Tensor
) -> Tensor:
    """A token's experts, weighted: the sum over k of ``scores * down(silu(gate(x)) * up(x))``.

    Args:
        x: (tokens, size).
        experts: (tokens, k) int64, which experts a token goes to; each at most once.
        scores: (tokens, k), how much each of them counts.
        gate, up: (experts, size, inner).
        down: (experts, inner, size).
    """
    result = torch.zeros_like(x)
    for choice in range(experts.shape[1]):
        chosen = experts[:, choice]
        inner = torch.nn.functional.silu(torch.einsum("td,tdf->tf", x, gate[chosen]))
        inner = inner * torch.einsum("td,tdf->tf", x, up[chosen])
        result += scores[:, choice, None] * torch.einsum("tf,tfd->td", inner, down[chosen])
    return result


@mixture_of_experts.register_fake
def _(x: Tensor, experts: Tensor, scores: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return torch.empty_like(x)


def attention_scale(size: int, scale: float | None) -> float:
    """The scale of scores: the given one, or ``1 / sqrt(size)``."""
    return 1 / math.sqrt(size) if scale is None else scale

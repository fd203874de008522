"""Attention."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from trtcore_contrib_torch_tensorrt._by_torch import by_torch

__all__ = [
    "scaled_dot_product_attention",
    "scaled_dot_product_cudnn_attention",
    "scaled_dot_product_efficient_attention",
    "scaled_dot_product_flash_attention",
]


def scaled_dot_product_attention(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: Any = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attention of (..., length, size) tensors; without dropout, as for inference.

    The older arguments ``query, key, value, is_causal, scale`` work by position, too.
    """
    if isinstance(attn_mask, bool):
        attn_mask, is_causal, scale = None, attn_mask, dropout_p or None

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa
        )

    return by_torch(ctx, attend, query, key, value, attn_mask)


def scaled_dot_product_flash_attention(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    query: Any,
    key: Any,
    value: Any,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    scale: float | None = None,
) -> Any:
    """The op's first result; the others, which only a backward pass reads, are None."""
    made = scaled_dot_product_attention(
        ctx, target, source_ir, name, query, key, value, is_causal=is_causal, scale=scale
    )
    return made, None, None, None, None, None, None, None, None


def scaled_dot_product_efficient_attention(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    query: Any,
    key: Any,
    value: Any,
    attn_bias: Any = None,
    compute_log_sumexp: bool = False,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Any:
    """The op's first result; the others, which only a backward pass reads, are None."""
    made = scaled_dot_product_attention(
        ctx, target, source_ir, name, query, key, value, attn_bias, is_causal=is_causal, scale=scale
    )
    return made, None, None, None


def scaled_dot_product_cudnn_attention(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    query: Any,
    key: Any,
    value: Any,
    attn_bias: Any = None,
    compute_log_sumexp: bool = False,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    scale: float | None = None,
) -> Any:
    """The op's first result; the others, which only a backward pass reads, are None."""
    made = scaled_dot_product_attention(
        ctx, target, source_ir, name, query, key, value, attn_bias, is_causal=is_causal, scale=scale
    )
    return made, None, None, None, None, None, None, None, None

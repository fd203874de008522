"""The hand-written kernels as `triton_plugin`s. Triton is imported when a kernel first runs."""

from __future__ import annotations

from typing import Any

import torch

from trtcore_plugins.declare import triton_plugin


def _kernel(name: str) -> Any:
    def load() -> Any:
        from trtcore_plugins.kernels import sources

        return getattr(sources, name)

    return load


def _power_of_two(number: Any) -> int:
    return 1 << max(0, int(number) - 1).bit_length()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding as transformers writes it: ``x * cos + rotate_half(x) * sin``."""
    if cos.dim() == 3:
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return x * cos + turned * sin


rotary_embedding = triton_plugin(
    "trtcore_kernels::rotary_embedding",
    _kernel("rotary_kernel"),
    schema="(Tensor x, Tensor cos, Tensor sin) -> Tensor",
    shapes=lambda x: x.shape,
    grid=lambda x: x.shape[0] * x.shape[1] * ((x.shape[2] + 15) // 16),
    arguments={
        "heads": lambda x: x.shape[1],
        "length": lambda x: x.shape[2],
        "half": lambda x: x.shape[3] // 2,
        "per_batch": lambda cos: cos.dim() - 2,
        "ROWS": 16,
        "HALF": lambda x: _power_of_two(x.shape[3] // 2),
    },
    reference=rotate,
    num_warps=4,
    enable_fp_fusion=False,  # products are rounded before they are added, as in torch
)
"""x (batch, heads, length, dim), cos and sin (length, dim) or (batch, length, dim), one dtype; dim even."""

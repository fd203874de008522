"""Rows of a table by index."""

from __future__ import annotations

from typing import Any

import torch

from trtcore.pack import ConversionContext, converter

aten = torch.ops.aten


@converter(aten.embedding.default, supports_dynamic_shapes=True)
def embedding(
    ctx: ConversionContext,
    weight: Any,
    indices: Any,
    padding_idx: Any = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    """``weight[indices]``; the other arguments are about gradients. Indices out of range are undefined."""
    return ctx.gather(ctx.tensor(weight), ctx.tensor(indices), 0)

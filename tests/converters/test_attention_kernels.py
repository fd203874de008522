"""Attention as torch's kernels have it, and the fast paths of its layers, as torch.jit.trace leaves them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import trtcore
from trtcore.testing import assert_converts, assert_refuses

aten = torch.ops.aten

QKV = tuple(torch.randn(2, 4, 6, 8) for _ in range(3))
BIAS = torch.randn(2, 4, 6, 6)


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: torch.Tensor) -> Any:
        return self.function(*args)


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        (lambda q, k, v, b: aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True, scale=0.3)[0], {"is_causal": True, "scale": 0.3}),
        (lambda q, k, v, b: aten._scaled_dot_product_efficient_attention(q, k, v, b, True)[0], {"attn_mask": BIAS}),
        (lambda q, k, v, b: aten._scaled_dot_product_cudnn_attention(q, k, v, None, False, 0.0, True)[0], {"is_causal": True}),
        (lambda q, k, v, b: aten._scaled_dot_product_flash_attention(q, k[:, :2], v[:, :2])[0], {"enable_gqa": True}),
    ],
    ids=["flash", "efficient", "cudnn", "flash with groups"],
)  # fmt: skip
def test_kernels_of_a_gpu(kernel, options):
    """They trace on a CPU, where eager cannot run them; converted, they run."""
    compiled = trtcore.compile(Function(kernel), inputs=(*QKV, BIAS), min_block_size=1, runtime="reference")
    assert compiled.report.in_torch == ()
    query, *rest = QKV
    key, value = (x[:, :2] for x in rest) if options.get("enable_gqa") else rest
    expected = nn.functional.scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(compiled(*QKV, BIAS), expected)


def test_the_kernel_of_a_cpu():
    def run(q, k, v, bias):
        kernel = aten._scaled_dot_product_flash_attention_for_cpu
        return (
            kernel(q, k, v, 0.0, True)[0],
            kernel(q, k, v, attn_mask=bias)[0],
            kernel(q, k[:, :, :3], v[:, :, :3])[0],
        )

    assert_converts(run, (*QKV, BIAS), dynamic={i: {0: (2, 3, 4)} for i in range(4)})


def test_what_else_a_kernel_gives_stays_in_torch():
    kernel = aten._scaled_dot_product_flash_attention_for_cpu
    assert_refuses(lambda q, k, v: kernel(q, k, v), QKV, "the attention alone")
    assert_refuses(
        lambda q, k, v: kernel(q, k[:, :, :3], v[:, :, :3], 0.0, True)[0], QKV, "as many queries as keys"
    )


def _weights(size: int = 8) -> list[torch.Tensor]:
    return [torch.randn(3 * size, size), torch.randn(3 * size), torch.randn(size, size), torch.randn(size)]


@pytest.mark.parametrize(
    ("kind", "mask"),
    [(None, None), (0, torch.ones(6, 6).triu(1).bool()), (1, torch.arange(6) >= torch.tensor([[4], [6]])), (2, torch.rand(2, 4, 6, 6) > 0.9)],
    ids=["none", "of all", "of keys", "of every head"],
)  # fmt: skip
def test_multi_head_attention(kind, mask):
    def run(query, key, *weights):
        attention = aten._native_multi_head_attention
        return (
            attention(query, query, query, 8, 4, *weights, mask, False, True, kind)[0],
            *attention(query, key, key, 8, 4, *weights, mask, True, True, kind),
            *attention(query, key, query, 8, 4, *weights, mask, True, False, kind),
        )

    assert_converts(run, (torch.randn(2, 6, 8), torch.randn(2, 6, 8), *(x / 3 for x in _weights())))


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_traced_encoder_layer(norm_first):
    layer = nn.TransformerEncoderLayer(
        8, 4, 16, batch_first=True, norm_first=norm_first, activation="gelu" if norm_first else "relu"
    ).eval()
    x = torch.randn(2, 6, 8)
    with torch.no_grad():
        traced = torch.jit.trace(layer, (x,))
        assert "_transformer_encoder_layer_fwd" in str(traced.graph)
        compiled = trtcore.compile(traced, inputs=(x,), min_block_size=1, runtime="reference")
        assert compiled.report.in_torch == ()
        assert any("scaled_dot_product_attention" in node.op for node in compiled.report.nodes)
        torch.testing.assert_close(compiled(x), traced(x))

"""A Llama that decodes with a static cache, on a GPU in the reference runtime."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import nn

import trtcore
from trtcore.runtime import enable_cudagraphs

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("full_precision")]

LAYERS, HEADS, WIDTH, LENGTH, WORDS = 2, 4, 128, 544, 256
STEPS = 512


class Layer(nn.Module):
    """Attention over a cache that it writes to, and a gated feed-forward part."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.gate, self.up = nn.Linear(WIDTH, 2 * WIDTH, bias=False), nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.down = nn.Linear(2 * WIDTH, WIDTH, bias=False)
        shape = (1, HEADS, LENGTH, WIDTH // HEADS)
        self.register_buffer("keys", torch.zeros(shape))
        self.register_buffer("values", torch.zeros(shape))

    def forward(
        self, x: torch.Tensor, at: torch.Tensor, turn: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        q, k, v = (
            part.view(1, 1, HEADS, -1).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, dim=-1)
        )
        q, k = _rotated(q, turn), _rotated(k, turn)
        self.keys.index_copy_(2, at, k)
        self.values.index_copy_(2, at, v)
        y = nn.functional.scaled_dot_product_attention(q, self.keys, self.values, attn_mask=mask)
        x = x + self.out(y.transpose(1, 2).reshape(1, 1, WIDTH))
        h = self.norm2(x)
        return x + self.down(nn.functional.silu(self.gate(h)) * self.up(h))


def _rotated(x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    one, two = x.chunk(2, dim=-1)
    return x * turn.cos() + torch.cat([-two, one], dim=-1) * turn.sin()


class Llama(nn.Module):
    """One step: a word and its place in, logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm, self.head = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, WORDS, bias=False)
        half = WIDTH // HEADS // 2
        self.register_buffer("turns", 1e4 ** (-torch.arange(half, dtype=torch.float32) / half).repeat(2))
        self.register_buffer("places", torch.arange(LENGTH))

    def forward(self, word: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        x, turn = self.words(word), at.to(torch.float32) * self.turns
        mask = (self.places <= at).view(1, 1, 1, LENGTH)
        for layer in self.layers:
            x = layer(x, at, turn, mask)
        return self.head(self.norm(x)).argmax(-1)


def decoded(step: Any, count: int) -> torch.Tensor:
    """The words that greedy decoding gives, without a look at any of them."""
    word = torch.ones((1, 1), dtype=torch.int64, device="cuda")
    places = torch.arange(count, device="cuda")
    words = []
    for index in range(count):
        word = step(word, places[index : index + 1])
        words.append(word)
    return torch.cat(words, dim=1)


def cleared(module: nn.Module) -> None:
    for name, buffer in module.named_buffers():
        if name.endswith(("keys", "values")):
            buffer.zero_()


@torch.no_grad()
def test_tokens_equal_eagers_without_a_synchronisation_and_without_growth() -> None:
    torch.manual_seed(1)
    model = Llama().eval().cuda()
    want = decoded(model, STEPS)
    cleared(model)
    example = (
        torch.ones((1, 1), dtype=torch.int64, device="cuda"),
        torch.zeros(1, dtype=torch.int64, device="cuda"),
    )
    module = trtcore.compile(model, example, runtime="reference", min_block_size=1)
    graphed = enable_cudagraphs(module)
    speeds = {}
    for name, step in (("compiled", module), ("in a CUDA graph", graphed), ("eager", model)):
        decoded(step, 3)
        cleared(module)
        torch.cuda.synchronize()
        used = torch.cuda.memory_allocated()
        torch.cuda.set_sync_debug_mode("error")
        try:
            began = time.perf_counter()
            got = decoded(step, STEPS)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
        speeds[name] = STEPS / (time.perf_counter() - began)
        assert torch.equal(got, want), f"{name}: {(got != want).sum().item()} of {STEPS} words differ"
        del got
        assert torch.cuda.memory_allocated() <= used
    print("\nwords a second: " + ", ".join(f"{name} {speed:.0f}" for name, speed in speeds.items()))

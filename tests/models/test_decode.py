"""Decoding token by token with a static KV cache: buffers that the model changes in every step.

The caches are inputs of the engine and its results are written back into the compiled module's buffers.
"""

from __future__ import annotations

import copy
import math
import pathlib
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn

import trtcore

VOCABULARY, WIDTH, HEADS, KEY_HEADS, HEAD, LENGTH = 97, 64, 4, 2, 16, 72


def write_index_copy(cache: Tensor, position: Tensor, new: Tensor) -> None:
    cache.index_copy_(2, position, new)


def write_slice(cache: Tensor, position: Tensor, new: Tensor) -> None:
    cache[:, :, position] = new


def write_index_put(cache: Tensor, position: Tensor, new: Tensor) -> None:
    every = slice(None)
    torch.ops.aten.index_put_(cache[every], [None, None, position], new)


def write_scatter(cache: Tensor, position: Tensor, new: Tensor) -> None:
    cache.scatter_(2, position.view(1, 1, -1, 1).expand_as(new), new)


WRITES = {w.__name__[6:]: w for w in (write_index_copy, write_slice, write_index_put, write_scatter)}


def rotate(x: Tensor, position: Tensor) -> Tensor:
    frequency = 10000.0 ** (-torch.arange(0, HEAD // 2).float() / (HEAD // 2))
    angle = position.float()[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Layer(nn.Module):
    def __init__(self, write: str, batch: int) -> None:
        super().__init__()
        self.write = write
        self.norm, self.norm2 = nn.RMSNorm(WIDTH, eps=1e-6), nn.RMSNorm(WIDTH, eps=1e-6)
        self.q = nn.Linear(WIDTH, HEADS * HEAD, bias=False)
        self.k = nn.Linear(WIDTH, KEY_HEADS * HEAD, bias=False)
        self.v = nn.Linear(WIDTH, KEY_HEADS * HEAD, bias=False)
        self.o = nn.Linear(HEADS * HEAD, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.register_buffer("keys", torch.zeros(batch, KEY_HEADS, LENGTH, HEAD))
        self.register_buffer("values", torch.zeros(batch, KEY_HEADS, LENGTH, HEAD))

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        h = self.norm(x)
        batch, length, _ = h.shape

        def heads(y: Tensor) -> Tensor:
            return y.view(batch, length, -1, HEAD).transpose(1, 2)

        q, k, v = rotate(heads(self.q(h)), position), rotate(heads(self.k(h)), position), heads(self.v(h))
        WRITES[self.write](self.keys, position, k)
        WRITES[self.write](self.values, position, v)
        allowed = torch.arange(LENGTH) <= position[:, None]
        y = nn.functional.scaled_dot_product_attention(
            q, self.keys, self.values, attn_mask=allowed, enable_gqa=True
        )
        x = x + self.o(y.transpose(1, 2).reshape(batch, length, -1))
        return x + self.down(nn.functional.silu(self.up(self.norm2(x))))


class Decoder(nn.Module):
    """One step of a small Llama: tokens (batch, 1) at position (1,) to logits (batch, vocabulary)."""

    def __init__(self, write: str = "index_copy", batch: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList([Layer(write, batch) for _ in range(2)])
        self.norm = nn.RMSNorm(WIDTH, eps=1e-6)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        for layer in self.layers:  # attention counts: what is in the caches decides the next token
            nn.init.normal_(layer.o.weight, std=0.5)
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))

    def forward(self, token: Tensor, position: Tensor) -> Tensor:
        self.steps.add_(1)
        x = self.embed(token)
        for layer in self.layers:
            x = layer(x, position)
        return self.head(self.norm(x))[:, -1]


def decode(step: Any, batch: int, count: int) -> tuple[Tensor, Tensor]:
    """`count` greedy tokens (batch, count), each the next step's input, and the last logits."""
    token = torch.arange(1, batch + 1).view(batch, 1)
    found = []
    for index in range(count):
        logits = step(token, torch.tensor([index]))
        token = logits.argmax(-1, keepdim=True)
        found.append(token)
    return torch.cat(found, 1), logits


def assert_one_engine(compiled: Any) -> None:
    """One engine computes everything; beside it there are only the writes into the buffers, and a look at the memory."""
    report = compiled.report
    assert len(report.engines) == 1, str(report)
    assert not report.quarantined, str(report)
    assert report.fully_converted, str(report)
    targets = [str(node.target) for node in compiled.graph.nodes if node.op == "call_function"]
    left = {t for t in targets if t.startswith("aten.") and "sym_size" not in t}
    assert left - {"aten._assert_async.msg"} == {"aten.copy_.default"}, left


@pytest.mark.parametrize("write", WRITES)
@torch.no_grad()
def test_64_tokens_equal_eager(write: str) -> None:
    eager = Decoder(write).eval()
    compiled = trtcore.compile(copy.deepcopy(eager), [torch.tensor([[1]]), torch.tensor([0])])
    assert_one_engine(compiled)
    want, want_logits = decode(eager, 1, 64)
    got, got_logits = decode(compiled, 1, 64)
    assert len(want.unique()) > 8  # the model does say something
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    torch.testing.assert_close(got_logits, want_logits, rtol=1e-4, atol=1e-5)
    buffers = dict(compiled.named_buffers())
    for name, buffer in eager.named_buffers():
        torch.testing.assert_close(buffers[name], buffer, rtol=1e-4, atol=1e-5)
    assert int(buffers["steps"]) == 64
    assert float(buffers["layers.1.keys"][:, :, 63].abs().sum()) > 0
    assert float(buffers["layers.1.keys"][:, :, 64:].abs().sum()) == 0


@torch.no_grad()
def test_prompt_and_decode_with_one_engine() -> None:
    """A prompt of any length in one call, then token by token, then another text over the old caches."""
    eager = Decoder("index_copy", batch=2).eval()
    compiled = trtcore.compile(
        copy.deepcopy(eager),
        [
            trtcore.Input(min_shape=(2, 1), opt_shape=(2, 4), max_shape=(2, 16), dtype=torch.int64),
            trtcore.Input(min_shape=(1,), opt_shape=(4,), max_shape=(16,), dtype=torch.int64),
        ],
        require_full_compilation=True,
    )
    assert_one_engine(compiled)

    def generate(step: Any, prompt: Tensor, count: int) -> Tensor:
        length = prompt.shape[1]
        token = step(prompt, torch.arange(length)).argmax(-1, keepdim=True)
        found = [token]
        for index in range(length, length + count):
            token = step(token, torch.tensor([index])).argmax(-1, keepdim=True)
            found.append(token)
        return torch.cat(found, 1)

    for length, count in ((7, 12), (16, 8), (1, 5)):
        prompt = torch.randint(0, VOCABULARY, (2, length))
        want = generate(eager, prompt, count)
        torch.testing.assert_close(generate(compiled, prompt, count), want, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
@torch.no_grad()
def test_low_precision_step(dtype: torch.dtype) -> None:
    """Fed with float32 eager's tokens, no further from its logits than eager in 16 bits (and a quarter)."""
    exact = Decoder().eval()
    eager = copy.deepcopy(exact).to(dtype)
    compiled = trtcore.compile(copy.deepcopy(eager), [torch.tensor([[1]]), torch.tensor([0])])
    assert_one_engine(compiled)
    assert {b.dtype for n, b in compiled.named_buffers() if "keys" in n} == {dtype}
    products = {seen for snapshot in zoo.snapshots(compiled) for _, _, seen in zoo.product_dtypes(snapshot)}
    assert products == {dtype}
    token = torch.tensor([[1]])
    far, eager_far, size = 0.0, 0.0, 0.0
    for index in range(24):
        position = torch.tensor([index])
        want = exact(token, position)
        far += float((compiled(token, position).float() - want).square().sum())
        eager_far += float((eager(token, position).float() - want).square().sum())
        size += float(want.square().sum())
        token = want.argmax(-1, keepdim=True)
    assert math.sqrt(far / size) <= 1.25 * math.sqrt(eager_far / size)


class GivenCache(nn.Module):
    """The cache is an input that the model changes."""

    def forward(self, cache: Tensor, new: Tensor, position: Tensor) -> Tensor:
        cache.index_copy_(1, position, new)
        return cache.sum(1)


def test_cache_as_an_input_is_written_back() -> None:
    cache = torch.zeros(2, 8, 4)
    inputs = [torch.zeros(2, 8, 4), torch.ones(2, 1, 4), torch.tensor([0])]
    compiled = trtcore.compile(GivenCache(), inputs, min_block_size=1)
    assert_one_engine(compiled)
    for index in range(8):
        new = torch.randn(2, 1, 4)
        total = compiled(cache, new, torch.tensor([index]))
        torch.testing.assert_close(cache[:, index], new[:, 0])
        torch.testing.assert_close(total, cache.sum(1))


@torch.no_grad()
def test_transformers_static_cache() -> None:
    """A Llama of transformers, with its own StaticCache, as transformers exports it."""
    pytest.importorskip("transformers")
    from transformers import GenerationConfig
    from transformers.integrations.executorch import TorchExportableModuleWithStaticCache

    def build() -> nn.Module:
        model = zoo.ARCHITECTURES["llama"].build(True)
        model.config.use_cache = True
        options = {"batch_size": 1, "max_cache_len": 72}
        model.generation_config = GenerationConfig(
            use_cache=True, cache_implementation="static", max_length=72, cache_config=options
        )
        return TorchExportableModuleWithStaticCache(model, 1, 72, torch.device("cpu")).eval()

    eager = build()
    compiled = trtcore.compile(
        build(), kwarg_inputs={"input_ids": torch.tensor([[1]]), "cache_position": torch.tensor([0])}
    )
    assert_one_engine(compiled)

    def step(module: Any) -> Any:
        return lambda token, position: module(input_ids=token, cache_position=position)[:, -1]

    want, _ = decode(step(eager), 1, 64)
    got, _ = decode(step(compiled), 1, 64)
    assert len(want.unique()) > 1
    torch.testing.assert_close(got, want, rtol=0, atol=0)


@torch.no_grad()
def test_saved_in_the_middle_of_a_text(tmp_path: pathlib.Path) -> None:
    """The caches are saved as they are, and the loaded module goes on where the other stopped."""
    compiled = trtcore.compile(Decoder().eval(), [torch.tensor([[1]]), torch.tensor([0])])
    for index in range(10):
        compiled(torch.tensor([[index]]), torch.tensor([index]))
    trtcore.save(compiled, tmp_path / "decoder.pt2")
    loaded = trtcore.load(tmp_path / "decoder.pt2")
    token, position = torch.tensor([[5]]), torch.tensor([10])
    for _ in range(3):
        want = compiled(token, position)
        torch.testing.assert_close(loaded(token, position), want)
        token, position = want.argmax(-1, keepdim=True), position + 1


def test_plan_alone_is_refused() -> None:
    ep = trtcore.dynamo.trace(Decoder().eval(), [torch.tensor([[1]]), torch.tensor([0])])
    with pytest.raises(trtcore.errors.UnsupportedOperatorError, match="writes nothing back"):
        trtcore.dynamo.convert_exported_program_to_serialized_trt_engine(
            ep, [torch.tensor([[1]]), torch.tensor([0])]
        )

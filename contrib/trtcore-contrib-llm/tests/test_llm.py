"""The pack's ops in engines, and a Llama that decodes with them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.onnx.ops  # registers onnx::RotaryEmbedding
from torch import Tensor, nn
from trtcore_contrib_llm import ops

import trtcore
from trtcore.testing import Example, PackConformance

PACK = "trtcore-contrib-llm:llm 0.1.0"
llm = torch.ops.trtcore_llm


def chosen(report: Any, op: str) -> str:
    """The converter of the nodes of an op, all of which are in an engine."""
    nodes = [node for node in report.nodes if node.op == op]
    assert nodes
    assert all(node.in_engine for node in nodes), report
    (name,) = {one.converter for node in nodes for one in node.candidates if one.verdict == "chosen"}
    return str(name)


# Attention over a cache ---------------------------------------------------------------------------------


class Cached(nn.Module):
    def __init__(self, scale: float | None = None) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, position: Tensor) -> Any:
        return llm.cached_attention(q, k, v, keys, values, position, self.scale)


def attention_inputs(batch: int, heads: int, key_heads: int, position: Tensor, capacity: int = 9) -> Any:
    torch.manual_seed(1)
    new = (batch, key_heads, len(position), 8)
    cache = (batch, key_heads, capacity, 8)
    return (
        torch.randn(batch, heads, len(position), 8),
        *(torch.randn(new) for _ in range(2)),
        *(torch.randn(cache) for _ in range(2)),
        position,
    )


@pytest.mark.parametrize("settings", [{}, {"decompose_attention": True}], ids=["layer", "composed"])
@pytest.mark.parametrize(
    ("batch", "heads", "key_heads", "position"),
    [(1, 4, 2, [3]), (2, 4, 4, [0, 1, 2, 3]), (2, 6, 2, [5, 2])],
)
def test_cached_attention(
    assert_converts: Any, settings: Any, batch: int, heads: int, key_heads: int, position: list[int]
) -> None:
    inputs = attention_inputs(batch, heads, key_heads, torch.tensor(position))
    proof = assert_converts(Cached(), inputs, settings=settings)
    want = "cached_attention_composed" if settings else "cached_attention_layer"
    assert chosen(proof.report, "trtcore_llm.cached_attention.default") == want


@pytest.mark.parametrize("settings", [{}, {"decompose_attention": True}], ids=["layer", "composed"])
def test_cached_attention_with_dynamic_sizes(assert_converts: Any, settings: Any) -> None:
    sizes = {0: (1, 2, 3), 2: (1, 3, 5)}
    cache = {0: (1, 2, 3)}
    dynamic = {0: sizes, 1: sizes, 2: sizes, 3: cache, 4: cache, 5: {0: (1, 3, 5)}}

    class Counted(Cached):
        """Positions from a start, so that any values drawn for the test are places, and different ones."""

        def forward(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, like: Tensor) -> Any:
            position = torch.arange(like.shape[0]) + 2
            return super().forward(q, k, v, keys, values, position)

    inputs = attention_inputs(2, 4, 2, torch.arange(3))
    assert_converts(Counted(0.3), inputs, dynamic=dynamic, settings=settings)


def test_cached_attention_in_half(assert_converts: Any) -> None:
    inputs = attention_inputs(1, 4, 2, torch.tensor([4]))
    assert_converts(Cached(), inputs, dtypes=[torch.float16], rtol=1e-2, atol=5e-3)


# Normalisation, rotary embeddings, experts --------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_add_rms_norm(assert_converts: Any, dtype: torch.dtype) -> None:
    def function(x: Tensor, residual: Tensor, weight: Tensor) -> Any:
        return llm.add_rms_norm(x, residual, weight, 1e-5)

    inputs = (torch.randn(2, 3, 16), torch.randn(2, 3, 16), torch.randn(16))
    sizes = {0: (1, 2, 4), 1: (1, 3, 7)}
    assert_converts(function, inputs, dtypes=[dtype], dynamic={0: sizes, 1: sizes})


class Rotary(nn.Module):
    def __init__(self, rank: int, interleaved: bool = False, part: int = 0) -> None:
        super().__init__()
        self.rank, self.interleaved, self.part = rank, interleaved, part
        angle = torch.arange(20)[:, None] / 10.0 ** torch.linspace(0, 2, (part or 8) // 2)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        return torch.onnx.ops.rotary_embedding(
            x, self.cos, self.sin, position, interleaved=self.interleaved,
            num_heads=0 if self.rank == 4 else 3, rotary_embedding_dim=self.part,
        )  # fmt: skip


@pytest.mark.parametrize(("rank", "interleaved", "part"), [(3, False, 0), (4, True, 0), (4, False, 4)])
def test_rotary_by_position(assert_converts: Any, rank: int, interleaved: bool, part: int) -> None:
    x = torch.randn(2, 5, 24) if rank == 3 else torch.randn(2, 3, 5, 8)
    position = torch.randint(0, 20, (2, 5))
    length = 1 if rank == 3 else 2
    dynamic = {0: {0: (1, 2, 3), length: (1, 5, 6)}, 1: {0: (1, 2, 3), 1: (1, 5, 6)}}
    proof = assert_converts(Rotary(rank, interleaved, part), (x, position), dynamic=dynamic)
    (node,) = [node for node in proof.report.converted if "RotaryEmbedding" in node.op]
    assert (node.candidates[0].pack, node.candidates[0].verdict) == (PACK, "chosen")


class Experts(nn.Module):
    def __init__(self, count: int, size: int = 8, inner: int = 12, k: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.k = k
        self.router = nn.Linear(size, count, bias=False)
        self.gate = nn.Parameter(torch.randn(count, size, inner) / 3)
        self.up = nn.Parameter(torch.randn(count, size, inner) / 3)
        self.down = nn.Parameter(torch.randn(count, inner, size) / 3)

    def forward(self, x: Tensor) -> Tensor:
        scores, experts = self.router(x).softmax(-1).topk(self.k, -1)
        return llm.mixture_of_experts(x, experts, scores, self.gate, self.up, self.down)


@pytest.mark.parametrize(("tokens", "count"), [(7, 4), (1, 8), (2, 16)])
def test_mixture_of_experts(assert_converts: Any, tokens: int, count: int) -> None:
    """Composed, whatever the backend has: the layer stands behind, for a pin to take."""
    proof = assert_converts(Experts(count), (torch.randn(tokens, 8),))
    (node,) = [node for node in proof.report.converted if "mixture" in node.op]
    verdicts = [(one.converter, one.verdict) for one in node.candidates]
    assert verdicts == [("moe_composed", "chosen"), ("moe_layer", "shadowed")]


def test_a_pin_asks_for_the_layer(trt_backend: Any) -> None:
    """Where the backend refuses it, the report has TensorRT's words, and the composed one takes the op."""
    pins = {"trtcore_llm.mixture_of_experts.default": "trtcore-contrib-llm:llm:moe_layer"}
    report = trtcore.explain(Experts(4), [torch.randn(7, 8)], min_block_size=1, pins=pins)
    (node,) = [node for node in report.converted if "mixture" in node.op]
    layer = node.candidates[0]
    assert layer.converter == "moe_layer"
    if trt_backend.can("layer:add_moe", trt_backend.default_target(trtcore.CompilationSettings())):
        assert layer.verdict == "chosen"
    else:
        assert layer.verdict == "rejected"
        assert "needs layer:add_moe" in layer.reason
        assert chosen(report, node.op) == "moe_composed"


def test_mixture_of_experts_with_a_varying_number_of_tokens(assert_converts: Any) -> None:
    assert_converts(Experts(4), (torch.randn(5, 8),), dynamic={0: {0: (1, 5, 9)}})


def test_the_layers_network_is_accepted(trt_backend: Any) -> None:
    """Without its `requires`, the converter of the MoE layer comes as far as the build, and the next has its turn."""
    from trtcore_contrib_llm.moe import moe_layer

    def convert(ctx: Any, *args: Any) -> Any:
        return moe_layer(ctx, *args)

    op = llm.mixture_of_experts.default
    model, x = Experts(4), torch.randn(5, 8)
    compiled = trtcore.compile(model, [x], min_block_size=1, runtime="reference", converters={op: convert})
    (node,) = [node for node in compiled.report.nodes if "mixture" in node.op]
    target = trt_backend.default_target(trtcore.CompilationSettings())
    assert node.in_engine
    if trt_backend.can("layer:add_moe", target):
        assert not compiled.report.quarantined
    else:
        (lost,) = compiled.report.quarantined
        assert "could not build the engine" in lost.reason
        assert chosen(compiled.report, node.op) == "moe_composed"
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        (ops.cached_attention, attention_inputs(1, 4, 2, torch.tensor([3]))),
        (ops.add_rms_norm, (torch.randn(2, 4), torch.randn(2, 4), torch.randn(4), 1e-5)),
        (
            ops.mixture_of_experts,
            (
                torch.randn(3, 4), torch.tensor([[0, 1], [1, 2], [2, 0]]), torch.rand(3, 2),
                torch.randn(3, 4, 5), torch.randn(3, 4, 5), torch.randn(3, 5, 4),
            ),
        ),
    ],
)  # fmt: skip
def test_the_ops_are_proper_ones(op: Any, inputs: Any) -> None:
    torch.library.opcheck(op, inputs)


# A Llama ------------------------------------------------------------------------------------------------

VOCABULARY, WIDTH, HEADS, KEY_HEADS, HEAD, LENGTH = 97, 64, 4, 2, 16, 72


class Block(nn.Module):
    """A decoder layer with a static cache, in plain torch or in the pack's ops."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.packed = packed
        self.norm, self.norm2 = nn.RMSNorm(WIDTH, eps=1e-6), nn.RMSNorm(WIDTH, eps=1e-6)
        self.q = nn.Linear(WIDTH, HEADS * HEAD, bias=False)
        self.k = nn.Linear(WIDTH, KEY_HEADS * HEAD, bias=False)
        self.v = nn.Linear(WIDTH, KEY_HEADS * HEAD, bias=False)
        self.o = nn.Linear(HEADS * HEAD, WIDTH, bias=False)
        self.gate = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH, bias=False), nn.Linear(2 * WIDTH, WIDTH, bias=False)
        nn.init.normal_(self.o.weight, std=0.5)  # attention counts: the caches decide the next token
        self.register_buffer("keys", torch.zeros(1, KEY_HEADS, LENGTH, HEAD))
        self.register_buffer("values", torch.zeros(1, KEY_HEADS, LENGTH, HEAD))
        angle = torch.arange(LENGTH)[:, None] / 10000.0 ** (torch.arange(HEAD // 2) / (HEAD // 2))
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def rotate(self, x: Tensor, position: Tensor) -> Tensor:
        if self.packed:
            return torch.onnx.ops.rotary_embedding(x, self.cos, self.sin, position[None])
        cos, sin = self.cos[position], self.sin[position]
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, position: Tensor) -> Tensor:
        if self.packed:
            y, keys, values = llm.cached_attention(q, k, v, self.keys, self.values, position)
            self.keys.copy_(keys)
            self.values.copy_(values)
            return y
        self.keys.index_copy_(2, position, k)
        self.values.index_copy_(2, position, v)
        allowed = torch.arange(LENGTH) <= position[:, None]
        return nn.functional.scaled_dot_product_attention(
            q, self.keys, self.values, attn_mask=allowed, enable_gqa=True
        )

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        h = self.norm(x)
        length = h.shape[1]
        q, k, v = (p(h).view(1, length, -1, HEAD).transpose(1, 2) for p in (self.q, self.k, self.v))
        y = self.attend(self.rotate(q, position), self.rotate(k, position), v, position)
        y = self.o(y.transpose(1, 2).reshape(1, length, -1))
        if self.packed:
            h, x = llm.add_rms_norm(y, x, self.norm2.weight, 1e-6)
        else:
            x = x + y
            h = self.norm2(x)
        return x + self.down(nn.functional.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    """A step: tokens (1, length) at positions (length,) to the logits of the last (1, vocabulary)."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList([Block(packed) for _ in range(2)])
        self.norm = nn.RMSNorm(WIDTH, eps=1e-6)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, token: Tensor, position: Tensor) -> Tensor:
        x = self.embed(token)
        for layer in self.layers:
            x = layer(x, position)
        return self.head(self.norm(x))[:, -1]


def decode(step: Any, count: int) -> Tensor:
    """`count` greedy tokens, each the next step's input."""
    token, found = torch.tensor([[1]]), []
    for index in range(count):
        token = step(token, torch.tensor([index])).argmax(-1, keepdim=True)
        found.append(token)
    return torch.cat(found, 1)


def one_engine(compiled: Any) -> None:
    report = compiled.report
    assert len(report.engines) == 1, report
    assert not report.quarantined, report
    assert report.fully_converted, report


@pytest.mark.parametrize(
    "packed", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["the pack's ops", "plain torch"]
)
@torch.no_grad()
def test_64_tokens_equal_plain_eager(packed: bool) -> None:
    """Written in the pack's ops, or in plain torch, in which the pass finds the attention."""
    eager = Llama(packed=False).eval()
    model = Llama(packed).eval()
    model.load_state_dict(copy.deepcopy(eager.state_dict()))
    compiled = trtcore.compile(model, [torch.tensor([[1]]), torch.tensor([0])], runtime="reference")
    one_engine(compiled)
    assert chosen(compiled.report, "trtcore_llm.cached_attention.default") == "cached_attention_layer"
    want, got = decode(eager, 64), decode(compiled, 64)
    assert len(want.unique()) > 8
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    buffers = dict(compiled.named_buffers())
    for name in ("layers.0.keys", "layers.1.values"):
        torch.testing.assert_close(buffers[name], eager.get_buffer(name), rtol=1e-4, atol=1e-5)
        assert float(buffers[name][:, :, 63].abs().sum()) > 0
        assert float(buffers[name][:, :, 64:].abs().sum()) == 0


@pytest.mark.parametrize(
    ("mask", "found"),
    [
        (lambda position: torch.arange(LENGTH) <= position[:, None], True),
        (lambda position: torch.arange(LENGTH) < position[:, None], False),
        (lambda position: torch.arange(LENGTH) + 1 <= position[:, None], False),
        (lambda position: torch.arange(LENGTH) <= (position + 1)[:, None], False),
    ],
)
@torch.no_grad()
def test_attention_in_plain_torch_is_found_by_its_mask(mask: Any, found: bool) -> None:
    class Plain(nn.Module):
        def forward(self, q: Tensor, k: Tensor, keys: Tensor, position: Tensor) -> Tensor:
            keys = keys.index_copy(2, position, k)
            return nn.functional.scaled_dot_product_attention(q, keys, keys, attn_mask=mask(position))

    inputs = [
        torch.randn(1, 2, 1, 8),
        torch.randn(1, 2, 1, 8),
        torch.randn(1, 2, LENGTH, 8),
        torch.tensor([5]),
    ]
    compiled = trtcore.compile(Plain(), inputs, min_block_size=1, runtime="reference")
    ops = {node.op for node in compiled.report.nodes}
    assert ("trtcore_llm.cached_attention.default" in ops) == found
    torch.testing.assert_close(compiled(*inputs), Plain()(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_a_llama_of_transformers() -> None:
    """With its own StaticCache, as transformers exports it, beside the pack: one engine, 64 tokens as in eager."""
    pytest.importorskip("transformers")
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
    from transformers.integrations.executorch import TorchExportableModuleWithStaticCache

    def build() -> nn.Module:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=HEADS, num_key_value_heads=KEY_HEADS, max_position_embeddings=128,
            use_cache=True, attn_implementation="sdpa",
        )  # fmt: skip
        model = LlamaForCausalLM(config).eval()
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in name:
                nn.init.normal_(weight, std=0.2)
        options = {"batch_size": 1, "max_cache_len": LENGTH}
        model.generation_config = GenerationConfig(
            use_cache=True, cache_implementation="static", max_length=LENGTH, cache_config=options
        )
        return TorchExportableModuleWithStaticCache(model, 1, LENGTH, torch.device("cpu")).eval()

    inputs = {"input_ids": torch.tensor([[1]]), "cache_position": torch.tensor([0])}
    compiled = trtcore.compile(build(), kwarg_inputs=inputs, runtime="reference")
    one_engine(compiled)

    def step(module: Any) -> Any:
        return lambda token, position: module(input_ids=token, cache_position=position)[:, -1]

    want = decode(step(build()), 64)
    assert len(want.unique()) > 1
    torch.testing.assert_close(decode(step(compiled), 64), want, rtol=0, atol=0)


# The kit ------------------------------------------------------------------------------------------------


@pytest.mark.slow
class TestConformance(PackConformance):
    """What the kit asks of any pack."""

    pack = "trtcore-contrib-llm"
    not_shown = frozenset({"moe_layer"})  # TensorRT for RTX refuses the layer

    def examples(self) -> Iterator[Example]:
        inputs = attention_inputs(2, 4, 2, torch.tensor([3]))
        batch = {0: (1, 2, 3)}
        yield Example(Cached(), inputs, dynamic=dict.fromkeys(range(5), batch))
        yield Example(
            Cached(), inputs, dynamic=dict.fromkeys(range(5), batch), settings={"decompose_attention": True}
        )
        yield Example(
            lambda x, y, w: llm.add_rms_norm(x, y, w, 1e-5),
            (torch.randn(2, 8), torch.randn(2, 8), torch.randn(8)),
            dynamic={0: batch, 1: batch},
        )
        yield Example(Experts(4), (torch.randn(2, 8),), dynamic={0: batch})
        x, position = torch.randn(2, 3, 5, 8), torch.randint(0, 20, (2, 5))
        yield Example(Rotary(4), (x, position), dynamic={0: batch, 1: batch})

"""Products with the weights of several experts: in an engine where that is not slower, else one cut a layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import trtcore
from trtcore.runtime.op import execute_engine

pytest.importorskip("transformers.integrations.moe")
experts = pytest.importorskip("trtcore_converters.experts")

OPTIONS = {"min_block_size": 1, "runtime": "reference"}


class Grouped(nn.Module):
    """Rows sorted by expert, times each expert's weights."""

    def __init__(self, count, inner=8, columns=6, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(
            torch.randn(count, columns, inner, dtype=dtype) / inner**0.5, requires_grad=False
        )

    def forward(self, x, offsets):
        return torch.ops.transformers.grouped_mm_fallback(x, self.weight.transpose(-2, -1), offsets)


def ends(*numbers):
    return torch.tensor(numbers, dtype=torch.int32)


@pytest.mark.parametrize(
    ("count", "rows", "offsets", "dtype"),
    [
        (4, 12, ends(3, 3, 7, 12), torch.float32),
        (4, 12, ends(0, 0, 7, 9), torch.float32),  # rows behind the last are zero
        (1, 5, ends(5), torch.float32),
        (4, 12, ends(3, 3, 7, 12), torch.float16),
        (32, 5, ends(*[1] * 10, *[3] * 10, *[4] * 12), torch.float32),  # few rows: their weights are gathered
    ],
)
def test_grouped_mm_fallback(count, rows, offsets, dtype):
    model, x = Grouped(count, dtype=dtype), torch.randn(rows, 8, dtype=dtype)
    compiled = trtcore.compile(model, inputs=[x, offsets], require_full_compilation=True, **OPTIONS)
    tolerance = {} if dtype is torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(compiled(x, offsets), model(x, offsets), **tolerance)


def test_a_number_of_rows_that_varies():
    model = Grouped(4)
    rows = trtcore.Input(min_shape=(1, 8), opt_shape=(16, 8), max_shape=(64, 8))
    compiled = trtcore.compile(
        model, inputs=[rows, ends(0, 1, 1, 1)], require_full_compilation=True, **OPTIONS
    )
    for count, offsets in ((1, ends(0, 1, 1, 1)), (64, ends(10, 20, 30, 64))):
        x = torch.randn(count, 8)
        torch.testing.assert_close(compiled(x, offsets), model(x, offsets))


def test_infinite_rows_stay_with_their_expert():
    model, x = Grouped(4), torch.randn(12, 8)
    x[0] = float("inf")
    compiled = trtcore.compile(model, inputs=[x, ends(3, 3, 7, 12)], **OPTIONS)
    torch.testing.assert_close(compiled(x, ends(3, 3, 7, 12))[1:], model(x, ends(3, 3, 7, 12))[1:])


def test_grouped_mm_of_torch():
    class Own(Grouped):
        def forward(self, x, offsets):
            return torch.nn.functional.grouped_mm(x, self.weight.transpose(-2, -1), offs=offsets)

    model = Own(4, inner=16, columns=16, dtype=torch.bfloat16)
    x, offsets = torch.randn(12, 16, dtype=torch.bfloat16), ends(3, 3, 7, 12)
    compiled = trtcore.compile(model, inputs=[x, offsets], require_full_compilation=True, **OPTIONS)
    torch.testing.assert_close(compiled(x, offsets), model(x, offsets), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("rows", "count", "inner", "columns", "itemsize", "engine"),
    [
        (
            16,
            8,
            4096,
            14336,
            2,
            True,
        ),  # eight tokens of a large model: the weights are read once, whoever multiplies
        (8, 128, 2048, 1536, 2, True),  # one token, eight of 128 experts: gathered
        (8192, 8, 4096, 14336, 2, False),  # a long prompt: eight times the work
        (65536, 128, 2048, 1536, 2, False),
        (64, 4, 32, 48, 4, True),  # a small model: the cut costs more than all of it
    ],
)
def test_what_is_estimated_to_take_longer_stays_in_torch(rows, count, inner, columns, itemsize, engine):
    work = experts.Work(rows, count, inner, columns, itemsize)
    assert (work.in_engine <= work.in_torch) is engine


class Layer(nn.Module):
    """An expert as models have it: two products, and a gate between them."""

    def __init__(self):
        super().__init__()
        self.up, self.down = Grouped(4, 8, 16), Grouped(4, 8, 8)

    def forward(self, x, offsets):
        gate, up = self.up(x + 1, offsets).chunk(2, -1)
        return self.down(nn.functional.silu(gate) * up.clamp(-7, 7), offsets) * 2


def test_experts_in_torch_are_one_cut(monkeypatch):
    monkeypatch.setattr(experts, "_CUT", -1e9)
    model, x, offsets = Layer(), torch.randn(12, 8), ends(3, 3, 7, 12)
    compiled = trtcore.compile(model, inputs=[x, offsets], **OPTIONS)
    torch.testing.assert_close(compiled(x, offsets), model(x, offsets))
    assert sum(node.target is execute_engine for node in compiled.graph.nodes) == 2
    why = {node.op: node.reason for node in compiled.report.nodes if not node.in_engine}
    assert "4 experts" in why["transformers.grouped_mm_fallback.default"]
    assert "between two products of experts" in why["aten.silu.default"]


@pytest.mark.slow
def test_mixtral_is_one_engine():
    import transformers

    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=64,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config).eval().requires_grad_(False)

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids):
            return self.model(input_ids=ids, use_cache=False).logits

    ids = torch.randint(0, 64, (2, 9))
    compiled = trtcore.compile(Logits(), inputs=[ids], require_full_compilation=True, **OPTIONS)
    torch.testing.assert_close(compiled(ids), Logits()(ids), rtol=1e-4, atol=1e-5)

"""Networks of the reference runtime whose small ops Inductor makes kernels of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import trtcore
from trtcore.runtime import enable_fusion
from trtcore.runtime.engine import engines_in


class Small(nn.Module):
    """Indices, windows by sizes, a norm, attention under a mask, products."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(20, 16), nn.RMSNorm(16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(tokens)
        y = self.norm(x)[:, None]
        x = x + nn.functional.scaled_dot_product_attention(y, y, y, attn_mask=mask[:, None]).squeeze(1)
        half = x[:, x.shape[1] // 2 :]
        return self.down(nn.functional.silu(self.up(half)) * 2) + half, x


def arguments(rows: int, length: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(rows)
    mask = torch.ones(rows, length, length, dtype=torch.bool).tril()
    return torch.randint(0, 20, (rows, length)), mask


def compiled(model: nn.Module) -> Any:
    inputs = [
        trtcore.Input(min_shape=(1, 2), opt_shape=(2, 4), max_shape=(4, 8), dtype=torch.int64),
        trtcore.Input(min_shape=(1, 2, 2), opt_shape=(2, 4, 4), max_shape=(4, 8, 8), dtype=torch.bool),
    ]
    return trtcore.compile(model, inputs, min_block_size=1, runtime="reference")


@pytest.mark.slow  # a C++ compiler is at work
@torch.no_grad()
def test_each_combination_of_shapes_is_one_graph(tmp_path: Any) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = Small().eval()
    module = compiled(model)
    module(*arguments(2, 4))
    assert enable_fusion(module) == 1
    counters.clear()
    for shape in ((2, 4), (3, 5), (2, 4)):
        for got, want in zip(module(*arguments(*shape)), model(*arguments(*shape))):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]
    (engine,) = engines_in(module)
    engine.release()
    trtcore.save(module, tmp_path / "module.pt2")
    loaded = trtcore.load(tmp_path / "module.pt2")
    torch.testing.assert_close(loaded(*arguments(1, 2)), model(*arguments(1, 2)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_what_has_loops_runs_as_it_is() -> None:
    model = nn.LSTM(4, 4).eval()
    x = torch.randn(5, 2, 4)
    length = trtcore.Input(min_shape=(2, 2, 4), opt_shape=(5, 2, 4), max_shape=(64, 2, 4))
    module = trtcore.compile(model, [length], min_block_size=1, runtime="reference")
    torch._dynamo.reset()
    counters.clear()
    assert enable_fusion(module) == len(module.report.engines)
    torch.testing.assert_close(module(x)[0], model(x)[0], rtol=1e-4, atol=1e-5)
    assert not counters["stats"].get("unique_graphs")


def test_another_module_is_refused() -> None:
    with pytest.raises(trtcore.errors.InputError, match="takes a compiled module, not a Linear"):
        enable_fusion(nn.Linear(2, 2))  # type: ignore[arg-type]

"""Where results are on a GPU."""

from __future__ import annotations

import pytest
import torch

import trtcore

pytestmark = pytest.mark.gpu


class Positions(torch.nn.Module):
    """The engine of the positions has no tensor inputs: `sin` is kept in torch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(x.shape[0], device=x.device, dtype=torch.float32) * 2 + 1
        return torch.special.erfcx(positions)[:, None] + torch.special.erfcx(x)


def test_an_engine_without_tensor_inputs_computes_on_the_models_device() -> None:
    batch = trtcore.Input(min_shape=(2, 3), opt_shape=(4, 3), max_shape=(8, 3), device="cuda")
    compiled = trtcore.compile(
        Positions(), [batch], runtime="reference", min_block_size=1, torch_executed_ops={"aten.special_erfcx"}
    )
    for rows in (2, 8):
        x = torch.randn(rows, 3, device="cuda")
        result = compiled(x)
        assert result.device == x.device
        torch.testing.assert_close(result, Positions()(x))

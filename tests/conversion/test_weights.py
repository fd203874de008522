"""Weights that converters hand to TensorRT: which of them the snapshot knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import trtcore
from trtcore.pack import converter, scoped_registry

HELD = torch.randn(8).to(torch.bfloat16)
KEPT: list[torch.Tensor] = []  # TensorRT has only the addresses of weights that are made by hand


def by_hand(ctx: Any, dtype: torch.dtype) -> Any:
    tensor = HELD.to(dtype)
    KEPT.append(tensor)
    weights = ctx.trt.Weights(ctx.backend.trt_dtype(dtype), tensor.data_ptr(), tensor.numel())
    return ctx.output(ctx.net.add_constant((8,), weights))


def by_the_context(ctx: Any, dtype: torch.dtype) -> Any:
    return ctx.output(ctx.net.add_constant((8,), ctx.weights(HELD.to(dtype))))


@torch.library.custom_op("weights_by_hand::shifted", mutates_args=())
def shifted(x: torch.Tensor) -> torch.Tensor:
    """An op for which there is no converter but the test's."""
    return x + HELD.to(x.dtype)


@shifted.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Shifted(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(torch.ops.weights_by_hand.shifted(x))


def compiled(make: Callable[..., Any], dtype: torch.dtype, **settings: Any) -> Any:
    """A model whose op adds HELD, by `make`."""
    with scoped_registry():

        @converter("weights_by_hand::shifted")
        def shift(ctx: Any, x: Any) -> Any:
            return ctx.elementwise(x, make(ctx, dtype), "SUM")

        return trtcore.compile(Shifted(), [torch.zeros(8, dtype=dtype)], min_block_size=1, **settings)


@pytest.mark.usefixtures("trt_backend")
@pytest.mark.parametrize(
    ("make", "dtype"),
    [(by_the_context, torch.bfloat16), (by_the_context, torch.float32), (by_hand, torch.float32)],
)
def test_a_constant_of_a_converter(make: Callable[..., Any], dtype: torch.dtype) -> None:
    x = torch.zeros(8, dtype=dtype)
    expected = torch.sigmoid(HELD.to(dtype))
    model = compiled(make, dtype, require_full_compilation=True)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.usefixtures("trt_backend")
@pytest.mark.parametrize("runtime", ["reference", "native"])
def test_a_bf16_constant_that_nobody_can_read_back_says_so(runtime: str) -> None:
    """TensorRT would build it; the reason is not that it refuses."""
    settings = {} if runtime == "reference" else {"runtime": runtime}
    report = compiled(by_hand, torch.bfloat16, **settings).report
    (left,) = [node for node in report.in_torch if node.op == "weights_by_hand.shifted.default"]
    assert "not made with ctx.weights(tensor)" in left.reason
    assert "built alone" not in left.reason

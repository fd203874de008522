"""Results that are new tensors in eager are new in every call: what a caller writes to them is seen nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trtcore


class Model(nn.Module):
    def __init__(self, body: Callable[[Model, Tensor], Any]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("b", torch.arange(4.0))
        self.w = nn.Parameter(torch.ones(4, 4), requires_grad=False)

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


def folded(self: Model, x: Tensor) -> Any:
    return x + 1, (self.b * self.b)[1:], (self.b + self.b).unbind(0)[1]


def literal(self: Model, x: Tensor) -> Any:
    return torch.tensor([1.0, 2.0, 3.0])[1:], torch.arange(4.0)[1:], x + 1


def copied_weight(self: Model, x: Tensor) -> Any:
    kept = self.w.clone()
    return x @ self.w, kept[0], kept.t()[1:]


def copied_input(self: Model, x: Tensor) -> Any:
    return x.clone()[0], x.float().clone().t()[1], x + 1


def equal_ops(self: Model, x: Tensor) -> Any:
    return (x + 1)[0], (x + 1).t()[0], (x + 1).clone()[0], x + 1, x + 1


def sizes(self: Model, x: Tensor) -> Any:
    return x.shape[0], x.shape[0] + 0, (x * 2)[:1]


def sorted_twice(self: Model, x: Tensor) -> Any:
    values, places = x.sort(-1)
    return values[0], places[0], x.sort(-1).values[0]


BODIES = [folded, literal, copied_weight, copied_input, equal_ops, sizes, sorted_twice]


@pytest.mark.parametrize(
    ("body", "route"),
    [(body, "ahead of time") for body in BODIES]
    + [(body, "torch.compile") for body in (literal, copied_input, equal_ops)],
)
@pytest.mark.filterwarnings("ignore:torch_executed_ops has:UserWarning")
@torch.no_grad()
def test_results_of_views_in_torch(body: Callable[..., Any], route: str) -> None:
    eager, model = Model(body).eval(), Model(body).eval()
    options: Any = {
        "min_block_size": 1,
        "torch_executed_ops": {
            f"aten.{op}" for op in ("select.int", "slice.Tensor", "t.default", "unbind.int")
        },
    }
    if route == "torch.compile":
        torch._dynamo.reset()
        run: Any = torch.compile(model, backend="trtcore", options=options)
    else:
        rows = trtcore.Input(min_shape=(2, 4), opt_shape=(4, 4), max_shape=(8, 4))
        run = trtcore.compile(model, inputs=[rows], **options)
    for _ in range(2):
        mine, theirs = torch.arange(16.0).view(4, 4), torch.arange(16.0).view(4, 4)
        found, expected = run(mine), eager(theirs)
        torch.testing.assert_close(found, expected)
        tensors = [pair for pair in zip(found, expected) if isinstance(pair[0], Tensor)]
        for pair in tensors:
            for one in pair:
                one.add_(10)
        torch.testing.assert_close([a for a, _ in tensors], [b for _, b in tensors])
        torch.testing.assert_close(mine, theirs)


def test_a_buffer_that_is_only_seen_in_place_is_a_weight():
    """`transpose_` of a part of it writes no values: the result is a copy, and the compile succeeds."""

    class Turned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("c", torch.arange(12.0).reshape(3, 4))

        def forward(self, x):
            part = self.c.split(1)[0]
            part.transpose_(0, -1)
            return part, x @ self.c

    model, x = Turned(), torch.ones(2, 3)
    module = trtcore.compile(model, [x], min_block_size=1, runtime="reference")
    part, product = module(x)
    assert torch.equal(part, torch.arange(4.0)[:, None])
    part.fill_(9)
    assert torch.equal(module(x)[1], product)

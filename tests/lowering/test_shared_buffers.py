"""Buffers in one memory of which the model writes one, and what torch itself refuses to write."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import trtcore
from trtcore.errors import ExportError


class Overlapping(nn.Module):
    def __init__(self, body: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        memory = torch.arange(6.0)
        self.body = body
        self.register_buffer("a", memory[:4])
        self.register_buffer("b", memory[2:])
        self.register_buffer("turned", memory.view(2, 3).t())
        self.register_buffer("apart", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def both(model: nn.Module, x: Tensor) -> Tensor:
    model.a.add_(x)
    model.b.mul_(2)
    return model.a + model.b


def one(model: nn.Module, x: Tensor) -> Tensor:
    before = model.b * 1
    model.a.add_(x)
    return before + model.b * 2 + model.turned.sum()


def through_a_view(model: nn.Module, x: Tensor) -> Tensor:
    model.turned[1].zero_()
    model.apart.add_(model.b)
    model.b[1:].copy_(x[:3])
    return model.a * x + model.apart


@torch.no_grad()
@pytest.mark.parametrize("body", [both, one, through_a_view])
def test_as_eager_on_every_route(body: Callable[[nn.Module, Tensor], Tensor], tmp_path) -> None:
    eager, mine = Overlapping(body), Overlapping(body)
    compiled = trtcore.compile(mine, inputs=[torch.randn(4)], min_block_size=1)
    for _ in range(2):
        x = torch.randn(4)
        torch.testing.assert_close(compiled(x), eager(x))
        torch.testing.assert_close(dict(mine.named_buffers()), dict(eager.named_buffers()))
    trtcore.save(compiled, tmp_path / "m.pt2")
    copies = [
        copy.deepcopy(compiled),
        pickle.loads(pickle.dumps(compiled)),
        trtcore.load(tmp_path / "m.pt2"),
        compiled,
    ]
    for _ in range(2):
        x = torch.randn(4)
        want = eager(x)
        for again in copies:
            torch.testing.assert_close(again(x), want)


def test_memory_of_two_dtypes_names_both() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("long", torch.arange(4))
            self.register_buffer("halves", self.long.view(torch.int32))

        def forward(self, x: Tensor) -> Tensor:
            self.long.add_(1)
            return self.halves + x

    with pytest.raises(ExportError, match="of another dtype: long, halves"):
        trtcore.compile(Two(), inputs=[torch.ones(8)], min_block_size=1)


REFUSED = {
    "part": lambda x: x[1:].add_(x[:-1]),
    "copy": lambda x: x[1:].copy_(x[:-1]),
    "turned": lambda x: x.mul_(x.t()),
    "one row": lambda x: x.sub_(x[0]),
    "three": lambda x: x[1:].addcmul_(x[:-1], x[1:]),
    "scatter": lambda x: x.scatter_(0, torch.zeros(3, 3, dtype=torch.long), x),
    "index": lambda x: x.index_put_((torch.tensor([0]),), x[1]),
    "a result's place": lambda x: torch.where(x[1:] > 0, x[1:], x[:-1], out=x[:-1]),
}
TAKEN = {
    "itself": lambda x: x.add_(x),
    "another row": lambda x: x[0].mul_(x[1]),
    "a copy": lambda x: x.copy_(x.flip(0)),
    "columns": lambda x: x[:, 0].copy_(x[:, 1]),
}


def written(write: Callable[[Tensor], object], clone: bool) -> nn.Module:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.clone() if clone else x
            write(y)
            return y * 2

    return Model()


@torch.no_grad()
@pytest.mark.parametrize("clone", [True, False], ids=["of the model", "an input"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_eager_refuses(name: str, clone: bool) -> None:
    model, x = written(REFUSED[name], clone), torch.randn(3, 3)
    with pytest.raises(RuntimeError, match="single memory location"):
        model(x.clone())
    with pytest.raises(ExportError, match="single memory location") as told:
        trtcore.compile(model, inputs=[x], min_block_size=1)
    assert "test_shared_buffers.py" in str(told.value)
    torch._dynamo.reset()
    with (
        pytest.warns(RuntimeWarning, match="torch refuses"),
        pytest.raises(RuntimeError, match="single memory"),
    ):
        torch.compile(model, backend="trtcore", options={"min_block_size": 1})(x.clone())


@torch.no_grad()
@pytest.mark.parametrize("name", TAKEN)
def test_what_eager_takes(name: str) -> None:
    x = torch.randn(3, 3)
    for clone in (True, False):
        model = written(TAKEN[name], clone)
        want, theirs = model(here := x.clone()), here
        mine = x.clone()
        run = trtcore.compile(model, inputs=[x], min_block_size=1)
        torch.testing.assert_close(run(mine), want)
        torch.testing.assert_close(mine, theirs)


def test_where_the_capture_has_other_sizes_than_the_call() -> None:
    """One row of two is no part of the other."""
    model = written(REFUSED["part"], True)
    rows = trtcore.Input(min_shape=(3, 3), opt_shape=(5, 3), max_shape=(8, 3))
    with pytest.raises(ExportError, match="single memory location"):
        trtcore.compile(model, inputs=[rows], min_block_size=1)
    run = trtcore.compile(model, inputs=[torch.randn(2, 3)], min_block_size=1)
    x = torch.randn(2, 3)
    torch.testing.assert_close(run(x), model(x))

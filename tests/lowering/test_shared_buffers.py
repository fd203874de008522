"""Buffers in one memory of which the model writes one, and what torch itself refuses to write."""

from __future__ import annotations

import copy
import pickle
import warnings
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


ORDERED = {
    "a column": lambda x: x.mul_(x[:, :1]),
    "columns": lambda x: x[:, 1:].copy_(x[:, :-1]),
    "a sum in its own row": lambda x: torch.sum(x, 0, out=x[0]),
    "masked": lambda x: x[1:].masked_scatter_(x[1:] > 0, x[:-1]),
    "a batch of products": lambda x: x.view(1, 3, 3)[:, 1:, :1].baddbmm_(x[None, :2, :2], x[None, 1:, :1]),
    "one row added to itself twice": lambda x: x[::2].index_put_(
        (torch.tensor([0, 0]),), x[0], accumulate=True
    ),
    "two that are written": lambda x: torch._foreach_mul_([x[:2], x[1:]], 2.0),
}
"""What torch takes, and computes from memory that it has partly written."""


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
        pytest.warns(RuntimeWarning, match="in plain torch neither"),
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


@torch.no_grad()
@pytest.mark.parametrize("clone", [True, False], ids=["of the model", "an input"])
@pytest.mark.parametrize("name", ORDERED)
def test_what_depends_on_the_order_of_a_kernel(name: str, clone: bool) -> None:
    """Ahead of time it is refused; torch.compile leaves it to torch, where it is what it is without us."""
    model, x = written(ORDERED[name], clone), torch.rand(3, 3) + 0.5
    with pytest.raises(ExportError, match="depend on the order") as told:
        trtcore.compile(model, inputs=[x], min_block_size=1)
    assert "test_shared_buffers.py" in str(told.value)
    assert "it writes" in told.value.message
    want = model(theirs := x.clone())
    torch._dynamo.reset()
    with pytest.warns(RuntimeWarning, match="depend on the order"):
        got = torch.compile(model, backend="trtcore", options={"min_block_size": 1})(ours := x.clone())
    torch.testing.assert_close((got, ours), (want, theirs))


def test_a_kernel_is_asked_without_numbers_of_the_users_generator() -> None:
    torch.manual_seed(7)
    want = torch.rand(3)
    torch.manual_seed(7)
    trtcore.compile(written(TAKEN["a copy"], False), inputs=[torch.ones(3, 3)], min_block_size=1)
    with pytest.raises(ExportError):
        trtcore.compile(written(ORDERED["a column"], False), inputs=[torch.ones(3, 3)], min_block_size=1)
    assert torch.equal(torch.rand(3), want)


ENDS = {
    "rows": (lambda x: x[:3].copy_(x[-3:]), {4, 5}),
    "a sum": (lambda x: x[4:].add_(x[:-4]), {9}),
    "columns": (lambda x: x.t()[:, :2].mul_(x.t()[:, -2:]), set()),
}


@torch.no_grad()
@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("clone", [True, False], ids=["of the model", "an input"])
def test_sizes_at_which_memory_is_shared(name: str, clone: bool) -> None:
    """At the size of the capture, 6 rows, it is not."""
    write, shared = ENDS[name]
    model = written(write, clone)
    range_ = {"min_shape": (4, 3), "opt_shape": (6, 3), "max_shape": (9, 3)}
    if not shared:
        run = trtcore.compile(model, inputs=[trtcore.Input(**range_)], min_block_size=1)
        for size in (4, 5, 6, 9):
            x = torch.randn(size, 3)
            want = model(theirs := x.clone())
            torch.testing.assert_close((run(ours := x.clone()), ours), (want, theirs))
        return
    with pytest.raises(ExportError, match="single memory location") as told:
        trtcore.compile(model, inputs=[trtcore.Input(**range_)], min_block_size=1)
    shown = ("x dimension 0 = 4", "x dimension 0 = 9")
    assert [text in told.value.message for text in shown] == [4 in shared, 9 in shared]


@torch.no_grad()
@pytest.mark.parametrize("name", ["rows", "a sum"])
@pytest.mark.parametrize("order", [(6, 4, 7, 9), (4, 6, 9, 7)], ids=str)
def test_sizes_at_which_memory_is_shared_under_torch_compile(name: str, order: tuple[int, ...]) -> None:
    """Each call is judged by its own sizes, whatever those of the capture were."""
    write, shared = ENDS[name]
    model = written(write, False)
    torch._dynamo.reset()
    run = torch.compile(model, backend="trtcore", dynamic=True, options={"min_block_size": 1})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*such calls run in torch")
        for size in order:
            x = torch.randn(size, 3)
            if size in shared:
                with pytest.raises(RuntimeError, match="single memory location"):
                    run(x.clone())
                continue
            want = model(theirs := x.clone())
            torch.testing.assert_close((run(ours := x.clone()), ours), (want, theirs))

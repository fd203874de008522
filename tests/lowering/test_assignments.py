"""``x[i] = v`` in every form, ahead of time (fixed and varying sizes) and under torch.compile; ops that write to arguments."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trtcore
from trtcore.errors import ExportError

BATCH = trtcore.Input(min_shape=(2, 4), opt_shape=(3, 4), max_shape=(8, 4))


def number(y: Tensor) -> None:
    y[:, 0] = 0


def row(y: Tensor) -> None:
    y[0] = torch.tensor(5.0)


def last_column(y: Tensor) -> None:
    y[..., -1] = y[..., 0]


def steps(y: Tensor) -> None:
    y[::2, 1:3] = 1.5


def mask(y: Tensor) -> None:
    y[y > 0] = -1.0


def indices(y: Tensor) -> None:
    y[torch.tensor([1, 0])] = y[:2] * 2


def several(y: Tensor) -> None:
    y[0, 1] += 3
    y[:1, 2:] *= 2


def whole(y: Tensor) -> None:
    y[:] = y.flip(0)


def none(y: Tensor) -> None:
    y[None, 0, :, None] = 2.0


def clamped(y: Tensor) -> None:
    y.clamp_(min=0)[:, 0].zero_()


FORMS = [number, row, last_column, steps, mask, indices, several, whole, none, clamped]


class Assigns(nn.Module):
    def __init__(self, assign: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.assign = assign

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        self.assign(y)
        return y * 2


@pytest.mark.parametrize("route", ["static", "dynamic", "torch.compile", "torch.compile dynamic"])
@pytest.mark.parametrize("assign", FORMS)
@torch.no_grad()
def test_as_eager(assign: Callable[[Tensor], None], route: str) -> None:
    model, x = Assigns(assign).eval(), torch.randn(3, 4)
    run = compiled(model, x, route)
    for batch in (3, 5) if "dynamic" in route else (3,):
        x = torch.randn(batch, 4)
        torch.testing.assert_close(run(x), model(x))


def compiled(model: nn.Module, x: Tensor, route: str) -> Callable[..., Tensor]:
    if not route.startswith("torch.compile"):
        return trtcore.compile(model, inputs=[BATCH if route == "dynamic" else x], min_block_size=1)
    torch._dynamo.reset()
    dynamic = True if route.endswith("dynamic") else None
    return torch.compile(model, backend="trtcore", dynamic=dynamic, options={"min_block_size": 1})


def test_masks_are_written() -> None:
    def fill(x: Tensor) -> Tensor:
        keep = x > 0
        keep[0] = False
        return torch.where(keep, x, -x)

    torch._dynamo.reset()
    x = torch.randn(3, 4)
    torch.testing.assert_close(
        torch.compile(fill, backend="trtcore", options={"min_block_size": 1})(x), fill(x)
    )


@torch.no_grad()
def test_attention_with_a_mask_and_a_batch_that_varies() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            later = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
            return self.attention(x, x, x, attn_mask=later)[0]

    model = Model().eval()
    batch = trtcore.Input(min_shape=(1, 5, 8), opt_shape=(3, 5, 8), max_shape=(8, 5, 8))
    run = trtcore.compile(model, inputs=[batch], min_block_size=1)
    for size in (1, 3, 8):
        x = torch.randn(size, 5, 8)
        torch.testing.assert_close(run(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("error::trtcore.packs.loading.PackWarning")
@torch.no_grad()
def test_an_encoder_under_torch_compile_with_sizes_that_vary() -> None:
    from trtcore.jit.backend import reports

    torch._dynamo.reset()
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    run = torch.compile(model, backend="trtcore", dynamic=True, options={"min_block_size": 1})
    for shape in ((2, 5, 16), (3, 7, 16)):
        x = torch.randn(shape)
        torch.testing.assert_close(run(x), model(x), rtol=1e-4, atol=1e-4)
    assert all(one.report.fully_converted for one in reports())


@torch.no_grad()
def test_a_constant_that_is_written_is_new_in_every_call() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
            weights.add_(1)
            y = x * weights
            y[torch.tensor([0, 1])] = 2.0
            return y

    model, x = Model().eval(), torch.randn(3, 4)
    for route in ("static", "torch.compile"):
        run = compiled(model, x, route)
        for _ in range(2):
            torch.testing.assert_close(run(x), model(x))
        if route == "static":
            assert run.report.fully_converted  # type: ignore[attr-defined]


@torch.no_grad()
def test_a_size_at_which_a_write_ends_is_one_of_dynamo_s_guards() -> None:
    def fill(x: Tensor) -> Tensor:
        y = x.clone()
        y[5:] = 1
        return y * 2

    torch._dynamo.reset()
    run = torch.compile(fill, backend="trtcore", dynamic=True, options={"min_block_size": 1})
    for rows in (5, 3, 7, 5):
        x = torch.randn(rows, 4)
        torch.testing.assert_close(run(x), fill(x))


# ---- ops of somebody else's that write ---------------------------------------------------------------------


@torch.library.custom_op("assignments::write_", mutates_args=("cache",))
def write_(cache: Tensor, x: Tensor, at: int) -> None:
    cache[:, at] = x


class Middle(nn.Module):
    """Writes into a tensor of its own, or into a row of it."""

    def __init__(self, view: bool = False) -> None:
        super().__init__()
        self.view = view
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        cache = torch.zeros(2, 3, 4, 8) + 0.5
        torch.ops.assignments.write_(cache[1] if self.view else cache[0], self.a(x).relu(), 2)
        return self.b(cache[:, :, 1:]).relu()


class Buffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.register_buffer("cache", torch.zeros(3, 4, 8))

    def forward(self, x: Tensor) -> Tensor:
        torch.ops.assignments.write_(self.cache, self.a(x).relu(), 1)
        return self.cache.sum(1) + x


class Input(nn.Module):
    def forward(self, cache: Tensor, x: Tensor) -> Tensor:
        torch.ops.assignments.write_(cache, x * 2, 3)
        return cache.sum(-1)


@pytest.mark.parametrize("route", ["static", "torch.compile"])
@pytest.mark.parametrize("view", [False, True])
@torch.no_grad()
def test_a_custom_op_that_writes_runs_alone_in_torch(route: str, view: bool) -> None:
    model, x = Middle(view).eval(), torch.randn(3, 8)
    run = compiled(model, x, route)
    torch.testing.assert_close(run(x), model(x))
    if route == "static":
        left = [node.op for node in run.report.nodes if not node.in_engine]  # type: ignore[attr-defined]
        assert len(left) == 1
        assert "auto_functionalized" in left[0]


@torch.no_grad()
def test_a_custom_op_that_writes_to_a_buffer_or_an_input() -> None:
    eager = Buffer().eval()
    run = trtcore.compile(copy.deepcopy(eager), inputs=[torch.randn(3, 8)], min_block_size=1)
    for _ in range(2):
        x = torch.randn(3, 8)
        torch.testing.assert_close(run(x), eager(x))
        torch.testing.assert_close(run.get_buffer("cache"), eager.cache)
    cache, x = torch.randn(3, 4, 8), torch.randn(3, 8)
    mine, theirs = cache.clone(), cache.clone()
    run = trtcore.compile(Input(), inputs=[cache, x], min_block_size=1)
    torch.testing.assert_close(run(mine, x), Input()(theirs, x))
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("change", "op"), [(lambda x: x.resize_(2, 3) * 2, "resize_"), (lambda x: x.t_() * 2, "t_")]
)
def test_an_input_keeps_its_shape(change: Callable[[Tensor], Any], op: str) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return change(x)

    with pytest.raises(
        ExportError, match=rf"^{op} changes the shape or the memory of the input 'x' in place"
    ) as told:
        trtcore.compile(Model().eval(), inputs=[torch.randn(3, 4)], min_block_size=1)
    assert "test_assignments.py" in str(told.value)

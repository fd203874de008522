"""Numbers computed from sizes that vary run in engines."""

from __future__ import annotations

import pytest
import torch
from torch._higher_order_ops.while_loop import while_loop
from torch.nn import functional as F

import trtcore
from trtcore.testing import assert_converts

DYNAMIC = {0: {0: (2, 4, 9)}}


def test_arithmetic_on_sizes():
    def run(x):
        n = x.shape[0]
        return (
            x * n**0.5, x / (n * 0.3), x + 1.5 * n, x - n / 2, x * torch.sym_sqrt(n + 1), x ** (n / 4), x.clamp(max=n / 3.0),
            x.clamp(n / 8.0, n / 2.0), torch.where(x > n / 9, x, n / 2), torch.full((3,), n / 2), x.masked_fill(x > 1, n / 5),
            torch.full((2, n), n / 4, dtype=torch.float16), (x > 0) * (n / 2), x.long() * (n / 2), torch.scalar_tensor(-(n / 2)),
        )  # fmt: skip

    assert_converts(
        run, (torch.rand(4, 3) * 2,), dynamic=DYNAMIC, dtypes=(torch.float32, torch.float16, torch.bfloat16)
    )


@pytest.mark.torch_since("2.12", "torch.export stops at quantile of a symbolic size")
def test_in_decompositions():
    def run(x):
        y = F.interpolate(x[None, None], scale_factor=1.5, mode="bicubic", recompute_scale_factor=False)
        return y, x.quantile(0.3, 0), torch.linspace(0, x.shape[0], 5)

    assert_converts(run, (torch.randn(4, 3),), dynamic=DYNAMIC)


def test_a_number_that_would_decide_the_dtype_stays():
    """A half without dims times a Python number is a half; times a float32 tensor without dims it were a float32."""

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum() * (x.shape[0] / 3)

    x = trtcore.Input(min_shape=(2,), opt_shape=(4,), max_shape=(9,), dtype=torch.float16)
    compiled = trtcore.compile(Model(), [x], min_block_size=1, runtime="reference")
    value = torch.ones(5, dtype=torch.float16)
    assert compiled(value).dtype == torch.float16
    torch.testing.assert_close(compiled(value), Model()(value))
    (left,) = compiled.report.in_torch
    assert left.reason == "takes a symbolic float"


def test_it_can_be_turned_off():
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * (x.shape[0] / 3)

    x = trtcore.Input(min_shape=(2,), opt_shape=(4,), max_shape=(9,))
    assert trtcore.explain(Model(), [x], min_block_size=1).fully_converted
    assert not trtcore.explain(
        Model(), [x], min_block_size=1, disabled_passes={"symbolic_floats"}
    ).fully_converted


def test_conditions_on_sizes():
    def run(x):
        n = x.shape[0]
        both = (n > 3) & torch.sym_not(n >= 7)
        return (
            x * (n > 3), (x > 0) + both, (x * 3).long() * ((n == 2) | (n != 5)), torch.full((2, n), n <= 4), torch.tensor(n > 3),
            torch.where(torch.tensor([n > 3, n < 3, n > 0]), x, -x), x * torch.sym_ite(n > 3, n + 2, n), torch.scalar_tensor(both, dtype=torch.float32),
            torch.full((3,), torch.sym_ite(n > 3, n * 7, n)),
        )  # fmt: skip

    assert_converts(run, (torch.rand(4, 3) * 2,), dynamic=DYNAMIC, dtypes=(torch.float32, torch.float16))


def test_a_branch_that_a_size_chooses():
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            n = x.shape[0]
            return torch.cond(
                (n > 3) & (n < 7), lambda x: (x.sin() * scale, x + n), lambda x: (x.cos(), x - scale), (x,)
            )

    x = trtcore.Input(min_shape=(2, 3), opt_shape=(4, 3), max_shape=(9, 3))
    compiled = trtcore.compile(Model(), [x, torch.ones(3)], min_block_size=1, runtime="reference")
    assert compiled.report.fully_converted
    for rows in range(2, 10):
        given = torch.randn(rows, 3), torch.full((3,), 2.0)
        torch.testing.assert_close(compiled(*given), Model()(*given))


def test_a_condition_whose_numbers_are_floats_stays_exact():
    """float32 would take 4.000000001 for 4."""

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sin() * (x.shape[0] / 2 < 2.000000001)

    x = trtcore.Input(min_shape=(2, 3), opt_shape=(4, 3), max_shape=(9, 3))
    compiled = trtcore.compile(Model(), [x], min_block_size=1, runtime="reference")
    for rows in range(2, 10):
        value = torch.randn(rows, 3)
        torch.testing.assert_close(compiled(value), Model()(value))


def test_numbers_that_are_read_from_tensors():
    def run(x):
        largest, several = x.abs().max().item(), (x > 0).sum().item()
        three = torch.tensor([3], dtype=torch.int32).item()
        return (
            x * largest, x / (largest * 2.0), x + several, (x * 3).long() * several, x - (several * 2 - 1), x**three,
            torch.full((2, 3), several), torch.full_like(x, several), x * (x.sum() > 0).item(), x.masked_fill(x > largest / 2, largest), x.clamp(max=several), x * (several > 3),
            torch.cond(several > 3, lambda x: x.sin(), lambda x: x.cos(), (x,)), (x * 3).long() * largest, x.half() * largest,
        )  # fmt: skip

    assert_converts(run, (torch.rand(4, 3) * 2 - 1,), dynamic=DYNAMIC)


def test_ints_that_loops_carry_are_used_behind_them():
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int, int]:
            def step(i, total, y):
                return i + 1, total + i, y * 0.5 + total

            i, total, y = while_loop(lambda i, total, y: (i < 4) & (total < 9), step, (0, x.shape[0], x))
            return y * total + i, i, total

    x = trtcore.Input(min_shape=(2, 3), opt_shape=(4, 3), max_shape=(9, 3))
    compiled = trtcore.compile(Model(), [x], min_block_size=1, runtime="reference")
    assert compiled.report.fully_converted
    for rows in range(2, 10):
        value = torch.randn(rows, 3)
        torch.testing.assert_close(compiled(value), Model()(value))

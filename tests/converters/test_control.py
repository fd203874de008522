"""Control flow inside engines: branches and bodies by the converters that their ops have anywhere else."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._higher_order_ops.map import map as torch_map
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

import trtcore
from trtcore import Input
from trtcore.errors import ArtifactError
from trtcore.testing import assert_converts

ROWS = {0: {0: (1, 3, 6)}}


class Branches(nn.Module):
    """Parameters, an outer tensor, two results of a branch, a predicate of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.rand(4))

    def forward(self, x, sign):
        outer = x * 2

        def yes(x):
            return self.one(x) + outer, x.sum(-1)

        def no(x):
            return torch.cat([self.other(x), outer])[: x.shape[0]] - self.scale, x.mean(-1) * x.shape[0]

        y, z = torch.cond(sign > 0, yes, no, (x,))
        return y.relu(), z + outer.sum(-1)


class Predicate(nn.Module):
    """A bool that is an input, and one computed from values."""

    def forward(self, flag, x):
        y = torch.cond(flag, lambda x: x.to(torch.int64), lambda x: torch.zeros_like(x).long() - 1, (x,))
        return torch.cond(x.max() > 1, lambda x, y: x * y, lambda x, y: x - y, (x, y))


class Until(nn.Module):
    """A counter, a state, a limit and a weight from outside; the first condition may be false already."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, limit):
        return while_loop(lambda i, x: i < limit, lambda i, x: (i + 1, self.layer(x).tanh()), (limit * 0, x))


class UntilSmall(nn.Module):
    def forward(self, x):
        go_on = lambda i, x: torch.logical_and(i < 20, x.abs().max() > 0.1)  # noqa: E731
        return while_loop(go_on, lambda i, x: (i + 1, x * 0.5), (torch.zeros((), dtype=torch.int32), x))


class CountedByInt(nn.Module):
    """The loop carries a Python int, and compares it with a size."""

    def forward(self, x):
        _, y = while_loop(lambda i, x: i < x.shape[0], lambda i, x: (i + 1, x * 2 + i), (0, x))
        return y


class CondInWhile(nn.Module):
    def forward(self, x):
        def body(i, x):
            return i + 1, torch.cond(x.sum() > 0, lambda x: x - 1, lambda x: x + 2, (x,))

        return while_loop(lambda i, x: i < 5, body, (torch.tensor(0), x))


class WhileInCond(nn.Module):
    def forward(self, x):
        def yes(x):
            return while_loop(lambda i, x: i < 4, lambda i, x: (i + 1, x * 0.5 + 1), (torch.tensor(0), x))[1]

        return torch.cond(x.sum() > 0, yes, lambda x: x - 1, (x,))


class CondInCond(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        def yes(x):
            return torch.cond(x.max() > 1, lambda x: self.layer(x) * 3, lambda x: x * 3, (x,))

        return self.layer(torch.cond(x.sum() > 0, yes, lambda x: self.layer(x) - 3.0, (x,))) * 3


class Decomposed(nn.Module):
    """Ops without a converter of their own, and writes in place, in the branches."""

    def forward(self, x):
        def yes(x):
            return torch.special.xlogy(x.abs(), x.abs() + 1).var(-1, keepdim=True)

        def no(x):
            y = x.clone()
            y[:, 0] = 0
            return y.add_(1).sum(-1, keepdim=True)

        return torch.cond(x.sum() > 0, yes, no, (x,))


class Recurrence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, h, xs):
        def step(h, x):
            h = torch.tanh(self.layer(h) + x)
            return h, h * 2

        return scan(step, h, xs, dim=0)


class Backwards(nn.Module):
    """States and results in structures, an int state, another dim, the other way."""

    def forward(self, xs):
        def step(state, x):
            return {"sum": state["sum"] + x, "n": state["n"] + 1}, (state["sum"] * 1, x.sum())

        zero = {"sum": torch.zeros(3), "n": torch.tensor(0)}
        return scan(step, zero, xs, dim=1, reverse=True)


class EachRow(nn.Module):
    def forward(self, xs, y):
        return torch_map(lambda x, y: x @ y, xs, y)


CASES = {
    "cond, yes": (Branches(), (torch.randn(3, 4), torch.tensor(1.0)), ROWS),
    "cond, no": (Branches(), (torch.randn(3, 4), torch.tensor(-1.0)), ROWS),
    "cond, a bool": (Predicate(), (torch.tensor(False), torch.randn(3, 4) + 2), {1: {0: (1, 3, 6)}}),
    "while_loop": (Until(), (torch.randn(3, 4), torch.tensor(7)), ROWS),
    "while_loop, no step": (Until(), (torch.randn(3, 4), torch.tensor(0)), ROWS),
    "while_loop, a condition on values": (UntilSmall(), (torch.randn(3, 4),), ROWS),
    "while_loop, an int": (CountedByInt(), (torch.randn(3, 4),), ROWS),
    "cond in while_loop": (CondInWhile(), (torch.randn(3, 4),), ROWS),
    "while_loop in cond": (WhileInCond(), (torch.rand(3, 4),), ROWS),
    "cond in cond": (CondInCond(), (torch.rand(3, 4) * 3,), {}),
    "cond in cond, sizes vary": (CondInCond(), (torch.rand(3, 4) * 3,), ROWS),
    "decomposed, yes": (Decomposed(), (torch.rand(3, 4),), ROWS),
    "decomposed, no": (Decomposed(), (-torch.rand(3, 4),), ROWS),
    "scan": (
        Recurrence(), (torch.randn(3, 4), torch.randn(5, 3, 4)), {0: {0: (1, 3, 6)}, 1: {0: (1, 5, 30), 1: (1, 3, 6)}},
    ),
    "scan, backwards": (Backwards(), (torch.randn(3, 5),), {0: {1: (1, 5, 9)}}),
    "map": (EachRow(), (torch.randn(5, 2, 4), torch.randn(4, 4)), {0: {0: (1, 5, 9)}}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_control_flow_in_one_engine(name):
    model, inputs, dynamic = CASES[name]
    assert len(assert_converts(model, inputs, dynamic=dynamic).report.engines) == 1


def test_both_branches_of_one_engine():
    model = Branches().eval()
    rows = Input(min_shape=(1, 4), opt_shape=(3, 4), max_shape=(6, 4))
    compiled = trtcore.compile(model, [rows, torch.tensor(1.0)], min_block_size=1)
    for sign in (1.0, -1.0):
        inputs = torch.randn(2, 4), torch.tensor(sign)
        torch.testing.assert_close(compiled(*inputs), model(*inputs))


def test_an_op_of_a_branch_that_does_not_convert_is_named_with_the_line():
    class Bessel(nn.Module):
        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda x: torch.special.bessel_j0(x), lambda x: x - 1, (x,)) * 3

    x = torch.full((2, 3), 0.5)
    compiled = trtcore.compile(Bessel(), [x], min_block_size=1)
    (node,) = (node for node in compiled.report.nodes if node.op == "cond")
    assert "in its subgraph, aten.special_bessel_j0.default" in node.reason
    assert "test_control.py:" in node.reason
    assert "no converter for aten.special_bessel_j0.default" in node.reason
    assert not compiled.report.quarantined
    torch.testing.assert_close(compiled(x), Bessel()(x))
    torch.testing.assert_close(compiled(-x), Bessel()(-x))


def test_an_int_of_the_loop_that_is_used_behind_it(tmp_path):
    class Counts(nn.Module):
        def forward(self, x):
            return while_loop(lambda i, x: i < x.shape[0], lambda i, x: (i + 1, x * 2), (0, x))

    x = torch.randn(3, 4)
    rows = Input(min_shape=(1, 4), opt_shape=(3, 4), max_shape=(6, 4))
    in_torch = trtcore.compile(Counts(), [rows], min_block_size=1, disabled_passes={"loop_counters"})
    (node,) = (node for node in in_torch.report.nodes if node.op == "while_loop")
    assert "torch.tensor(0)" in node.reason
    compiled = trtcore.compile(Counts(), [rows], min_block_size=1)
    assert compiled.report.fully_converted
    trtcore.save(compiled, tmp_path / "counts.pt2")
    for module in (in_torch, compiled, trtcore.load(tmp_path / "counts.pt2")):
        count, result = module(x)
        assert (type(count), count) == (int, 3)
        torch.testing.assert_close(result, x * 8)


@pytest.mark.usefixtures("trt_backend")
def test_an_int_that_a_loop_carries_goes_to_another_process():
    """The request has a symbol of no range."""
    rows = Input(min_shape=(1, 4), opt_shape=(3, 4), max_shape=(6, 4))
    compiled = trtcore.compile(CountedByInt(), [rows], min_block_size=1, build_isolation="process")
    x = torch.randn(5, 4)
    torch.testing.assert_close(compiled(x), CountedByInt()(x))
    assert len(compiled.report.engines) == 1


@pytest.mark.usefixtures("trt_backend")
def test_a_loop_in_torch_that_no_file_holds(tmp_path):
    compiled = trtcore.compile(
        CountedByInt(), [torch.randn(3, 4)], min_block_size=1, torch_executed_ops={"while_loop"}
    )
    with pytest.raises(ArtifactError, match="while_loop"):
        trtcore.save(compiled, tmp_path / "loop.pt2")

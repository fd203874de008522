"""Sizes that data decide: what makes them stays in torch where the backend cannot, what is behind them goes into engines."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

import trtcore
from trtcore.errors import InputError
from trtcore.runtime.op import execute_engine

OPTIONS = {"min_block_size": 1, "runtime": "reference"}
X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
MASK = torch.arange(16) % 3 == 0


class Layers(nn.Module):
    """Four ops on what `taken` takes of x."""

    def __init__(self, taken):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.taken = taken

    def forward(self, x, other=None):
        return self.layers(self.taken(x) if other is None else self.taken(x, other))


def engines(compiled):
    return sum(node.target is execute_engine for node in compiled.graph.nodes)


def checked(taken, *inputs, given=None, left=None, count=1, **settings):
    """A compiled model with all but `left` in engines; its numbers are eager's."""
    model = Layers(taken).eval().requires_grad_(False)
    compiled = trtcore.compile(model, inputs=list(given or inputs), **OPTIONS, **settings)
    torch.testing.assert_close(compiled(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)
    in_torch = {node.op for node in compiled.report.nodes if not node.in_engine}
    assert in_torch == (set() if left is None else {left})
    assert engines(compiled) == count
    return compiled, model


# ---- numbers -----------------------------------------------------------------------------------------------


def first_rows(x, n):
    k = n.item()
    torch._check(k >= 2)
    torch._check(k <= x.shape[0])
    return x[:k]


@pytest.mark.parametrize("rows", [16, None])
def test_a_number_that_is_bounded_is_a_size_of_the_engine(rows):
    given = (
        None
        if rows
        else [trtcore.Input(min_shape=(4, 8), opt_shape=(16, 8), max_shape=(32, 8)), torch.tensor(5)]
    )
    compiled, model = checked(first_rows, X, torch.tensor(5), given=given)
    for k in (2, 16):
        torch.testing.assert_close(
            compiled(X, torch.tensor(k)), model(X, torch.tensor(k)), rtol=1e-4, atol=1e-5
        )
    assert compiled.report.symbols["u0"][::2] == (2, 16 if rows else 32)


@pytest.mark.parametrize("k", [1, 17])
def test_outside_of_the_bound_is_an_error_whose_advice_names_the_bound(k):
    compiled, model = checked(first_rows, X, torch.tensor(5))
    with pytest.raises(RuntimeError):
        model(X, torch.tensor(k))
    with pytest.raises(InputError, match=r"torch\._check\(n >= \.\.\., n <= \.\.\.\)"):
        compiled(X, torch.tensor(k))


def test_arithmetic_on_numbers():
    def taken(x, n):
        k = n.item()
        torch._check(k >= 1)
        torch._check(k <= 7)
        return x[: 2 * k + 1] + torch.zeros(2 * k + 1, 8) + k + x[torch.arange(k)].mean(0)

    checked(taken, X, torch.tensor(3))


def test_a_number_that_an_engine_computes():
    def taken(x):
        k = (x.abs().sum() * 0).int().item() + 3
        torch._check(k >= 1)
        torch._check(k <= 16)
        return x[:k]

    compiled, _ = checked(taken, X, count=2)
    plain = [str(node.target) for node in compiled.graph.nodes if node.op == "call_function"]
    assert "aten.abs.default" not in plain, "what the number is computed from runs in the first engine"


# ---- masks -------------------------------------------------------------------------------------------------


def by_mask(x, mask):
    return x[mask]


def by_mask_checked(x, mask):
    rows = x[mask]
    torch._check(rows.shape[0] >= 1)
    torch._check(rows.shape[0] <= 16)
    return rows


def by_nonzero(x, mask):
    return x[torch.nonzero(mask).squeeze(1)]


def by_where(x, mask):
    return x[torch.where(mask)[0]]


def by_argwhere(x, mask):
    return x[torch.argwhere(mask)[:, 0]]


def by_select(x, mask):
    return x.masked_select(mask[:, None]).view(-1, 8)


TAKEN = {
    by_mask: "aten.index.Tensor", by_mask_checked: "aten.index.Tensor", by_nonzero: "aten.nonzero.default",
    by_where: "aten.where.default", by_argwhere: "aten.argwhere.default",
}  # fmt: skip


@pytest.mark.parametrize("taken", TAKEN, ids=lambda taken: taken.__name__)
def test_what_is_behind_a_mask_is_an_engine(taken):
    compiled, model = checked(taken, X, MASK, left=TAKEN[taken])
    for rows in (1, 16):
        mask = torch.arange(16) < rows
        torch.testing.assert_close(compiled(X, mask), model(X, mask), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("taken", [by_mask, by_nonzero, by_where], ids=lambda taken: taken.__name__)
def test_a_mask_of_a_size_that_varies_bounds_what_it_takes(taken, tmp_path):
    rows = {"min_shape": (4, 8), "opt_shape": (16, 8), "max_shape": (64, 8)}
    given = [
        trtcore.Input(**rows), trtcore.Input(**{name: size[:1] for name, size in rows.items()}, dtype=torch.bool),
    ]  # fmt: skip
    compiled, model = checked(taken, X, MASK, given=given, left=TAKEN[taken])
    assert compiled.report.symbols["u0"] == (0, 8, 64)
    path = tmp_path / "masked.pt2"
    trtcore.save(compiled, path)
    modules = [
        compiled,
        trtcore.load(path),
        torch.export.load(path).module(),
        pickle.loads(pickle.dumps(compiled)),
    ]
    for length, kept in ((64, 64), (4, 0), (9, 1), (9, 5)):
        x, mask = torch.randn(length, 8), torch.arange(length) < kept
        for module in modules:
            torch.testing.assert_close(module(x, mask), model(x, mask), rtol=1e-4, atol=1e-5)


def test_two_masks_and_what_they_are_put_back_into():
    def taken(x, mask):
        both = torch.cat([x[mask], x[~mask]]) * 2
        (place,) = torch.where(mask)
        return torch.zeros_like(x).index_put((place,), (x[place] + 1).tanh()) + both.sum(0)

    model = Layers(taken).eval().requires_grad_(False)
    compiled = trtcore.compile(model, inputs=[X, MASK], **OPTIONS)
    torch.testing.assert_close(compiled(X, MASK), model(X, MASK), rtol=1e-4, atol=1e-4)
    left = {node.op for node in compiled.report.nodes if not node.in_engine}
    assert left == {"aten.index.Tensor", "aten.where.default"}


def rows_under(x, mask):
    y = x.clone()
    y[~mask] = y[~mask] * 2 + y[~mask].abs().sqrt() - torch.ones(8)
    return y


def elements_under(x, mask):
    y = x * 1
    y[y < 0] = y[y < 0] * 0.1
    return y


@pytest.mark.parametrize("taken", [rows_under, elements_under], ids=lambda taken: taken.__name__)
def test_elements_under_a_mask_that_are_written_back_are_chosen(taken):
    compiled, _ = checked(taken, X, MASK)
    assert any("masked_updates" in one for one in compiled.report.rewrites)
    rows = trtcore.Input(min_shape=(4, 8), opt_shape=(16, 8), max_shape=(64, 8))
    masks = trtcore.Input(min_shape=(4,), opt_shape=(16,), max_shape=(64,), dtype=torch.bool)
    checked(taken, X, MASK, given=[rows, masks])


def test_elements_that_are_written_in_another_order_are_not():
    def taken(x, mask):
        y = x.clone()
        y[mask] = y[mask].flip(0) + y[mask].cumsum(0)
        return y

    model = Layers(taken).eval().requires_grad_(False)
    compiled = trtcore.compile(model, inputs=[X, MASK], **OPTIONS)
    torch.testing.assert_close(compiled(X, MASK), model(X, MASK), rtol=1e-4, atol=1e-5)
    assert not any("masked_updates" in one for one in compiled.report.rewrites)


def test_several_profiles():
    rows = trtcore.Input(profiles=[((4, 8), (8, 8), (16, 8)), ((17, 8), (32, 8), (64, 8))])
    masks = trtcore.Input(profiles=[((4,), (8,), (16,)), ((17,), (32,), (64,))], dtype=torch.bool)
    compiled, model = checked(by_mask, X, MASK, given=[rows, masks], left="aten.index.Tensor")
    x = torch.randn(40, 8)
    torch.testing.assert_close(compiled(x, x[:, 0] > 0), model(x, x[:, 0] > 0), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_build_in_another_process():
    checked(by_mask, X, MASK, left="aten.index.Tensor", build_isolation="process")


@pytest.mark.parametrize(("taken", "inputs"), [(by_mask, (X, MASK)), (first_rows, (X, torch.tensor(5)))])
@torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True, capture_scalar_outputs=True)
def test_under_torch_compile(taken, inputs):
    model = Layers(taken).eval().requires_grad_(False)
    compiled = torch.compile(model, backend="trtcore", options=OPTIONS)
    torch.testing.assert_close(compiled(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)


# ---- without a bound ---------------------------------------------------------------------------------------


def test_without_a_bound_the_reason_names_the_line_and_what_to_write_there():
    def taken(x, n):
        return torch.ones(n.item(), 8) + x[0]

    report = trtcore.explain(Layers(taken), inputs=[X, torch.tensor(5)], min_block_size=1)
    (linear, _) = [node for node in report.nodes if node.op == "aten.linear.default"]
    assert not linear.in_engine
    assert "has no upper bound" in linear.reason
    assert "torch._check(n <= 100)" in linear.reason
    assert f"{__file__}:" in linear.reason
    assert "torch._check" in linear.advice


def test_the_advice_works():
    def taken(x, n):
        k = n.item()
        torch._check(k <= 100)
        return torch.ones(k, 8) + x[0]

    checked(taken, X, torch.tensor(5))

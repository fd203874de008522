"""What a caller writes to a result is seen where eager's result is a view, and weights stay what they are."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import trtcore


class Model(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body
        self.register_buffer("b", torch.arange(4.0))

    def forward(self, x):
        return self.body(self, x)


def views_of_each_other(_, x):
    y = x * 2
    return y[0], y, y.t()


def written_behind_its_view(_, x):
    y = x.clamp(-1, 1)
    rows = y.squeeze()
    y.cumsum_(0)
    return y, rows


def part_of_a_turned_one(_, x):
    y = (x @ x.mT).mT
    return y, y.as_strided((2, 2), (2, 1))


def turned_in_place_beside_a_view(_, x):
    y = x * 2
    rows = y.view(-1)
    y.t_()
    return rows, y


def handed_on_and_turned_in_place(_, x):
    y = x * 2
    same = nn.functional.dropout(y, training=False)
    y.t_()
    return same, same + 1


def part_handed_on_and_turned_in_place(_, x):
    y = x[:2].narrow(-1, 2, 2)
    nn.functional.dropout(y, training=False).t_()
    return y


def same_turned_in_place(_, x):
    y = x * 2
    nn.functional.dropout(y, training=False).t_()
    return y + 1, y


VIEWS = {
    "itself": lambda _, x: x,
    "all of it": lambda _, x: x.view(-1),
    "a part": lambda _, x: (x[0], x + 1),
    "reshaped": lambda _, x: x.reshape(4, -1),
    "turned": lambda _, x: {"a": x.t(), "b": [x[1:]]},
    "split": lambda _, x: x.split(2, 1),
    "a number": lambda _, x: x[0, 0],
    "dropout": lambda _, x: nn.functional.dropout(x, training=False).view(-1),
    "nothing to cast": lambda _, x: x.to(torch.float32)[1:],
    "written": lambda _, x: x.mul_(2)[1:],
    "of a written buffer": lambda model, x: (model.b.add_(1)[:2], x * 2),
    "of a result": views_of_each_other,
    "of a result that is written later": written_behind_its_view,
    "of memory of a result": part_of_a_turned_one,
    "two looks at what is no result": lambda _, x: ((y := x * 2).view(-1), y.t()),
    "parts with an element in common": lambda _, x: ((y := x * 2)[:2], y[1:], y[0]),
    "columns with one in common": lambda _, x: ((y := x * 2)[:, :2], y[:, 1:]),
    "dropout with a shape": lambda _, x: nn.functional.dropout(x, training=False).view(2, -1),
    "turned in place": turned_in_place_beside_a_view,
    "parts of what is no result": lambda _, x: torch.relu(x).chunk(2, 1),
}


def compiled(model, route, path):
    if route.startswith("torch.compile"):
        torch._dynamo.reset()
        dynamic = True if route.endswith("dynamic") else None
        return torch.compile(model, backend="trtcore", options={"min_block_size": 1}, dynamic=dynamic)
    rows = trtcore.Input(min_shape=(2, 4), opt_shape=(3, 4), max_shape=(6, 4))
    made = trtcore.compile(model, inputs=[torch.randn(3, 4) if route == "static" else rows], min_block_size=1)
    if route == "loaded":
        trtcore.save(made, path)
        return trtcore.load(path)
    return pickle.loads(pickle.dumps(made)) if route == "pickled" else made


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:no engine was made")
@pytest.mark.parametrize(
    "route", ["static", "dynamic", "loaded", "pickled", "torch.compile", "torch.compile, dynamic"]
)
@pytest.mark.parametrize("name", VIEWS)
def test_what_is_written_to_results(name, route, tmp_path):
    eager, mine = Model(VIEWS[name]), Model(VIEWS[name])
    run = compiled(mine, route, tmp_path / "m.pt2")
    for _ in range(2):
        theirs = torch.randn(3, 4)
        ours = theirs.clone()
        want, found = eager(theirs), run(ours)
        for number, (one, other) in enumerate(
            zip(pytree.tree_leaves(want), pytree.tree_leaves(found), strict=True)
        ):
            torch.testing.assert_close(other, one)
            one.add_(number + 1)
            other.add_(number + 1)
        torch.testing.assert_close(found, want)
        torch.testing.assert_close(ours, theirs)
        if route not in ("loaded", "pickled"):
            torch.testing.assert_close(mine.b, eager.b)


@torch.no_grad()
@pytest.mark.parametrize("route", ["static", "torch.compile", "torch.compile, dynamic"])
@pytest.mark.parametrize(
    "body", [handed_on_and_turned_in_place, part_handed_on_and_turned_in_place, same_turned_in_place]
)
def test_a_tensor_that_is_handed_on_has_one_shape(body, route, tmp_path):
    """With sizes that vary ahead of time it is refused: the capture has two tensors."""
    x = torch.randn(3, 4)
    torch.testing.assert_close(compiled(Model(body), route, tmp_path)(x), Model(body)(x))


class Weights(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("b", torch.arange(4.0))
        self.w = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.b, x * self.b, self.w[1:], x + self.w


@torch.no_grad()
@pytest.mark.parametrize("apart", [set(), {torch.ops.aten.slice.Tensor, torch.ops.aten.mul.Tensor}])
def test_weights_that_are_returned_are_copies(apart, tmp_path):
    model, x = Weights(), torch.randn(3, 4)
    run = trtcore.compile(model, inputs=[x], min_block_size=1, torch_executed_ops=apart)
    trtcore.save(run, tmp_path / "m.pt2")
    want = copy.deepcopy(model(x))
    for route in (run, trtcore.load(tmp_path / "m.pt2"), torch.export.load(tmp_path / "m.pt2").module()):
        for result in route(x):
            result.zero_()
        torch.testing.assert_close(route(x), want)
    torch.testing.assert_close(model(x), want)


def test_a_report_is_of_what_engines_compute():
    """Views for the caller are no ops that fell back."""
    rows = trtcore.Input(min_shape=(2, 4), opt_shape=(3, 4), max_shape=(6, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = trtcore.compile(Model(lambda _, x: (x.view(-1), x * 2)), inputs=[rows], min_block_size=1)
    assert made.report.summary().startswith("1 of 1 ops in 1 engine, 0 in torch")
    assert (
        trtcore.explain(Model(lambda _, x: (x.view(-1), x * 2)), [rows], min_block_size=1)
        .summary()
        .startswith("1 of 1 ops")
    )


@torch.no_grad()
def test_a_look_into_memory_whose_strides_vary():
    class Look(nn.Module):
        def forward(self, x):
            y = x.as_strided((2, 2), (2, 1))
            y.t_()
            return y

    run = torch.compile(Look(), backend="trtcore", options={"min_block_size": 1})
    memory = torch.randn(4, 8)
    for x in (memory[:, :4].contiguous(), memory[:, ::2], memory[:, ::2].t()):
        torch.testing.assert_close(run(x), Look()(x))

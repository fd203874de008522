"""``x.data`` in a model: what is taken is in the same memory, what is set is refused or done by torch."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import trtcore
from trtcore.errors import ExportError


class Model(nn.Module):
    def __init__(self, body: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("b", torch.arange(4.0))
        self.w = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def of_a_result(_, x):
    y = x * 2
    y.data.zero_()
    return y + 1


def of_an_input(_, x):
    x.data.add_(1)
    return x * 2


def of_a_view(_, x):
    turned = x.t().data
    turned[0].mul_(3)
    return x.sum(0)


def of_a_buffer(model, x):
    model.b.data.copy_(x[0])
    return model.b * x


def of_a_parameter(model, x):
    model.w.data.mul_(2).clamp_(max=3)
    return x * model.w


def returned(_, x):
    return x.data, (x + 1).data


TAKEN = [of_a_result, of_an_input, of_a_view, of_a_buffer, of_a_parameter, returned]


def of_an_input_set(_, x):
    x.data = x * 2
    return x + 1


def of_a_result_set(_, x):
    y = x + 1
    y.data = x * 2
    return y


def of_a_buffer_set(model, x):
    model.b.data = model.b + 1
    return x + model.b


def of_a_parameter_set(model, x):
    model.w.data = torch.renorm(model.w.data[None], 2, 0, 1.0)[0]
    return x * model.w


SET = [of_an_input_set, of_a_result_set, of_a_buffer_set, of_a_parameter_set]


@torch.no_grad()
@pytest.mark.parametrize("body", TAKEN)
@pytest.mark.parametrize("route", ["ahead of time", "loaded", "torch.compile"])
def test_what_is_taken_is_in_the_same_memory(body, route, tmp_path):
    torch._dynamo.reset()
    eager, mine, x = Model(body), Model(body), torch.randn(3, 4)
    if route == "torch.compile":
        run = torch.compile(mine, backend="trtcore", options={"min_block_size": 1})
    else:
        run = trtcore.compile(mine, inputs=[x], min_block_size=1)
    if route == "loaded":
        trtcore.save(run, tmp_path / "m.pt2")
        run = trtcore.load(tmp_path / "m.pt2")
    for _ in range(2):
        theirs, ours = x.clone(), x.clone()
        torch.testing.assert_close(run(ours), eager(theirs))
        torch.testing.assert_close(ours, theirs)
    if route != "loaded":
        torch.testing.assert_close(dict(mine.named_buffers()), dict(eager.named_buffers()))


@pytest.mark.parametrize("body", SET)
def test_what_is_set_is_refused_ahead_of_time(body):
    """torch.export goes on with what was there before, without a word."""
    with pytest.raises(ExportError, match="sets the data of a tensor") as told:
        trtcore.compile(Model(body), inputs=[torch.randn(3, 4)], min_block_size=1)
    assert f"in {body.__name__}" in str(told.value)


@torch.no_grad()
@pytest.mark.parametrize("body", SET)
def test_what_is_set_runs_in_torch_under_torch_compile(body):
    torch._dynamo.reset()
    eager, x = Model(body), torch.randn(3, 4)
    mine = copy.deepcopy(eager)
    run = torch.compile(mine, backend="trtcore", options={"min_block_size": 1})
    for _ in range(2):
        theirs, ours = x.clone(), x.clone()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*such calls run in torch")
            torch.testing.assert_close(run(ours), eager(theirs))
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(dict(mine.named_buffers()), dict(eager.named_buffers()))


# ---- an input that looks different for a while -----------------------------------------------------------------


def up_and_down(_, x):
    return x.unsqueeze_(0).squeeze_(0) * 2


def turned_twice(_, x):
    x.transpose_(0, 1).mul_(2).transpose_(0, 1)
    return x + 1


def written_while_turned(_, x):
    x.t_()
    y = x + x[0].sum()
    x[1].zero_()
    x.t_()
    return y.sum(1) + 1, x


def a_buffer_turned_twice(model, x):
    model.b.unsqueeze_(1).squeeze_(1).add_(1)
    return x + model.b


def a_part_for_a_while(_, x):
    x.as_strided_((2, 3), (4, 1))
    y = x + 1
    x.as_strided_((3, 4), (4, 1))
    return y


BACK = [up_and_down, turned_twice, written_while_turned, a_buffer_turned_twice, a_part_for_a_while]


@torch.no_grad()
@pytest.mark.parametrize("body", BACK)
@pytest.mark.parametrize("dynamic", [False, True])
def test_an_input_that_has_its_shape_back(body, dynamic):
    eager, mine = Model(body), Model(body)
    if dynamic and body is a_part_for_a_while:
        pytest.skip("its sizes are numbers")
    varies = trtcore.Input(min_shape=(2, 4), opt_shape=(3, 4), max_shape=(6, 4))
    run = trtcore.compile(mine, inputs=[varies if dynamic else torch.randn(3, 4)], min_block_size=1)
    for size in (2, 3, 6) if dynamic else (3,):
        theirs = torch.randn(size, 4)
        ours = theirs.clone()
        torch.testing.assert_close(run(ours), eager(theirs))
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(dict(mine.named_buffers()), dict(eager.named_buffers()))


# ---- an input that is another at the end -----------------------------------------------------------------------


def _unsqueezed(_, x):
    x.unsqueeze_(0)
    return x * 2


def _only_unsqueezed(_, x):
    x.unsqueeze_(-1)
    return torch.ones(2)


def _unsqueezed_and_returned(_, x):
    return x.unsqueeze_(0)


def _unsqueezed_and_written(_, x):
    x.unsqueeze_(1).mul_(2)
    return x + 1


def _by_the_op(_, x):
    return torch.ops.aten.unsqueeze_.default(x, 0) + 1


def _turned(_, x):
    x.t_()
    return x.relu()


def _transposed(_, x):
    x.transpose_(0, 1)
    return x + 1


def _swapped(_, x):
    x.swapaxes_(0, 1)
    return x + 1


def _a_part(_, x):
    x.as_strided_((2, 2), (2, 1))
    return x + 1


def _given_other_memory(_, x):
    x.set_(x * 2)
    return x + 1


def _resized(_, x):
    x.resize_(2, 2)
    return x + 1


OTHERS = {
    "unsqueeze_": [
        _unsqueezed,
        _only_unsqueezed,
        _unsqueezed_and_returned,
        _unsqueezed_and_written,
        _by_the_op,
    ],
    "t_": [_turned],
    "transpose_": [_transposed],
    "swapaxes_": [_swapped],
    "as_strided_": [_a_part],
    "set_": [_given_other_memory],
    "resize_": [_resized],
}
CHANGES = [pytest.param(op, body, id=body.__name__[1:]) for op, bodies in OTHERS.items() for body in bodies]


@pytest.mark.parametrize(("op", "body"), CHANGES)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("by_name", [False, True], ids=["positional", "by name"])
def test_an_input_that_is_another_at_the_end_is_refused_ahead_of_time(op, body, dynamic, by_name):
    given = (
        trtcore.Input(min_shape=(2, 4), opt_shape=(3, 4), max_shape=(6, 4)) if dynamic else torch.ones(3, 4)
    )
    inputs = {"kwarg_inputs": {"x": given}} if by_name else {"inputs": [given]}
    with pytest.raises(
        ExportError, match=f"^{op} (changes the shape or the memory of the input 'x'|gives)"
    ) as told:
        trtcore.compile(Model(body), min_block_size=1, **inputs)
    assert "test_tensor_data.py" in str(told.value.where)
    assert body.__name__ in str(told.value.where)


@torch.no_grad()
@pytest.mark.parametrize(("op", "body"), CHANGES)
def test_an_input_that_is_another_at_the_end_under_torch_compile(op, body):
    """As the error's advice has it: the caller's tensor is then another, too."""
    if body is _by_the_op:
        pytest.skip("torch itself cannot make a guard for it")
    torch._dynamo.reset()
    eager, mine = Model(body), Model(body)
    run = torch.compile(mine, backend="trtcore", options={"min_block_size": 1})
    for _ in range(2):
        theirs = torch.randn(3, 4)
        ours = theirs.clone()
        torch.testing.assert_close(run(ours), eager(theirs))
        torch.testing.assert_close(ours, theirs)
        assert ours.stride() == theirs.stride()


def test_the_advice_for_an_input_that_is_unsqueezed():
    def body(_, x):
        x = x.unsqueeze(0)
        x.mul_(2)
        return x + 1

    eager, run = Model(body), trtcore.compile(Model(body), inputs=[torch.ones(3, 4)], min_block_size=1)
    theirs = torch.randn(3, 4)
    ours = theirs.clone()
    torch.testing.assert_close(run(ours), eager(theirs))
    torch.testing.assert_close(ours, theirs)


# ---- masks of no dims ------------------------------------------------------------------------------------------


def _number_taken(_, x):
    y = x.sum()
    return y[y > 0] * 2


def _number_set(_, x):
    y = x.sum().clone()
    y[y > 0] = 1.0
    return y + 1


def _number_changed(_, x):
    y = x.sum().clone()
    y[y > 0] += 2
    return y


def _tensor_taken(_, x):
    return x[x.sum() > 0] * 2


def _tensor_set(_, x):
    x[x.sum() > 0] = x[0].clone()
    return x + 1


def _with_a_column(_, x):
    return x[x.sum() > 0, 0]


def _behind_a_slice(_, x):
    return x[:, x.sum() > 0] + 1


MASKS = [
    _number_taken,
    _number_set,
    _number_changed,
    _tensor_taken,
    _tensor_set,
    _with_a_column,
    _behind_a_slice,
]


@torch.no_grad()
@pytest.mark.parametrize("body", MASKS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_a_mask_of_no_dims(body, dynamic):
    varies = trtcore.Input(min_shape=(2, 4), opt_shape=(3, 4), max_shape=(6, 4))
    run = trtcore.compile(Model(body), inputs=[varies if dynamic else torch.ones(3, 4)], min_block_size=1)
    for size in (2, 3, 6) if dynamic else (3,):
        for sign in (1, -1):
            theirs = (torch.rand(size, 4) + 0.5) * sign
            ours = theirs.clone()
            torch.testing.assert_close(run(ours), Model(body)(theirs))
            torch.testing.assert_close(ours, theirs)

"""torch.compile(backend="trtcore"): arguments that share memory, ints that are no sizes, strides, autocast."""

import warnings

import pytest
import torch
from torch import nn

import trtcore


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*such calls run in torch")
        yield
    torch._dynamo.reset()


def compiled(model, **kwargs):
    return torch.compile(model, backend="trtcore", options={"min_block_size": 1}, **kwargs)


def t(*shape):
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


def add_and_read(x, y):
    x.add_(1)
    return y * 2, x - y


def write_both(x, y):
    z = x * y
    x.copy_(y + z)
    y.mul_(2)
    return x + y, y


def overlapping(base):
    return base[:3], base[1:4]


def transposed(base):
    square = base[:4].view(2, 2)
    return square, square.t()


def same(base):
    return base[:3], base[:3]


def one(base):
    part = base[:3]
    return part, part


def apart(base):
    return base[:3], base[3:6]


def interleaved(base):
    return base[::2], base[1::2]


@torch.no_grad()
@pytest.mark.parametrize("function", [add_and_read, write_both])
def test_arguments_that_share_memory(function):
    fast = compiled(function)
    for views in (apart, overlapping, transposed, same, one, interleaved, apart):
        ours, eager = t(8), t(8)
        found, expected = fast(*views(ours)), function(*views(eager))
        for a, b in zip(found, expected):
            torch.testing.assert_close(a, b, msg=views.__name__)
        torch.testing.assert_close(ours, eager, msg=views.__name__)


@torch.no_grad()
def test_it_is_told_once():
    fast = compiled(add_and_read)

    def calls():
        fast(t(3), t(3))
        for _ in range(2):
            base = t(4)
            fast(base[:3], base[1:])

    with pytest.warns(RuntimeWarning, match="x and y share memory, and the graph writes to x") as told:
        calls()
    assert len([one for one in told if "share memory" in str(one.message)]) == 1


class State(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(t(4), requires_grad=False)
        self.register_buffer("cache", t(4))

    def forward(self, x):
        self.cache.add_(x)
        x.mul_(2)
        return x * self.weight + self.cache


@torch.no_grad()
@pytest.mark.parametrize(
    "argument",
    [
        lambda m: m.weight.data,
        lambda m: m.weight[:],
        lambda m: m.cache,
        lambda m: m.cache.view(2, 2).view(4),
        lambda m: t(4),
    ],
)
def test_arguments_that_share_memory_with_the_model(argument):
    ours, eager = State(), State()
    fast = compiled(ours)
    fast(t(4))
    eager(t(4))
    for _ in range(2):
        torch.testing.assert_close(fast(argument(ours)), eager(argument(eager)))
        torch.testing.assert_close(dict(ours.state_dict()), dict(eager.state_dict()))


@torch.no_grad()
@pytest.mark.parametrize("first", [2, -1])
def test_ints_of_any_value(first):
    fast = compiled(lambda x, k: x * k + k)
    for k in (first, 3, -1, 2**31 - 1, 2**31, 2**40, 2**62, 0, 1, 7, -(2**63), 5):
        torch.testing.assert_close(fast(t(3), k), t(3) * k + k, msg=str(k))


@torch.no_grad()
def test_an_int_that_is_a_size_too():
    fast = compiled(lambda x, k: x.repeat(k) * k)
    for k in (2, 3, 9, 40):
        torch.testing.assert_close(fast(t(3), k), t(3).repeat(k) * k)


@torch.no_grad()
@pytest.mark.parametrize("block", [1, 1000])
@pytest.mark.parametrize(
    "model", [nn.AdaptiveAvgPool2d((2, 2)), nn.AdaptiveMaxPool2d((2, 2)), nn.AdaptiveAvgPool2d((None, 3))]
)
def test_outputs_have_eagers_strides(model, block):
    def flat(x):
        return model(x).view(x.shape[0], -1)

    for function in (model, flat):
        torch._dynamo.reset()
        fast = torch.compile(function, backend="trtcore", options={"min_block_size": block}, dynamic=True)
        for shape in ((2, 3, 5, 7), (4, 3, 8, 6)):
            x = torch.randn(shape)
            found, expected = fast(x), function(x)
            torch.testing.assert_close(found, expected)
            assert found.stride() == expected.stride()
            if function is model:
                last = x.contiguous(memory_format=torch.channels_last)
                assert fast(last).stride() == model(last).stride()


@torch.no_grad()
def test_a_hybrid_module_in_autocast_computes_as_it_was_captured():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).eval()
    x = torch.randn(2, 4)
    for settings in ({}, {"torch_executed_ops": {"aten.linear.default"}}):
        module = trtcore.compile(model, inputs=[x], min_block_size=1, **settings)
        expected = module(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = module(x)
            module.register_forward_hook(lambda *_: None)
            hooked = module(x)
        for result in (found, hooked):
            assert result.dtype is torch.float32
            assert torch.equal(result, expected)


class Dropped(nn.Module):
    def forward(self, x):
        kept = nn.functional.dropout(x, training=False)  # x itself
        x.add_(1)
        return kept * 2, kept


@torch.no_grad()
def test_what_dropout_hands_on_is_written():
    for ours in (compiled(Dropped()), trtcore.compile(Dropped(), inputs=[t(2, 3)], min_block_size=1)):
        x = t(2, 3)
        double, kept = ours(x)
        assert torch.equal(x, t(2, 3) + 1)
        assert torch.equal(double, x * 2)
        assert kept is x


@torch.no_grad()
@pytest.mark.parametrize("dynamic", [None, True])
def test_writes_of_every_form(dynamic):
    def column(x):
        x = x.clone()
        x[:, 0] = 0
        return x

    def mask(x):
        m = x > 0
        m[0] = False
        return x * m

    def tensor(x):
        z = x.clone()
        z[0] = torch.tensor(5.0)
        return z, z[:, 1]

    def diagonal(x):
        x.fill_diagonal_(2)
        return x + 1

    def several(x):
        torch._foreach_add_([x[0], x, x], 1)
        return x * 2

    for function in (column, mask, tensor, diagonal, several):
        fast = compiled(function, dynamic=dynamic)
        for rows in (3, 2):
            ours, eager = t(16)[4:][: 3 * rows].view(rows, 3), t(16)[4:][: 3 * rows].view(rows, 3)
            torch.testing.assert_close(fast(ours), function(eager), msg=function.__name__)
            assert torch.equal(ours, eager)


def reshaped(view):
    def function(x, y):
        part = x[1:]
        view(part)
        made = y + 1
        view(made)
        row = made[0]
        part.mul_(2)
        return part, made, row

    return function


def reshaped_and_back(x, y):
    x.unsqueeze_(0)
    row = x[0, 1]
    x.squeeze_(0)
    return row, x + y


def dropped(x, y):
    kept = nn.functional.dropout(x.view_as(x), training=False)
    return kept.tensor_split(2)[0], y + kept


def dropped_and_turned(x, y):
    kept = nn.functional.dropout(x, training=False)
    kept.t_()
    return x[0], kept.mul_(2) + y


def dropped_and_written(x, y):
    x.abs_()
    kept = nn.functional.dropout(x, training=False)
    x.masked_fill_(y > 0, 2)
    return kept.view_as(kept), kept.floor_()


@torch.no_grad()
@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize(
    "function",
    [
        reshaped(lambda v: v.unsqueeze_(0)),
        reshaped(lambda v: v.t_()),
        reshaped(lambda v: v.transpose_(0, 1)),
        reshaped(lambda v: v.swapaxes_(-1, 0)),
        reshaped(lambda v: v.unsqueeze_(0).squeeze_(0).squeeze_()),
        reshaped(lambda v: v.contiguous().t_()),  # the tensor itself, where it is contiguous
        reshaped(lambda v: v.as_strided_((2, 2), (2, 1))),
        reshaped_and_back,
        dropped,
        dropped_and_turned,
        dropped_and_written,
    ],
)
def test_results_have_eagers_memory(function, dynamic):
    """What is written to one result is seen in inputs and results that have the same memory, and in no other."""
    fast = compiled(function, dynamic=dynamic)
    for size in (4, 4, 3):
        ours, eager = [t(size, size) - 5, t(size, size)], [t(size, size) - 5, t(size, size)]
        found, expected = fast(*ours), function(*eager)
        for a, b in zip(found, expected):
            assert a.stride() == b.stride()
            a.add_(10)
            b.add_(10)
        for a, b in zip([*found, *ours], [*expected, *eager]):
            torch.testing.assert_close(a, b)

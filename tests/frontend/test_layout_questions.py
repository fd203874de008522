"""Models that make something of the layout of their inputs: as captured, or refused; never another function."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import trtcore
from trtcore.errors import InputError
from trtcore.frontend.export import trace
from trtcore.frontend.layout_questions import LayoutQuestions


def square(*shape):
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


def model_of(function):
    class Model(nn.Module):
        def forward(self, x):
            return function(x)

    return Model()


def kept(x):
    y = x.contiguous()
    x.add_(1)
    return y


def of_a_computed_one(x):
    y = x * 2
    z = y.contiguous()
    y.add_(1)
    return z


def of_a_view(x):
    x.t()[1:].t().contiguous().view(-1).add_(1)
    return x * 1


def twice(x):
    y = x.contiguous().contiguous()
    y[0] = 5
    return x * 1


def flattened(x):
    x.flatten().add_(1)
    return x * 1


def by_an_inner_write(x):
    y = F.dropout(x, training=False)
    x.add_(1)
    return y.reshape(-1) * 1


def handed_on(x):
    y = F.dropout(x, training=False).reshape(-1)
    x.add_(1)
    return y * 1


def asked(x):
    return x * 2 if x.is_contiguous() else x * 3


def told_strides(x):
    return x * x.stride(0)


def of_a_shape(x):
    return (x + 1) * (2 if (x + 1).stride()[-1] == 1 else 3)


def converted(x):
    y = x.to(memory_format=torch.contiguous_format)
    x.add_(1)
    return y * 1


DECIDED = [
    kept, of_a_computed_one, of_a_view, twice, flattened, by_an_inner_write, handed_on, asked, told_strides, of_a_shape,
    converted,
]  # fmt: skip


def other_layouts():
    yield square(4, 4).t()
    yield square(4, 8)[:, ::2]


def same(model, compiled, x):
    mine, theirs = (torch.zeros(64).as_strided(x.shape, x.stride()).copy_(x) for _ in range(2))
    torch.testing.assert_close(compiled(mine), model(theirs))
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("function", DECIDED)
def test_the_layout_of_the_capture_or_none(function, tmp_path):
    model = model_of(function)
    compiled = trtcore.compile(model, inputs=[square(4, 4)], min_block_size=1)
    trtcore.save(compiled, tmp_path / "m.pt2")
    ways = (
        compiled,
        trtcore.load(tmp_path / "m.pt2"),
        pickle.loads(pickle.dumps(compiled)),
        copy.deepcopy(compiled),
    )
    for module in ways:
        same(model, module, square(4, 4))
        for x in other_layouts():
            with pytest.raises(InputError, match=r"input x must have the strides \(4, 1\)"):
                module(x)


def test_captured_with_another_layout():
    model = model_of(kept)
    turned = square(4, 4).t()
    compiled = trtcore.compile(model, inputs=[turned], min_block_size=1)
    same(model, compiled, turned)
    with pytest.raises(InputError, match=r"must have the strides \(1, 4\)"):
        compiled(square(4, 4))


def test_channels_last():
    model = model_of(lambda x: x * 2 if x.is_contiguous(memory_format=torch.channels_last) else x * 3)
    compiled = trtcore.compile(model, inputs=[square(2, 3, 2, 2)], min_block_size=1)
    same(model, compiled, square(2, 3, 2, 2))
    with pytest.raises(InputError, match="must have the strides"):
        compiled(square(2, 3, 2, 2).to(memory_format=torch.channels_last))


def test_of_varying_size():
    rows = trtcore.Input(min_shape=(2, 4), opt_shape=(4, 4), max_shape=(8, 4))
    for function in (kept, asked):
        model = model_of(function)
        compiled = trtcore.compile(model, inputs=[rows], min_block_size=1)
        for n in (2, 3, 8):
            same(model, compiled, square(n, 4))
            with pytest.raises(InputError, match="must have the strides"):
                compiled(square(4, n).t())


def only_read(x):
    y = x.contiguous()
    return y.view(-1) + x.flatten()


def made_contiguous(x):
    if not x.is_contiguous():
        x = x.contiguous()
    return x * 2


def same_dtype(x):
    y = x.to(torch.float32).float().type(torch.float32)
    x.add_(1)
    return y


def written_elsewhere(x):
    y = torch.zeros(4)
    y.add_(1)
    return x.contiguous() + y.reshape(2, 2).reshape(4)


def a_view_of_any_layout(x):
    y = x.expand_as(x).squeeze(0)
    x.mul_(2)
    return y


def attention(x):
    q = x.view(1, 4, 2, 2).transpose(1, 2)
    return F.scaled_dot_product_attention(q, q, q).transpose(1, 2).contiguous().view(4, 4)


@pytest.mark.parametrize(
    "function", [only_read, made_contiguous, same_dtype, written_elsewhere, a_view_of_any_layout, attention]
)
def test_no_more_than_needed(function):
    model = model_of(function)
    compiled = trtcore.compile(model, inputs=[square(4, 4)], min_block_size=1)
    assert all(leaf.stride is None for leaf in compiled._input_check.leaves)
    same(model, compiled, square(4, 4))
    if function is not attention:
        for x in other_layouts():
            same(model, compiled, x)


@pytest.mark.parametrize("strict", [False, True])
def test_the_trace_holds_no_op_that_does_nothing(strict):
    ep = trace(model_of(twice), [square(4, 4)], strict=strict)
    assert not [node for node in ep.graph.nodes if "contiguous" in str(node.target)]
    ep.validate()
    same(model_of(twice), ep.module(), square(4, 4))
    same(model_of(twice), ep.run_decompositions().module(), square(4, 4))


def test_strict():
    for function in (kept, asked):
        ep = trace(model_of(function), [square(4, 4)], strict=True)
        compiled = trtcore.dynamo.compile(ep, min_block_size=1)
        same(model_of(function), compiled, square(4, 4))
        with pytest.raises(InputError, match="must have the strides"):
            compiled(square(4, 4).t())


def test_in_a_branch():
    def branches(x):
        return torch.cond(
            x.sum() > 0, lambda t: t.contiguous() + 1, lambda t: (t.contiguous() - 1).relu(), (x,)
        )

    model = model_of(branches)
    compiled = trtcore.compile(model, inputs=[square(4, 4)], min_block_size=1)
    for x in (square(4, 4), -square(4, 4), square(4, 4).t()):
        same(model, compiled, x)


def test_layers_of_torch_ask_nothing():
    """What they ask is for speed: no second capture."""
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 8), nn.Unflatten(1, (2, 4)),
        nn.TransformerEncoderLayer(4, 2, batch_first=True), nn.LSTM(4, 4, batch_first=True),
    ).eval()  # fmt: skip
    with LayoutQuestions() as questions, torch.no_grad():
        torch.export.export(layers, (torch.randn(2, 3, 8, 8),))
    assert not questions.asked

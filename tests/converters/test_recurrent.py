"""Recurrent layers as loops: any length, one engine."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import trtcore
from trtcore import Input
from trtcore.errors import InputError
from trtcore.ir.torch_private import results_of_shapes
from trtcore.packs.loading import build_registry
from trtcore.settings import CompilationSettings
from trtcore.testing import assert_converts

LAYERS = {
    "lstm": nn.LSTM(6, 4, 2, batch_first=True, bidirectional=True),
    "lstm, projected": nn.LSTM(6, 8, proj_size=3, bidirectional=True),
    "lstm, projected, no biases": nn.LSTM(6, 8, 2, bias=False, proj_size=3, batch_first=True),
    "gru": nn.GRU(6, 4, 2, bidirectional=True),
    "gru, no biases": nn.GRU(6, 4, bias=False, batch_first=True),
    "rnn": nn.RNN(6, 4, 2, batch_first=True),
    "rnn, relu": nn.RNN(6, 4, nonlinearity="relu", bidirectional=True),
}


class Tagger(nn.Module):
    """Layers around a recurrent one, and its last states."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.before, self.layer = nn.Linear(6, 6), layer

    def forward(self, x):
        y, states = self.layer(self.before(x).relu())
        return y.softmax(-1), states


@pytest.mark.parametrize("name", LAYERS)
def test_batch_and_length_vary(name):
    """The engine is built for 1 to 40 steps; `assert_converts` calls it with min, opt and max, and between."""
    layer = LAYERS[name]
    batch, length = (0, 1) if layer.batch_first else (1, 0)
    x = torch.randn((3, 7, 6) if layer.batch_first else (7, 3, 6))
    proof = assert_converts(Tagger(layer), (x,), dynamic={0: {batch: (1, 3, 5), length: (1, 7, 40)}})
    assert len(proof.report.engines) == 1


def test_a_length_beyond_the_range_is_refused():
    model = Tagger(LAYERS["gru, no biases"]).eval()
    compiled = trtcore.compile(
        model, [Input(min_shape=(2, 1, 6), opt_shape=(2, 8, 6), max_shape=(2, 20, 6))], min_block_size=1
    )
    with pytest.raises(InputError, match=r"size 21 at dimension 1, allowed is 1\.\.20"):
        compiled(torch.randn(2, 21, 6))


def test_a_long_sequence_is_one_small_network():
    """One layer of the network per op of a step, for 2,000 steps; states are arguments."""
    layer = nn.LSTM(6, 4)
    states = torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    proof = assert_converts(layer, (torch.randn(2000, 2, 6), states))
    (node,) = (node for node in proof.report.nodes if node.op == "aten.lstm.input")
    assert 10 < len(node.layers) < 60


def test_short_sequences_are_written_out():
    proof = assert_converts(nn.GRU(6, 4), (torch.randn(8, 2, 6),))
    assert "aten.gru.input" not in {node.op for node in proof.report.nodes}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision(dtype):
    """A step rounds to the dtype, as eager's does: the errors of many steps add up."""
    assert_converts(nn.GRU(6, 4), (torch.randn(20, 2, 6),), dtypes=[dtype], rtol=0.03, atol=0.03)


def test_one_sequence_without_a_batch():
    assert_converts(nn.GRU(6, 4), (torch.randn(20, 6),), dynamic={0: {0: (2, 20, 30)}})


def test_random_dropout_between_layers_stays_in_torch():
    model = nn.LSTM(6, 4, 2, dropout=0.5)
    compiled = trtcore.compile(model, [torch.randn(20, 2, 6)], min_block_size=1)
    (node,) = (node for node in compiled.report.nodes if node.op == "aten.lstm.input")
    assert "model.eval()" in node.reason


PROJECTED = pytest.mark.torch_since(
    "2.13", "its own kernel on FakeTensors gives projected states a dim too many"
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=PROJECTED if "projected" in name else ()) for name in LAYERS]
)
def test_captures_see_what_torch_gives(name):
    """Shapes, dtypes and strides, without a step."""
    layer = LAYERS[name]
    x = torch.randn((3, 7, 6) if layer.batch_first else (7, 3, 6))
    with torch.no_grad(), torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        shapes = build_registry(CompilationSettings()).shapes
        with torch._dispatch.python.enable_python_dispatcher():
            torchs = layer(mode.from_tensor(x))
            with results_of_shapes(shapes):
                ours = layer(mode.from_tensor(x))
    for mine, wanted in zip(torch.utils._pytree.tree_leaves(ours), torch.utils._pytree.tree_leaves(torchs)):
        assert (mine.shape, mine.dtype, mine.stride()) == (wanted.shape, wanted.dtype, wanted.stride())


@pytest.mark.usefixtures("trt_backend")
@torch._dynamo.config.patch(allow_rnn=True)
def test_torch_compile_where_dynamo_takes_recurrent_layers():
    torch._dynamo.reset()
    model = Tagger(LAYERS["lstm"]).eval()
    compiled = torch.compile(
        model, backend="trtcore", dynamic=True, options={"min_block_size": 1, "runtime": "reference"}
    )
    with torch.no_grad():
        for shape in ((2, 20, 6), (3, 30, 6)):
            x = torch.randn(shape)
            torch.testing.assert_close(compiled(x), model(x))
    (made,) = trtcore.dynamo.reports()
    assert len(made.report.engines) == 1
    assert "aten.lstm.input" in {node.op for node in made.report.nodes}
    torch._dynamo.reset()


@pytest.mark.usefixtures("trt_backend")
def test_a_layer_in_torch_is_saved_with_its_length_open(tmp_path):
    model = Tagger(LAYERS["lstm"]).eval()
    rows = Input(min_shape=(1, 2, 6), opt_shape=(2, 20, 6), max_shape=(4, 40, 6))
    compiled = trtcore.compile(model, [rows], min_block_size=1, torch_executed_ops={"aten.lstm.input"})
    trtcore.save(compiled, tmp_path / "tagger.pt2")
    loaded = trtcore.load(tmp_path / "tagger.pt2")
    x = torch.randn(3, 33, 6)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), model(x))


class UnderAutocast(nn.Module):
    """A layer behind a product, or alone, in a region of autocast."""

    def __init__(self, layer: nn.RNNBase, dtype: torch.dtype, alone: bool) -> None:
        super().__init__()
        self.before, self.layer, self.after = nn.Linear(6, 6), layer, nn.Linear(8, 3)
        self.dtype, self.alone = dtype, alone

    def forward(self, x):
        with torch.autocast("cpu", dtype=self.dtype):
            y, states = self.layer(x if self.alone else self.before(x))
            return self.after(y), y, states


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_autocast_regions(kind, dtype, alone):
    """A GRU adds to its state, and so keeps float32 where its input has it; the others have the dtype of products."""
    if (kind, dtype, alone) == (nn.LSTM, torch.float16, True):
        pytest.skip("on a CPU eager has no kernel for it at the length of 1")
    torch.manual_seed(0)
    model = UnderAutocast(kind(6, 4, batch_first=True, bidirectional=True), dtype, alone).eval()
    x = Input(min_shape=(1, 1, 6), opt_shape=(2, 4, 6), max_shape=(4, 48, 6))
    compiled = trtcore.compile(model, inputs=[x], min_block_size=1)
    assert compiled.report.fully_converted
    for batch, steps in ((2, 4), (1, 1), (3, 40)):
        value = torch.randn(batch, steps, 6)
        torch.testing.assert_close(compiled(value), model(value), rtol=2e-2, atol=2e-2)


def test_autocast_around_the_compile():
    model = nn.LSTM(6, 4, batch_first=True).eval()
    value = torch.randn(2, 4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compiled = trtcore.compile(model, inputs=[value], min_block_size=1)
        expected = model(value)
    torch.testing.assert_close(compiled(value), expected, rtol=2e-2, atol=2e-2)

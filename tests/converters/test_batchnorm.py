"""Batch and instance normalisation."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import trtcore
from trtcore.errors import InputError
from trtcore.testing import assert_converts, assert_op_converts

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def randomised(layer):
    for name, value in layer.state_dict().items():
        if "var" in name:
            value.uniform_(0.5, 2)
        elif value.is_floating_point():
            value.normal_()
    return layer.eval()


class Branches(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.ModuleList(map(randomised, layers))

    def forward(self, x):
        return tuple(layer(x) for layer in self.layers)


def images():
    return Branches(
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, affine=False, eps=1e-2),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.InstanceNorm2d(4),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        nn.InstanceNorm2d(4, affine=True),
    )


def test_images():
    x = torch.randn(2, 4, 6, 5) * 3 + 1
    assert_converts(images(), (x,), dtypes=FLOATS)
    assert_converts(images(), (x,), dynamic={0: {0: (2, 3, 5), 2: (4, 6, 7), 3: (3, 5, 6)}})


def test_other_ranks():
    assert_converts(Branches(nn.BatchNorm1d(4)), (torch.randn(3, 4),), dynamic={0: {0: (2, 3, 6)}})
    assert_converts(Branches(nn.BatchNorm1d(4), nn.InstanceNorm1d(4)), (torch.randn(3, 4, 5),), dtypes=FLOATS)
    assert_converts(Branches(nn.BatchNorm3d(4), nn.InstanceNorm3d(4)), (torch.randn(2, 4, 3, 5, 2),))


def test_half_inputs_with_float32_statistics():
    """The shift of a channel far from 0 does not fit fp16; torch computes in fp32."""
    layer = randomised(nn.BatchNorm2d(4))
    layer.running_mean.fill_(1000.0)

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            for name, value in layer.state_dict().items():
                self.register_buffer(name, value, persistent=False)

        def forward(self, x):
            x = x.half()
            stats = (
                self.running_mean.float(),
                self.running_var.float(),
                self.weight.float(),
                self.bias.float(),
            )
            return F.batch_norm(x, *stats)

    assert_converts(Mixed(), (torch.randn(2, 4, 3, 3) + 1000,), rtol=2e-3)


def test_statistics_computed_by_the_model():
    def run(x, mean, var, weight, bias):
        return F.batch_norm(x, mean * 1, var * 1, weight * 1, bias * 1), F.batch_norm(x, mean * 1, var * 1)

    inputs = (torch.randn(2, 4, 3, 3), torch.randn(4), torch.rand(4) + 0.5, torch.randn(4), torch.randn(4))
    assert_converts(run, inputs, dtypes=FLOATS)


def test_decomposed_forms():
    aten = torch.ops.aten

    def run(x, weight, bias, mean, var):
        return (
            aten._native_batch_norm_legit_no_training(x, weight, bias, mean, var, 0.1, 1e-5)[0],
            aten.native_batch_norm(x, weight, bias, mean, var, False, 0.1, 1e-5)[0],
            aten._native_batch_norm_legit.no_stats(x, weight, bias, True, 0.1, 1e-5)[0],
        )

    assert_converts(
        run, (torch.randn(2, 4, 3, 3), torch.randn(4), torch.randn(4), torch.randn(4), torch.rand(4) + 0.5)
    )


def test_statistics_as_results():
    aten = torch.ops.aten
    values = (
        torch.randn(3, 4, 5, 2),
        torch.randn(4),
        torch.randn(4),
        torch.randn(4),
        torch.rand(4) + 0.5,
    )

    def run(x, weight, bias, mean, var):
        functional = aten._native_batch_norm_legit_functional
        return (
            functional(x, weight, bias, mean, var, True, 0.3, 1e-3),
            functional(x, weight, None, mean, var, False, 0.3, 1e-3),
            aten._native_batch_norm_legit.no_stats(x, weight, bias, True, 0.3, 1e-3),
            aten._native_batch_norm_legit(x, weight, bias, mean, var, False, 0.3, 1e-3)[0],
        )

    assert_converts(run, values, dynamic={0: {0: (2, 3, 4)}})


class Trained(nn.Module):
    """Layers in training, and the running statistics of the first one as a later op reads them."""

    def __init__(self):
        super().__init__()
        instance = nn.InstanceNorm2d(4, affine=True, track_running_stats=True, momentum=0.7)
        self.layers = nn.Sequential(
            nn.BatchNorm2d(4, momentum=0.3), instance, nn.BatchNorm2d(4, affine=False)
        )
        randomised(self).train()

    def forward(self, x):
        return self.layers(x), self.layers[0].running_mean * 2


@pytest.mark.parametrize("dtype", FLOATS)
def test_training_moves_the_running_statistics(dtype, trt_backend):
    torch.manual_seed(1)
    eager = Trained().to(dtype)
    model = copy.deepcopy(eager)
    shape = trtcore.Input(min_shape=(2, 4, 3, 3), opt_shape=(3, 4, 3, 3), max_shape=(5, 4, 3, 3), dtype=dtype)
    with pytest.warns(UserWarning, match="training mode"):
        compiled = trtcore.compile(model, inputs=[shape], min_block_size=1, require_full_compilation=True)
    tolerance = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 3e-2}[dtype]
    for batch in (2, 5):
        x = torch.randn(batch, 4, 3, 3).to(dtype)
        torch.testing.assert_close(compiled(x), eager(x), rtol=tolerance, atol=5 * tolerance)
    state = eager.state_dict()
    for name, value in compiled.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=tolerance, atol=tolerance)
    assert {"layers.0.running_mean", "layers.1.running_var"} <= set(compiled.state_dict())


def test_running_statistics_that_are_arguments():
    """The caller's own tensors are written to, as in eager."""
    for op in ("nn.functional.batch_norm", "_batch_norm_with_update", "native_batch_norm"):
        assert_op_converts(op, dtypes=[torch.bfloat16], limit=2)


def test_forced_to_torch_what_an_engine_reads_is_refused(trt_backend):
    with (
        pytest.warns(UserWarning, match="training mode"),
        pytest.raises(InputError, match=r"writes to layers\.0\.running_mean, which an engine reads"),
    ):
        trtcore.compile(
            Trained(),
            inputs=[torch.randn(2, 4, 3, 3)],
            min_block_size=1,
            torch_executed_ops={"aten.batch_norm.default"},
        )


def test_statistics_by_any_name(trt_backend):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(4))
            self.register_buffer("spread", torch.ones(4))

        def forward(self, x):
            return F.batch_norm(x, self.mean, self.spread, training=True), self.mean * 2

    with pytest.raises(InputError, match="writes to mean, which an engine reads"):
        trtcore.compile(
            Own(),
            inputs=[torch.randn(2, 4, 3, 3)],
            min_block_size=1,
            torch_executed_ops={"aten.batch_norm.default"},
        )


def test_forced_to_torch_it_writes_there(trt_backend):
    eager = Trained().layers
    model = copy.deepcopy(eager)
    x = torch.randn(2, 4, 3, 3)
    with pytest.warns(UserWarning, match="training mode"):
        compiled = trtcore.compile(
            model, inputs=[x], min_block_size=1, torch_executed_ops={"aten.batch_norm.default"}
        )
    for _ in range(3):
        torch.testing.assert_close(compiled(x), eager(x))
    for name, value in compiled.state_dict().items():
        torch.testing.assert_close(value, eager.state_dict()[name])

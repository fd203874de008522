"""`repeat` as often as a size of another input says, and copies of what TensorRT does not have."""

from __future__ import annotations

import torch

import trtcore
from trtcore.testing import assert_converts


def test_repeat_of_a_dim_of_one_as_often_as_a_size_says():
    def model(x, y):
        return (
            x.repeat(y.shape[0], 1, 2),
            x.unsqueeze(0).tile((y.shape[0], 1, 1, 1)),
            x[0].repeat(y.shape[0], 1, 1),
        )

    assert_converts(model, (torch.randn(1, 3, 4), torch.randn(2, 3)), dynamic={1: {0: (1, 2, 5)}})


def test_repeat_of_more_than_one_stays_exact():
    """Decomposed, or in torch with the reason: never stretched."""

    class Model(torch.nn.Module):
        def forward(self, x, y):
            return x.repeat(y.shape[0], 1)

    rows = trtcore.Input(min_shape=(1, 3), opt_shape=(2, 3), max_shape=(5, 3))
    module = trtcore.compile(Model(), [torch.randn(2, 3), rows], runtime="reference", min_block_size=1)
    for count in (1, 2, 5):
        x, y = torch.randn(2, 3), torch.randn(count, 3)
        assert torch.equal(module(x, y), Model()(x, y))


def test_a_constant_of_bytes_is_handed_on_in_torch():
    """TensorRT has no constants of uint8: told before anything is built, no converter is quarantined."""
    for values in (torch.zeros(0, dtype=torch.uint8), torch.arange(3, dtype=torch.uint8)):

        class Model(torch.nn.Module):
            def __init__(self, values):
                super().__init__()
                self.register_buffer("bytes", values)

            def forward(self, x):
                return x * 2, self.bytes.clone()

        model, x = Model(values), torch.ones(2)
        module = trtcore.compile(model, [x], runtime="reference", min_block_size=1)
        assert not module.report.quarantined
        assert torch.equal(module(x)[1], values)

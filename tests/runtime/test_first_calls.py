"""Results that are not finite are told at the first calls of what computes in less than float32."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

import trtcore


class Large(nn.Module):
    """Its product is beyond float16 for large inputs."""

    def __init__(self, factor=1000.0):
        super().__init__()
        self.linear = nn.Linear(8, 8, bias=False)
        self.linear.weight.data.fill_(factor)

    def forward(self, x):
        y = self.linear(x)
        return y - y


X = torch.full((2, 8), 100.0)


def compiled(model=None, x=X, dtype=torch.float16, **settings):
    settings = {"min_block_size": 1, "runtime": "reference", **settings}
    if dtype is not None:
        settings |= {"enable_autocast": True, "autocast_low_precision_type": dtype}
    return trtcore.compile(model or Large().eval(), inputs=[x], **settings)


def silent(module, *inputs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return module(*inputs)


def test_an_overflow_is_told_with_the_output_and_what_to_do():
    module = compiled()
    with pytest.warns(UserWarning, match="computed in float16 the output has 16 of 16 elements") as caught:
        result = module(X)
    assert not result.isfinite().all()
    assert caught[0].filename == __file__
    text = str(caught[0].message)
    assert "16 of them NaN" in text
    for advice in (
        "autocast_low_precision_type=torch.bfloat16",
        "autocast_calibration_dataloader",
        "trtcore.debug.compare",
    ):
        assert advice in text
    silent(module, X)  # told once


def test_the_advice_works():
    assert silent(compiled(dtype=torch.bfloat16), X).isfinite().all()
    assert silent(compiled(autocast_calibration_dataloader=[X]), X).isfinite().all()
    assert silent(compiled(autocast_excluded_nodes={"^linear$", "^sub"}), X).isfinite().all()


def test_what_reads_large_values_stays_in_float32_too():
    kept = {
        group.op: group.reason
        for group in compiled(autocast_calibration_dataloader=[X]).report.kept_precise()
    }
    assert "autocast_max_output_threshold" in kept["aten.linear.default"]
    assert "what it reads is beyond the range of torch.float16" in kept["aten.sub.Tensor"]


def test_it_may_be_one_of_the_first_calls_and_later_ones_are_not_looked_at():
    module, small = compiled(), torch.ones(2, 8)
    silent(module, small)
    with pytest.warns(UserWarning, match="computed in float16"):
        module(X)
    module = compiled()
    for _ in range(3):
        silent(module, small)
        assert module._usual is None
    silent(module, X)
    assert module._usual is not None, "then calls take the shortest way"


def test_a_model_in_half_precision_and_one_in_float32():
    half = Large().eval().half()
    with pytest.warns(UserWarning, match="computed in float16"):
        compiled(half, X.half(), dtype=None)(X.half())
    module = compiled(Large(1e30).eval(), X * 1e30, dtype=None)
    assert not silent(module, X * 1e30).isfinite().all(), "in float32 it is what eager gives"
    assert module._usual is not None


def test_what_went_in_and_masks_are_not_told():
    class Masked(nn.Module):
        def forward(self, x):
            return (x * 2).masked_fill(x > 0, float("-inf"))

    silent(compiled(Masked(), x=X.half(), dtype=None), X.half())
    silent(compiled(Large().eval().half(), X.half(), dtype=None), torch.full((2, 8), float("nan")).half())


def test_several_outputs_and_copies():
    class Several(Large):
        def forward(self, x):
            return {"sum": x + 1, "product": super().forward(x)}

    module = compiled(Several().eval())
    for one in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), module):
        with pytest.warns(UserWarning, match=r"the output \['product'\]"):
            one(X)


def test_traces_see_no_look():
    module = compiled()
    exported = torch.export.export(module, (X,))
    assert not exported.module()(X).isfinite().all()
    traced = torch.compile(module, backend="eager")
    silent(traced, torch.ones(2, 8))

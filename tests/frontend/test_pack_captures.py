"""The hook ``captures``: what packs put around a model while it is captured."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import nn

import trtcore
from trtcore.errors import InputError, PackError
from trtcore.pack import hookimpl, register_pack, scoped_registry


class Traced(nn.Module):
    """Doubles where a library's mode is on, as libraries do that trace something else than they compute."""

    mode = False

    def forward(self, x):
        return x * 2 if Traced.mode else x.nonzero()


class Library:
    def __init__(self, capture):
        self.capture = capture

    @hookimpl
    def captures(self):
        return [self.capture]


@contextmanager
def mode():
    Traced.mode = True
    try:
        yield
    finally:
        Traced.mode = False


def compiled(capture, model=None, **settings):
    with scoped_registry():
        register_pack(Library(capture), name="library")
        return trtcore.compile(model or Traced(), inputs=[torch.randn(3)], min_block_size=1, **settings)


def test_a_capture_is_around_the_model_of_its_kind_and_undone():
    seen = []

    def capture(model):
        seen.append(model)
        return mode() if isinstance(model, Traced) else None

    x = torch.randn(3)
    assert torch.equal(compiled(capture)(x), x * 2)
    assert not Traced.mode
    relu = compiled(capture, nn.ReLU())
    assert torch.equal(relu(x), x.relu())
    assert [type(model) for model in seen] == [Traced, nn.ReLU]


def test_it_is_undone_where_the_capture_fails():
    class Fails(Traced):
        def forward(self, x):
            return x.tolist()[0] + "a"

    with pytest.raises(trtcore.TrtcoreError):
        compiled(lambda model: mode(), Fails())
    assert not Traced.mode


def test_a_model_that_a_pack_refuses():
    def capture(model):
        raise InputError("the layer fc has 3 bits", advice="use 8")

    with pytest.raises(InputError, match="3 bits"):
        compiled(capture)


@pytest.mark.parametrize("capture", [lambda model: 1 / 0, lambda model: 3])
def test_a_capture_that_fails_names_its_pack(capture):
    with pytest.raises(PackError) as caught:
        compiled(capture)
    assert "in-process:library" in str(caught.value)
    assert "TRTCORE_DISABLE_PACKS=in-process:library" in str(caught.value)


def test_what_is_no_function_is_no_capture():
    class Wrong:
        @hookimpl
        def captures(self):
            return [3]

    with scoped_registry(), pytest.raises(PackError, match="captures returned, among its values, 3"):
        register_pack(Wrong(), name="wrong")

"""What a compiled module was captured under holds on every route to a call of it: right, or refused, never the old number."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch

import trtcore
from trtcore.errors import TrtcoreError

DYNAMIC = torch.export.Dim.DYNAMIC


class Odd(torch.nn.Module):
    def forward(self, x):
        if x.shape[1] % 2:
            x = x * 2
        return x + 1


class Longer(torch.nn.Module):
    """A condition on two sizes together."""

    def forward(self, x, y):
        return x + 1 if x.shape[1] > 2 * y.shape[1] else x - 1


class Scale(torch.nn.Module):
    def forward(self, x, k: float = 1.0):
        return x * k + 1


class Count(torch.nn.Module):
    """A number of the capture in the graph, and no engine that looks at the size."""

    def forward(self, x):
        return x.sum() / x.shape[0]


def pickled(module, path):
    return pickle.loads(pickle.dumps(module))


def torch_saved(module, path):
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def loaded(module, path):
    trtcore.save(module, path)
    return trtcore.load(path)


def export_loaded(module, path):
    trtcore.save(module, path)
    return torch.export.load(path).module()


def traced(module, path):
    torch._dynamo.reset()
    return torch.compile(module, backend="eager", dynamic=True)


ROUTES = {
    "call": lambda module, path: module, "deepcopy": lambda module, path: copy.deepcopy(module), "copy": lambda module, path: copy.copy(module),
    "pickle": pickled, "torch.save": torch_saved, "load": loaded, "load, pickle": lambda m, p: pickled(loaded(m, p), p),
    "load, save, load": lambda m, p: loaded(loaded(m, p), p), "torch.export.load": export_loaded,
    "pickle, torch.export.load": lambda m, p: export_loaded(pickled(m, p), p), "torch.compile": traced,
    "forward": lambda module, path: module.forward,
}  # fmt: skip

# model, example, dynamic dims, a call that fits and its first number, a call that does not
MODELS = {
    "a condition": (Odd(), (torch.ones(1, 8),), ({1: DYNAMIC(min=2, max=32)},), (torch.ones(1, 10),), 2.0, (torch.ones(1, 9),)),
    "of two": (
        Longer(), (torch.ones(1, 9), torch.ones(1, 4)), ({1: DYNAMIC(min=3, max=32)}, {1: DYNAMIC(min=2, max=32)}),
        (torch.ones(1, 7), torch.ones(1, 3)), 2.0, (torch.ones(1, 7), torch.ones(1, 4)),
    ),
    "a number": (Scale(), (torch.ones(2, 4), 2.0), None, (torch.ones(2, 4), 2.0), 3.0, (torch.ones(2, 4), 3.0)),
    "a size": (Count(), (torch.ones(4, 2),), None, (torch.ones(4, 2),), 2.0, (torch.ones(5, 2),)),
}  # fmt: skip


@pytest.fixture(scope="module", params=["engines", "torch"])
def compiled(request):
    """All in engines; and all in torch, where no engine could check anything."""
    made = {}
    ops = torch.ops.aten
    apart = (
        {ops.add.Tensor, ops.mul.Tensor, ops.sub.Tensor, ops.sum.default, ops.div.Tensor}
        if request.param == "torch"
        else set()
    )
    for name, (model, example, dims, *_) in MODELS.items():
        exported = torch.export.export(model, example, dynamic_shapes=dims)
        made[name] = trtcore.dynamo.compile(exported, min_block_size=1, torch_executed_ops=apart)
    return made


@pytest.mark.filterwarnings("ignore:.*was captured under the condition")
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", MODELS)
def test_routes(compiled, route, name, tmp_path):
    *_, good, want, bad = MODELS[name]
    module = ROUTES[route](compiled[name], tmp_path / "m.pt2")
    assert module(*good).flatten()[0] == want
    with pytest.raises((ValueError, TypeError, RuntimeError, AssertionError)):
        module(*bad)
    assert module(*good).flatten()[0] == want


@pytest.mark.parametrize("name", ["a condition", "of two", "a number"])
def test_exporting_again(compiled, name):
    _, example, dims, good, want, bad = MODELS[name]
    module = torch.export.export(compiled[name], example, dynamic_shapes=dims).module()
    assert module(*good).flatten()[0] == want
    with pytest.raises((ValueError, RuntimeError, AssertionError)):
        module(*bad)


@pytest.mark.parametrize("name", ["a condition", "of two"])
def test_a_plan_alone_is_refused_with_the_condition(name):
    model, example, dims, *_ = MODELS[name]
    exported = torch.export.export(model, example, dynamic_shapes=dims)
    with pytest.raises(TrtcoreError, match="condition"):
        trtcore.dynamo.convert_exported_program_to_serialized_trt_engine(exported)


class Rows(torch.nn.Module):
    """Calls a compiled module."""

    def __init__(self, compiled):
        super().__init__()
        self.compiled = compiled

    def forward(self, *args):
        return self.compiled(*args) + 1


class Twice(torch.nn.Module):
    """One size is twice another."""

    def forward(self, x, y):
        return x.reshape(2, -1).sum(0) + y


AUTO = torch.export.Dim.AUTO


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_ranges_are_those_of_what_is_exported_again(inside, strict):
    rows = trtcore.Input(min_shape=(2, 4), opt_shape=(4, 4), max_shape=(8, 4))
    compiled = trtcore.compile(torch.nn.Linear(4, 4).eval(), inputs=[rows], min_block_size=1)
    module, x = Rows(compiled) if inside else compiled, torch.randn(4, 4)

    def shapes(dims):
        return ((dims,),) if inside else (dims,)

    ep = torch.export.export(module, (x,), dynamic_shapes=shapes({0: AUTO, 1: AUTO}), strict=strict)
    assert {(int(one.lower), int(one.upper)) for one in ep.range_constraints.values()} == {(2, 8)}
    assert torch.equal(ep.module()(x), module(x))
    for size in (1, 9):
        with pytest.raises((TrtcoreError, AssertionError, RuntimeError)):
            ep.module()(torch.randn(size, 4))
    wide = torch.export.Dim("rows", min=2, max=80)
    with pytest.raises(torch._dynamo.exc.UserError, match="<= 8"):
        torch.export.export(module, (x,), dynamic_shapes=shapes({0: wide}), strict=False)


@pytest.mark.parametrize("inside", [False, True])
def test_sizes_that_belong_together_still_do_in_what_is_exported_again(inside):
    example = (torch.randn(8), torch.randn(4))
    dims = ({0: DYNAMIC(min=4, max=16)}, {0: DYNAMIC(min=2, max=8)})
    compiled = trtcore.dynamo.compile(
        torch.export.export(Twice(), example, dynamic_shapes=dims), min_block_size=1
    )
    module = Rows(compiled) if inside else compiled
    if inside:
        dims = (dims,)
    again = torch.export.export(module, example, dynamic_shapes=dims).module()
    for size in (2, 8):
        x, y = torch.randn(2 * size), torch.randn(size)
        assert torch.allclose(again(x, y), module(x, y))
    for x, y in ((torch.randn(7), torch.randn(3)), (torch.randn(8), torch.randn(3))):
        with pytest.raises((TrtcoreError, AssertionError, RuntimeError)):
            again(x, y)


class First(torch.nn.Module):
    def forward(self, x, k):
        return torch.relu(x)[:, :k].sum(1)


@pytest.mark.parametrize("apart", [set(), {torch.ops.aten.slice.Tensor, torch.ops.aten.sum.dim_IntList}])
def test_a_number_keeps_its_range_everywhere(apart, tmp_path):
    """In torch, too, where no engine looks at it."""
    x = torch.rand(2, 8)
    exported = torch.export.export(First(), (x, 3), dynamic_shapes=({}, DYNAMIC(min=2, max=6)))
    compiled = trtcore.dynamo.compile(exported, min_block_size=1, torch_executed_ops=apart)
    again = torch.export.export(compiled, (x, 3), dynamic_shapes=({}, DYNAMIC))
    assert {(int(one.lower), int(one.upper)) for one in again.range_constraints.values()} == {(2, 6)}
    names = ("call", "load", "torch.export.load", "torch.compile", "forward")
    routes = [again.module(), *(ROUTES[name](compiled, tmp_path / "m.pt2") for name in names)]
    for route in routes:
        for k in (2, 6):
            assert torch.allclose(route(x, k), First()(x, k))
        for k in (1, 7):
            with pytest.raises((ValueError, RuntimeError, AssertionError)):
                route(x, k)


class Sized(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x) * 2


def padded(x):
    missing = -x.shape[1] % 8
    x = torch.nn.functional.pad(x, (missing // 2, missing - missing // 2))
    return x.unflatten(1, (-1, 8)).sum(1)


SIZES = {
    "ceil": lambda x: x[:, : math.ceil(x.shape[1] / 2)],
    "floor": lambda x: x[:, : math.floor(x.shape[1] / 3)],
    "trunc": lambda x: x[:, : math.trunc(x.shape[1] / 3)],
    "to fours": lambda x: torch.cat([x, x.new_zeros(2, math.ceil(x.shape[1] / 4) * 4 - x.shape[1])], 1),
    "padded": padded,
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_by_way_of_a_quotient(name, tmp_path):
    """In an engine, and right on every route at every size of the range."""
    model = Sized(SIZES[name])
    given = trtcore.Input(min_shape=(2, 8), opt_shape=(2, 16), max_shape=(2, 32))
    module = trtcore.compile(model, inputs=[given], min_block_size=1)
    assert not module.report.in_torch
    xs = [torch.randn(2, length) for length in range(8, 33)]
    dims = ({1: torch.export.Dim.AUTO(min=8, max=32)},)
    routes = {**ROUTES, "export": lambda m, p: torch.export.export(m, (xs[1],), dynamic_shapes=dims).module()}
    for route in ("call", "pickle", "load", "torch.export.load", "torch.compile", "export"):
        called = routes[route](module, tmp_path / "m.pt2")
        for x in xs:
            torch.testing.assert_close(called(x), model(x), msg=f"{route} at {tuple(x.shape)}")


@pytest.mark.parametrize("share", [0.7, "round"])
def test_sizes_that_torch_cannot_write_are_refused_with_the_reason(share, tmp_path):
    """They are right where nothing is written."""
    model = Sized(
        lambda x: x[:, : round(x.shape[1] / 2) if share == "round" else math.ceil(x.shape[1] * share)]
    )
    given = trtcore.Input(min_shape=(2, 8), opt_shape=(2, 16), max_shape=(2, 32))
    module = trtcore.compile(model, inputs=[given], min_block_size=1)
    for length in range(8, 33):
        x = torch.randn(2, length)
        for called in (module, pickled(module, None)):
            torch.testing.assert_close(called(x), model(x))
    with pytest.raises(TrtcoreError, match="call_function"):
        trtcore.save(module, tmp_path / "m.pt2")


def test_a_condition_on_sizes_among_the_outputs(tmp_path):
    """torch's format has no bool that varies; as a tensor, which is advised, it is saved."""

    class Long(torch.nn.Module):
        def __init__(self, as_tensor):
            super().__init__()
            self.as_tensor = as_tensor

        def forward(self, x):
            long = x.shape[0] > 3
            return x * 2, torch.tensor(long) if self.as_tensor else long

    rows = trtcore.Input(min_shape=(1, 2), opt_shape=(4, 2), max_shape=(8, 2))
    compiled = trtcore.compile(Long(False), inputs=[rows], min_block_size=1)
    with pytest.raises(TrtcoreError, match="output 1 of the model is a condition on sizes") as caught:
        trtcore.save(compiled, tmp_path / "long.pt2")
    assert "torch.tensor(x.shape[0] > 3)" in caught.value.advice
    trtcore.save(trtcore.compile(Long(True), inputs=[rows], min_block_size=1), tmp_path / "long.pt2")
    loaded = trtcore.load(tmp_path / "long.pt2")
    assert [bool(loaded(torch.ones(n, 2))[1]) for n in (2, 5)] == [False, True]

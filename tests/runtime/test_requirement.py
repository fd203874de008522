"""Strides, shared memory, ranges and structures hold on the routes that pass the module's call by: exports and traces."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import trtcore
from trtcore.errors import ArtifactError, InputError
from trtcore.runtime.requirement import read_requirement


def t(*shape):
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


class Reinterprets(nn.Module):
    def forward(self, x):
        return x.as_strided((2, 3), (1, 2)).relu() + 1


class Asks(nn.Module):
    def forward(self, x):
        return x.relu() * 2 if x.is_contiguous() else x * 3


class Writes(nn.Module):
    def forward(self, x, y):
        x.add_(1)
        return y * 2


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(2, 3))

    def forward(self, x):
        self.count.add_(1)
        return x * 2 + self.count


class Apart(nn.Module):
    """All in torch: no engine looks at the size."""

    def forward(self, x):
        return torch.erfinv(x)


rows = trtcore.Input(min_shape=(2, 3), opt_shape=(3, 3), max_shape=(4, 3))
a = t(8)

# model, inputs, example, a call that is refused, and why
CASES = {
    "strides": (Reinterprets(), [t(6)], (t(6),), (t(12)[::2],), "input x must have the strides"),
    "a question about layouts": (Asks(), [t(3, 3)], (t(3, 3),), (t(3, 3).t(),), "input x must have the strides"),
    "memory of two inputs": (Writes(), [t(4), t(4)], (t(4), t(4)), (a[:4], a[2:6]), "input x and input y share"),
    "one input twice": (Writes(), [t(4), t(4)], (t(4), t(4)), (a[:4], a[:4]), "input x and input y share"),
    "a range": (Apart(), [rows], (t(3, 3),), (t(5, 3),), "must have size|input x has size 5"),
}  # fmt: skip


def export(strict):
    def route(module, path, example):
        dims = (
            ({0: torch.export.Dim.DYNAMIC},)
            if isinstance(example[0], torch.Tensor) and module.varies
            else None
        )
        return torch.export.export(module, example, dynamic_shapes=dims, strict=strict).module()

    return route


def export_loaded(module, path, example):
    trtcore.save(module, path)
    return torch.export.load(path).module()


def loaded(module, path, example):
    trtcore.save(module, path)
    return trtcore.load(path)


def traced(backend):
    def route(module, path, example):
        torch._dynamo.reset()
        whole = not getattr(module, "varies", True)  # in a whole graph, what raises is torch's own error
        return torch.compile(module, backend=backend, fullgraph=whole)

    return route


ROUTES = {
    "call": lambda module, *_: module,
    "pickle": lambda module, *_: pickle.loads(pickle.dumps(module)),
    "deepcopy": lambda module, *_: copy.deepcopy(module),
    "load": loaded,
    "torch.export.load": export_loaded,
    "export": export(strict=False),
    "strict export": export(strict=True),
    "torch.compile": traced("eager"),
    "aot_eager": traced("aot_eager"),
}


@pytest.fixture(scope="module")
def compiled():
    made = {}
    for name, (model, inputs, *_) in CASES.items():
        made[name] = trtcore.compile(
            model,
            inputs=inputs,
            min_block_size=1,
            torch_executed_ops={"aten.erfinv"} if inputs == [rows] else {},
        )
        made[name].varies = inputs == [rows]
    return made


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", CASES)
def test_it_holds_on_every_route(compiled, name, route, tmp_path):
    model, _, example, wrong, why = CASES[name]
    module = ROUTES[route](compiled[name], tmp_path / "m.pt2", example)
    torch.testing.assert_close(
        module(*map(torch.clone, example)), model(*map(torch.clone, example)), equal_nan=True
    )
    before = [one.clone() for one in wrong]
    with pytest.raises((InputError, ValueError, AssertionError), match=f"{why}|Guard failed"):
        module(*wrong)
    assert all(map(torch.equal, before, wrong))  # nothing was written


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_buffer_that_is_written(backend):
    module = traced(backend)(trtcore.compile(Counts(), inputs=[t(2, 3)], min_block_size=1), None, None)
    for step in (1, 2):
        assert torch.equal(module(t(2, 3)), t(2, 3) * 2 + step)
    with pytest.raises(InputError, match="count of the compiled module and input x share memory"):
        module(module.count)


def test_checked_calls_do_not_ask_again(compiled):
    module = compiled["one input twice"]
    module(t(4), t(4))
    assert "require" not in module._direct.of(module).__code__.co_names
    assert "require" in module.code


def test_what_has_nothing_to_say_has_no_op():
    class Reads(nn.Module):
        def forward(self, x):
            return x + 1

    assert "require" not in trtcore.compile(Reads(), inputs=[rows], min_block_size=1).code


@pytest.mark.parametrize(
    "contract", ["", "[]", "{}", '{"check":{},"attributes":[],"written":[]}', "[" * 100_000]
)
def test_a_contract_from_a_file_that_makes_no_sense(contract):
    with pytest.raises(ArtifactError, match="makes no sense"):
        read_requirement(contract)


class Nested(nn.Module):
    def forward(self, d, rest):
        return d["a"] * len(rest) + rest[-1]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize(
    "call",
    [
        ({"a": t(3)}, [t(3), t(3), t(3)]),
        ({"a": t(3), "b": t(3)}, [t(3), t(3)]),
        ({"a": t(3)}, (t(3), t(3))),
        ({"b": t(3)}, [t(3), t(3)]),
    ],
)
def test_structures_of_a_traced_call(call, backend):
    """The generated code takes an argument apart by what it expects: more elements, or other keys, went unseen."""
    model = Nested()
    module = traced(backend)(
        trtcore.compile(model, inputs=[{"a": t(3)}, [t(3), t(3)]], min_block_size=1), None, None
    )
    assert torch.equal(module({"a": t(3)}, [t(3), t(3)]), model({"a": t(3)}, [t(3), t(3)]))
    with pytest.raises(ValueError, match="another structure"):
        module(*call)

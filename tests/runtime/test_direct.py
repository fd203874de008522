"""Calls that hand tensors to engines directly: the same as by way of the op, which whoever watches ops still sees."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.testing._internal.logging_tensor import LoggingTensor
from torch.utils._python_dispatch import TorchDispatchMode

import trtcore
from trtcore.errors import InputError
from trtcore.runtime import direct

OP = torch.ops.trtcore.execute_engine.default


class TwoSegments(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return torch.relu(torch.erf(x @ self.weight) + 0.5)


@pytest.fixture(scope="module")
def model():
    return TwoSegments().eval()


@pytest.fixture(scope="module")
def module(model):
    made = trtcore.compile(
        model,
        (torch.randn(3, 4),),
        runtime="reference",
        torch_executed_ops={"aten.erf.default"},
        min_block_size=1,
    )
    for _ in range(2):  # code for the first call, and for calls like it
        made(torch.randn(3, 4))
    return made


@pytest.fixture
def x():
    return torch.randn(3, 4)


@pytest.fixture
def calls(monkeypatch):
    """What goes by way of the op while it is called from the generated code."""
    seen = []

    def op(*args):
        seen.append(args[3])
        return OP(*args)

    monkeypatch.setattr(direct, "execute_engine", op)
    return seen


def test_plain_tensors_do_not_go_through_the_dispatcher(module, model, x, monkeypatch):
    monkeypatch.setattr(direct, "execute_engine", None)
    with torch.no_grad():
        torch.testing.assert_close(module(x), model(x))
        torch.testing.assert_close(module(x=x), model(x))


def test_a_usual_call_looks_at_nothing_twice(module, model, x, monkeypatch):
    """Once its shapes have been right: no check of the arguments, no look-up of the engine, no check of its inputs."""
    with torch.no_grad():
        want = model(x)
        module(x)
        for where in (direct, type(module._input_check)):
            monkeypatch.setattr(where, "execute" if where is direct else "_check", None)
        torch.testing.assert_close(module(x), want)
        with pytest.raises(TypeError):
            module(x[:2])


class Ops(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Ops, Functions])
def test_modes_see_the_op(module, x, mode):
    want = module(x)
    with mode() as watching:
        assert torch.equal(module(x), want)
    assert watching.seen.count(OP) == 2


def test_profilers_see_the_op(module, x):
    with torch.autograd.profiler.profile() as profile:
        module(x)
    assert sum(event.name == "trtcore::execute_engine" for event in profile.function_events) == 2


def test_traces_see_the_op(module, x):
    assert sum(node.target is OP for node in make_fx(module)(x).graph.nodes) == 2
    exported = torch.export.export(module, (x,))
    assert sum(node.target is OP for node in exported.graph.nodes) == 2
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), module(x))


def test_fake_tensors_stay_fake(module, x):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        inside = module(torch.empty(3, 4))
    assert inside.fake_mode is mode
    assert module(mode.from_tensor(x)).fake_mode is mode
    assert module(x.to("meta")).is_meta


def test_tensors_that_the_dispatcher_unwraps_go_through_it(module, x, calls):
    want = module(x)
    assert not calls
    assert torch.equal(module(torch.nn.Parameter(x, requires_grad=False)), want)
    assert len(calls) == 1  # what the first engine gives is a plain tensor again
    negative = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert negative.is_neg()
    assert torch.equal(module(negative), want)
    assert len(calls) == 2
    assert isinstance(module(LoggingTensor(x)), LoggingTensor)
    assert len(calls) == 4


def test_vmap_is_the_ops_matter(module, x):
    with pytest.raises(RuntimeError, match="Batching rule not implemented for trtcore::execute_engine"):
        torch.vmap(module)(x[None])


def test_who_differentiates_is_told_instead_of_zeros(module, x):
    exported = torch.export.export(module, (x,)).module()
    for called in (module, exported):
        with pytest.raises(InputError, match="engines are for inference only"):
            torch.func.grad(lambda a: called(a).sum())(x)  # noqa: B023
        with pytest.raises(InputError, match="differentiate the model itself"):
            torch.func.jvp(called, (x,), (x,))
        with forward_ad.dual_level():
            with pytest.raises(InputError, match="forward mode"):
                called(forward_ad.make_dual(x, x))
            assert torch.equal(called(x), module(x))

    def of_detached(a):
        with torch.no_grad():
            weight = module(a)
        return (a * weight).sum()

    torch.testing.assert_close(torch.func.grad(of_detached)(x), module(x))


@torch.no_grad()
def test_what_was_checked_before_is_what_the_engine_takes(module, model, x):
    """A file may say of an argument what is not so of the engine: then the engine's own code looks."""
    assert direct._are_those_of(first_manifest(module), [(torch.float32, (3, 4))])
    for given in ([(torch.float16, (3, 4))], [(torch.float32, (3, 5))], [(torch.float32, None)], []):
        assert not direct._are_those_of(first_manifest(module), given)
    torch.testing.assert_close(module(x.t().contiguous().t()), model(x))
    with pytest.raises(InputError, match="float64"):
        module(x.double())
    with pytest.raises(InputError, match="3"):
        module(x[:2])


def first_manifest(module):
    return trtcore.runtime.engine.engines_in(module)[0].manifest


def test_a_changed_graph_or_forward_is_what_runs(module, x):
    want, changed = module(x), copy.deepcopy(module)
    assert torch.equal(changed(x), want)
    output = changed.graph.output_node()
    with changed.graph.inserting_before(output):
        output.args = ((changed.graph.call_function(torch.neg, (output.args[0][0],)),),)
    changed.recompile()
    assert torch.equal(changed(x), -want)
    changed.forward = lambda x: x
    assert changed(x) is x
    del changed.forward
    type(changed).forward = lambda self, x: [x]
    assert changed(x) == [x]
    assert torch.equal(module(x), want)


def test_copies_and_pickles(module, x):
    want = module(x)
    for copied in (copy.copy(module), copy.deepcopy(module)):
        assert torch.equal(copied(x), want)
    saved = io.BytesIO()
    torch.save(module, saved)
    saved.seek(0)
    assert torch.equal(torch.load(saved, weights_only=False)(x), want)


def test_a_right_call_makes_no_wrong_one_pass(module, x):
    for _ in range(2):
        module(x)
        for wrong in (x.double(), x[:2], x.to_sparse(), (x, x), x[None]):
            with pytest.raises(InputError):
                module(*wrong) if isinstance(wrong, tuple) else module(wrong)

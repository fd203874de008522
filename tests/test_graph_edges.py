"""Odd graphs: what goes in and out of engines in unusual ways, compared with eager in values and in effects."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import trtcore
from trtcore import Input
from trtcore.errors import InputError

pytestmark = pytest.mark.usefixtures("trt_backend")

MODES = ("eval", "autocast", "inference", "grad")


def model_of(forward: Callable[..., Any], **tensors: Any) -> torch.nn.Module:
    """A module with this forward (called with itself first), these buffers, parameters and submodules."""

    class Model(torch.nn.Module):
        pass

    Model.forward = forward  # type: ignore[method-assign,assignment]
    model = Model()
    for name, value in tensors.items():
        if isinstance(value, (torch.nn.Parameter, torch.nn.Module)):
            setattr(model, name, value)
        else:
            model.register_buffer(name, value)
    return model.eval()


def check(
    model: torch.nn.Module,
    *calls: tuple[Any, ...],
    inputs: Any = None,
    engines: int | None = None,
    tolerance: float = 1e-5,
    **settings: Any,
) -> Any:
    """Compile, call with each of `calls` in turn, and compare results, changed inputs and changed buffers with eager."""
    reference = copy.deepcopy(model)
    settings.setdefault("min_block_size", 1)
    if not settings.get("require_full_compilation"):  # what separates the engines of these graphs
        settings["torch_executed_ops"] = {"aten.erfinv", *settings.get("torch_executed_ops", ())}
    compiled = trtcore.compile(model, inputs if inputs is not None else list(calls[0]), **settings)
    if engines is not None:
        assert len(compiled.report.engines) == engines, str(compiled.report)
    for call in calls:
        wanted_args, got_args = copy.deepcopy(call), copy.deepcopy(call)
        with torch.no_grad():
            wanted, got = reference(*wanted_args), compiled(*got_args)
        same(got, wanted, tolerance)
        same(got_args, wanted_args, tolerance)
    buffers = dict(model.named_buffers())
    same({name: buffers[name] for name in buffers}, dict(reference.named_buffers()), tolerance)
    return compiled


def same(got: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    got_leaves, got_spec = pytree.tree_flatten(got)
    wanted_leaves, wanted_spec = pytree.tree_flatten(wanted)
    assert got_spec == wanted_spec
    for a, b in zip(got_leaves, wanted_leaves):
        if isinstance(b, Tensor):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
        else:
            assert type(a) is type(b)
            assert a == b


def batches(*sizes: int, rest: tuple[int, ...] = (4,)) -> list[tuple[Tensor]]:
    return [(torch.randn(n, *rest),) for n in sizes]


def dynamic(
    rest: tuple[int, ...] = (4,), low: int = 1, high: int = 8, dtype: torch.dtype = torch.float32
) -> Input:
    return Input(min_shape=(low, *rest), opt_shape=(3, *rest), max_shape=(high, *rest), dtype=dtype)


def both(
    forward: Callable[..., Any], *, rest: tuple[int, ...] = (4,), low: int = 1, **options: Any
) -> tuple[Any, Any]:
    """Check a one-input model with a static and with a dynamic batch."""
    tensors = options.pop("tensors", {})
    static = check(model_of(forward, **copy.deepcopy(tensors)), *batches(3, rest=rest), **options)
    calls = batches(*sorted({low, 3, 8}), rest=rest)
    moving = check(
        model_of(forward, **copy.deepcopy(tensors)), *calls, inputs=[dynamic(rest, low)], **options
    )
    return static, moving


def reasons(compiled: Any) -> dict[str, str]:
    """op -> why it is in torch."""
    return {node.op: node.reason for node in compiled.report.in_torch}


# ---- outputs ------------------------------------------------------------------------------------------------


def test_an_input_is_an_output() -> None:
    static, _ = both(lambda self, x: (x, x + 1), engines=1)
    x = torch.randn(3, 4)
    assert static(x)[0] is x


def test_an_input_is_an_output_in_a_dict() -> None:
    both(lambda self, x: {"same": x, "nested": [x * 2, {"again": x}]}, engines=1)


def test_only_the_input_is_an_output() -> None:
    static, _ = both(lambda self, x: x, engines=0)
    x = torch.randn(3, 4)
    assert static(x) is x


def test_the_same_output_twice() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        y = x * 2
        return y, y, {"y": y}

    static, _ = both(forward, engines=1)
    first, second, third = static(torch.randn(3, 4))
    assert first is second is third["y"]
    assert sum(len(part.outputs) for part in static.report.segments) == 1


def test_two_outputs_of_equal_value_are_two_tensors() -> None:
    static, _ = both(lambda self, x: (x.relu(), x.relu()), engines=1)
    first, second = static(torch.randn(3, 4))
    first.add_(1)
    assert not torch.equal(first, second)


def test_constant_outputs() -> None:
    both(
        lambda self, x: (x + 1, self.table, torch.ones(2), torch.tensor(3)),
        tensors={"table": torch.arange(4.0)},
    )


def test_only_a_buffer_is_an_output() -> None:
    """A copy: the weights are the compile's, and what a caller writes changes no later call."""
    compiled = check(model_of(lambda self, x: self.table, table=torch.arange(4.0)), *batches(3), engines=0)
    compiled(torch.randn(3, 4)).zero_()
    assert compiled(torch.randn(3, 4)).tolist() == [0, 1, 2, 3]


def test_a_changed_constant_output_does_not_change_the_next_call() -> None:
    compiled = check(model_of(lambda self, x: torch.ones(2) * 2), *batches(3))
    compiled(torch.randn(3, 4)).zero_()
    assert compiled(torch.randn(3, 4)).tolist() == [2, 2]


def test_none_outputs() -> None:
    both(lambda self, x: (None, x + 1, [None, {"n": None}]), engines=1)
    both(lambda self, x: None, engines=0)


def test_number_outputs() -> None:
    both(lambda self, x: (3, x + 1, 0.5, True, "text"), engines=1)


def test_symbolic_outputs() -> None:
    both(lambda self, x: (x.shape[0] * 2, x + 1, x.shape[0], x.shape[1]), engines=1)


def test_a_symbolic_output_and_nothing_else() -> None:
    both(lambda self, x: x.shape[0] * 2 + 1, engines=0)


def test_an_output_that_a_later_segment_reads() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        y = x.relu() + 1
        z = torch.erfinv(y * 0.1)
        return y, z, (z + y).tanh()

    _, moving = both(forward, engines=2)
    assert list(reasons(moving)) == ["aten.erfinv.default"]


def test_views_of_inputs_as_outputs() -> None:
    both(lambda self, x: (x.view(-1), x.t(), x[1:], x.unsqueeze(0), x + 1), low=2)


# ---- inputs -------------------------------------------------------------------------------------------------


def test_no_inputs() -> None:
    model = model_of(
        lambda self: (self.table * 2).relu() + self.weight,
        table=torch.randn(4),
        weight=torch.nn.Parameter(torch.randn(4)),
    )
    check(model, (), inputs=())


def test_an_exported_program_without_inputs() -> None:
    model = model_of(lambda self: {"out": (self.table * 2).relu()}, table=torch.randn(4))
    exported = torch.export.export(model, ())
    compiled = trtcore.dynamo.compile(exported, arg_inputs=(), min_block_size=1)
    same(compiled(), model())


def test_an_unused_input() -> None:
    both_inputs = model_of(lambda self, x, unused, y: x + y)
    x = torch.randn(3, 4)
    check(both_inputs, (x, torch.randn(7), x * 2), engines=1)
    check(
        both_inputs, (x, torch.randn(7), x * 2), (x[:1], torch.randn(2), x[:1]),
        inputs=[dynamic(), Input(min_shape=(1,), opt_shape=(2,), max_shape=(9,)), dynamic()], engines=1,
    )  # fmt: skip


def test_every_input_unused() -> None:
    check(model_of(lambda self, x: torch.ones(3) + self.b, b=torch.ones(3)), *batches(3))


def test_an_input_used_only_for_its_shape() -> None:
    both(lambda self, x: torch.arange(x.shape[0]) * 2)
    both(lambda self, x: torch.zeros(x.shape[0], 3) + 1.5)


def test_a_segment_that_needs_a_size_no_tensor_shows() -> None:
    """After the op in torch, the segment takes only a (n,)-tensor of another symbol; the batch comes as a size."""

    def forward(self: Any, x: Tensor, y: Tensor) -> Tensor:
        z = torch.erfinv(y * 0.01)
        return z.exp().sum() * torch.ones(x.shape[0] * 2, 3) + x.shape[0]

    calls = [(torch.randn(n, 4), torch.randn(m)) for n, m in ((1, 2), (3, 5), (8, 3))]
    spec = [dynamic(), Input(min_shape=(1,), opt_shape=(3,), max_shape=(6,))]
    compiled = check(model_of(forward), *calls, inputs=spec, torch_executed_modules=[])
    assert "aten.erfinv.default" in reasons(compiled)


def test_an_int_input() -> None:
    model = model_of(lambda self, x, n: x * n + 1)
    check(model, (torch.randn(3, 4), 5))


def test_empty_tensors() -> None:
    calls = [(torch.randn(n, 4),) for n in (0, 1, 3, 8)]
    linear = torch.nn.Linear(4, 5)
    check(
        model_of(lambda self, x: self.linear(x).relu().sum(1), linear=linear),
        *calls,
        inputs=[dynamic(low=0)],
        engines=1,
    )
    check(model_of(lambda self, x: (x + 1, x.sum(), torch.cat([x, x]))), (torch.randn(0, 4),))
    check(model_of(lambda self, x: torch.erfinv(x.tanh() * 0.5).relu()), *calls, inputs=[dynamic(low=0)])


def test_scalars_as_tensors() -> None:
    check(
        model_of(lambda self, x, y: (x + y, x * 2, (x > y).to(torch.int64))),
        (torch.tensor(2.0), torch.tensor(0.5)),
        engines=1,
    )
    check(model_of(lambda self, x, y: x + y), (torch.randn(3), torch.tensor(0.5)), engines=1)


DTYPES = {
    "bool": (lambda self, x: (x, ~x, x.to(torch.float32) + 1), torch.tensor([True, False])),
    "int64": (lambda self, x: (x + 1, x * x, x.float() / 2), torch.tensor([3, -4, 2**40])),
    "int32": (lambda self, x: (x + 1, x * x, x > 1), torch.tensor([3, -4], dtype=torch.int32)),
    "float16": (lambda self, x: (x + 1, x.float() * 2), torch.tensor([3.5, -4], dtype=torch.float16)),
    "bfloat16": (lambda self, x: (x + 1, x.float() * 2), torch.tensor([3.5, -4], dtype=torch.bfloat16)),
    "int8": (lambda self, x: (x, x.to(torch.int32) + 1), torch.tensor([3, -4], dtype=torch.int8)),
    "uint8": (lambda self, x: (x, x.to(torch.int32) + 1), torch.tensor([3, 250], dtype=torch.uint8)),
    "int16": (lambda self, x: (x, x.to(torch.int32) + 1), torch.tensor([3, -250], dtype=torch.int16)),
}


@pytest.mark.parametrize("name", DTYPES)
def test_dtypes_of_inputs_and_outputs(name: str) -> None:
    forward, x = DTYPES[name]
    check(model_of(forward), (x,))
    spec = Input(min_shape=(1,), opt_shape=(3,), max_shape=(8,), dtype=x.dtype)
    check(model_of(forward), (x,), (x[:1],), (torch.cat([x, x]),), inputs=[spec])


def test_what_tensorrt_has_no_dtype_for_stays_in_torch() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = (x.relu() + 1).to(torch.float64)
        return ((y * y).to(torch.float32) + x).tanh()

    _, compiled = both(forward, engines=2)
    assert "float64" in reasons(compiled)["aten.mul.Tensor"]


def test_complex_numbers_are_pairs_in_the_engine() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = (x.relu() + 1).to(torch.complex64)
        return ((y * y).real + x).tanh()

    _, compiled = both(forward, engines=1)
    assert not reasons(compiled)


def test_a_float64_input_stays_in_torch() -> None:
    compiled = check(
        model_of(lambda self, x: (x * 2).float() + 1), (torch.randn(3, dtype=torch.float64),), engines=1
    )
    assert "float64" in reasons(compiled)["aten.mul.Tensor"]


# ---- effects ------------------------------------------------------------------------------------------------


def test_in_place_ops_on_intermediates() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = x + 1
        y.mul_(2).relu_()
        z = y.view(-1)
        z.add_(1)
        y[0] = 7
        return y * z.sum()

    both(forward)


def test_in_place_on_the_input() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        y = x * 2
        x.add_(1)
        return y, x * 3

    both(forward)


def test_in_place_on_a_view_of_the_input() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x[:, 1:3].mul_(2)
        return x + 1

    both(forward)


def test_a_mutated_input_is_returned() -> None:
    both(lambda self, x: x.add_(1))
    both(lambda self, x: (x.add_(1), x * 2))


def test_a_returned_buffer_or_input_is_that_very_tensor() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        self.state.copy_(x * 2)
        x.add_(1)
        return self.state, x, self.state + x

    compiled = check(model_of(forward, state=torch.zeros(3, 4)), *batches(3, 3))
    x = torch.randn(3, 4)
    state, same_x, _ = compiled(x)
    assert same_x.data_ptr() == x.data_ptr()
    assert state.data_ptr() == compiled.state.data_ptr()


def test_a_result_that_was_stored_is_no_alias() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = x * 2
        self.state.copy_(y)
        return y

    compiled = check(model_of(forward, state=torch.zeros(3, 4)), *batches(3, 3))
    compiled(torch.ones(3, 4)).add_(5)
    assert compiled.state.unique().tolist() == [2]


def test_a_written_buffer_that_holds_another() -> None:
    """Export takes them for two; they are one memory, as in eager."""
    whole = torch.arange(16.0).reshape(4, 4)

    def forward(self: Any, x: Tensor) -> Tensor:
        self.whole.add_(1)
        return x + self.row

    check(model_of(forward, whole=whole, row=whole[0]), *batches(3, 3))
    check(model_of(lambda self, x: x + self.row + self.whole[1], whole=whole, row=whole[0]), *batches(3))


def test_one_written_buffer_of_two_names() -> None:
    shared = torch.ones(4)

    def forward(self: Any, x: Tensor) -> Tensor:
        self.first.add_(1)
        return x + self.second

    check(model_of(forward, first=shared, second=shared), *batches(3, 3))


def test_buffers_are_written_back() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        before = self.state * 1
        self.state.mul_(0.5).add_(x.sum(0))
        self.count += 1
        return before, self.state + x

    check(model_of(forward, state=torch.ones(4), count=torch.zeros((), dtype=torch.int64)), *batches(3, 3))
    check(
        model_of(forward, state=torch.ones(4), count=torch.zeros((), dtype=torch.int64)),
        *batches(1, 3, 8), inputs=[dynamic()],
    )  # fmt: skip


def test_the_old_value_of_a_written_buffer_is_returned() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        before = self.state.clone()
        self.state.copy_(x)
        return before

    check(model_of(forward, state=torch.ones(3, 4)), *batches(3, 3))


def test_two_buffers_are_swapped() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        a = self.a.clone()
        self.a.copy_(self.b)
        self.b.copy_(a)
        return x + self.a

    check(model_of(forward, a=torch.ones(4), b=torch.arange(4.0)), *batches(3, 3, 3))


def test_two_inputs_are_swapped() -> None:
    def forward(self: Any, a: Tensor, b: Tensor) -> Tensor:
        old = a.clone()
        a.copy_(b)
        b.copy_(old)
        return a - b

    check(model_of(forward), (torch.randn(3), torch.randn(3)))


def test_a_buffer_is_written_and_not_read() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.last.copy_(x * 2)
        return x + 1

    check(model_of(forward, last=torch.zeros(3, 4)), *batches(3, 3))


def test_a_buffer_takes_the_input_itself() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.last.copy_(x)
        x.add_(1)
        return x * self.last

    check(model_of(forward, last=torch.zeros(3, 4)), *batches(3, 3))


def test_the_input_is_unchanged_by_the_engine() -> None:
    """Reads of an input after it was changed in place see the change, reads before do not."""

    def forward(self: Any, x: Tensor) -> Any:
        a = x.exp()
        x.mul_(2)
        b = torch.erfinv(x * 0.01)
        x.add_(1)
        return a, b, x.exp()

    both(forward)


# ---- random ops ---------------------------------------------------------------------------------------------


def test_random_ops_are_drawn_anew() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        noise = torch.rand_like(x)
        return noise + x, noise * 2 + x, noise

    compiled = trtcore.compile(model_of(forward), batches(3)[0], min_block_size=1)
    x = torch.zeros(3, 4)
    plus, times, noise = compiled(x)
    same(plus, noise)
    same(times, noise * 2)
    assert not torch.equal(compiled(x)[2], noise)
    torch.manual_seed(5)
    wanted = torch.rand_like(x)
    torch.manual_seed(5)
    same(compiled(x)[2], wanted)


def test_two_random_ops_stay_two() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        return torch.rand(4) + x, torch.rand(4) + x, torch.randint(9, (5,)), torch.randn(x.shape[0], 4)

    for spec in (batches(3)[0], [dynamic()]):
        compiled = trtcore.compile(model_of(forward), spec, min_block_size=1)
        torch.manual_seed(5)
        wanted = model_of(forward)(torch.ones(3, 4))
        torch.manual_seed(5)
        same(compiled(torch.ones(3, 4)), wanted)


def test_random_numbers_are_drawn_in_the_models_order() -> None:
    """Also where one draw needs an engine's result and a later one does not."""

    def forward(self: Any, x: Tensor) -> Any:
        picked = torch.multinomial(x.softmax(-1), 2)
        noise = torch.randn_like(x) + x
        return picked, noise.tanh(), torch.rand_like(x[:1]), torch.bernoulli(noise.sigmoid())

    for settings in ({}, {"max_segment_size": 1}, {"min_block_size": 2}):
        compiled = trtcore.compile(model_of(forward), batches(3)[0], **{"min_block_size": 1, **settings})
        x = torch.randn(3, 4)
        for seed in range(3):
            torch.manual_seed(seed)
            wanted = model_of(forward)(x)
            torch.manual_seed(seed)
            same(compiled(x), wanted)


def test_dropout_in_train_mode() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.linear = torch.nn.Dropout(0.5), torch.nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(self.linear(x)) + x

    model = Model().train()
    compiled = trtcore.compile(model, [torch.ones(3, 4)], min_block_size=1)
    torch.manual_seed(3)
    wanted = model(torch.ones(3, 4))
    torch.manual_seed(3)
    got = compiled(torch.ones(3, 4))
    same(got, wanted.detach())
    assert not torch.equal(compiled(torch.ones(3, 4)), got)


# ---- sharing ------------------------------------------------------------------------------------------------


def test_tied_parameters_are_in_the_plan_once() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(1000, 256)
            self.head = torch.nn.Linear(256, 1000, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embedding(ids).relu())

    model = Tied().eval()
    compiled = check(model, (torch.tensor([[1, 2, 999]]),), engines=1, tolerance=1e-4)
    (engine,) = compiled.report.engines
    weight = 1000 * 256 * 4
    assert weight <= engine.engine_bytes < 1.5 * weight
    from trtcore.artifact.manifest import EngineManifest
    from trtcore.runtime.engine import get_engine
    from trtcore.runtime.plans import plans_of

    assert len(plans_of(compiled)) == 1
    manifests = [node.args[3] for node in compiled.graph.nodes if node.name == "engine_0"]
    artifact = get_engine(EngineManifest.from_json(manifests[0]).id).artifact
    tables = [
        t for layer in artifact.snapshot.layers for t in layer.constants.values() if t.numel() == 256_000
    ]
    assert len({t.data_ptr() for t in tables}) == 1  # once, in the engine's own file
    assert tables[0].untyped_storage().data_ptr() == artifact.container.untyped_storage().data_ptr()
    assert artifact.container.numel() < 2.6 * weight


def test_tied_parameters_in_two_segments() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(4, 4)
            self.second = torch.nn.Linear(4, 4)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.erfinv(self.first(x).tanh() * 0.5))

    check(Tied().eval(), *batches(3), engines=2)


def test_several_outputs_partly_unused() -> None:
    both(lambda self, x: x.max(dim=1)[1], rest=(6,))
    both(lambda self, x: torch.topk(x, 2)[0], rest=(6,))
    both(lambda self, x: torch.split(x, 2, dim=1)[1] + 1, rest=(6,))
    both(lambda self, x: (x.chunk(3, dim=1)[0], x.unbind(1)[2] * 2), rest=(6,))


def test_all_outputs_of_an_op_are_returned() -> None:
    both(lambda self, x: torch.topk(x, 2), rest=(6,))
    both(lambda self, x: x.unbind(1), rest=(3,))


# ---- data-dependent ops -------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["nonzero", "mask"])
def test_what_makes_a_data_dependent_size_stays_in_torch_alone(op: str) -> None:
    def forward(self: Any, x: Tensor) -> Any:
        y = x.relu() * 2
        found = torch.nonzero(y) if op == "nonzero" else y[y > 0.5]
        return (y + 1).exp(), found * 2

    _, compiled = both(forward)
    assert compiled.report.engines
    why = reasons(compiled)
    name = "aten.nonzero.default" if op == "nonzero" else "aten.index.Tensor"
    assert name in why
    assert why[name]
    assert "aten.mul.Tensor" not in why, "a mask takes no more than it has, which bounds the size"


# ---- partition ----------------------------------------------------------------------------------------------


def chain(length: int, every: int = 0) -> torch.nn.Module:
    """`length` sines and products, an erfinv after each `every` of them."""

    def forward(self: Any, x: Tensor) -> Tensor:
        for i in range(length):
            x = torch.sin(x) if i % 2 else x * 1.01
            if every and i % every == every - 1:
                x = torch.erfinv(x * 0.5)
        return x

    return model_of(forward)


def test_a_hundred_segments() -> None:
    compiled = check(chain(200, 2), *batches(3), engines=100)
    names = [part.name for part in compiled.report.engines]
    assert names == [f"engine_{i}" for i in range(100)]


@pytest.mark.slow
def test_a_hundred_segments_by_settings() -> None:
    compiled = check(
        chain(200), *batches(1, 3, 8), inputs=[dynamic()], torch_executed_ops={"aten.sin"}, engines=100
    )
    assert reasons(compiled) == {"aten.sin.default": "forced to torch by settings.torch_executed_ops"}


@pytest.mark.slow
def test_four_thousand_chained_ops_in_one_engine() -> None:
    """More than an 8 MB stack takes; the default max_segment_size does not split it."""
    compiled = check(chain(4000), *batches(3), engines=1)
    assert [part.ops for part in compiled.report.engines] == [4000]


@pytest.mark.parametrize("limit", [1, 7, 20, 1000])
def test_max_segment_size_splits(limit: int) -> None:
    engines = -(-20 // limit)
    compiled = check(chain(20), *batches(1, 3), inputs=[dynamic()], max_segment_size=limit, engines=engines)
    assert all(part.ops <= limit for part in compiled.report.engines)


def test_max_segment_size_keeps_the_results_of_an_op_together() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        values, indices = torch.topk(x + 1, 2)
        a, b, c = torch.split(x * 2, 2, dim=1)
        return values * 2, indices + 1, a + b, c

    both(forward, rest=(6,), max_segment_size=2)


def test_branches_split_by_max_segment_size() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        kept = [x * i for i in range(6)]
        return sum(kept) + torch.stack(kept).max()

    both(forward, max_segment_size=3)


def test_min_block_size() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = torch.erfinv((x.relu() + 1).tanh() * 0.5)  # four that convert
        return torch.erfinv(y.relu() * 0.1)  # two that convert

    for size, engines in ((1, 2), (2, 2), (3, 1), (4, 1), (5, 0)):
        compiled = check(model_of(forward), *batches(3), min_block_size=size, engines=engines)
        lost = [node for node in compiled.report.in_torch if node.lost_to == "min_block_size"]
        assert len(lost) == {2: 0, 1: 2, 0: 6}[engines]
        assert all(f"min_block_size={size}" in node.reason for node in lost)


def test_torch_executed_modules() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
            self.second = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh())

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x)) + 1

    compiled = check(Two().eval(), *batches(3), torch_executed_modules=["first"], engines=1)
    assert {node.module_path.split(".")[0] for node in compiled.report.in_torch} == {"first"}
    assert all("torch_executed_modules" in why for why in reasons(compiled).values())
    compiled = check(Two().eval(), *batches(3), torch_executed_modules=["second.1"], engines=2)
    assert list(reasons(compiled)) == ["aten.tanh.default"]
    compiled = check(Two().eval(), *batches(3), torch_executed_modules=[torch.nn.Linear])
    assert list(reasons(compiled)) == ["aten.linear.default"]


def test_everything_in_torch() -> None:
    compiled = check(chain(4), *batches(3), torch_executed_ops={"aten.sin", "aten.mul"}, engines=0)
    assert not [node for node in compiled.graph.nodes if "execute_engine" in str(node.target)]


def test_segments_without_a_computation_are_not_made() -> None:
    """A constant alone, or something nobody reads, is no reason for an engine."""

    def forward(self: Any, x: Tensor) -> Tensor:
        _ = x * 2
        return torch.erfinv(x * 0.1) if self.training else torch.erfinv(x)

    compiled = check(model_of(forward), (torch.rand(3, 4),), engines=0)
    assert len(compiled.report.in_torch) == 1


# ---- saved --------------------------------------------------------------------------------------------------


def odd_outputs(self: Any, x: Tensor) -> Any:
    y = x.relu()
    return {"same": x, "twice": (y, y)}, None, 3, [self.table, torch.erfinv(y.tanh() * 0.5) * x.shape[0]]


def written_buffers(self: Any, x: Tensor) -> Any:
    self.table.mul_(0.5).add_(x.sum(0))
    return torch.erfinv(self.table.tanh() * 0.5) + 1


def a_size_of_its_own(self: Any, x: Tensor) -> Any:
    return torch.erfinv(x * 0.1).sum() * torch.ones(x.shape[0] * 2, 3), x.shape[0]


@pytest.mark.parametrize("forward", [odd_outputs, written_buffers, a_size_of_its_own])
@pytest.mark.parametrize("moving", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("how", ["trtcore", "torch"])
def test_odd_graphs_are_saved_and_loaded(forward: Any, moving: bool, how: str, tmp_path: Any) -> None:
    model = model_of(forward, table=torch.arange(4.0))
    reference = copy.deepcopy(model)
    compiled = trtcore.compile(model, [dynamic()] if moving else batches(3)[0], min_block_size=1)
    path = tmp_path / "model.pt2"
    if how == "trtcore":
        trtcore.save(compiled, path)
        loaded = trtcore.load(path)
    else:
        shapes = {"x": {0: torch.export.Dim("n", min=1, max=8)}} if moving else None
        torch.export.save(torch.export.export(compiled, batches(3)[0], dynamic_shapes=shapes), path)
        loaded = torch.export.load(path).module()
    for call in batches(1, 8, 8) if moving else batches(3, 3):
        with torch.no_grad():
            same(loaded(*call), reference(*call))


def test_no_inputs_saved_and_loaded(tmp_path: Any) -> None:
    model = model_of(lambda self: (self.table * 2).relu(), table=torch.randn(4))
    compiled = trtcore.compile(model, (), min_block_size=1)
    trtcore.save(compiled, tmp_path / "model.pt2")
    same(trtcore.load(tmp_path / "model.pt2")(), model())


# ---- how a module is called ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_the_caller(mode: str) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(torch.erfinv(self.linear(x).tanh() * 0.5)) @ x.t()

    model, x = Model().eval(), torch.randn(3, 4)
    compiled = trtcore.compile(model, [x], min_block_size=1)
    wanted = model(x).detach()
    contexts: Mapping[str, Any] = {
        "eval": torch.no_grad(),
        "autocast": torch.autocast("cpu", torch.bfloat16),
        "inference": torch.inference_mode(),
        "grad": torch.enable_grad(),
    }
    with contexts[mode]:
        got = compiled(x)
    assert got.dtype == torch.float32
    same(got.detach().clone(), wanted, 1e-4)
    assert not got.requires_grad
    same(compiled(x), wanted, 1e-4)


def test_compiled_under_inference_mode() -> None:
    model, x = chain(4), torch.randn(3, 4)
    with torch.inference_mode():
        compiled = trtcore.compile(model, [x], min_block_size=1)
        same(compiled(x), model(x))
    same(compiled(x), model(x))


# ---- strides: torch ops that read those of an engine's output ----------------------------------------------


def strided(model_input: Input, forward: Callable[..., Any], *calls: tuple[Any, ...], **settings: Any) -> Any:
    return check(model_of(forward), *calls, inputs=[model_input], **settings)


ROWS = Input(min_shape=(2, 6), opt_shape=(4, 6), max_shape=(8, 6))
ROWS_OF = [(torch.randn(rows, 6),) for rows in (2, 4, 8)]


def test_as_strided_reads_a_transposed_output_of_varying_shape():
    def forward(self, x):
        return (x * 2).t().as_strided((x.shape[0], 3), (6, 2), 1)

    compiled = strided(ROWS, forward, *ROWS_OF)
    assert "as_strided" in " ".join(node.op for node in compiled.report.in_torch)


@pytest.mark.parametrize("in_torch", [set(), {"aten.as_strided"}])
def test_inputs_whose_memory_is_looked_into_must_be_laid_out_as_captured(in_torch, tmp_path):
    x, batch = torch.randn(2, 3, 4, 5), torch.randn(4, 3, 4, 5)
    turned = x.to(memory_format=torch.channels_last)
    wrong = r"x must have the strides \(60, 20, 5, 1\), got \(60, 1, 15, 3\)(.|\n)*as_strided"
    model = model_of(lambda self, x: torch.relu(x).as_strided((10,), (1,)))
    compiled = trtcore.compile(model, [x], runtime="reference", min_block_size=1, torch_executed_ops=in_torch)
    trtcore.save(compiled, tmp_path / "model.pt2")
    for module in (compiled, trtcore.load(tmp_path / "model.pt2")):
        for right in (x, batch[1:3]):
            same(module(right), model(right))
        with pytest.raises(InputError, match=wrong):
            module(turned)
        same(module(x), model(x))
    compiled = trtcore.compile(
        model, [turned], runtime="reference", min_block_size=1, torch_executed_ops=in_torch
    )
    same(compiled(turned), model(turned))
    with pytest.raises(InputError, match="must have the strides"):
        compiled(x)


def test_places_counted_from_the_storages_start():
    x, batch = torch.randn(2, 3), torch.randn(4, 3)
    model = model_of(lambda self, x: x.as_strided((2,), (1,), 1) + 1)
    compiled = trtcore.compile(model, [x], runtime="reference", min_block_size=1)
    same(compiled(x), model(x))
    with pytest.raises(InputError, match=r"from place 0 of its storage, got .* from place 3"):
        compiled(batch[1:3])


def test_as_strided_reads_what_the_engine_transposed_and_changed():
    def forward(self, x):
        y = torch.relu(x.t() + 1)  # its strides are those of x.t()
        return torch.erf(y).as_strided((x.shape[0], 6), (6, 1)) + 1

    strided(ROWS, forward, *ROWS_OF, torch_executed_ops={"aten.erf"})


def test_as_strided_reads_a_slice_at_an_offset_that_varies():
    def forward(self, x):
        y = torch.relu(x * 2)[x.shape[0] // 2 :]
        return y.as_strided((1, 6), (6, 1), y.storage_offset() - 6)

    strided(ROWS, forward, *ROWS_OF)


def test_as_strided_reads_an_expanded_output():
    def forward(self, x):
        y = (x[:, :1] + 1).expand(-1, 6)
        return y.as_strided((x.shape[0], 2), (1, 0))

    strided(ROWS, forward, *ROWS_OF)


def test_a_view_of_a_transposed_output():
    def forward(self, x):
        y = (x * 2).t()
        return torch.erf(y).view(2, 3, x.shape[0]) + 1

    strided(ROWS, forward, *ROWS_OF, torch_executed_ops={"aten.view", "aten.erf"})


def test_a_custom_op_gets_the_strides_of_the_model():
    with torch.library._scoped_library("trtcore_test_strides", "FRAGMENT") as library:
        library.define("first_six(Tensor x) -> Tensor")

        def first_six(x: Tensor) -> Tensor:
            return x.as_strided((6,), (1,)).clone()

        library.impl("first_six", first_six, "CompositeExplicitAutograd")
        torch.library.register_fake(
            "trtcore_test_strides::first_six", lambda x: x.new_empty((6,)), lib=library
        )

        def forward(self, x):
            return torch.ops.trtcore_test_strides.first_six(torch.relu(x).t() * 2) + 1

        strided(ROWS, forward, *ROWS_OF)


@pytest.mark.parametrize("stride", [(1, 4), (6, 1), (12, 2), (0, 1), (1, 1)])
def test_restride_keeps_values_and_gives_the_strides(stride):
    from trtcore.runtime.op import restride

    base = torch.arange(100.0)
    x = base.as_strided((4, 6), stride)
    result = restride(x.contiguous(), list(stride))
    assert torch.equal(result, x)
    assert result.stride() == stride
    torch.library.opcheck(
        restride, (x.contiguous(), list(stride)), test_utils=("test_schema", "test_faketensor")
    )

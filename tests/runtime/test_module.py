"""CompiledModule: the model's calling convention, and calls it refuses."""

import collections
import copy
import inspect
import pickle
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils import _pytree as pytree

import trtcore
from trtcore.errors import InputError
from trtcore.frontend.export import program_from_exported, trace
from trtcore.ir.inputs import Input
from trtcore.report.data import Report
from trtcore.runtime.module import CompiledModule, assemble


def dynamic(low, opt, high, dtype=torch.float32):
    return Input(min_shape=low, opt_shape=opt, max_shape=high, dtype=dtype)


def compiled(model, inputs=None, kwarg_inputs=None, report=None):
    """The model captured and put back together, with no engine in between."""
    program = program_from_exported(
        trace(model, inputs, kwarg_inputs=kwarg_inputs), inputs, kwarg_inputs=kwarg_inputs
    )
    return assemble(program, program.graph_module, report)


class Nested(nn.Module):
    def forward(self, x, pair, *, extra, scale=2.0, mask=None):
        y = x * scale + pair[0] - pair[1]["k"]
        return {"y": y, "pair": (y.sum(), None), "extra": [extra, 3]}


NESTED = (dynamic((1, 3), (2, 3), (8, 3)), (torch.ones(3), {"k": torch.ones(3)}))
NESTED_KWARGS = {"extra": torch.ones(2), "scale": 2.0, "mask": None}


@pytest.fixture(scope="module")
def nested():
    return compiled(Nested(), NESTED, NESTED_KWARGS, report=Report(model="the report"))


def call(module, x=None, pair=None, **changes):
    kwargs = {"extra": torch.ones(2), "scale": 2.0, "mask": None, **changes}
    pair = (torch.ones(3), {"k": torch.ones(3)}) if pair is None else pair
    return module(torch.ones(4, 3) if x is None else x, pair, **kwargs)


class TestCalls:
    def test_the_models_own_structure_comes_back(self, nested):
        found, expected = call(nested), call(Nested())
        assert pytree.tree_structure(found) == pytree.tree_structure(expected)
        for a, b in zip(pytree.tree_leaves(found), pytree.tree_leaves(expected)):
            torch.testing.assert_close(a, b)

    def test_signature(self, nested):
        assert list(inspect.signature(nested.forward).parameters) == ["x", "pair", "extra", "scale", "mask"]
        assert isinstance(nested, CompiledModule)
        assert isinstance(nested, torch.fx.GraphModule)
        assert not nested.training

    def test_positional_or_keyword(self, nested):
        x, pair = torch.ones(4, 3), (torch.ones(3), {"k": torch.ones(3)})
        expected = call(nested)["y"]
        with pytest.raises(InputError, match="got 5 positional arguments"):
            nested(x, pair, torch.ones(2), 2.0, None)  # the model takes the last three by name
        found = nested(mask=None, scale=2.0, extra=torch.ones(2), pair=pair, x=x)
        torch.testing.assert_close(found["y"], expected)

    def test_dict_order_matters_to_a_model_that_goes_through_it(self):
        class First(nn.Module):
            def forward(self, d):
                first, second = d.values()
                return first - second

        a, b = torch.randn(2), torch.randn(2)
        module = compiled(First(), ({"a": a, "b": b},))
        torch.testing.assert_close(module({"a": a, "b": b}), a - b)
        with pytest.raises(InputError, match=r"keys in the order \['b', 'a'\]"):
            module({"b": b, "a": a})

    def test_dict_order_does_not_matter(self):
        class Sub(nn.Module):
            def forward(self, d):
                return d["a"] - d["b"]

        a, b = torch.randn(2), torch.randn(2)
        module = compiled(Sub(), ({"a": a, "b": b},))
        torch.testing.assert_close(module({"b": b, "a": a}), a - b)

    def test_named_tuples_and_same_output_twice(self):
        Point = collections.namedtuple("Point", ["p", "q"])

        class Swap(nn.Module):
            def forward(self, point):
                return Point(point.q, point.p), point.p, point.p + 1

        point = Point(torch.ones(1), torch.zeros(2))
        found = compiled(Swap(), (point,))(point)
        assert isinstance(found[0], Point)
        torch.testing.assert_close(found, Swap()(point))

    def test_copies_check_too(self, nested):
        for module in (copy.deepcopy(nested), copy.copy(nested), copy.deepcopy(copy.deepcopy(nested))):
            torch.testing.assert_close(call(module)["y"], call(nested)["y"])
            assert module.report.model == "the report"
            with pytest.raises(InputError, match="at dimension 0, allowed is"):
                call(module, torch.ones(9, 3))
            assert not module._forward_pre_hooks

    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_the_check_pickles(self, nested):
        check = pickle.loads(pickle.dumps(nested._input_check))
        with pytest.raises(InputError):
            check(None, (), {})


class TestHooks:
    """Calls go around torch.nn.Module's machinery, unless somebody listens."""

    def test_hooks_of_the_user_run(self, nested):
        module = copy.deepcopy(nested)
        seen = []
        module.register_forward_pre_hook(lambda module, args: seen.append("before"))
        module.register_forward_hook(lambda module, args, result: seen.append("after"))
        call(module)
        assert seen == ["before", "after"]
        with pytest.raises(InputError):
            call(module, x=torch.ones(9, 3))

    def test_no_hook_is_registered(self, nested):
        """torch.cuda.make_graphed_callables takes no module with hooks."""
        for hooks in (nested._forward_pre_hooks, nested._forward_hooks, nested._backward_hooks):
            assert not hooks

    def test_the_check_sees_what_the_last_pre_hook_leaves(self, nested):
        module = copy.deepcopy(nested)

        def longer(module, args):
            return (torch.ones(9, 3), *args[1:])

        handles = [module.register_forward_pre_hook(lambda module, args: (torch.ones(4, 3), *args[1:]))]
        call(module, x=torch.ones(9, 3))  # the hook makes it fit
        handles.append(module.register_forward_pre_hook(longer))
        with pytest.raises(InputError, match="at dimension 0, allowed is"):
            call(module)
        for handle in handles:
            handle.remove()
        with pytest.raises(InputError):
            call(module, x=torch.ones(9, 3))
        call(module)
        module.register_forward_hook(lambda *rest: None)
        call(module)
        assert not module._forward_pre_hooks

    def test_the_check_sees_what_a_global_pre_hook_leaves(self, nested):
        def longer(module, args):
            return (torch.ones(9, 3), *args[1:]) if module is nested else None

        handle = nn.modules.module.register_module_forward_pre_hook(longer)
        try:
            with pytest.raises(InputError, match="at dimension 0, allowed is"):
                call(nested)
        finally:
            handle.remove()
        call(nested)

    def test_global_hooks_run(self, nested):
        seen = []
        handle = nn.modules.module.register_module_forward_hook(lambda module, *rest: seen.append(module))
        try:
            call(nested)
        finally:
            handle.remove()
        assert nested in seen
        call(nested)
        assert seen.count(nested) == 1


class Rows(nn.Module):
    def forward(self, x, k):
        return x * k


class TestOtherWays:
    """What else calls or copies a module."""

    @pytest.fixture(scope="class")
    def rows(self):
        return compiled(Rows(), (dynamic((1, 3), (2, 3), (8, 3)), 2.0))

    def test_symbolic_trace_takes_it_for_one_call(self, rows):
        class Around(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = rows

            def forward(self, x):
                return self.inner(x + 1, 2.0) * 3

        traced = torch.fx.symbolic_trace(Around())
        assert [node.op for node in traced.graph.nodes].count("call_module") == 1
        torch.testing.assert_close(traced(torch.ones(4, 3)), torch.full((4, 3), 12.0))
        with pytest.raises(InputError, match="at dimension 0, allowed is"):
            traced(torch.ones(9, 3))

    def test_symbolic_trace_of_itself_keeps_the_conditions(self, rows):
        traced = torch.fx.symbolic_trace(rows)
        torch.testing.assert_close(traced(torch.ones(4, 3), 2.0), torch.full((4, 3), 2.0))
        with pytest.raises(AssertionError, match=r"size 1\.\.8 at dimension 0"):
            traced(torch.ones(9, 3), 2.0)
        with pytest.raises(AssertionError, match=r"input k was fixed to 2\.0"):
            traced(torch.ones(4, 3), 3.0)

    def test_functional_call_and_replicas(self, rows):
        x = torch.ones(4, 3)
        state = {**dict(rows.named_parameters()), **dict(rows.named_buffers())}
        torch.testing.assert_close(torch.func.functional_call(rows, state, (x, 2.0)), x * 2)
        torch.testing.assert_close(rows._replicate_for_data_parallel()(x, 2.0), x * 2)

    def test_a_call_goes_past_the_wrapper_of_fx(self, rows):
        """fx puts a ``__call__`` for tracebacks on the class of every graph module; it costs a microsecond."""
        assert "__call__" not in vars(type(rows))
        rows.recompile()
        assert "__call__" not in vars(type(rows))

    @pytest.mark.parametrize("fullgraph", [False, True])
    def test_torch_compile(self, rows, fullgraph):
        x = torch.ones(4, 3)
        torch._dynamo.reset()
        again = torch.compile(rows, backend="eager", fullgraph=fullgraph)
        torch.testing.assert_close(again(x, 2.0), x * 2)


class Flat(nn.Module):
    def forward(self, x, y, *, z):
        return x + y, [x - z, None], {"z": z * 2}


@pytest.fixture(scope="module")
def flat():
    return compiled(Flat(), (torch.ones(2), torch.ones(2)), {"z": torch.ones(2)})


class TestFlatArguments:
    """Their code has no pytrees; what it takes, gives and refuses is the same."""

    def test_the_code_is_plain(self, flat):
        assert "pytree" not in flat.code

    def test_results_have_the_models_structure(self, flat):
        given = torch.randn(2), torch.randn(2)
        found, expected = flat(*given, z=torch.ones(2)), Flat()(*given, z=torch.ones(2))
        assert pytree.tree_structure(found) == pytree.tree_structure(expected)
        assert type(found[1]) is list
        for a, b in zip(pytree.tree_leaves(found), pytree.tree_leaves(expected)):
            assert (a is None and b is None) or torch.equal(a, b)

    def test_keywords_in_any_order(self, flat):
        x, y, z = torch.randn(3, 2)
        assert torch.equal(flat(z=z, y=y, x=x)[0], x + y)

    def test_a_copy_and_a_pickle_have_the_same_code(self, flat):
        assert copy.deepcopy(flat).code == flat.code
        x, y, z = torch.randn(3, 2)
        assert torch.equal(copy.copy(flat)(x, y, z=z)[0], x + y)

    def test_what_does_not_fit_is_refused(self, flat):
        with pytest.raises(InputError, match="input y must have size 2"):
            flat(torch.ones(2), torch.ones(3), z=torch.ones(2))


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"x": torch.ones(4, 3, dtype=torch.float64)}, "x must be torch.float32, got torch.float64"),
            ({"x": torch.ones(3)}, "input x must have 2 dimensions, got 1"),
            ({"x": torch.ones(4, 2)}, "input x must have size 3 at dimension 1, got 2"),
            ({"x": torch.ones(9, 3)}, r"input x has size 9 at dimension 0, allowed is 1\.\.8"),
            ({"x": torch.ones(0, 3)}, r"input x has size 0 at dimension 0, allowed is 1\.\.8"),
            ({"x": 3}, "input x must be a tensor of torch.float32, got int 3"),
            ({"x": [torch.ones(4, 3)]}, "input x has the structure|input x must be a tensor"),
            ({"x": torch.ones(4, 3, device="meta")}, "is on cpu, but input x is on meta"),
            (
                {"pair": [torch.ones(3), {"k": torch.ones(3)}]},
                r"structure \[\*, \{'k': \*\}\], but .* \(\*, \{'k': \*\}\)",
            ),
            ({"pair": (torch.ones(3), {"j": torch.ones(3)})}, "input pair has the structure"),
            ({"pair": (torch.ones(3),)}, "input pair has the structure"),
            ({"pair": (torch.ones(3), {"k": torch.ones(4)})}, r"input pair\[1\]\['k'\] must have size 3"),
            ({"scale": 3.0}, "input scale was fixed to 2.0 when the model was compiled, got float 3.0"),
            ({"scale": 2}, "input scale was fixed to 2.0"),
            ({"mask": torch.ones(1)}, "input mask was fixed to None"),
            ({"other": 1}, "got the unknown argument other"),
        ],
    )  # fmt: skip
    def test_the_input_what_came_and_what_is_allowed(self, nested, changes, message):
        with pytest.raises(InputError, match=message):
            call(nested, **changes)

    def test_number_of_arguments(self, nested):
        with pytest.raises(
            InputError, match=r"takes \(x, pair, \*, extra, scale=2\.0, mask=None\), got no pair, extra"
        ):
            nested(torch.ones(4, 3), scale=2.0, mask=None)
        with pytest.raises(InputError, match="got 6 positional arguments"):
            nested(1, 2, 3, 4, 5, 6)
        with pytest.raises(InputError, match="x twice"):
            nested(torch.ones(4, 3), 2, 3, 4, 5, x=1)

    def test_sizes_that_must_agree(self):
        class Add(nn.Module):
            def forward(self, a, b):
                return a + b

        inputs = (dynamic((1, 4), (2, 4), (8, 4)),) * 2
        module = compiled(Add(), inputs)
        with pytest.raises(InputError, match="b has size 3 at dimension 0, but a dimension 0 makes it 2"):
            module(torch.ones(2, 4), torch.ones(3, 4))

    def test_derived_sizes(self):
        class Double(nn.Module):
            def forward(self, a, b):
                return torch.cat([a, a]) + b

        module = compiled(Double(), (dynamic((2, 4), (3, 4), (8, 4)), dynamic((4, 4), (6, 4), (16, 4))))
        assert module(torch.ones(4, 4), torch.ones(8, 4)).shape == (8, 4)
        with pytest.raises(InputError, match="size 6 at dimension 0, but a dimension 0 makes it 8"):
            module(torch.ones(4, 4), torch.ones(6, 4))
        with pytest.raises(InputError, match=r"must be 2 \* n"):
            module(torch.ones(4, 4), torch.ones(7, 4))

    def test_guards_are_kept(self):
        class Even(nn.Module):
            def forward(self, a):
                return a.view(a.shape[0] // 2, 2, -1)

        module = compiled(Even(), dynamic((2, 7), (4, 7), (8, 7)))
        assert module(torch.ones(6, 7)).shape == (3, 2, 7)
        with pytest.raises(InputError, match=r"under the condition .* a of shape \(5, 7\)"):
            module(torch.ones(5, 7))

    @given(st.integers(0, 12), st.integers(0, 12), st.sampled_from([torch.float32, torch.float16]))
    @settings(max_examples=60, deadline=None)
    def test_what_is_not_allowed_never_runs(self, a, b, dtype):
        module = self.add()
        x, y = torch.ones(a, 4), torch.ones(b, 4, dtype=dtype)
        if 1 <= a <= 8 and a == b and dtype is torch.float32:
            torch.testing.assert_close(module(x, y), x + y)
        else:
            with pytest.raises(InputError):
                module(x, y)

    cached = None

    def add(self):
        class Add(nn.Module):
            def forward(self, a, b):
                return a + b

        if TestRefused.cached is None:
            TestRefused.cached = compiled(Add(), (dynamic((1, 4), (2, 4), (8, 4)),) * 2)
        return TestRefused.cached


class TestTracing:
    @pytest.mark.parametrize("strict", [False, True])
    def test_export_again(self, strict):
        module = compiled(nn.Linear(4, 4), dynamic((1, 4), (2, 4), (8, 4)))
        batch = torch.export.Dim("batch", min=1, max=8)
        ep = torch.export.export(module, (torch.ones(3, 4),), dynamic_shapes=({0: batch},), strict=strict)
        torch.testing.assert_close(ep.module()(torch.ones(5, 4)), module(torch.ones(5, 4)))

    def test_torch_compile_takes_it_whole(self):
        module = compiled(nn.Linear(4, 4), dynamic((1, 4), (2, 4), (8, 4)))
        again = torch.compile(module, backend="eager", fullgraph=True, dynamic=True)
        for batch in (2, 3, 7):
            torch.testing.assert_close(again(torch.ones(batch, 4)), module(torch.ones(batch, 4)))


class TestTransformers:
    def test_model_outputs(self):
        transformers = pytest.importorskip("transformers")
        config = transformers.BertConfig(
            num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=16, vocab_size=50
        )
        model = transformers.BertModel(config).eval()
        ids = dynamic((1, 1), (2, 8), (4, 32), torch.int64)
        module = compiled(model, kwarg_inputs={"input_ids": ids, "attention_mask": ids, "return_dict": True})
        for batch, length in [(1, 1), (1, 7), (3, 1), (4, 32)]:
            given = {
                "input_ids": torch.randint(0, 50, (batch, length)),
                "attention_mask": torch.ones(batch, length, dtype=torch.int64),
                "return_dict": True,
            }
            found, expected = module(**given), model(**given)
            assert type(found) is type(expected)
            torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)
            torch.testing.assert_close(found["pooler_output"], expected["pooler_output"])
        mask = torch.ones(2, 8, dtype=torch.int64)
        with pytest.raises(InputError, match="attention_mask has size 2 at dimension 0, but input_ids"):
            module(input_ids=torch.ones(3, 8, dtype=torch.int64), attention_mask=mask, return_dict=True)


def test_inputs_on_another_device_than_the_weights_in_torch():
    """Both are named, in the first call and in later ones; other errors are as they were."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.shift = torch.nn.Linear(4, 4), torch.nn.Parameter(torch.ones(4))

        def forward(self, x):
            return torch.special.erfcx(self.linear(x).relu() * 0.1) + self.shift

    left = {"aten.special_erfcx", "aten.add"}
    module = trtcore.compile(
        Model().eval(), [torch.ones(2, 4)], runtime="reference", min_block_size=1, torch_executed_ops=left
    )
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"the inputs are on meta, and the weights .* are on cpu"
        ) as caught:
            module(torch.ones(2, 4, device="meta"))
        assert "module.to('meta')" in str(caught.value)
        module(torch.ones(2, 4))


class Biased(nn.Module):
    def forward(self, x, b=None):
        return (x * 2 if b is None else x * 2 + b).relu()


IN_TORCH = {"aten.mul", "aten.add", "aten.relu"}


@pytest.mark.parametrize(
    ("apart", "dynamic"),
    [
        pytest.param(set(), True, id="engine-dynamic"),
        pytest.param(set(), False, id="engine", marks=pytest.mark.slow),  # ten seconds each
        pytest.param(IN_TORCH, True, id="torch-dynamic", marks=pytest.mark.slow),
        pytest.param(IN_TORCH, False, id="torch", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((torch.ones(2, 4),), "input b must be a tensor of torch.float32 with 1 dimensions"),
        ((torch.ones(4), torch.ones(4)), "input x must be a tensor of torch.float32 with 2 dimensions"),
        ((torch.ones(2, 4, 3), torch.ones(4)), "input x must be a tensor of torch.float32 with 2 dimensions"),
        ((torch.ones(2, 4).int(), torch.ones(4)), "input x must be a tensor of torch.float32"),
        ((3.0, torch.ones(4)), "input x must be a tensor"),
        ((torch.ones(9, 4), torch.ones(4)), "input x must have size"),
    ],
)
def test_wrong_arguments_under_torch_compile(trt_backend, apart, dynamic, args, told):
    """What the module itself refuses is refused in words where Dynamo traces it, too."""
    x = Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(8, 4)) if dynamic else torch.ones(2, 4)
    module = trtcore.compile(
        Biased(), inputs=[x, torch.ones(4)], min_block_size=1, torch_executed_ops=apart, runtime="reference"
    )
    torch._dynamo.reset()
    traced = torch.compile(module, backend="eager")
    with pytest.raises(ValueError, match=told):
        traced(*args)
    with pytest.raises(InputError):
        module(*args)
    good = torch.randn(2, 4), torch.randn(4)
    torch.testing.assert_close(traced(*good), Biased()(*good))


# ---- weights that engines have --------------------------------------------------------------------------------


class Weighted(nn.Module):
    """`w` is read by an engine and by an op that stays in torch, `k` in torch alone, `e` by an engine alone."""

    def __init__(self):
        super().__init__()
        self.w, self.e = nn.Parameter(torch.full((4,), 2.0)), nn.Parameter(torch.full((4,), 5.0))
        self.register_buffer("k", torch.full((4,), 3.0))

    def forward(self, x):
        return torch.erf(x * self.w * self.e) + (x + self.w) + self.k


@pytest.fixture
def weighted(trt_backend):
    model, x = Weighted().eval(), torch.rand(3, 4)
    apart = {"torch_executed_ops": {"aten.add.Tensor"}, "min_block_size": 1}
    module = trtcore.compile(model, inputs=[x], **apart)
    assert {"w", "k"} <= dict(module.state_dict()).keys()
    assert "e" not in module.state_dict()
    return model, module, x


@torch.no_grad()
def test_weights_that_torch_and_engines_would_have_otherwise_are_not_loaded(weighted):
    model, module, x = weighted
    for outer, prefix in ((module, ""), (nn.Sequential(module), "0.")):
        zeros = {prefix + name: value * 0 for name, value in module.state_dict().items()}
        with pytest.raises(RuntimeError, match="w is a weight in the engines") as told:
            outer.load_state_dict(zeros)
        assert "refit_module_weights" in str(told.value)
        torch.testing.assert_close(outer(x), model(x))
    module.load_state_dict(module.state_dict())  # what it has
    module.load_state_dict({**module.state_dict(), "k": torch.ones(4)})  # what torch alone has
    model.k.fill_(1)
    torch.testing.assert_close(module(x), model(x))


@torch.no_grad()
def test_weights_that_only_an_engine_reads_are_not_set(weighted):
    model, module, x = weighted
    with pytest.raises(InputError, match="e is a weight in the engines of this module"):
        torch.func.functional_call(module, {"e": torch.zeros(4)}, (x,))
    for again in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        with pytest.raises(InputError, match="e is a weight in the engines") as told:
            again.e = nn.Parameter(torch.zeros(4))
        assert "MutableModule" in told.value.advice
        torch.testing.assert_close(again(x), model(x))
    module.note = torch.ones(1)  # a name of the caller's own


@torch.no_grad()
@pytest.mark.parametrize("way", ["in place", "functional_call", "another tensor"])
def test_a_weight_that_torch_and_an_engine_read_stays(weighted, way):
    """A call would have two values of it."""
    model, module, x = weighted
    again = copy.deepcopy(module)
    module(x)
    change = {"in place": _zero, "another tensor": _replace}.get(way, lambda _: None)
    change(module)
    call = (
        partial(torch.func.functional_call, module, {"w": torch.zeros(4)})
        if way == "functional_call"
        else module
    )
    with pytest.raises(InputError, match="w is a weight in the engines") as told:
        call((x,) if way == "functional_call" else x)
    assert "MutableModule" in told.value.advice
    torch.testing.assert_close(again(x), model(x))
    if way == "functional_call":
        torch.testing.assert_close(module(x), model(x))


def _zero(module):
    module.w.zero_()


def _replace(module):
    module.w = nn.Parameter(torch.zeros(4))


def _other_memory(module):
    module.w.data = torch.zeros(4)


HIDDEN = {
    ".data in place": lambda module: module.w.data.mul_(2),
    ".data": _other_memory,
    "numpy": lambda module: module.w.detach().numpy().fill(0),
    "_apply": lambda module: module._apply(lambda tensor: tensor * 2),
    "to_empty": lambda module: module.to_empty(device="cpu").w.data.fill_(7),
    "meta": lambda module: module.to("meta"),
    "in place": _zero,
}


@torch.no_grad()
@pytest.mark.parametrize("way", HIDDEN)
def test_a_weight_that_is_written_where_torch_does_not_count(weighted, way, tmp_path):
    """No call computes with two values of it, and nothing is made of such a module."""
    model, module, x = weighted
    again = copy.deepcopy(module)
    HIDDEN[way](module)
    ways = (module, copy.deepcopy, copy.copy, pickle.dumps, lambda m: m.state_dict(), lambda m: m.to("cpu"))
    for use in (*ways, lambda m: trtcore.save(m, tmp_path / "m.pt2")):
        with pytest.raises(InputError, match="w is a weight in the engines"):
            use(x if use is module else module)
    assert not (tmp_path / "m.pt2").exists()
    torch.testing.assert_close(again(x), model(x))


@torch.no_grad()
def test_weights_that_go_into_shared_memory_are_the_same(weighted):
    """As torch's pickler for processes does it, without a word to the module."""
    model, module, x = weighted
    module.w.share_memory_()
    for one in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module)), nn.Sequential(module)):
        torch.testing.assert_close(one(x), model(x))
    module.w.data.mul_(2)
    with pytest.raises(InputError, match="w is a weight in the engines"):
        module(x)


@torch.no_grad()
@pytest.mark.parametrize("change", [lambda m: m.half(), lambda m: m.double(), lambda m: m.to(torch.bfloat16)])
def test_a_compiled_module_keeps_its_dtypes(weighted, change):
    model, module, x = weighted
    for one in (module, nn.Sequential(module)):
        with pytest.raises(InputError, match="computes in the dtypes that were captured") as told:
            change(one)
        torch.testing.assert_close(one(x), model(x))
    assert "model.half()" in told.value.advice
    assert module.float() is module
    assert trtcore.compile(model.half(), inputs=[x.half()], min_block_size=1)(x.half()).dtype is torch.half


@torch.no_grad()
def test_weights_that_are_moved_stay_what_they_are(weighted, tmp_path):
    model, module, x = weighted
    hooked = copy.deepcopy(module)
    hooked.register_forward_pre_hook(lambda *_: None)
    trtcore.save(module, tmp_path / "m.pt2")
    state = copy.deepcopy(module.state_dict())
    for one in (
        module.to("cpu"),
        module.cpu().share_memory(),
        hooked,
        trtcore.load(tmp_path / "m.pt2"),
        copy.copy(module),
    ):
        one.load_state_dict(state)
        torch.testing.assert_close(one(x), model(x))
    hooked.w.zero_()
    with pytest.raises(InputError, match="w is a weight in the engines"):
        hooked(x)


def test_the_advice_for_other_weights(weighted):
    model, module, x = weighted
    with torch.no_grad():
        model.e.mul_(0.5)
        model.w.mul_(0.5)
        refitted = trtcore.dynamo.refit_module_weights(module, torch.export.export(model, (x,)))
        torch.testing.assert_close(refitted(x), model(x))

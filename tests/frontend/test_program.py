"""program_from_exported(): the graph it makes, and what it refuses."""

import operator

import pytest
import torch
from torch import nn
from torch.export import Dim, export

from trtcore.errors import InputError
from trtcore.frontend.export import program_from_exported, trace
from trtcore.ir.inputs import Input


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.inner[0].weight
        self.register_buffer("shift", torch.ones(4))
        self.register_buffer("hidden", torch.ones(4), persistent=False)
        self.constant = torch.full((4,), 2.0)

    def forward(self, x):
        return self.tied(self.inner(x)) + self.shift + self.hidden * self.constant


def run(program, *inputs):
    return program.graph_module(*inputs)


def dim_export(model=None, **kwargs):
    return export(model or nn.Linear(4, 4), (torch.randn(3, 4),), dynamic_shapes=({0: Dim("b", **kwargs)},))


class TestGraph:
    def test_it_computes_the_same(self):
        model, x = Model().eval(), torch.randn(3, 4)
        program = program_from_exported(export(model, (x,)))
        torch.testing.assert_close(run(program, x), (model(x),))

    def test_weights_are_the_same_objects_under_their_names(self):
        model = Model().eval()
        ep = export(model, (torch.randn(3, 4),))
        module = program_from_exported(ep).graph_module
        targets = {node.target for node in module.graph.find_nodes(op="get_attr")}
        assert {"inner.0.bias", "tied.bias", "shift", "hidden"} <= targets
        assert {"inner.0.weight", "tied.weight"} & targets  # a tied weight, under one of its names
        for target in targets:
            found = operator.attrgetter(target)(module)
            if target.startswith(("inner", "tied")):
                assert isinstance(found, nn.Parameter)
                assert found is operator.attrgetter(target)(model)

    def test_the_exported_program_is_left_alone(self):
        ep = export(Model().eval(), (torch.randn(3, 4),))
        before = str(ep)
        program = program_from_exported(ep)
        for node in list(program.graph_module.graph.nodes)[-2:]:
            node.meta.clear()
        program.graph_module.graph.erase_node(program.graph_module.graph.output_node())
        assert str(ep) == before
        assert all("val" in n.meta for n in ep.graph.nodes if n.op == "call_function")

    def test_meta_is_kept(self):
        program = program_from_exported(export(Model().eval(), (torch.randn(3, 4),)))
        for node in program.graph_module.graph.nodes:
            if node.op != "output":
                assert node.meta["val"] is not None
            if node.op == "call_function":
                assert node.meta["nn_module_stack"]
                assert "stack_trace" in node.meta
        assert program.model_name == "Model"

    def test_no_grad_regions_are_inlined(self):
        class NoGrad(nn.Module):
            def forward(self, x):
                with torch.no_grad():
                    y, z = x.split(1)
                    y = y + z
                return y * x, z

        x = torch.randn(2, 4)
        ep = export(NoGrad(), (x,))
        assert any("set_grad" in str(n.target) for n in ep.graph.nodes), "the export has no region to inline"
        program = program_from_exported(ep)
        assert not any("set_grad" in str(n.target) for n in program.graph_module.graph.nodes)
        torch.testing.assert_close(run(program, x), NoGrad()(x))

    def test_subgraphs_are_copied(self):
        class Cond(nn.Module):
            def forward(self, x):
                return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))

        x = torch.randn(3)
        ep = export(Cond(), (x,))
        program = program_from_exported(ep)
        torch.testing.assert_close(run(program, x), (Cond()(x),))
        assert program.graph_module.true_graph_0 is not ep.graph_module.true_graph_0


class TestMutation:
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(3))
            self.register_buffer("last", torch.zeros(3))

        def forward(self, x):
            self.count.add_(x)
            self.last.copy_(x)
            x.mul_(2)
            return x + self.count, x

    @pytest.mark.parametrize("functional", [False, True])
    def test_buffers_and_inputs_are_written_back(self, functional):
        ep = export(self.Counter(), (torch.ones(3),))
        if functional:
            ep = ep.run_decompositions({})
            assert ep.graph_signature.buffers_to_mutate
        program = program_from_exported(ep)
        model, mine, theirs = self.Counter(), torch.ones(3), torch.ones(3)
        for _ in range(2):
            found, expected = run(program, mine), model(theirs)
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(mine, theirs)
        torch.testing.assert_close(program.graph_module.count, model.count)
        torch.testing.assert_close(program.graph_module.last, model.last)


class TestRanges:
    def test_ranges_of_the_program_need_no_input(self):
        program = program_from_exported(dim_export(min=2, max=9))
        ((_, size),) = program.symbols.items()
        assert (size.min, size.opt, size.max) == (2, 3, 9)

    def test_the_default_minimum_of_a_dim_is_one(self):
        ((_, size),) = program_from_exported(dim_export(max=9)).symbols.items()
        assert size.min == 1

    def test_a_tensor_gives_opt(self):
        ((_, size),) = program_from_exported(dim_export(max=9), (torch.randn(5, 4),)).symbols.items()
        assert (size.min, size.opt, size.max) == (1, 5, 9)

    def test_an_input_narrows(self):
        x = Input(min_shape=(2, 4), opt_shape=(3, 4), max_shape=(4, 4))
        ((_, size),) = program_from_exported(dim_export(max=9), x).symbols.items()
        assert (size.min, size.opt, size.max) == (2, 3, 4)

    def test_a_static_input_fixes(self):
        ((_, size),) = program_from_exported(dim_export(max=9), Input((6, 4))).symbols.items()
        assert (size.min, size.opt, size.max) == (6, 6, 6)

    def test_unbounded(self):
        ep = dim_export()
        with pytest.raises(InputError, match=r"dimension 0 has no upper bound.*\n.*max="):
            program_from_exported(ep)
        x = Input(min_shape=(1, 4), opt_shape=(3, 4), max_shape=(7, 4))
        assert next(iter(program_from_exported(ep, x).symbols.values())).max == 7

    def test_a_wider_input(self):
        x = Input(min_shape=(1, 4), opt_shape=(3, 4), max_shape=(12, 4))
        with pytest.raises(
            InputError, match=r"asked for as 1\.\.12, but the program was exported for 0\.\.9"
        ):
            program_from_exported(dim_export(max=9), x)

    def test_a_tensor_outside_the_range(self):
        with pytest.raises(InputError, match=r"has size 11, allowed is 1\.\.9"):
            program_from_exported(dim_export(max=9), torch.randn(11, 4))

    def test_a_dynamic_input_for_a_static_program(self):
        ep = export(nn.Linear(4, 4), (torch.randn(3, 4),))
        x = Input(min_shape=(1, 4), opt_shape=(3, 4), max_shape=(12, 4))
        with pytest.raises(InputError, match=r"fixed size 3(.|\n)*dynamic_shapes"):
            program_from_exported(ep, x)

    def test_a_loaded_program(self, tmp_path):
        x = Input(min_shape=(1, 4), opt_shape=(5, 4), max_shape=(9, 4))
        torch.export.save(trace(nn.Linear(4, 4), x), tmp_path / "m.pt2")
        program = program_from_exported(torch.export.load(tmp_path / "m.pt2"), x)
        ((_, size),) = program.symbols.items()
        assert (size.min, size.opt, size.max) == (1, 5, 9)
        torch.testing.assert_close(program.graph_module(torch.ones(2, 4))[0].shape, torch.Size([2, 4]))

    def test_a_dynamic_int(self):
        class Times(nn.Module):
            def forward(self, x, n):
                return x * n

        ep = export(Times(), (torch.ones(3), 5), dynamic_shapes=(None, Dim.DYNAMIC(min=2, max=9)))
        program = program_from_exported(ep)
        assert program.inputs[1].kind == "symint"
        assert [(s.min, s.opt, s.max) for s in program.symbols.values()] == [(2, 5, 9)]


class TestGiven:
    ep = export(nn.Linear(4, 4), (torch.randn(3, 4),))

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ((torch.ones(3, 4, dtype=torch.float64),), "exported as torch.float32, got torch.float64"),
            ((torch.ones(3),), "exported with 2 dimensions, got 1"),
            ((torch.ones(2, 4),), "fixed size 3, got 2"),
            ((torch.ones(3, 4, device="meta"),), "exported on device cpu"),
            ((3,), "exported as a tensor, got int 3"),
            (([torch.ones(3, 4)],), "another structure"),
            ((torch.ones(3, 4), 2), "another structure"),
        ],
    )
    def test_what_does_not_fit(self, given, message):
        with pytest.raises(InputError, match=message):
            program_from_exported(self.ep, given)

    def test_a_list_is_not_a_tuple(self):
        class Pair(nn.Module):
            def forward(self, pair):
                return pair[0] + pair[1]

        ep = export(Pair(), ((torch.ones(1), torch.ones(1)),))
        with pytest.raises(InputError) as caught:
            program_from_exported(ep, ([torch.ones(1), torch.ones(1)],))
        assert "([*, *])" in str(caught.value)
        assert "((*, *))" in str(caught.value)

    def test_a_constant_that_changed(self):
        class Flag(nn.Module):
            def forward(self, x, flag):
                return x * flag

        ep = export(Flag(), (torch.ones(1), 2))
        program_from_exported(ep, (torch.ones(1), 2))
        with pytest.raises(InputError, match="flag was fixed to 2"):
            program_from_exported(ep, (torch.ones(1), 3))
        with pytest.raises(InputError, match="flag was fixed to 2"):
            program_from_exported(ep, (torch.ones(1), 2.0))

    def test_keyword_order_does_not_matter(self):
        class Sub(nn.Module):
            def forward(self, a, b):
                return a - b

        ep = export(Sub(), (), {"a": torch.ones(2), "b": torch.ones(3, 2)})
        program = program_from_exported(ep, kwarg_inputs={"b": torch.ones(3, 2), "a": torch.ones(2)})
        assert program.arg_names == ("a", "b")


class ScalesInNoGrad(nn.Module):
    """A region without gradients that writes to a weight, as models do that rescale themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x):
        with torch.no_grad():
            self.weight.div_(2)
        return x * self.weight


def test_region_without_gradients_is_written_out():
    """Its body is not left behind as an attribute that no later stage knows."""
    x = torch.randn(2, 4)
    program = program_from_exported(trace(ScalesInNoGrad(), [x]), [x])
    read = [node.target for node in program.graph_module.graph.nodes if node.op == "get_attr"]
    assert read == ["weight"]
    assert all("val" in node.meta for node in program.graph_module.graph.nodes if node.op != "output")

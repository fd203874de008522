"""trace(): what users may ask for, and what they are told when the model can't give it."""

import itertools

import pytest
import torch
import torch.export._trace
from torch import nn

from trtcore.errors import ExportError, InputError
from trtcore.frontend.export import program_from_exported, trace
from trtcore.ir.exclusions import holds_everywhere
from trtcore.ir.inputs import Input
from trtcore.ir.torch_private import bounds_of_symbol


def dynamic(low, opt, high, dtype=torch.float32, **kwargs):
    return Input(min_shape=low, opt_shape=opt, max_shape=high, dtype=dtype, **kwargs)


class Function(nn.Module):
    """A module of a function, with its argument names."""

    def __init__(self, function):
        super().__init__()
        self.function = function


def shapes(program):
    return [spec.shape and tuple(map(str, spec.shape)) for spec in program.inputs]


def ranges(program):
    return sorted((r.min, r.opt, r.max) for r in program.symbols.values())


class Add(nn.Module):
    def forward(self, a, b):
        return a + b


class Scale(nn.Module):
    def forward(self, x):
        return x * 2


class TestRanges:
    def test_ranges_of_an_input_become_ranges_of_the_program(self):
        x = dynamic((1, 3, 8), (4, 3, 16), (8, 3, 32))
        program = program_from_exported(trace(Scale(), x), x)
        assert ranges(program) == [(1, 4, 8), (8, 16, 32)]
        assert program.inputs[0].shape[1] == 3

    @pytest.mark.parametrize("opt", [1, 8])
    def test_opt_may_be_an_end(self, opt):
        x = dynamic((1, 3), (opt, 3), (8, 3))
        assert ranges(program_from_exported(trace(Scale(), x), x)) == [(1, opt, 8)]

    @pytest.mark.parametrize(("low", "high"), [(0, 1), (1, 2), (0, 2), (2, 3)])
    def test_small_ranges(self, low, high):
        x = dynamic((low, 3), (high, 3), (high, 3))
        program = program_from_exported(trace(Scale(), x), x)
        assert ranges(program) == [(low, high, high)]

    def test_min_equal_max_is_static(self):
        program = program_from_exported(trace(Scale(), dynamic((2, 3), (2, 3), (2, 3))))
        assert program.inputs[0].shape == (2, 3)
        assert not program.symbols

    def test_sizes_the_model_needs_equal_share_a_symbol(self):
        inputs = (dynamic((1, 4), (2, 4), (8, 4)), dynamic((1, 4), (2, 4), (6, 4)))
        program = program_from_exported(trace(Add(), inputs), inputs)
        assert program.inputs[0].shape == program.inputs[1].shape
        assert ranges(program) == [(1, 2, 6)]

    def test_sizes_the_model_does_not_compare_stay_apart(self):
        class Two(nn.Module):
            def forward(self, a, b):
                return a * 2, b * 3

        inputs = (dynamic((1, 4), (2, 4), (8, 4)), dynamic((1, 4), (2, 4), (8, 4)))
        program = program_from_exported(trace(Two(), inputs), inputs)
        assert len(program.symbols) == 2

    def test_ties_that_export_does_not_see_are_found(self):
        class Mask(nn.Module):
            def forward(self, x, mask):
                return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)

        x = dynamic((1, 2, 4, 8), (2, 2, 4, 8), (8, 2, 4, 8))
        mask = dynamic((1, 2, 4, 4), (2, 2, 4, 4), (8, 2, 4, 4))
        program = program_from_exported(trace(Mask(), (x, mask)), (x, mask))
        assert ranges(program) == [(1, 2, 8)]

    def test_a_derived_size_is_an_expression(self):
        class Double(nn.Module):
            def forward(self, a, b):
                return torch.cat([a, a]) + b

        inputs = (dynamic((2, 4), (3, 4), (8, 4)), dynamic((4, 4), (6, 4), (12, 4)))
        program = program_from_exported(trace(Double(), inputs), inputs)
        assert ranges(program) == [(2, 3, 6)]
        (symbol,) = program.symbols
        assert shapes(program)[1] == (f"2*{symbol}", "4")

    def test_different_opt_for_equal_sizes_is_an_error(self):
        a, b = dynamic((1, 4), (2, 4), (8, 4)), dynamic((1, 4), (2, 4), (8, 4))
        exported = trace(Add(), (a, b))
        with pytest.raises(InputError, match="different opt sizes"):
            program_from_exported(exported, (a, dynamic((1, 4), (3, 4), (8, 4))))


class TestPromises:
    """Sizes that torch.export assumes away are held against the model."""

    def test_a_branch_on_size_one_is_not_promised(self):
        class Branch(nn.Module):
            def forward(self, a):
                return a * 3 if a.shape[0] == 1 else a * 2

        with pytest.raises(ExportError, match=r"a: dimension 0 = 1.*differs"):
            trace(Branch(), dynamic((1, 7), (4, 7), (8, 7)))
        trace(Branch(), dynamic((2, 7), (4, 7), (8, 7)))

    def test_a_squeeze_of_size_one_is_not_promised(self):
        class Squeeze(nn.Module):
            def forward(self, a):
                return a.squeeze(0).sum()

        with pytest.raises(ExportError, match="squeeze"):
            trace(Squeeze(), dynamic((1, 7), (4, 7), (8, 7)))

    def test_a_branch_that_changes_nothing_is_fine(self):
        class Harmless(nn.Module):
            def forward(self, a):
                return a * 2 if a.shape[0] == 1 else 2 * a

        x = dynamic((1, 7), (4, 7), (8, 7))
        assert ranges(program_from_exported(trace(Harmless(), x), x)) == [(1, 4, 8)]

    def test_batch_one_of_common_layers(self):
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
        x = dynamic((1, 1, 16), (2, 5, 16), (4, 9, 16))
        assert ranges(program_from_exported(trace(layer, x), x)) == [(1, 2, 4), (1, 5, 9)]

    def test_a_range_that_the_model_narrows(self):
        with pytest.raises(ExportError, match=r"dimension 2 was asked for as 2\.\.20.*only for 5\.\.20"):
            trace(nn.Conv1d(3, 3, 5), dynamic((1, 3, 2), (2, 3, 17), (4, 3, 20)))

    def test_a_size_that_the_model_fixes(self):
        class Four(nn.Module):
            def forward(self, a):
                return a.reshape(4, 7)

        with pytest.raises(ExportError, match="specialized it to be a constant") as caught:
            trace(Four(), dynamic((1, 7), (4, 7), (8, 7)))
        assert "a dimension 0 (1..8 (opt 4))" in str(caught.value)

    def test_the_check_leaves_buffers_alone(self):
        class Counter(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("count", torch.zeros(1))

            def forward(self, x):
                self.count.add_(1)
                return x + self.count

        model = Counter()
        trace(model, dynamic((1, 3), (2, 3), (8, 3)))
        assert model.count.item() == 0
        assert not model._forward_pre_hooks

    def test_parity_stays_a_guard(self):
        class Even(nn.Module):
            def forward(self, a):
                return a.view(a.shape[0] // 2, 2, -1)

        program = program_from_exported(trace(Even(), dynamic((2, 7), (4, 7), (8, 7))))
        (name,) = program.symbols
        assert [n for n in range(2, 9) if all(guard.holds({name: n}) for guard in program.guards)] == [
            2,
            4,
            6,
            8,
        ]

    @pytest.mark.parametrize("behind", [0, 1])
    def test_conditions_on_variadic_arguments_are_kept(self, behind):
        def fives(tensor):
            return tensor.reshape(5, -1) if tensor.shape[0] % 5 == 0 else tensor.reshape(1, -1)

        class Rows(nn.Module):
            def forward(self, *tensors):
                return fives(tensors[behind])

        class Named(nn.Module):
            def forward(self, first, *tensors):
                return fives(tensors[0]) + first

        model, others = (Named(), (torch.ones(1),)) if behind else (Rows(), ())
        with pytest.raises(ExportError, match=r"tensors\[0\].size\(\)\[0\] % 5 == 0"):
            trace(model, (*others, dynamic((2, 5), (50, 5), (54, 5))))
        rows = {0: torch.export.Dim.DYNAMIC(min=50, max=55)}
        exported = torch.export.export(
            model, (*others, torch.ones(50, 5)), dynamic_shapes=(None, (rows,)) if behind else ((rows,),)
        )
        program = program_from_exported(exported)
        (name,) = program.symbols
        assert [n for n in range(50, 56) if all(guard.holds({name: n}) for guard in program.guards)] == [
            50,
            55,
        ]

    @pytest.mark.parametrize("opt", [16, 17])
    def test_a_branch_that_one_capture_has_for_all_sizes(self, opt):
        class Pad(nn.Module):
            def forward(self, x):
                missing = (4 - x.shape[1] % 4) % 4
                if missing > 0:
                    x = nn.functional.pad(x, (0, missing))
                return x.reshape(x.shape[0], -1, 4).amax(1)

        x = dynamic((1, 8), (1, opt), (2, 32))
        program = program_from_exported(trace(Pad(), x), x)
        assert ranges(program) == [(1, 1, 2), (8, opt, 32)]
        assert all(holds_everywhere(guard, program.symbols) for guard in program.guards)
        for batch, length in itertools.product((1, 2), range(8, 33)):
            example = torch.randn(batch, length)
            (found,) = program.graph_module(example)
            torch.testing.assert_close(found, Pad()(example))

    @pytest.mark.parametrize("opt", [16, 17])
    def test_a_branch_on_sizes_inside_of_the_range_is_not_promised(self, opt):
        class Odd(nn.Module):
            def forward(self, x):
                return (x * 2 if x.shape[1] % 2 else x) + 1

        sizes, which = (r"9, 11, 13, 15, 17, 19, \.\.\. \(12 sizes\)", "==") if opt == 16 else ("8, 10", "!=")
        with pytest.raises(
            ExportError, match=rf"assumed x.size\(\)\[1\] % 2 {which} 0, which leaves out .* = {sizes}"
        ):
            trace(Odd(), dynamic((1, 8), (1, opt), (1, 32)))
        # What the error advises:
        some = Input(profiles=[(1, 8), (1, 16), (1, 32)])
        assert len(program_from_exported(trace(Odd(), some), some).symbols) == 1

    def test_a_cut_that_depends_on_parity_is_not_promised(self):
        class Cut(nn.Module):
            def forward(self, x):
                return x[:, :-1] if x.shape[1] % 2 else x * 1

        with pytest.raises(ExportError, match="% 2 == 0, which leaves out"):
            trace(Cut(), dynamic((1, 8), (1, 16), (2, 32)))

    def test_one_size_far_from_the_others_is_seen(self):
        class Needle(nn.Module):
            def forward(self, x):
                return x * 3 if x.shape[0] == 777 else x * 2

        with pytest.raises(ExportError, match=r"leaves out x: dimension 0 = 777\. At x: dimension 0 = 777"):
            trace(Needle(), dynamic((2, 1), (8, 1), (1000, 1)))

    def test_weights_that_are_not_real(self):
        with torch.device("meta"):
            model = nn.Linear(4, 4)
        x = dynamic((1, 4), (2, 4), (8, 4), device="meta")
        assert ranges(program_from_exported(trace(model, x), x)) == [(1, 2, 8)]


class TestErrors:
    def test_no_inputs(self):
        with pytest.raises(InputError, match="no inputs were given"):
            trace(Scale())

    def test_inputs_that_do_not_fit_forward(self):
        with pytest.raises(InputError, match=r"do not fit Scale\.forward\(x\)"):
            trace(Scale(), (torch.ones(1), torch.ones(1)))
        with pytest.raises(InputError, match="missing a required argument: 'b'"):
            trace(Add(), torch.ones(1))

    def test_a_function_is_no_model(self):
        with pytest.raises(ExportError, match=r"must be a torch\.nn\.Module"):
            trace(torch.relu, torch.ones(1))

    def test_data_dependent_control_flow_names_the_line(self):
        class Branch(nn.Module):
            def forward(self, x):
                if x.sum() > 0:
                    return x
                return -x

        with pytest.raises(ExportError) as caught:
            trace(Branch(), torch.ones(3))
        assert "could not capture Branch" in caught.value.message
        assert "if x.sum() > 0" in caught.value.where
        assert "draft_export" in caught.value.advice

    def test_training_mode_warns(self):
        with pytest.warns(UserWarning, match="training mode"):
            trace(nn.Sequential(nn.Linear(3, 3), nn.Dropout()), torch.ones(2, 3))


class TestCalls:
    def test_nested_inputs_scalars_and_none(self):
        class Nested(nn.Module):
            def forward(self, x, extra, *, scale, mode="sum", mask=None):
                y = x + extra["a"][0] * scale
                return (y.sum() if mode == "sum" else y), {"same": extra["b"]}

        ep = trace(
            Nested(),
            (dynamic((1, 3), (2, 3), (8, 3)), {"a": [dynamic((1, 3), (2, 3), (8, 3))], "b": torch.ones(2)}),
            kwarg_inputs={"scale": 2.5, "mode": "none", "mask": None},
        )
        program = program_from_exported(ep)
        assert [spec.name for spec in program.inputs] == [
            "x", "extra['a'][0]", "extra['b']", "scale", "mode", "mask",
        ]  # fmt: skip
        assert [spec.kind for spec in program.inputs] == ["tensor"] * 3 + ["constant"] * 3
        assert [spec.value for spec in program.inputs[3:]] == [2.5, "none", None]
        assert len(program.symbols) == 1

    def test_names_that_only_kwargs_takes(self):
        class Loose(nn.Module):
            def forward(self, x, **kwargs):
                return x + kwargs["y"]

        model = Loose()
        x = dynamic((1, 3), (2, 3), (8, 3))
        program = program_from_exported(trace(model, x, kwarg_inputs={"y": x, "flag": True}))
        assert program.arg_names == ("x", "y", "flag")
        assert "forward" not in model.__dict__

    def test_a_dict_of_inputs(self):
        program = program_from_exported(trace(Add(), {"b": torch.ones(2), "a": torch.ones(2)}))
        assert program.arg_names == ("b", "a")

    def test_the_same_input_twice(self):
        x = Input(min_shape=(1,), opt_shape=(2,), max_shape=(4,), example=torch.ones(2))
        assert len(program_from_exported(trace(Add(), (x, x))).symbols) == 1

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_low_precision(self, dtype):
        x = dynamic((1, 4), (2, 4), (8, 4), dtype=dtype)
        program = program_from_exported(trace(nn.Linear(4, 4).to(dtype), x), x)
        assert program.inputs[0].dtype is dtype


def test_one_tensor_for_two_arguments():
    """torch.export would take the second for the first: what the model does with two is what is meant."""

    class Difference(torch.nn.Module):
        def forward(self, a, b):
            return a - b

    x = torch.zeros(3)
    program = trace(Difference(), inputs=[x, x])
    a, b = torch.ones(3), torch.full((3,), 3.0)
    assert torch.equal(program.module()(a, b), a - b)


def _is_an_int(x):
    return x * 2 if isinstance(x.shape[1], int) else x


def _type_of(x):
    return x * 2 if type(x.shape[1]) is int else x


def _text_of(x):
    return x * len(str(x.shape[1]))


_CALLS = itertools.count()


def _anew_in_every_call(x):
    return x * next(_CALLS)


@pytest.mark.parametrize("low", [1, 2])
@pytest.mark.parametrize("function", [_is_an_int, _type_of, _text_of, _anew_in_every_call])
def test_what_a_trace_with_symbols_answers_otherwise(function, low):
    """Nothing of it is a condition that torch.export would know."""

    class Model(torch.nn.Module):
        def forward(self, x):
            return function(x)

    with pytest.raises(
        ExportError, match=r"can't be captured with sizes that vary\. At x: dimension 0 = 2"
    ) as told:
        trace(Model(), dynamic((low, 8), (3, 16), (4, 24)))
    assert "isinstance(n, int)" in told.value.advice
    x = torch.ones(3, 16)
    program = trace(Model(), Input((3, 16)))  # as the advice has it
    if function is not _anew_in_every_call:
        assert torch.equal(program.module()(x), Model()(x))


def test_a_recurrent_layer_is_no_assignment_of_the_model(recwarn):
    """torch.export takes nn.LSTM's own list of parameters for an attribute that the model assigns."""
    trace(nn.LSTM(3, 4), [torch.randn(2, 1, 3)])
    assert not recwarn.list


def test_an_assignment_of_the_model_is_told():
    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = torch.zeros(2)

        def forward(self, x):
            self.last = x + 1
            return x * 2

    with pytest.warns(UserWarning, match=r"self\.last was assigned during export"):
        trace(Remembers(), [torch.randn(2)])


def test_an_opt_size_that_is_a_number_of_the_model():
    """At a length of 8 the slice is all of x, which torch.export takes for a size that the model fixes."""

    class Head(nn.Module):
        def forward(self, x):
            return x[:, :8].transpose(1, 2) @ x[:, :8]

    for opt in (8, 20, 32):
        ep = trace(Head(), [dynamic((1, 8, 3), (2, opt, 3), (4, 32, 3))])
        assert [ends[::2] for ends in ranges(program_from_exported(ep))] == [(1, 4), (8, 32)]
        for length in (8, 9, 32):
            x = torch.randn(3, length, 3)
            torch.testing.assert_close(ep.module()(x), Head()(x))


def test_a_size_that_the_model_does_fix_is_told():
    class Eight(nn.Module):
        def forward(self, x):
            return x + torch.ones(8)

    with pytest.raises(ExportError, match="dimension 0"):
        trace(Eight(), [dynamic((2,), (8,), (16,))])


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.layer = nn.LSTM(4, 4, batch_first=True)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, scale=2.0, *, more=None):
        y = nn.functional.max_pool2d(self.conv(x).contiguous(), 2).flatten(2).transpose(1, 2)
        self.calls.add_(1)
        y, _ = self.layer(y.reshape(-1, y.shape[1], 4))
        return {"y": y.permute(0, 2, 1).mean(-1) * scale + more["a"], "x": x.view(x.shape[0], -1)}


@pytest.mark.parametrize("rows", [(2, 2, 2), (1, 2, 4)])
def test_a_plain_model_is_exported_once(rows, monkeypatch):
    """Whatever is found out besides is found out in that capture: an export is most of what a capture costs."""
    exports = []
    export = torch.export._trace._export
    monkeypatch.setattr(
        torch.export._trace, "_export", lambda *args, **kwargs: exports.append(1) or export(*args, **kwargs)
    )
    low, usual, high = ((count, 3, 8, 8) for count in rows)
    x = dynamic(low, usual, high)
    trace(Plain().eval(), arg_inputs=(x, 3.0), kwarg_inputs={"more": {"a": torch.ones(4)}})
    assert len(exports) == 1
    exports.clear()
    trace(nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(3)).eval(), [x])
    assert len(exports) == 1


class Rows(nn.Module):
    """Works where the second has no more rows than the first."""

    def forward(self, x, y):
        return x.view(2, -1)[:, :1], torch.zeros_like(y).scatter_(
            0, torch.zeros_like(y, dtype=torch.int64), x
        )


def test_a_size_at_which_the_model_fails_because_of_another():
    """At three rows of x and four of y the model fails; at three of both it works, and the capture does not."""
    rows = dynamic((2, 4), (4, 4), (4, 4))
    with pytest.raises(ExportError, match="dimension 0 = 3"):
        trace(Rows(), [rows, rows])


def test_sizes_of_two_at_most_have_a_bound_while_converters_look():
    """torch makes a dimension static that may be 2 alone; one without a bound kept mixtures of experts out of engines."""
    ep = trace(nn.Linear(4, 4), [dynamic((1, 4), (2, 4), (2, 4))])
    assert ranges(program_from_exported(ep)) == [(1, 2, 2)]
    (x,) = (node.meta["val"] for node in ep.graph.find_nodes(op="placeholder") if node.target == "input")
    assert bounds_of_symbol(x.shape[0])[1] == 3
    for rows in (1, 2):
        assert ep.module()(torch.ones(rows, 4)).shape == (rows, 4)

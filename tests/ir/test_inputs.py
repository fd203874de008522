import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from trtcore.errors import InputError
from trtcore.ir.inputs import Input, collect_inputs, describe_structure, flatten_inputs, structure_text

sizes = st.integers(0, 64)
triples = st.tuples(sizes, sizes, sizes).map(lambda t: tuple(sorted(t)))
shapes = st.lists(triples, max_size=5)
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool])


def make(dims, **kwargs):
    low, opt, high = (tuple(d[i] for d in dims) for i in range(3))
    return Input(min_shape=low, opt_shape=opt, max_shape=high, **kwargs)


class TestInput:
    @given(shapes, dtypes)
    def test_every_ordered_range_is_accepted_and_kept(self, dims, dtype):
        described = make(dims, dtype=dtype)
        assert [(d.min, d.opt, d.max) for d in described.dims] == [tuple(d) for d in dims]
        assert described.is_dynamic == any(d[0] != d[2] for d in dims)
        assert (described.shape is None) == described.is_dynamic
        assert described == make(dims, dtype=dtype)
        assert hash(described) == hash(make(dims, dtype=dtype))

    @given(st.lists(st.tuples(sizes, sizes, sizes), min_size=1, max_size=4))
    def test_a_range_out_of_order_names_the_dimension(self, dims):
        wrong = [i for i, (low, opt, high) in enumerate(dims) if not low <= opt <= high]
        if not wrong:
            make(dims)
            return
        with pytest.raises(InputError, match=f"dimension {wrong[0]} needs min <= opt <= max"):
            make(dims)

    def test_opt_may_equal_min_or_max(self):
        assert make([(1, 1, 8)]).dims[0].opt == 1
        assert make([(1, 8, 8)]).dims[0].opt == 8

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({}, "no shape was given"),
            ({"shape": 3}, "shape must be a tuple of ints"),
            ({"shape": "33"}, "shape must be a tuple of ints"),
            ({"shape": (1, -1)}, r"shape\[1\] is -1"),
            ({"shape": (1, 2.0)}, r"shape\[1\] must be an int, got float 2.0"),
            ({"shape": (True,)}, r"shape\[0\] must be an int"),
            ({"min_shape": (1,), "max_shape": (2,)}, "opt_shape missing"),
            ({"shape": (1,), "min_shape": (2,)}, "were both given"),
            ({"min_shape": (1,), "opt_shape": (1, 2), "max_shape": (1, 2)}, "different ranks"),
            ({"shape": (1,), "dtype": "float31"}, "dtype must be a torch.dtype"),
            ({"shape": (1,), "device": "tpu9"}, "is not a torch device"),
            ({"shape": (1,), "name": 3}, "name must be a string"),
            ({"shape": (2,), "example": torch.ones(3)}, "example has size 3 at dimension 0"),
            ({"shape": (2,), "example": torch.ones(2, 2)}, "example has rank 2"),
            ({"shape": (2,), "dtype": torch.int64, "example": torch.ones(2)}, "example is torch.float32"),
            ({"shape": (2,), "example": [1.0, 2.0]}, "example must be a torch.Tensor"),
        ],
    )
    def test_what_is_wrong_is_said(self, kwargs, message):
        with pytest.raises(InputError, match=message):
            Input(**kwargs)

    @given(st.lists(st.tuples(triples, triples), min_size=2, max_size=4))
    def test_profiles_are_kept_and_spanned(self, rows):
        profiles = [tuple(tuple(dim[i] for dim in row) for i in range(3)) for row in rows]
        described = Input(profiles=profiles)
        assert described.profiles == tuple(profiles)
        assert [[(d.min, d.opt, d.max) for d in dims] for dims in described.profile_dims] == [
            list(row) for row in rows
        ]
        for index, dim in enumerate(described.dims):
            column = [row[index] for row in rows]
            assert (dim.min, dim.opt, dim.max) == (
                min(c[0] for c in column), column[0][1], max(c[2] for c in column),
            )  # fmt: skip
        assert described == Input(profiles=profiles)
        assert dataclasses.replace(described, name="x").profiles == tuple(profiles)

    def test_one_profile_is_the_same_as_a_range(self):
        low, opt, high = (1, 3), (2, 3), (8, 3)
        assert Input(profiles=[(low, opt, high)]) == Input(min_shape=low, opt_shape=opt, max_shape=high)
        assert Input(profiles=[(4, 3)]) == Input((4, 3))

    def test_a_single_shape_is_a_profile_of_that_size(self):
        described = Input(profiles=[(4, 3), ((5, 3), (6, 3), (7, 3))])
        assert described.profiles == (((4, 3),) * 3, ((5, 3), (6, 3), (7, 3)))
        assert str(described) == "Input((4, 3) or (5..6..7, 3), torch.float32)"

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"profiles": []}, "profiles must be a list"),
            ({"profiles": 3}, "profiles must be a list"),
            ({"profiles": [3, 4]}, r"profiles\[0\] must be a tuple of ints"),
            ({"profiles": [((1,), (2,))]}, r"profiles\[0\] must be \(min, opt, max\)"),
            ({"profiles": [(1,), (1, 2)]}, "different ranks"),
            ({"profiles": [(1,), ((3,), (2,), (4,))]}, r"profiles\[1\]: dimension 0 needs min <= opt <= max"),
            ({"profiles": [(1,), (-2,)]}, r"profiles\[1\]\[0\] is -2"),
            ({"profiles": [(1,), (2,)], "max_shape": (9,)}, "profiles and max_shape were both given"),
            ({"profiles": [(1,), (2,)], "shape": (9,)}, "were both given"),
            ({"profiles": [(1,), (4,)], "example": torch.ones(2)}, "in none of the profiles"),
        ],
    )
    def test_what_is_wrong_with_profiles_is_said(self, kwargs, message):
        with pytest.raises(InputError, match=message):
            Input(**kwargs)

    def test_the_error_names_the_input(self):
        with pytest.raises(InputError, match="Input 'ids'"):
            Input((-1,), name="ids")

    def test_from_tensor(self):
        tensor = torch.arange(6).reshape(2, 3)
        described = Input.from_tensor(tensor)
        assert (described.shape, described.dtype, described.is_dynamic) == ((2, 3), torch.int64, False)
        assert described.example_tensor() is tensor
        with pytest.raises(InputError, match=r"from_tensor takes a torch\.Tensor"):
            Input.from_tensor((2, 3))

    @given(shapes, dtypes)
    @settings(max_examples=30)
    def test_examples_are_valid_and_repeatable(self, dims, dtype):
        dims = [tuple(min(s, 5) for s in d) for d in dims]
        described = make(dims, dtype=dtype)
        first, second = described.example_tensor(), described.example_tensor()
        assert tuple(first.shape) == described.opt_shape
        assert first.dtype is dtype
        assert torch.equal(first, second)
        if not dtype.is_floating_point:
            assert set(first.flatten().tolist()) <= {0, 1}

    def test_a_static_input_ignores_equal_ranges(self):
        assert make([(2, 2, 2)]) == Input((2,))


leaves = st.one_of(
    st.builds(torch.ones, st.integers(0, 3)),
    st.builds(lambda s: Input((s,)), st.integers(0, 3)),
    st.integers(),
    st.floats(allow_nan=False),
    st.booleans(),
    st.text(max_size=3),
    st.none(),
)
trees = st.recursive(
    leaves,
    lambda child: st.one_of(
        st.lists(child, max_size=3),
        st.lists(child, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from("abc"), child, max_size=3),
    ),
    max_leaves=8,
)


class TestFlatten:
    @given(st.lists(trees, max_size=3), st.dictionaries(st.sampled_from("xyz"), trees, max_size=3))
    def test_nested_inputs_come_back(self, args, kwargs):
        tree = flatten_inputs(args, kwargs, ["p", "q", "r"])
        back = tree.unflatten(tree.leaves)
        assert pytree.tree_structure(back) == pytree.tree_structure((tuple(args), kwargs))
        assert all(
            a is b for a, b in zip(pytree.tree_leaves(back), pytree.tree_leaves((tuple(args), kwargs)))
        )
        assert len(set(tree.names)) == len(tree.names)

    def test_names_are_the_users(self):
        tree = flatten_inputs(({"y": [1, 2]}, None), {"mask": (3,)}, ["x"])
        assert tree.names == ("x['y'][0]", "x['y'][1]", "args[1]", "mask[0]")

    @pytest.mark.parametrize("bad", [object(), {1, 2}, math.sqrt, torch.float32])
    def test_what_no_model_takes_is_refused_by_name(self, bad):
        with pytest.raises(InputError, match=r"input x\['k'\] is"):
            flatten_inputs(({"k": bad},), {}, ["x"])

    def test_numpy_arrays_get_advice(self):
        with pytest.raises(InputError, match="from_numpy"):
            flatten_inputs((torch.ones(1).numpy(),), {}, ["x"])

    @pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
    def test_sparse_tensors_are_refused_as_calls_refuse_them(self, layout):
        given = torch.eye(3).to_sparse(layout=layout)
        with pytest.raises(InputError, match=rf"input x\[0\] must be a dense tensor, .* {layout}") as told:
            flatten_inputs(([given],), {}, ["x"])
        assert "x[0].to_dense()" in told.value.advice

    def test_structures_are_readable(self):
        spec = pytree.tree_structure(((1, [2, (3,)]), {"k": {"a": 4}}))
        assert describe_structure(spec, ["x"]) == "(x, [*, (*,)], k={'a': *})"
        assert structure_text(pytree.tree_structure([1, (2, 3)])) == "[*, (*, *)]"


class TestCollect:
    tensor = torch.ones(1)

    def test_one_tensor_is_one_argument(self):
        assert collect_inputs(self.tensor) == ((self.tensor,), {})
        assert collect_inputs(arg_inputs=Input((1,))) == ((Input((1,)),), {})

    def test_a_list_is_the_positional_arguments(self):
        assert collect_inputs([self.tensor, 3], kwarg_inputs={"k": 1}) == ((self.tensor, 3), {"k": 1})

    def test_a_dict_of_argument_names_is_keyword_arguments(self):
        assert collect_inputs({"x": 1}, argument_names=["x", "y"]) == ((), {"x": 1})
        with pytest.raises(InputError, match="which are not the model's arguments"):
            collect_inputs({"z": 1}, argument_names=["x", "y"])
        with pytest.raises(InputError, match="both give x"):
            collect_inputs({"x": 1}, kwarg_inputs={"x": 2}, argument_names=["x"])

    def test_exactly_one_of_inputs_and_arg_inputs(self):
        with pytest.raises(InputError, match="both inputs and arg_inputs"):
            collect_inputs((1,), arg_inputs=(1,))
        with pytest.raises(InputError, match="no inputs were given"):
            collect_inputs()
        assert collect_inputs(allow_none=True) is None
        assert collect_inputs(kwarg_inputs={}) == ((), {})

    @pytest.mark.parametrize("bad", [3, "x", object(), {1}])
    def test_other_containers_are_refused(self, bad):
        with pytest.raises(InputError, match="must be a tuple of the model's positional arguments"):
            collect_inputs(bad)

    def test_kwarg_inputs_must_be_a_dict_of_names(self):
        with pytest.raises(InputError, match="kwarg_inputs must be a dict"):
            collect_inputs(kwarg_inputs=[1])
        with pytest.raises(InputError, match="must be argument names"):
            collect_inputs(kwarg_inputs={1: 2})

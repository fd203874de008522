"""Generated plugins against NVIDIA's own `tensorrt.plugin`: what it accepts, and what it gets when it asks."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import quick_plugins
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quick_plugins import Plugin

from trtcore.pack import ConversionError, PackError
from trtcore_plugins import Combination, generate_plugin
from trtcore_plugins.quick import Definition, Registration, define

LIB = torch.library.Library("quick", "FRAGMENT")


def op(schema: str, function: Any, fake: Any) -> str:
    name = schema.partition("(")[0]
    LIB.define(schema)
    LIB.impl(name, function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"quick::{name}", fake, lib=LIB)
    return f"quick::{name}"


BROADCAST = op("broadcast(Tensor x, Tensor y) -> Tensor", torch.add, lambda x, y: x.new_empty(torch.broadcast_shapes(x.shape, y.shape)))  # fmt: skip
ADD = op("add(Tensor x, Tensor y) -> Tensor", torch.add, torch.add)
STATS = op(
    "stats(Tensor x, int[] dims, *, bool keep=False) -> (Tensor mean, Tensor above, Tensor largest)",
    lambda x, dims, *, keep=False: (
        x.mean(dims, keep),
        (x > 0).sum(dims, keep, dtype=torch.int32),
        x.amax().half(),
    ),
    lambda x, dims, *, keep=False: (
        torch.mean(x, dims, keep),
        torch.empty_like(torch.mean(x, dims, keep), dtype=torch.int32),
        x.new_empty((), dtype=torch.float16),
    ),
)
PATCHES = op(
    "patches(Tensor x, int size) -> Tensor",
    lambda x, size: torch.nn.functional.pad(x, (0, -x.shape[-1] % size)).unflatten(-1, (-1, size)).amax(-1),
    lambda x, size: x.new_empty(*x.shape[:-1], -(-x.shape[-1] // size)),
)
AT_LEAST = op(
    "at_least(Tensor x, int length) -> Tensor",
    lambda x, length: torch.nn.functional.pad(x, (0, max(length - x.shape[0], 0))),
    lambda x, length: x.new_empty(max(x.shape[0], length)),
)
BIAS = op(
    "bias(Tensor x, Tensor? bias=None, Tensor? scale=None, float? outputs=None, ScalarType? dtype=None, "
    "str mode='plain', float[] weights=[], Scalar by=1) -> Tensor",
    lambda x, bias=None, scale=None, outputs=None, dtype=None, mode="plain", weights=(), by=1: (
        (x * (1 if scale is None else scale) + (0 if bias is None else bias) + sum(weights)) * by
        + (0 if outputs is None else outputs)
    ).to(dtype or x.dtype),
    lambda x, bias=None, scale=None, outputs=None, dtype=None, mode="plain", weights=(), by=1: (
        torch.empty_like(x, dtype=dtype or x.dtype)
    ),
)
WRITE = op("write_(Tensor(a!) state, Tensor x) -> Tensor", lambda state, x: state.add_(x).sum(), lambda state, x: x.new_empty(()))  # fmt: skip
SLICED = op("unbounded(Tensor x) -> Tensor", torch.nonzero, lambda x: x.new_empty((torch.library.get_ctx().new_dynamic_size(), x.dim())))  # fmt: skip


def registered(
    trtp: ModuleType, backend: Any, name: str, absent: tuple[str, ...] = (), **changes: Any
) -> Definition:
    """The plugin of an op, registered once with NVIDIA's code; it finds its tensors on the CPU."""
    known = generate_plugin(name, **changes).definition(absent)
    definition = Definition(**{**vars(known), "device": "cpu"})
    if definition.name not in vars(trtp)["op"].__dict__.get("registered_here", set()):
        Registration(definition, backend, trtp).register()
        vars(trtp)["op"].__dict__.setdefault("registered_here", set()).add(definition.name)
    return definition


def data_types(backend: Any, *dtypes: torch.dtype) -> list[Any]:
    return [backend.trt_dtype(dtype) for dtype in dtypes]


SIZE = st.one_of(st.integers(1, 3), st.integers(4, 200))
F32, F16, I32 = torch.float32, torch.float16, torch.int32


def broadcast_sizes(draw: Any) -> list[tuple[int, ...]]:
    common = [draw(SIZE) for _ in range(2)]
    return [tuple(draw(st.sampled_from([1, size])) for size in common) for _ in range(2)]


DESCRIPTORS = {
    "broadcasting": (BROADCAST, {}, broadcast_sizes),
    "torch's own fake": (ADD, {}, broadcast_sizes),
    "several outputs": (STATS, {"dims": [1], "keep": False}, lambda draw: [(draw(SIZE), draw(SIZE), 5)]),
    "keyword argument": (STATS, {"dims": [-1, 0], "keep": True}, lambda draw: [(draw(SIZE), draw(SIZE), draw(SIZE))]),
    "ceiling division": (PATCHES, {"size": 7}, lambda draw: [(draw(SIZE), draw(SIZE))]),
    "maximum": (AT_LEAST, {"length": 40}, lambda draw: [(draw(SIZE),)]),
}  # fmt: skip


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_descriptors_equal_the_fake_implementation(name: str, trtp: ModuleType, backend: Any) -> None:
    """The shapes that TensorRT computes, at 100 random sizes: its expressions, built by its own Python."""
    qualified, arguments, sizes = DESCRIPTORS[name]
    definition = registered(trtp, backend, qualified)
    plugin = Plugin(trtp, definition.name, definition.encode(arguments))
    count = 0

    @given(data=st.data())
    @settings(max_examples=100, deadline=None)
    def check(data: Any) -> None:
        nonlocal count
        shapes = sizes(data.draw)
        expected = definition.call([torch.empty(shape, device="meta") for shape in shapes], arguments)
        static = tuple(
            (i, d)
            for i, shape in enumerate(shapes)
            for d in range(len(shape))
            if count % 4 == 3 and (i + d) % 2
        )
        types, found, _ = plugin.outputs(data_types(backend, *[F32] * len(shapes)), shapes, static)
        assert found == [tuple(tensor.shape) for tensor in expected]
        assert types == data_types(backend, *(tensor.dtype for tensor in expected))
        count += 1

    check()
    assert count >= 100


def test_expressions_are_tensorrts(trtp: ModuleType, backend: Any) -> None:
    definition = registered(trtp, backend, PATCHES)
    plugin = Plugin(trtp, definition.name, definition.encode({"size": 7}))
    _, shapes, builder = plugin.outputs(data_types(backend, F16), [(2, 50)])
    assert (shapes, builder.asked) == ([(2, 8)], ["CEIL_DIV"])
    plugin = Plugin(trtp, registered(trtp, backend, BROADCAST).name, {})
    assert {"EQUAL", "PROD", "SUM"} <= set(
        plugin.outputs(data_types(backend, F32, F32), [(2, 1), (1, 5)])[2].asked
    )


# ---- attributes -------------------------------------------------------------------------------------------

BIAS_ARGUMENTS = {"outputs": 0.5, "dtype": torch.float16, "mode": "a b", "weights": [0.25, 2.0], "by": 3}


def test_attributes_are_declared_with_their_types(trtp: ModuleType, backend: Any) -> None:
    definition = registered(trtp, backend, BIAS)
    annotations = Plugin(trtp, definition.name, definition.encode(BIAS_ARGUMENTS)).definition.input_attrs
    assert list(annotations) == ["outputs_", "dtype", "mode", "weights", "by"]
    assert annotations["weights"].__args__[1].__args__[0] is np.float64
    assert annotations["mode"] is str


@pytest.mark.parametrize(
    "changes", [{}, {"outputs": None, "dtype": None}, {"weights": []}, {"by": 2.5}, {"outputs": float("inf")}]
)
def test_attributes_survive_the_way(changes: dict[str, Any], trtp: ModuleType, backend: Any) -> None:
    definition = registered(trtp, backend, BIAS)
    values = {**BIAS_ARGUMENTS, **changes}
    assert definition.decode(definition.encode(values)) == values


def test_absent_tensors_are_other_plugins(trtp: ModuleType, backend: Any) -> None:
    names = {
        absent: registered(trtp, backend, BIAS, absent).name for absent in ((), ("bias",), ("bias", "scale"))
    }
    assert list(names.values()) == ["quick::bias", "quick::bias__no_bias", "quick::bias__no_bias_scale"]
    plugin = Plugin(trtp, names[("bias",)], generate_plugin(BIAS).definition().encode(BIAS_ARGUMENTS))
    assert plugin.definition.input_tensor_names == ["x", "scale"]


# ---- running ----------------------------------------------------------------------------------------------


def enqueue(plugin: Plugin, backend: Any, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Call a plugin as TensorRT does: with descriptions, addresses and strides of its inputs and outputs."""
    types, shapes, _ = plugin.outputs(
        data_types(backend, *(tensor.dtype for tensor in inputs)), [tuple(tensor.shape) for tensor in inputs]
    )
    outputs = [
        torch.full(shape, 77, dtype=backend.torch_dtype(dtype))
        for dtype, shape in zip(types, shapes, strict=True)
    ]
    for index, tensor in enumerate(outputs):
        source = plugin.plugin.get_aliased_input(index)
        outputs[index] = tensor if source == -1 else inputs[source]
    described = [one.desc for one in plugin.described(types, shapes)]
    given = plugin.described(
        data_types(backend, *(t.dtype for t in inputs)), [tuple(t.shape) for t in inputs]
    )
    plugin.plugin.enqueue(
        [one.desc for one in given],
        described,
        [tensor.data_ptr() for tensor in inputs],
        [tensor.data_ptr() for tensor in outputs],
        [tensor.stride() for tensor in inputs],
        [tensor.stride() for tensor in outputs],
        0,
    )
    return outputs


def test_a_python_callback_computes_the_op(trtp: ModuleType, backend: Any) -> None:
    definition = registered(trtp, backend, STATS)
    arguments = {"dims": [0, 2], "keep": True}
    x = torch.randn(3, 4, 5)
    found = enqueue(Plugin(trtp, definition.name, definition.encode(arguments)), backend, [x])
    torch.testing.assert_close(found, list(torch.ops.quick.stats(x, [0, 2], keep=True)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.uint8])
def test_a_python_callback_takes_every_dtype(dtype: torch.dtype, trtp: ModuleType, backend: Any) -> None:
    definition = registered(trtp, backend, ADD)
    x, y = torch.arange(12).reshape(3, 4).to(dtype), torch.ones(4, 3).to(dtype).t()  # strides of its own
    (found,) = enqueue(Plugin(trtp, definition.name, {}), backend, [x, y])
    assert torch.equal(found, x + y)


def test_a_python_callback_with_an_absent_tensor(trtp: ModuleType, backend: Any) -> None:
    definition = registered(trtp, backend, BIAS, ("bias",))
    x, scale = torch.randn(5), torch.randn(5)
    (found,) = enqueue(Plugin(trtp, definition.name, definition.encode(BIAS_ARGUMENTS)), backend, [x, scale])
    assert torch.equal(found, torch.ops.quick.bias(x, None, scale, **BIAS_ARGUMENTS))


def test_an_output_in_its_inputs_memory(trtp: ModuleType, backend: Any) -> None:
    definition = registered(trtp, backend, WRITE)
    state, x = torch.randn(6), torch.randn(6)
    expected = state + x
    aliased, total = enqueue(Plugin(trtp, definition.name, {}), backend, [state, x])
    assert aliased is state
    torch.testing.assert_close(state, expected)
    torch.testing.assert_close(total, expected.sum())


def test_a_wrong_fake_implementation_is_noticed(trtp: ModuleType, backend: Any) -> None:
    name = op("liar(Tensor x) -> Tensor", lambda x: x[:1].clone(), lambda x: torch.empty_like(x))
    definition = registered(trtp, backend, name)
    with pytest.raises(RuntimeError, match="its fake implementation says"):
        enqueue(Plugin(trtp, definition.name, {}), backend, [torch.randn(4)])


# ---- types and formats ------------------------------------------------------------------------------------


def test_combinations_for_autotuning(trtp: ModuleType, backend: Any) -> None:
    name = op("tuned(Tensor x) -> Tensor", torch.neg, torch.empty_like)
    definition = registered(
        trtp, backend, name, combinations=[Combination("FP32|FP16, FP32|FP16", "LINEAR"), Combination("FP16, FP16", "HWC8, HWC8")]
    )  # fmt: skip
    plugin = Plugin(trtp, definition.name, {})
    types, shapes, _ = plugin.outputs(data_types(backend, F32), [(2, 8, 4, 4)])
    found = plugin.plugin.get_supported_format_combinations(
        plugin.described(data_types(backend, F32) + types, [(2, 8, 4, 4), *shapes]), 1
    )
    assert [(one.type.name, one.format.name) for one in found] == [
        ("FLOAT", "LINEAR"), ("FLOAT", "LINEAR"), ("HALF", "LINEAR"), ("HALF", "LINEAR"), ("HALF", "HWC8"), ("HALF", "HWC8"),
    ]  # fmt: skip


@pytest.mark.parametrize("types", ["FP32", "FP32, FP32, FP32", "FP32, "])
def test_combinations_that_do_not_fit(types: str) -> None:
    with pytest.raises(PackError, match=r"for [23] inputs and outputs"):
        generate_plugin(ADD if types == "FP32" else PATCHES, combinations=[Combination(types)])


# ---- what is refused --------------------------------------------------------------------------------------


def test_sizes_that_depend_on_data_are_refused(trtp: ModuleType, backend: Any) -> None:
    definition = registered(trtp, backend, SLICED)
    with pytest.raises(ConversionError):
        Plugin(trtp, definition.name, {}).outputs(data_types(backend, F32), [(3, 4)])


def test_tensorrts_refusal_is_told(trtp: ModuleType, backend: Any) -> None:
    known = generate_plugin(ADD).definition()
    with pytest.raises(
        ConversionError, match=r"tensorrt\.plugin refuses the plugin trt::add: .*reserved namespace"
    ):
        Registration(Definition(**{**vars(known), "name": "trt::add"}), backend, trtp).register()


def test_a_backend_without_plugins(backend: Any) -> None:
    with pytest.raises(ConversionError, match="has no plugin layers"):
        define(generate_plugin(ADD).definition(), backend)


def test_an_interface_without_ahead_of_time_plugins(backend: Any) -> None:
    definition = Definition(**{**vars(generate_plugin(ADD).definition()), "compile": lambda *_: None})
    with pytest.raises(ConversionError, match="compiled ahead of time"):
        Registration(definition, backend, SimpleNamespace()).register()


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("lists(Tensor[] xs) -> Tensor", "is a list of tensors"),
        ("numbers(int n) -> Tensor", "at least one tensor argument"),
        ("returns_list(Tensor x) -> Tensor[]", "this op returns"),
        ("view(Tensor(a) x) -> Tensor(a)", "may not alias"),
    ],
)
def test_ops_that_no_plugin_can_be(schema: str, reason: str) -> None:
    LIB.define(schema)
    with pytest.raises(PackError, match=reason):
        generate_plugin(f"quick::{schema.partition('(')[0]}")


def test_ops_that_do_not_exist() -> None:
    with pytest.raises(PackError, match="there is no op 'quick::nothing'"):
        generate_plugin("quick::nothing")
    with pytest.raises(PackError, match="is no op overload") as error:
        generate_plugin("aten::add")
    assert "Tensor" in str(error.value)


def test_the_placeholders_are_only_what_the_bindings_lack(backend: Any) -> None:
    missing = [one.__name__ for one in quick_plugins.PLACEHOLDERS if not hasattr(backend.trt, one.__name__)]
    assert missing == ["ISymExpr", "IPluginV3QuickAOTBuild", "QuickPluginCreationRequest"]

"""Converters in another project's style: every one is chosen, right, and obeys its validator."""

from __future__ import annotations

import functools
import operator
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import trtcore_contrib_torch_tensorrt as compat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trtcore_contrib_torch_tensorrt import converter_utils as utils

from trtcore.pack import ConversionError, PackError, Reject, converters_in, scoped_registry
from trtcore.testing import assert_converts, assert_refuses

aten = torch.ops.aten


@torch.library.custom_op("old_style::softness", mutates_args=())
def softness(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(-x.float().sqrt().T).half()


@softness.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty(x.shape[::-1], dtype=torch.float16, device=x.device)


@torch.library.custom_op("old_style::every", mutates_args=())
def every(x: torch.Tensor) -> torch.Tensor:
    """Every arithmetic helper once, in torch; x of shape (n, 4), positive."""
    y = (x - 0.5) / (x + 1)
    y = torch.maximum(torch.minimum(y, x), x * -0.1) ** 2.0
    y = torch.log(torch.exp(y) + 1.0)
    total = y.sum((0, 1), keepdim=True) + y.amin() + y.mean()
    vector = y @ torch.arange(4, dtype=torch.float32)
    return torch.cat([(y + total).relu(), vector[:, None].expand(-1, 4)], 1)[:, 1::2]


@every.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape[0], 4)


def ops(x: torch.Tensor) -> torch.Tensor:
    return torch.ops.old_style.every(x)


@pytest.fixture(scope="module")
def old_style() -> Iterator[ModuleType]:
    """The converters, declared for this module's tests."""
    sys.path.insert(0, str(Path(__file__).parent))
    with scoped_registry():
        import converters_in_the_old_style

        yield converters_in_the_old_style
    sys.path.remove(str(Path(__file__).parent))
    del sys.modules["converters_in_the_old_style"]


F = torch.nn.functional
LINEAR = torch.nn.Linear(6, 3)
CASES: dict[str, tuple[str, Callable[..., Any], dict[str, Any]]] = {
    "relu": ("aten.relu.default", torch.relu, {}),
    "leaky_relu": ("aten.leaky_relu.default", F.leaky_relu, {}),
    "leaky_relu slope": ("aten.leaky_relu.default", lambda x: F.leaky_relu(x, 0.3), {}),
    "gelu": ("aten.gelu.default", lambda x: F.gelu(x, approximate="tanh"), {}),
    "linear": ("aten.linear.default", LINEAR, {}),
    "linear without bias": ("aten.linear.default", torch.nn.Linear(6, 3, bias=False), {}),
    "amax": ("aten.amax.default", lambda x: torch.amax(x, (-1,), True), {}),
    "amax of all": ("aten.amax.default", lambda x: torch.amax(x), {}),
    "mean": ("aten.mean.dim", lambda x: x.mean(1), {}),
    "where": ("aten.where.self", lambda x: torch.where(x > 0, x, x[:, :1]), {}),
    "where constant": ("aten.where.self", lambda x: torch.where(x > 0, x, torch.tensor([[2.5]])), {}),
    "flatten": ("aten.flatten.using_ints", lambda x: x[:, :, None].expand(-1, -1, 2).flatten(1), {}),
    "roll": ("aten.roll.default", lambda x: torch.roll(x, 2, 1), {}),
    "softness": ("old_style.softness.default", lambda x: torch.ops.old_style.softness(x.abs() + 0.1), {}),
}


#: Those that run by default; the others are `slow`.
QUICK = ("relu", "gelu", "linear", "flatten", "softness")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in QUICK else pytest.mark.slow) for case in CASES]
)
def test_an_old_converter_is_chosen_and_right(old_style: ModuleType, case: str) -> None:
    op, function, _ = CASES[case]
    proof = assert_converts(function, (torch.randn(4, 6),), dynamic={0: {0: (1, 4, 9)}})
    (node,) = [node for node in proof.report.converted if node.op == op]
    assert node.candidates[0].verdict == "chosen"
    assert node.candidates[0].pack == "process"


def test_a_validator_of_node_and_settings_decides(old_style: ModuleType) -> None:
    proof = assert_converts(F.gelu, (torch.randn(2, 3),))
    (node,) = proof.report.converted
    first, *others = node.candidates
    assert (first.pack, first.verdict) == ("process", "rejected")
    assert "chosen" in [one.verdict for one in others]


def test_static_only(old_style: ModuleType) -> None:
    """Rejected for dynamic shapes, so that the built-in converter takes the node; taken for static ones."""

    def total(x: torch.Tensor) -> torch.Tensor:
        return x.sum(1)

    x = torch.randn(4, 6)
    static = assert_converts(total, (x,)).report.converted[0]
    dynamic = assert_converts(total, (x,), dynamic={0: {0: (1, 4, 9)}}).report.converted[0]
    assert static.candidates[0].verdict == "chosen"
    assert dynamic.candidates[0].verdict == "rejected"


def test_ten_functions_and_what_they_declare(old_style: ModuleType) -> None:
    declared = converters_in(old_style)
    assert len({one.name for one in declared}) == 10
    assert aten.logcumsumexp.default not in {one.target for one in declared}  # enabled=False
    assert {one.target for one in converters_in(old_style.mean_or_sum)} == {
        aten.mean.dim,
        aten.sum.dim_IntList,
    }


def test_a_reason_is_passed_on() -> None:
    with scoped_registry():

        @compat.dynamo_tensorrt_converter(
            every._opoverload, capability_validator=lambda node, settings: Reject("too soft")
        )
        def never(ctx: Any, target: Any, args: Any, kwargs: Any, name: str) -> Any:
            raise AssertionError

        assert_refuses(ops, (torch.rand(2, 4),), "too soft")


def test_at_the_call_site() -> None:
    """A decorated function is a call-site converter with its own calling convention."""
    seen = []
    with scoped_registry():

        @compat.dynamo_tensorrt_converter(aten.neg.default)
        def negative(ctx: Any, target: Any, args: Any, kwargs: Any, name: str) -> Any:
            seen.append((target, len(args), kwargs, name))
            return compat.impl.elementwise.mul(ctx, target, None, name, args[0], -1.0)

    proof = assert_converts(
        torch.neg, (torch.randn(2, 3),), settings={"converters": {aten.neg.default: negative}}
    )
    assert proof.report.converted[0].candidates[0].pack == "call site"
    assert seen == [(aten.neg.default, 1, {}, "neg")]


def test_arguments_are_split_as_the_node_has_them() -> None:
    seen = []
    with scoped_registry():

        @compat.dynamo_tensorrt_converter(aten.add.Tensor, priority=compat.ConverterPriority.HIGH)
        def add(ctx: Any, target: Any, args: Any, kwargs: Any, name: str) -> Any:
            seen.append((len(args), dict(kwargs)))
            other = compat.impl.elementwise.mul(ctx, target, None, name, args[1], kwargs.get("alpha", 1))
            return compat.impl.elementwise.add(ctx, target, None, name, args[0], other)

        assert_converts(lambda x: torch.add(x, x, alpha=3), (torch.randn(2, 3),))
        assert_converts(lambda x: x + 1.5, (torch.randn(2, 3),))
    assert seen == [(2, {"alpha": 3}), (2, {})]


def test_the_op_must_be_one() -> None:
    with pytest.raises(PackError):
        compat.dynamo_tensorrt_converter("no such op anywhere!")


# The bindings -------------------------------------------------------------------------------------------


def test_trt_is_the_bindings_of_the_backend_at_work() -> None:
    with scoped_registry():

        @compat.dynamo_tensorrt_converter(aten.neg.default, priority=compat.ConverterPriority.HIGH)
        def negative(ctx: Any, target: Any, args: Any, kwargs: Any, name: str) -> Any:
            assert compat.trt.ITensor is ctx.trt.ITensor
            assert isinstance(args[0], compat.TRTTensor)
            assert not isinstance(torch.ones(1), compat.TRTTensor)
            layer = ctx.net.add_unary(args[0], compat.trt.UnaryOperation.NEG)
            compat.converter_utils.set_layer_name(layer, target, name, compat.SourceIR.ATEN)
            assert layer.name == "[UNARY]-[aten.aten.neg.default]-[neg]"
            return layer.get_output(0)

        assert_converts(torch.neg, (torch.randn(2, 3),))


@pytest.mark.slow
def test_importing_loads_no_tensorrt() -> None:
    code = (
        "import sys, trtcore_contrib_torch_tensorrt as c; repr(c.trt)\n"
        "assert not any(name.startswith('tensorrt') for name in sys.modules)\n"
        "assert c.trt.float32 == c.trt.DataType.FLOAT\n"
        "assert any(name.startswith('tensorrt') for name in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


# The helpers --------------------------------------------------------------------------------------------


DIM_OPS = {
    "SUM": operator.add,
    "SUB": operator.sub,
    "PROD": operator.mul,
    "FLOOR_DIV": operator.floordiv,
    "MAX": max,
    "MIN": min,
}


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)  # both are about this machine's load
@given(st.data(), st.integers(1, 7))
def test_slices_are_pythons(data: Any, size: int) -> None:
    """The arithmetic of `slice_op` on sizes known now, against Python's own."""
    limits = st.none() | st.integers(-9, 9)
    start, stop, step = data.draw(limits), data.draw(limits), data.draw(st.integers(1, 4))

    class Recorded:
        """Only what `slice_op` asks of a context for a tensor of known shape."""

        def is_tensor(self, value: object) -> bool:
            return not isinstance(value, int)

        def axis(self, dim: int, rank: int) -> int:
            return dim % rank

        rank = staticmethod(lambda x: len(x.shape))
        dim = staticmethod(lambda x, axis: x.shape[axis])
        dims_of = staticmethod(lambda x: list(x.shape))

        def dim_op(self, a: int, b: int, operation: str) -> int:
            return int(DIM_OPS[operation](a, b))

        def slice(
            self, x: torch.Tensor, starts: list[int], sizes: list[int], strides: list[int]
        ) -> list[int]:
            return [int(x[0, starts[1] + i * strides[1]]) for i in range(sizes[1])]

        def constant(self, tensor: torch.Tensor, dtype: Any, rank: int) -> torch.Tensor:
            return tensor

    x = torch.arange(size).reshape(1, size)
    with compat._bindings.bindings(type("Trt", (), {"ITensor": torch.Tensor})):
        got = compat.impl.slice.slice_op(Recorded(), "", None, "", x, -1, start, stop, step)
    assert got == list(range(size))[start:stop:step]


def test_constants() -> None:
    found: dict[str, Any] = {}
    with scoped_registry():

        @compat.dynamo_tensorrt_converter(aten.neg.default, priority=compat.ConverterPriority.HIGH)
        def negative(ctx: Any, target: Any, args: Any, kwargs: Any, name: str) -> Any:
            for key, (value, options) in {
                "int": (3, {}),
                "float": (2.5, {"dtype": torch.float16}),
                "bool": (True, {}),
                "0-d": (3, {"min_rank": 0}),
                "array": (np.ones((2, 3), np.float32), {"min_rank": 3}),
                "long": (torch.ones(2, dtype=torch.int64), {"dtype": compat.trt.int32}),
                "bf16": (torch.ones(2, dtype=torch.bfloat16), {}),
                "numpy dtype": (1.0, {"dtype": np.float16}),
            }.items():
                constant = utils.get_trt_tensor(ctx, value, key, **options)
                found[key] = (constant.dtype.name, tuple(constant.shape))
            with pytest.raises(ConversionError, match="no constant"):
                utils.get_trt_tensor(ctx, "text", "text")
            return compat.impl.unary.convert_unary(
                ctx, target, None, name, compat.trt.UnaryOperation.NEG, args[0]
            )

        assert_converts(torch.neg, (torch.randn(2, 3),))
    assert found == {
        "int": ("INT32", (1,)),
        "float": ("HALF", (1,)),
        "bool": ("BOOL", (1,)),
        "0-d": ("INT32", ()),
        "array": ("FLOAT", (1, 2, 3)),
        "long": ("INT32", (2,)),
        "bf16": ("BF16", (2,)),
        "numpy dtype": ("HALF", (1,)),
    }


@pytest.mark.slow
def test_the_arithmetic_helpers() -> None:
    impl, e = compat.impl, compat.impl.elementwise
    with scoped_registry():

        @compat.dynamo_tensorrt_converter("old_style::every", supports_dynamic_shapes=True)
        def convert(ctx: Any, target: Any, args: Any, kwargs: Any, name: str) -> Any:
            h = (ctx, target, compat.SourceIR.ATEN, name)
            x = args[0]
            y = e.div(*h, e.sub(*h, x, 0.5), e.add(*h, x, np.float32(1)))
            y = e.max(*h, e.min(*h, y, x), e.mul(*h, x, torch.tensor(-0.1)))
            y = e.convert_binary_elementwise(*h, compat.trt.ElementWiseOperation.POW, y, 2.0)
            y = impl.unary.log(*h, e.add(*h, impl.unary.exp(*h, y), 1.0))
            total = impl.reduce.sum(*h, y, (0, 1), True)
            for part in (impl.reduce.amin(*h, y), impl.reduce.mean(*h, y)):
                total = e.add(*h, total, part)
            vector = impl.matmul.matrix_multiply(*h, y, torch.arange(4, dtype=torch.float32))
            column = impl.shuffle.reshape(*h, vector, [impl.shape.shape(*h, x, 0), 1])
            wide = impl.slice.expand(*h, column, [impl.shape.shape(*h, x, 0), 4])
            joined = impl.cat.cat(*h, [impl.activation.relu(*h, e.add(*h, y, total)), wide], 1)
            return impl.slice.slice_op(*h, joined, 1, 1, None, 2)

        assert_converts(ops, (torch.rand(3, 4),), dynamic={0: {0: (1, 3, 6)}})


@torch.library.custom_op("old_style::named", mutates_args=())
def named(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    near = (x >= y) & (x.ne(0) | (x <= y)) ^ ((x == y) & ~(x > y) & (x < y))
    smooth = torch.tanh(x) + torch.sigmoid(y) * torch.nn.functional.leaky_relu(x, 0.3)
    smooth = smooth + torch.nn.functional.elu(y) - torch.nn.functional.softsign(x)
    return near, torch.softmax(smooth, -1), torch.sin(x.abs().floor()) + torch.erf(-y).ceil() + x // 0.5


@named.register_fake
def _(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.empty_like(x, dtype=torch.bool), torch.empty_like(x), torch.empty_like(x)


@pytest.mark.slow
def test_the_helpers_that_are_named_after_tensorrts_operations() -> None:
    with scoped_registry():

        @compat.dynamo_tensorrt_converter(torch.ops.old_style.named.default, supports_dynamic_shapes=True)
        def convert(ctx: Any, target: Any, args: Any, kwargs: Any, name: str) -> Any:
            h = (ctx, target, compat.SourceIR.ATEN, name)
            e, u, a = compat.impl.elementwise, compat.impl.unary, compat.impl.activation
            x, y = args
            either = e.logical_or(*h, e.ne(*h, x, 0), e.le(*h, x, y))
            never = e.logical_and(*h, e.eq(*h, x, y), u.logical_not(*h, e.gt(*h, x, y)))
            never = e.logical_and(*h, never, e.lt(*h, lhs_val=x, rhs_val=y))
            near = e.logical_and(*h, e.ge(*h, x, y), e.logical_xor(*h, either, never))
            smooth = e.mul(*h, a.sigmoid(*h, y), a.leaky_relu(*h, x, 0.3))
            smooth = e.add(*h, a.tanh(*h, input_val=x), smooth)
            smooth = e.sub(*h, e.add(*h, smooth, a.elu(*h, y)), a.softsign(*h, x))
            rest = e.add(*h, u.sin(*h, u.floor(*h, u.abs(*h, x))), u.ceil(*h, u.erf(*h, u.neg(*h, y))))
            rest = e.add(*h, rest, e.floor_divide(*h, x, 0.5))
            return near, compat.impl.normalization.softmax(*h, smooth, -1), rest

        batch = {0: (1, 4, 6)}
        x = torch.randn(4, 5)
        assert_converts(torch.ops.old_style.named, (x, x.roll(1)), dynamic={0: batch, 1: batch})
        assert_converts(torch.ops.old_style.named, (x[0], x[0].round()))


@pytest.mark.parametrize(
    ("module", "name"), [("impl.unary", "abss"), ("impl.elementwise", "hypot"), ("impl", "convolution")]
)
def test_a_helper_that_is_not_there(module: str, name: str) -> None:
    home = functools.reduce(getattr, module.split("."), compat)
    with pytest.raises(AttributeError, match=name):
        getattr(home, name)


def test_a_function_is_its_op_with_all_arguments() -> None:
    """As converter files for attention declare it."""
    seen = []
    attention = torch.nn.functional.scaled_dot_product_attention
    with scoped_registry():

        @compat.dynamo_tensorrt_converter(attention, supports_dynamic_shapes=True)
        def attend(ctx: Any, target: Any, args: Any, kwargs: Any, name: str) -> Any:
            query, key, value, mask, dropout, causal = args
            seen.append((target, mask, dropout, causal, kwargs["scale"]))
            return compat.impl.attention.scaled_dot_product_attention(
                ctx,
                target,
                utils.SourceIR.ATEN,
                name,
                query,
                key,
                value,
                mask,
                dropout,
                causal,
                kwargs["scale"],
            )

        proof = assert_converts(
            lambda q, k: attention(q, k, k, is_causal=True, scale=0.5), (torch.randn(1, 2, 4, 8),) * 2
        )
    assert seen[0] == (attention, None, 0.0, True, 0.5)
    assert [node.candidates[0].pack for node in proof.report.converted] == ["process"]


def test_a_function_that_is_no_op_is_an_error() -> None:
    with pytest.raises(PackError, match="captured graphs call ATen ops"):
        compat.dynamo_tensorrt_converter(torch.nn.functional.multi_head_attention_forward)


@pytest.mark.parametrize("varies", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_attention_of_many_helpers(varies: bool) -> None:
    """Sizes go through ranges, comparisons and masks; constants through arrays in the query's dtype."""
    attention = torch.nn.functional.scaled_dot_product_attention
    trt, impl = compat.trt, compat.impl
    with scoped_registry():

        @compat.dynamo_tensorrt_converter(attention, supports_dynamic_shapes=True)
        def attend(ctx: Any, target: Any, args: Any, kwargs: Any, name: str) -> Any:
            place = (ctx, target, utils.SourceIR.ATEN)
            query, key, value, mask, _, causal = args
            assert mask is None
            assert causal
            scale = kwargs["scale"] or query.shape[-1] ** -0.5
            key = impl.elementwise.mul(*place, f"{name}_scale", key, scale)
            scores = impl.matmul.matrix_multiply(
                *place, f"{name}_scores", query, key, other_matrix_op=trt.MatrixOperation.TRANSPOSE
            )
            rows, columns = query.shape[-2], key.shape[-2]
            if rows >= 0:
                bias = np.zeros((rows, columns), dtype=compat.dtype._from(query.dtype).to(np.dtype))
                bias[~np.tril(np.ones((rows, columns), dtype=np.bool_))] = -np.inf
                bias = utils.get_trt_tensor(ctx, bias, f"{name}_bias")
            else:
                rows = impl.shape.shape(*place, f"{name}_rows", query, 2)
                columns = impl.shape.shape(*place, f"{name}_columns", key, 2)
                row = impl.arange.arange(*place, f"{name}_row", start=0, end=rows, step=1)
                column = impl.arange.arange(*place, f"{name}_column", start=0, end=columns, step=1)
                row = impl.unsqueeze.unsqueeze(*place, f"{name}_row_up", row, -1)
                column = impl.unsqueeze.unsqueeze(*place, f"{name}_column_up", column, 0)
                below = impl.elementwise.sub(*place, f"{name}_below", row, column)
                seen = impl.elementwise.ge(*place, f"{name}_seen", below, 0.0)
                square = impl.elementwise.eq(*place, f"{name}_square", rows, columns)
                hidden = impl.unary.logical_not(*place, f"{name}_hidden", seen)
                hidden = impl.elementwise.logical_and(*place, f"{name}_where", square, hidden)
                hidden = utils.cast_trt_tensor(ctx, hidden, query.dtype, f"{name}_cast", *place[1:])
                bias = impl.elementwise.sub(*place, f"{name}_left", 1.0, hidden)
                bias = impl.unary.log(*place, f"{name}_log", bias)
            scores = impl.elementwise.add(*place, f"{name}_biased", scores, bias)
            weights = impl.normalization.softmax(*place, f"{name}_softmax", scores, -1, False)
            return impl.matmul.matrix_multiply(*place, name, weights, value)

        lengths = {0: {2: (2, 4, 8)}, 1: {2: (2, 4, 8)}}
        proof = assert_converts(
            lambda q, k: attention(q, k, k, is_causal=True),
            (torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8)),
            dynamic=lengths if varies else None,
        )
    assert [node.candidates[0].pack for node in proof.report.converted] == ["process"]

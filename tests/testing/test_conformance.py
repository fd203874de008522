"""The conformance kit proves what converts, and fails on what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from trtcore.backend.base import Backend
from trtcore.pack import converter, scoped_registry
from trtcore.testing import assert_converts, assert_refuses
from trtcore.testing.conformance import _calls, resampled

aten = torch.ops.aten
pytestmark = pytest.mark.usefixtures("trt_backend")


def test_static_module_passes_all_levels() -> None:
    proof = assert_converts(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), (torch.randn(2, 4),))
    assert proof.levels == {"L1": True, "L2": True, "L3": True}
    assert proof.report.fully_converted
    assert proof.report.engine_bytes > 0
    assert [item.shapes for item in proof.deviations] == ["example"]
    assert proof.relative_error < 1e-5


def test_dynamic_module_is_compared_at_min_opt_max_and_between() -> None:
    proof = assert_converts(nn.Linear(4, 8), (torch.randn(2, 4),), dynamic={0: {0: (1, 3, 9)}})
    sizes = {item.shapes: item.sizes for item in proof.deviations}
    assert sizes == {
        "example": ((2, 4),),
        "min": ((1, 4),),
        "opt": ((3, 4),),
        "max": ((9, 4),),
        "between": ((5, 4),),
    }


def test_a_function_of_tensors() -> None:
    assert_converts(lambda x, y: x * y + 1, (torch.randn(3), torch.randn(3)))


def test_each_dtype_is_a_turn() -> None:
    dtypes = (torch.float32, torch.float16)
    proof = assert_converts(nn.ReLU(), (torch.randn(2, 4),), dtypes=dtypes)
    assert [item.dtype for item in proof.deviations] == list(dtypes)
    assert len(proof.reports) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_dtype_is_the_examples(trt_backend: Backend, dtype: torch.dtype) -> None:
    proof = assert_converts(torch.nn.Linear(4, 4), (torch.randn(2, 4).to(dtype),))
    assert proof.deviations[0].dtype == dtype
    (engine,) = proof.report.engines
    assert str(dtype).removeprefix("torch.") in engine.outputs[0]


def test_examples_of_several_dtypes_are_left_as_they_are(trt_backend: Backend) -> None:
    proof = assert_converts(lambda x, y: (x * 2, y + 1), (torch.randn(3).half(), torch.randn(3)))
    (engine,) = proof.report.engines
    assert "float16" in engine.outputs[0]
    assert "float32" in engine.outputs[1]


def test_an_op_without_converter_fails_with_the_report() -> None:
    with pytest.raises(AssertionError, match=r"(?s)L1 failed.*aten\.special_bessel_j0\.default"):
        assert_converts(torch.special.bessel_j0, (torch.rand(4),))


def _wrong_tanh(ctx: Any, x: Any) -> Any:
    return ctx.activation(x, "SIGMOID")


def test_a_wrong_number_fails() -> None:
    with pytest.raises(AssertionError, match=r"L2 failed \(float32, example shapes\): output"):
        assert_converts(
            torch.tanh, (torch.randn(8),), settings={"converters": {aten.tanh.default: _wrong_tanh}}
        )


def test_a_converter_that_is_wrong_at_other_sizes_only_fails() -> None:
    """One that bakes the example's size in: right at the example, wrong at min."""

    def mean(ctx: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        total = ctx.reduce(x, "SUM", (0,), False)
        return ctx.elementwise(*ctx.broadcast(total, ctx.constant(4.0, torch.float32)), "DIV")

    with scoped_registry():
        converter(aten.mean.dim, supports_dynamic_shapes=True, priority=10_000)(mean)
        with pytest.raises(AssertionError, match="L2 failed"):
            assert_converts(lambda x: x.mean(0), (torch.randn(4, 3),), dynamic={0: {0: (2, 4, 8)}})


def test_a_network_that_other_sizes_do_not_fit_fails_with_its_converter() -> None:
    """One that reshapes to the example's sizes and back: nothing that TensorRT could notice before the engine runs."""

    def absolute(ctx: Any, x: Any) -> Any:
        there = ctx.reshape(ctx.unary(x, "ABS"), [4, 3])
        back = ctx.net.add_shuffle(there)
        back.set_input(1, ctx.net.add_shape(x).get_output(0))
        return back.get_output(0)

    with scoped_registry():
        converter(aten.abs.default, supports_dynamic_shapes=True, priority=10_000)(absolute)
        with pytest.raises(
            AssertionError, match=r"(?s)L2 failed.*raised.*abs\.default by absolute of process"
        ):
            assert_converts(torch.abs, (torch.randn(4, 3),), dynamic={0: {0: (2, 4, 8)}})


def test_a_turn_of_an_integer_dtype_leaves_weights_alone() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([1.5, -2.5]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.weight

    proof = assert_converts(Table(), (torch.tensor([3.0, 4.0]),), dtypes=[torch.int32])
    assert proof.relative_error < 1e-6


def test_a_raising_converter_fails_and_is_named() -> None:
    def broken(ctx: Any, x: Any) -> Any:
        raise ValueError("not today")

    with pytest.raises(AssertionError, match=r"(?s)failed.*not today"):
        assert_converts(torch.tanh, (torch.randn(8),), settings={"converters": {aten.tanh.default: broken}})


def test_a_module_that_is_folded_away_does_not_pass_as_converted() -> None:
    with pytest.raises(AssertionError):
        assert_converts(nn.Identity(), (torch.randn(4),))


def test_refuses_for_the_reason() -> None:
    report = assert_refuses(
        torch.special.bessel_j0, (torch.rand(4),), reason="no converter for aten.special_bessel_j0"
    )
    assert [node.op for node in report.in_torch] == ["aten.special_bessel_j0.default"]


def test_refuses_fails_for_another_reason() -> None:
    with pytest.raises(AssertionError, match="no op stays in torch for a reason like"):
        assert_refuses(torch.special.bessel_j0, (torch.rand(4),), reason="too many dimensions")


def test_refuses_fails_when_everything_converts() -> None:
    with pytest.raises(AssertionError, match="every op was converted"):
        assert_refuses(torch.relu, (torch.randn(4),), reason=".")


def test_the_users_module_is_untouched() -> None:
    module = nn.Linear(4, 4).train()
    before = module.weight.detach().clone()
    assert_converts(module, (torch.randn(2, 4),), dtypes=(torch.float16,))
    assert module.training
    assert module.weight.dtype is torch.float32
    assert torch.equal(module.weight, before)


def test_dynamic_of_an_input_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="inputs that do not exist"):
        assert_converts(nn.ReLU(), (torch.randn(4),), dynamic={1: {0: (1, 2, 3)}})


def test_equal_ranges_get_equal_sizes_and_others_their_own() -> None:
    args = (torch.randn(2, 5), torch.randn(2))
    calls = {
        label: call
        for label, call, _ in _calls(args, {}, {0: {0: (1, 2, 9), 1: (3, 5, 21)}, 1: {0: (1, 2, 9)}})
    }
    x, y = calls["between"]
    assert x.shape[0] == y.shape[0]
    assert 1 < x.shape[0] < 9
    assert 3 < x.shape[1] < 21
    assert x.shape[0] != x.shape[1]


def test_drawn_values_keep_indices_signs_and_intervals() -> None:
    generator = torch.Generator().manual_seed(0)
    index = resampled(torch.tensor([2, 7]), {0: 50}, generator)
    assert set(index.tolist()) == {2, 7}
    drawn = resampled(torch.tensor([0.5, 0.9, -1.0]), {0: 50}, generator)
    assert drawn.shape == (50,)
    assert drawn.abs().max() <= 1
    assert drawn.unique().numel() == 50
    assert resampled(torch.zeros(0, 3), {0: 4}, generator).shape == (4, 3)


def test_fixtures_do_the_same(assert_converts: Any, assert_refuses: Any, trt_backend: Backend) -> None:
    proof = assert_converts(nn.ReLU(), (torch.randn(4),))
    assert proof.report.backend == trt_backend.name
    assert_refuses(torch.special.bessel_j0, (torch.rand(4),), reason="no converter")

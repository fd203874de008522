"""The OpInfo runner, on ops whose outcome is known."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from trtcore.testing.opinfo import OpSample, check, chosen, operators, samples, tolerance


def _outcomes(results):
    return {result.outcome for result in results}


def _sample(function, *args, **kwargs):
    return OpSample("op", "", torch.float32, 0, function, args, kwargs)


def test_a_sample_of_every_kind_of_shape_passes(trt_backend):
    results = check(samples("mul", torch.float32, limit=6))
    assert _outcomes(results) == {"passed"}
    assert all(result.ops for result in results)


def test_samples_are_the_same_every_time():
    first, second = (list(samples("clamp", torch.float16)) for _ in range(2))
    assert [sample.key for sample in first] == [sample.key for sample in second]
    for one, other in zip(first, second):
        assert torch.equal(one.args[0], other.args[0])


@pytest.mark.parametrize(("count", "limit", "expected"), [(5, None, 5), (5, 8, 5), (100, 8, 8), (3, 1, 1)])
def test_chosen_are_spread(count, limit, expected):
    indices = chosen(count, limit)
    assert len(indices) == expected
    assert indices[0] == 0
    assert indices == sorted(set(indices))
    assert indices[-1] < count


def test_an_op_in_torch_is_refused_with_its_reason(trt_backend):
    (result,) = check([_sample(torch.linalg.matrix_exp, torch.eye(3))])
    assert result.outcome == "refused"
    assert "no converter for aten.linalg_matrix_exp" in result.reason


def test_a_foreign_dtype_is_on_no_account(trt_backend):
    (result,) = check([_sample(torch.softmax, torch.rand(3, 4), 1, dtype=torch.float64)])
    assert result.outcome == "foreign"


def test_what_eager_refuses_is_invalid(trt_backend):
    (result,) = check([_sample(torch.add, torch.rand(2), torch.rand(3))])
    assert result.outcome == "invalid"


def test_random_ops_stay_random_and_in_torch(trt_backend):
    results = check([_sample(torch.rand_like, torch.rand(2)), _sample(torch.neg, torch.rand(2))])
    assert [result.outcome for result in results] == ["foreign", "passed"]
    assert "aten.rand_like.default" in results[0].in_torch


def test_a_wrong_converter_fails_its_samples_and_no_other(trt_backend):
    wrong = {torch.ops.aten.cos.default: lambda ctx, x: ctx.unary(ctx.tensor(x), "SIN")}
    given = [_sample(torch.cos, torch.rand(4)), _sample(torch.sin, torch.rand(4))]
    results = check(given, settings={"converters": wrong})
    assert [result.outcome for result in results] == ["failed", "passed"]
    assert "4 of 4 elements are wrong" in results[0].reason


def test_a_converter_that_raises_is_a_failure_and_no_refusal(trt_backend):
    def broken(ctx, x):
        raise ValueError("no idea")

    (result,) = check(
        [_sample(torch.cos, torch.rand(4))], settings={"converters": {torch.ops.aten.cos.default: broken}}
    )
    assert result.outcome == "failed"
    assert "no idea" in result.reason


def test_a_changed_argument_is_noticed(trt_backend):
    def changes(x):
        x.add_(1)
        return x * 2

    (result,) = check([_sample(changes, torch.rand(3))])
    assert result.outcome == "passed"


def test_compare_has_the_first_word(trt_backend):
    given = [dataclasses.replace(_sample(torch.neg, torch.rand(2)), op="mine")]
    (result,) = check(given, compare=lambda sample, expected, actual: f"{sample.op} is never right")
    assert result.reason == "mine is never right"


def test_tolerance_is_at_least_the_default():
    info = operators()["cumprod", ""]
    given = tolerance(info, torch.float32)
    assert given is None or (given[0] >= 1.3e-6 and given[1] >= 1e-5)

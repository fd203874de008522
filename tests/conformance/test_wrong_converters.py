"""Seeded wrong converters: PyTorch's own samples notice every one of them.

Each is a real converter with one thing wrong: it calls another layer, with swapped operands, along another axis, or does
not see an argument. That the right ones pass is what the other conformance tests say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from trtcore.packs.loading import build_registry
from trtcore.settings import CompilationSettings
from trtcore.testing.opinfo import check, samples

aten = torch.ops.aten
Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


class _Twisted:
    """A conversion context of which one method is replaced."""

    def __init__(self, ctx: Any, method: str, change: Callable[..., Any]) -> None:
        self._ctx, self._method, self._change = ctx, method, change

    def __getattr__(self, name: str) -> Any:
        original = getattr(self._ctx, name)
        if name != self._method:
            return original
        return lambda *args, **kwargs: self._change(original, *args, **kwargs)


def _twist(method: str, change: Callable[..., Any]) -> Wrap:
    return lambda converter: (
        lambda ctx, *args, **kwargs: converter(_Twisted(ctx, method, change), *args, **kwargs)
    )


def _instead(method: str, right: str, wrong: str) -> Wrap:
    """The layer `wrong` where `right` is meant."""

    def change(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return original(*(wrong if isinstance(a, str) and a == right else a for a in args), **kwargs)

    return _twist(method, change)


_SWAPPED = _twist("elementwise", lambda original, a, b, *rest, **kwargs: original(b, a, *rest, **kwargs))
_BRANCHES = _twist("select", lambda original, condition, a, b: original(condition, b, a))
_KEEPDIM = _twist("reduce", lambda f, x, op, axes, keepdim=False: f(x, op, axes, not keepdim))
_FIRST_AXIS = _twist("reduce", lambda original, x, op, axes, *rest: original(x, op, [0], *rest))
_OTHER_AXIS = _twist("softmax", lambda original, x, axis: original(x, 0 if axis else 1))
_BACKWARDS = _twist("concat", lambda original, values, axis: original(values[::-1], axis))
_UNSTRETCHED = _twist("activation", lambda original, x, kind, *_: original(x, kind))


def _slopes(alpha: float, beta: float | None = None) -> Wrap:
    return _twist("activation", lambda original, x, kind, *_: original(x, kind, alpha, beta))


def _given(**wrong: Any) -> Wrap:
    """Arguments that the converter is given instead of the op's own, by name."""

    def wrap(converter: Callable[..., Any]) -> Callable[..., Any]:
        import inspect

        names = list(inspect.signature(converter).parameters)[1:]

        def convert(ctx: Any, *args: Any, **kwargs: Any) -> Any:
            changed = list(args)
            for name, value in wrong.items():
                position = names.index(name) if name in names else -1
                if 0 <= position < len(changed):
                    changed[position] = value(changed[position]) if callable(value) else value
                else:
                    kwargs[name] = value(kwargs.get(name)) if callable(value) else value
            return converter(ctx, *changed, **kwargs)

        return convert

    return wrap


def _first_two_exchanged(converter: Callable[..., Any]) -> Callable[..., Any]:
    return lambda ctx, a, b, *rest, **kwargs: converter(ctx, b, a, *rest, **kwargs)


def _as_float16(converter: Callable[..., Any]) -> Callable[..., Any]:
    """What goes in is rounded first."""
    return lambda ctx, x, *rest, **kwargs: converter(
        ctx, ctx.cast(ctx.cast(ctx.tensor(x), torch.float16), torch.float32), *rest, **kwargs
    )


WRONG: list[tuple[str, Any, str, Wrap]] = [
    ("add", aten.add.Tensor, "subtracts", _instead("elementwise", "SUM", "SUB")),
    ("add", aten.add.Tensor, "no alpha", _given(alpha=1)),
    ("sub", aten.sub.Tensor, "operands swapped", _SWAPPED),
    ("sub", aten.sub.Tensor, "no alpha", _given(alpha=1)),
    ("mul", aten.mul.Tensor, "adds", _instead("elementwise", "PROD", "SUM")),
    ("mul", aten.mul.Tensor, "rounds to float16", _as_float16),
    ("div", aten.div.Tensor, "operands swapped", _SWAPPED),
    ("div", aten.div.Tensor, "rounded down", _instead("elementwise", "DIV", "FLOOR_DIV")),
    ("div", aten.div.Tensor_mode, "never rounded", _given(rounding_mode=None)),
    ("maximum", aten.maximum.default, "the smaller", _instead("elementwise", "MAX", "MIN")),
    ("minimum", aten.minimum.default, "the larger", _instead("elementwise", "MIN", "MAX")),
    ("pow", aten.pow.Tensor_Tensor, "operands swapped", _SWAPPED),
    ("clamp", aten.clamp.Tensor, "no lower bound", _given(low=None)),
    ("clamp", aten.clamp.Tensor, "no upper bound", _given(high=None)),
    ("clamp", aten.clamp.Tensor, "bounds swapped", _instead("elementwise", "MAX", "MIN")),
    ("atan2", aten.atan2.default, "x and y swapped", _first_two_exchanged),
    ("atan2", aten.atan2.default, "half of the circle", _BRANCHES),
    ("eq", aten.eq.Tensor, "less", _instead("elementwise", "EQUAL", "LESS")),
    ("lt", aten.lt.Tensor, "greater", _instead("elementwise", "LESS", "GREATER")),
    ("le", aten.le.Tensor, "less, not equal", _instead("elementwise", "EQUAL", "LESS")),
    ("ge", aten.ge.Tensor, "both must hold", _instead("elementwise", "OR", "AND")),
    ("ne", aten.ne.Tensor, "not negated", _twist("unary", lambda original, x, op: x)),
    ("where", aten.where.self, "branches swapped", _BRANCHES),
    ("logical_and", aten.logical_and.default, "or", _instead("elementwise", "AND", "OR")),
    ("logical_xor", aten.logical_xor.default, "or", _instead("elementwise", "XOR", "OR")),
    ("exp", aten.exp.default, "another function", _instead("unary", "EXP", "SINH")),
    ("log", aten.log.default, "another function", _instead("unary", "LOG", "SQRT")),
    ("sin", aten.sin.default, "cosine", _instead("unary", "SIN", "COS")),
    ("sinh", aten.sinh.default, "its inverse", _instead("unary", "SINH", "ASINH")),
    ("ceil", aten.ceil.default, "down", _instead("unary", "CEIL", "FLOOR")),
    ("floor", aten.floor.default, "to the nearest", _instead("unary", "FLOOR", "ROUND")),
    ("round", aten.round.default, "down", _instead("unary", "ROUND", "FLOOR")),
    ("trunc", aten.trunc.default, "away from zero", _BRANCHES),
    ("abs", aten.abs.default, "negated", _instead("unary", "ABS", "NEG")),
    ("erf", aten.erf.default, "hyperbolic tangent", _instead("unary", "ERF", "ATAN")),
    ("rsqrt", aten.rsqrt.default, "not inverted", _instead("unary", "RECIP", "ABS")),
    ("log2", aten.log2.default, "natural", _twist("elementwise", lambda original, a, *_, **__: a)),
    ("nn.functional.relu", aten.relu.default, "leaky", _instead("activation", "RELU", "LEAKY_RELU")),
    ("nn.functional.gelu", aten.gelu.default, "always by erf", _given(approximate="none")),
    ("nn.functional.gelu", aten.gelu.default, "always by tanh", _given(approximate="tanh")),
    ("nn.functional.leaky_relu", aten.leaky_relu.default, "another slope", _slopes(0.3)),
    ("nn.functional.elu", aten.elu.default, "another alpha", _slopes(0.5)),
    ("nn.functional.selu", aten.selu.default, "no scale", _slopes(1.6732632, 1.0)),
    ("nn.functional.hardsigmoid", aten.hardsigmoid.default, "default slope", _UNSTRETCHED),
    ("nn.functional.softplus", aten.softplus.default, "no beta", _given(beta=1)),
    ("nn.functional.threshold", aten.threshold.default, "branches swapped", _BRANCHES),
    ("sigmoid", aten.sigmoid.default, "tanh", _instead("activation", "SIGMOID", "TANH")),
    ("sum", aten.sum.dim_IntList, "mean", _instead("reduce", "SUM", "AVG")),
    ("sum", aten.sum.dim_IntList, "keepdim flipped", _KEEPDIM),
    ("sum", aten.sum.dim_IntList, "first axis", _FIRST_AXIS),
    ("mean", aten.mean.dim, "sum", _instead("reduce", "AVG", "SUM")),
    ("prod", aten.prod.dim_int, "sum", _instead("reduce", "PROD", "SUM")),
    ("amax", aten.amax.default, "smallest", _instead("reduce", "MAX", "MIN")),
    ("amin", aten.amin.default, "all axes", _given(dim=None)),
    ("any", aten.any.dim, "all", _instead("reduce", "SUM", "PROD")),
    ("var", aten.var.correction, "no correction", _given(correction=0)),
    ("std", aten.std.correction, "no root", _twist("unary", lambda original, x, op: x)),
    ("logsumexp", aten.logsumexp.default, "no logarithm", _instead("unary", "LOG", "ABS")),
    ("linalg.vector_norm", aten.linalg_vector_norm.default, "always the 2-norm", _given(ord=2)),
    ("cumsum", aten.cumsum.default, "first dim", _given(dim=0)),
    ("sort", aten.sort.default, "direction flipped", _given(descending=lambda given: not given)),
    ("topk", aten.topk.default, "smallest", _given(largest=lambda given: given is False)),
    ("argmax", aten.argmax.default, "keepdim flipped", _given(keepdim=lambda given: not given)),
    ("softmax", aten.softmax.int, "another axis", _OTHER_AXIS),
    ("log_softmax", aten.log_softmax.int, "no logarithm", _instead("unary", "LOG", "ABS")),
    ("cat", aten.cat.default, "last first", _BACKWARDS),
    ("cat", aten.cat.default, "first dim", _given(dim=0)),
    ("permute", aten.permute.default, "order backwards", _given(dims=lambda dims: list(dims)[::-1])),
    ("flip", aten.flip.default, "first dim only", _given(dims=[0])),
    (
        "mm",
        aten.mm.default,
        "second operand transposed",
        _twist("matmul", lambda f, a, b, *_: f(a, b, False, True)),
    ),
    ("bmm", aten.bmm.default, "operands swapped", _first_two_exchanged),
    ("gather", aten.gather.default, "first dim", _given(dim=0)),
    ("index_select", aten.index_select.default, "first dim", _given(dim=0)),
    ("full", aten.full.default, "another number", _given(value=7)),
]


def _converter(op: Any) -> Callable[..., Any]:
    return build_registry(CompilationSettings()).candidates(op)[0].implementation


def test_there_are_enough():
    assert len(WRONG) >= 60
    assert len({(str(op), what) for _, op, what, _ in WRONG}) == len(WRONG)


DTYPES = {"le": torch.int64} | dict.fromkeys(("logical_and", "logical_xor", "any"), torch.bool)
"""Where float32 samples do not tell: floats are hardly ever equal, and hardly ever false."""

CASES = [
    pytest.param(*case, id=f"{case[1]}: {case[2]}", marks=[pytest.mark.slow] if number % 8 else [])
    for number, case in enumerate(WRONG)
]
"""The default tests take every eighth."""


@pytest.mark.parametrize(("name", "op", "what", "wrap"), CASES)
def test_noticed(name, op, what, wrap, trt_backend):
    wrong = wrap(_converter(op))
    dtype, settings = DTYPES.get(name, torch.float32), {"converters": {op: wrong}}
    first = (
        [sample] for sample in samples(name, dtype, limit=4)
    )  # one by one: the first one that fails is enough
    for some in (*first, list(samples(name, dtype, limit=24))):
        if any(result.outcome == "failed" for result in check(some, settings=settings)):
            return
    raise AssertionError(f"no sample of {name} notices: {what}")

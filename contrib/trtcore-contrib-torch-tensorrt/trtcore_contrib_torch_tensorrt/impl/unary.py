"""Operations on one operand: most are made from a table of torch's functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from trtcore.pack import ConversionError
from trtcore_contrib_torch_tensorrt._by_torch import by_torch
from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor, torch_dtype

__all__ = [
    "abs",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "bitwise_not",
    "ceil",
    "convert_unary",
    "cos",
    "cosh",
    "erf",
    "exp",
    "expm1",
    "floor",
    "isinf",
    "isnan",
    "log",
    "log1p",
    "log2",
    "log10",
    "logical_not",
    "native_dropout",
    "neg",
    "nonzero",
    "recip",
    "round",
    "scalar_tensor",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "sym_not",
    "tan",
    "trunc",
]


_LAYERS = frozenset({
    "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "erf", "exp", "floor", "log",
    "neg", "round", "sign", "sin", "sinh", "sqrt", "tan",
})  # fmt: skip
"""What TensorRT's operations of these names do to floating-point numbers as torch does."""


def _unary(name: str, function: Callable[[torch.Tensor], torch.Tensor], doc: str) -> Callable[..., Any]:
    operation = name.upper() if name in _LAYERS else ""

    def convert(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any) -> Any:
        x = get_trt_tensor(ctx, input_val, name)
        if operation and ctx.dtype(x).is_floating_point:
            return ctx.unary(x, operation)
        return by_torch(ctx, function, x)

    convert.__name__ = convert.__qualname__ = name
    convert.__module__ = __name__
    convert.__doc__ = doc
    return convert


abs = _unary("abs", torch.abs, "``|x|``.")
acos = _unary("acos", torch.acos, "The arc cosine.")
acosh = _unary("acosh", torch.acosh, "The inverse hyperbolic cosine.")
asin = _unary("asin", torch.asin, "The arc sine.")
asinh = _unary("asinh", torch.asinh, "The inverse hyperbolic sine.")
atan = _unary("atan", torch.atan, "The arc tangent.")
atanh = _unary("atanh", torch.atanh, "The inverse hyperbolic tangent.")
bitwise_not = _unary("bitwise_not", torch.bitwise_not, "``~x``.")
ceil = _unary("ceil", torch.ceil, "The least integer that is not below.")
cos = _unary("cos", torch.cos, "The cosine.")
cosh = _unary("cosh", torch.cosh, "The hyperbolic cosine.")
erf = _unary("erf", torch.erf, "The error function.")
exp = _unary("exp", torch.exp, "``e ** x``; of ints in float32.")
expm1 = _unary("expm1", torch.expm1, "``e ** x - 1``.")
floor = _unary("floor", torch.floor, "The largest integer that is not above.")
isinf = _unary("isinf", torch.isinf, "Whether x is infinite.")
isnan = _unary("isnan", torch.isnan, "Whether x is no number.")
log = _unary("log", torch.log, "The natural logarithm; of ints in float32.")
log10 = _unary("log10", torch.log10, "The logarithm to base 10.")
log1p = _unary("log1p", torch.log1p, "``log(1 + x)``.")
log2 = _unary("log2", torch.log2, "The logarithm to base 2.")
logical_not = _unary("logical_not", torch.logical_not, "Whether x is zero.")
neg = _unary("neg", torch.neg, "``-x``.")
recip = _unary("recip", torch.reciprocal, "``1 / x``.")
round = _unary("round", torch.round, "The nearest integer, halves to even ones.")
sign = _unary("sign", torch.sign, "-1, 0 or 1.")
sin = _unary("sin", torch.sin, "The sine.")
sinh = _unary("sinh", torch.sinh, "The hyperbolic sine.")
sqrt = _unary("sqrt", torch.sqrt, "The square root; of ints in float32.")
sym_not = _unary("sym_not", torch.logical_not, "Whether x is zero.")
tan = _unary("tan", torch.tan, "The tangent.")
trunc = _unary("trunc", torch.trunc, "The integer next to x towards zero.")


def convert_unary(
    ctx: Any, target: Any, source_ir: Any, name: str, operation_type: Any, input_val: Any
) -> Any:
    """A unary layer; `operation_type` is a ``trt.UnaryOperation``."""
    return ctx.unary(get_trt_tensor(ctx, input_val, name), operation_type.name)


def scalar_tensor(ctx: Any, target: Any, source_ir: Any, name: str, scalar: Any, dtype: Any = None) -> Any:
    """A 0-d tensor of a number (or an ITensor of one element), as `dtype`."""
    wanted = None if dtype is None else torch_dtype(ctx, dtype)
    if isinstance(scalar, (bool, int, float)):
        return ctx.constant(torch.scalar_tensor(scalar, dtype=wanted))
    return ctx.scalar(get_trt_tensor(ctx, scalar, name), wanted)


def native_dropout(
    ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, p: float, train: bool | None = None
) -> Any:
    """In inference: the input, and a mask of ones.

    Raises:
        ConversionError: in training, where elements are chosen by chance.
    """
    if train or train is None:
        raise ConversionError("dropout in training chooses elements by chance", advice="model.eval()")
    x = get_trt_tensor(ctx, input_val, name)
    return x, by_torch(ctx, lambda one: torch.ones_like(one, dtype=torch.bool), x)


def nonzero(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any) -> Any:
    """The places of elements that are not zero, a row each; on a backend with a layer for it."""
    x = get_trt_tensor(ctx, input_val, name)
    places = ctx.output(ctx.net.add_non_zero(x))
    return ctx.cast(ctx.permute(places, [1, 0]), torch.int64)

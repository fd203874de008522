"""ELEMENTWISE, UNARY, ACTIVATION, SELECT, CAST, IDENTITY, SCALE and PARAMETRIC_RELU.

Semantics from TensorRT's operator reference and the golden table. The main differences from torch: NaN loses
in max and min, relu(NaN) is 0, clip(NaN) is the upper bound, float to integer casts saturate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trtcore_reference.emit import Emitter, Evaluator
from trtcore_reference.values import Const, Value

_INF = math.inf


# -- elementwise ----------------------------------------------------------------------------------


def divide_integers(a: Tensor, b: Tensor, rounding: str) -> Tensor:
    """Integer division that truncates ("trunc") or floors ("floor"); the smallest integer by -1 wraps.

    Division by zero is undefined in TensorRT (8.5 gave -1 and -2): on the CPU it raises.
    """
    if a.dtype is torch.int64:
        overflow = (b == -1) & (a == torch.iinfo(torch.int64).min)
        return torch.where(overflow, a, torch.div(a, torch.where(overflow, 1, b), rounding_mode=rounding))
    return torch.div(a.long(), b.long(), rounding_mode=rounding).to(a.dtype)


def floor_divide(a: Tensor, b: Tensor) -> Tensor:
    """floor(a / b), with infinities as IEEE division gives them (torch's floor mode differs)."""
    return torch.floor(a / b)


def power(base: Tensor, exponent: Tensor) -> Tensor:
    """pow as TensorRT computes it: NaN where C99 has special values for infinite or NaN operands.

    NaN for: a negative base with an infinite exponent, -inf with a non-integer exponent, and 1 with an
    infinite or NaN exponent.
    """
    result = torch.pow(base, exponent)
    wild = ~torch.isfinite(exponent)
    undefined = wild & ((base < 0) | (base == 1)) | (base == -_INF) & (exponent != torch.floor(exponent))
    return torch.where(undefined, math.nan, result)


def power_integers(base: Tensor, exponent: Tensor) -> Tensor:
    """Integer power; a negative exponent truncates the real result towards zero. 0 to a negative power
    raises.
    """
    negative = exponent < 0
    if bool((negative & (base == 0)).any()):
        raise ZeroDivisionError("POW of integer 0 with a negative exponent is undefined in TensorRT")
    result = torch.pow(base, exponent.clamp_min(0))
    unit = torch.where(base == 1, 1, torch.where(exponent % 2 == 0, 1, -1))
    return torch.where(negative, torch.where(base.abs() == 1, unit, 0), result).to(base.dtype)


def maximum(a: Tensor, b: Tensor) -> Tensor:
    """a where a > b, else b: a NaN in b wins, one in a loses (elementwise.max.float32)."""
    return torch.maximum(a.nan_to_num(nan=-_INF, posinf=_INF, neginf=-_INF), b)


def minimum(a: Tensor, b: Tensor) -> Tensor:
    """a where a < b, else b: a NaN in b wins, one in a loses (elementwise.min.float32)."""
    return torch.minimum(a.nan_to_num(nan=_INF, posinf=_INF, neginf=-_INF), b)


_BINARY_FLOAT: Mapping[str, Callable[..., Any]] = {
    "SUM": torch.add,
    "PROD": torch.mul,
    "MAX": maximum,
    "MIN": minimum,
    "SUB": torch.sub,
    "DIV": torch.div,
    "POW": power,
    "FLOOR_DIV": floor_divide,
    "EQUAL": torch.eq,
    "GREATER": torch.gt,
    "LESS": torch.lt,
}

_BINARY_INTEGER: Mapping[str, Callable[..., Any]] = {
    **_BINARY_FLOAT,
    "MAX": torch.maximum,
    "MIN": torch.minimum,
    "POW": power_integers,
}

_BINARY_BOOL: Mapping[str, Callable[..., Any]] = {
    "AND": torch.logical_and,
    "OR": torch.logical_or,
    "XOR": torch.logical_xor,
    "EQUAL": torch.eq,
    "GREATER": torch.gt,
    "LESS": torch.lt,
}


def elementwise(e: Emitter) -> Value:
    """Two tensors of one rank, dims of size 1 broadcast."""
    op = e.attributes["op"]
    a, b = e.value(0), e.value(1)
    dtype = e.info().dtype
    if dtype is torch.bool:
        table = _BINARY_BOOL
    elif dtype.is_floating_point:
        table = _BINARY_FLOAT
    else:
        table = _BINARY_INTEGER
        if op in ("DIV", "FLOOR_DIV"):
            return e.call(divide_integers, a, b, "trunc" if op == "DIV" else "floor")
    if op not in table:
        raise e.error(f"is {op} on {dtype}, which TensorRT does not define")
    if op == "POW" and isinstance(b, Const) and b.tensor.numel() == 1 and dtype.is_floating_point:
        exponent = float(b.tensor.reshape(()).item())
        if math.isfinite(exponent) and exponent == math.floor(exponent):
            return e.call(torch.pow, a, exponent)  # no special value is reached
    if op == "SUM":
        fused = _fuse_bias(e, a, b)
        if fused is not None:
            return fused
    return e.call(table[op], a, b)


def _fuse_bias(e: Emitter, a: Value, b: Value) -> Value | None:
    """x @ W + bias as one call, as TensorRT fuses it, where the product is used nowhere else."""
    linears = e.region.linears
    for index, (product, bias) in enumerate(((a, b), (b, a))):
        if not isinstance(product, Const) and product in linears and isinstance(bias, Const):
            tensor = e.layer.inputs[index]
            width = bias.tensor.shape[-1] if bias.tensor.dim() else 0
            if tensor is None or e.region.engine.uses[tensor] != 1 or bias.tensor.numel() != width:
                return None
            x, weight = linears[product]
            if not e.info().dtype.is_floating_point or e.info(index).shape[-1] != width:
                return None
            return e.call(F.linear, x, weight, e.call(torch.reshape, bias, (width,)))
    return None


# -- unary ----------------------------------------------------------------------------------------


def sign(x: Tensor) -> Tensor:
    """The sign; NaN stays NaN (torch gives 0)."""
    return torch.where(torch.isnan(x), x, torch.sign(x))


_UNARY: Mapping[str, Callable[..., Any]] = {
    "EXP": torch.exp,
    "LOG": torch.log,
    "SQRT": torch.sqrt,
    "RECIP": torch.reciprocal,
    "ABS": torch.abs,
    "NEG": torch.neg,
    "SIN": torch.sin,
    "COS": torch.cos,
    "TAN": torch.tan,
    "SINH": torch.sinh,
    "COSH": torch.cosh,
    "ASIN": torch.asin,
    "ACOS": torch.acos,
    "ATAN": torch.atan,
    "ASINH": torch.asinh,
    "ACOSH": torch.acosh,
    "ATANH": torch.atanh,
    "CEIL": torch.ceil,
    "FLOOR": torch.floor,
    "ERF": torch.erf,
    "NOT": torch.logical_not,
    "SIGN": sign,
    "ROUND": torch.round,  # half to even
    "ISINF": torch.isinf,
    "ISNAN": torch.isnan,
}

_UNARY_INTEGER: Mapping[str, Callable[..., Any]] = {
    "ABS": torch.abs,
    "NEG": torch.neg,
    "SIGN": torch.sign,
    "CEIL": torch.clone,
    "FLOOR": torch.clone,
    "ROUND": torch.clone,
    "ISINF": torch.isinf,
    "ISNAN": torch.isnan,
}


def unary(e: Emitter) -> Value:
    op = e.attributes["op"]
    table = _UNARY if e.is_float or op == "NOT" else _UNARY_INTEGER
    if op not in table:
        raise e.error(f"is {op} on {e.info().dtype}, which TensorRT does not define")
    return e.call(table[op], e.value())


# -- activation -----------------------------------------------------------------------------------


def relu(x: Tensor) -> Tensor:
    """max(x, 0) with relu(NaN) = 0."""
    return torch.relu(x).nan_to_num_(nan=0.0, posinf=_INF, neginf=-_INF)


def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    """max(min(x, beta), alpha), so alpha wins where alpha > beta; NaN gives beta, raised to alpha."""
    bounded = x.clamp(alpha, beta) if alpha <= beta else x.clamp(max=beta).clamp_(min=alpha)
    if not x.is_floating_point():
        return bounded.to(x.dtype)
    return bounded.nan_to_num_(nan=max(beta, alpha), posinf=_INF, neginf=-_INF)


def hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    """max(0, min(1, alpha*x + beta)); NaN gives 0."""
    return (x * alpha + beta).clamp_(0.0, 1.0).nan_to_num_(nan=0.0)


def selu(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.where(x > 0, beta * x, beta * (alpha * torch.exp(x) - alpha))


def softplus(x: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha * log(exp(beta*x) + 1), computed so that a large x does not overflow."""
    return alpha * F.softplus(beta * x)


def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * torch.tanh(beta * x)


def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """x where x > alpha, else 0 (NaN too)."""
    return torch.where(x > alpha, x, 0.0)


def leaky_relu_integers(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x >= 0, x, (x * alpha).to(x.dtype))


def _in_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """For a formula of several steps: compute fp16 and bf16 in fp32 and round once, as a fused kernel
    does.
    """
    return _Float32(function)


class _Float32:
    """A named callable (fx prints `__name__`)."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.__name__ = function.__name__

    def __call__(self, x: Tensor, *args: float) -> Tensor:
        return self.function(x.float(), *args).to(x.dtype)


#: ActivationType -> (function, the parameters it takes).
_ACTIVATIONS: Mapping[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "RELU": (relu, ()),
    "SIGMOID": (torch.sigmoid, ()),
    "TANH": (torch.tanh, ()),
    "LEAKY_RELU": (F.leaky_relu, ("alpha",)),
    "ELU": (F.elu, ("alpha",)),
    "SELU": (selu, ("alpha", "beta")),
    "SOFTSIGN": (F.softsign, ()),
    "SOFTPLUS": (softplus, ("alpha", "beta")),
    "CLIP": (clip, ("alpha", "beta")),
    "HARD_SIGMOID": (hard_sigmoid, ("alpha", "beta")),
    "SCALED_TANH": (scaled_tanh, ("alpha", "beta")),
    "THRESHOLDED_RELU": (thresholded_relu, ("alpha",)),
    "GELU_ERF": (F.gelu, ()),
}

_SEVERAL_STEPS = frozenset({"SELU", "SOFTPLUS", "HARD_SIGMOID", "SCALED_TANH"})
_INTEGER_ACTIVATIONS = frozenset({"RELU", "CLIP", "LEAKY_RELU"})


def activation(e: Emitter) -> Value:
    kind = e.attributes["type"]
    if kind == "GELU_TANH":
        return e.call(F.gelu, e.value(), approximate="tanh")
    if kind not in _ACTIVATIONS:
        raise e.unsupported("type")
    function, names = _ACTIVATIONS[kind]
    parameters = [e.attributes[name] for name in names]
    dtype = e.info().dtype
    if not dtype.is_floating_point:
        if kind not in _INTEGER_ACTIVATIONS:
            raise e.error(f"is {kind} on {dtype}, which TensorRT does not define")
        if kind == "RELU":
            return e.call(torch.relu, e.value())
        if kind == "LEAKY_RELU":
            function = leaky_relu_integers
    elif kind in _SEVERAL_STEPS and dtype in (torch.float16, torch.bfloat16):
        function = _in_float32(function)
    return e.call(function, e.value(), *parameters)


# -- select, cast, identity -----------------------------------------------------------------------


def select(e: Emitter) -> Value:
    """Input 1 where the condition (input 0) holds, else input 2; all three broadcast."""
    return e.call(torch.where, e.value(0), e.value(1), e.value(2))


def identity(e: Emitter) -> Value:
    return _cast(e, e.out().dtype)


def cast(e: Emitter) -> Value:
    return _cast(e, e.attributes["to_type"])


def _cast(e: Emitter, to: torch.dtype) -> Value:
    dtype = e.info().dtype
    if dtype == to:
        return e.value()
    if dtype.is_floating_point and to in _INTEGER_RANGE:
        return e.call(float_to_integer, e.value(), to)
    if to in (torch.float8_e4m3fn, torch.float8_e8m0fnu) or dtype in (
        torch.float8_e4m3fn,
        torch.float8_e8m0fnu,
    ):
        raise e.error(f"casts {dtype} to {to}; TensorRT wants Quantize or Dequantize there")
    return e.call(torch.Tensor.to, e.value(), to)


_INTEGER_RANGE: Mapping[torch.dtype, tuple[int, int]] = {
    dtype: (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    for dtype in (torch.int8, torch.uint8, torch.int32, torch.int64)
}


def float_to_integer(x: Tensor, to: torch.dtype) -> Tensor:
    """Truncate towards zero; out of range saturates, NaN gives 0."""
    low, high = _INTEGER_RANGE[to]
    wide = x.double()
    inside = wide.nan_to_num(nan=0.0).clamp(float(low), float(high))
    if to is torch.int64:  # 2**63 - 1 is no float64: clamp to 2**63 and fix that value up
        over = inside >= float(high)
        return torch.where(over, high, torch.where(over, 0.0, inside).long())
    return inside.to(to)


# -- scale, parametric relu -----------------------------------------------------------------------


def scale(e: Emitter) -> Value:
    """(x * scale + shift) ** power; absent weights leave their step out."""
    axis = e.attributes["channel_axis"]
    mode = e.attributes["mode"]
    value = e.value()
    static = e.info().shape
    for role, function in (("scale", torch.mul), ("shift", torch.add), ("power", power)):
        if role not in e.constants:
            continue
        weights = e.constants[role]
        if mode == "UNIFORM":
            shape: tuple[int, ...] = (1,) * e.rank
        elif mode == "CHANNEL":
            shape = tuple(-1 if i == axis else 1 for i in range(e.rank))
        elif mode == "ELEMENTWISE":
            shape = tuple(1 if i < axis else static[i] for i in range(e.rank))
        else:
            raise e.unsupported("mode")
        value = e.call(function, value, e.const(weights.reshape(shape)))
    return e.call(torch.clone, value) if isinstance(value, Const) else value


def parametric_relu(e: Emitter) -> Value:
    """x where x >= 0, else x * slope."""
    return e.call(_parametric_relu, e.value(0), e.value(1))


def _parametric_relu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x >= 0, x, x * slope)


TABLE: Mapping[str, Evaluator] = {
    "ELEMENTWISE": elementwise,
    "UNARY": unary,
    "ACTIVATION": activation,
    "SELECT": select,
    "CAST": cast,
    "IDENTITY": identity,
    "SCALE": scale,
    "PARAMETRIC_RELU": parametric_relu,
}

"""What generated kernels can compute: a table from ATen ops to scalar programs.

A rule takes a `Lowering` (the call at hand) and returns the call's result, or a tuple of them. Dtypes, rounding,
NaN and sign rules are those of torch's CUDA kernels; the tests hold each rule to torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from trtcore_plugins.codegen.builder import HALF, Builder, Value, held
from trtcore_plugins.codegen.calls import Call, Ref, Size, Spec

aten = torch.ops.aten
prims = torch.ops.prims

Rule = Callable[["Lowering"], Any]


class Unsupported(Exception):
    """A call that the table has no rule for, with the reason."""


class Lowering:
    """A call that is being lowered: its arguments by name, as values and constants."""

    def __init__(
        self, b: Builder, call: Call, op: Any, values: Sequence[Value], specs: Sequence[Spec]
    ) -> None:
        self.b = b
        self.call = call
        self.dtype = call.results[0].dtype
        self._values, self._specs = values, specs
        self.arguments = bound(op, call.args, dict(call.kwargs))

    def __getitem__(self, name: str) -> Any:
        """An argument: a Value for a tensor or a symbolic int, else the constant."""
        argument = self.arguments[name]
        if isinstance(argument, Ref):
            return self._values[argument.index]
        if isinstance(argument, Size):
            return self.b.size(argument.index)
        return argument

    def get(self, name: str, otherwise: Any = None) -> Any:
        return self[name] if name in self.arguments else otherwise

    def operand(self, name: str, dtype: torch.dtype | None = None) -> Value:
        """An argument to compute with, cast to `dtype` (the result's by default) and widened."""
        return self.as_operand(self[name], dtype or self.dtype)

    def as_operand(self, value: Any, dtype: torch.dtype) -> Value:
        if isinstance(value, Value):
            return self.b.held(self.b.cast(value, dtype))
        return self.b.const(value, dtype)

    def rank(self, name: str) -> int:
        argument = self.arguments[name]
        return len(self._specs[argument.index].axes) if isinstance(argument, Ref) else 0

    def result(self, value: Value, position: int = 0) -> Value:
        """A computed value, rounded to the dtype of a result of the call."""
        return self.b.cast(value, self.call.results[position].dtype)

    def common(self, *names: str) -> torch.dtype:
        """The dtype that torch compares arguments in."""
        stand_ins = []
        for name in names:
            argument = self.arguments[name]
            if isinstance(argument, Ref):
                spec = self._specs[argument.index]
                stand_ins.append(torch.empty((1,) * len(spec.axes), dtype=spec.dtype, device="meta"))
            else:
                stand_ins.append(1 if isinstance(argument, Size) else argument)  # type: ignore[arg-type]
        return torch.result_type(*stand_ins)


def lower(
    b: Builder, call: Call, op: Any, values: Sequence[Value], specs: Sequence[Spec]
) -> tuple[Value, ...]:
    """The values of a call's results.

    Raises:
        Unsupported: there is no rule for the op, or not with these arguments.
    """
    rule = POINTWISE.get(op) or REDUCTIONS.get(op) or ROW_NORMS.get(op)
    if op in VIEWS:
        argument = next(iter(bound(op, call.args, dict(call.kwargs)).values()))
        return (values[argument.index],)
    if rule is None:
        raise Unsupported(f"generated kernels have no rule for {op}")
    results = rule(Lowering(b, call, op, values, specs))
    return results if isinstance(results, tuple) else (results,)


def bound(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments by name, with the schema's defaults."""
    found: dict[str, Any] = {}
    for position, argument in enumerate(op._schema.arguments):
        if position < len(args):
            found[argument.name] = args[position]
        elif argument.name in kwargs:
            found[argument.name] = kwargs[argument.name]
        else:
            found[argument.name] = argument.default_value
    return found


@lru_cache(maxsize=1)
def known_ops() -> Mapping[str, Any]:
    """Every op that a program may hold, by name."""
    return {str(op): op for op in (*POINTWISE, *REDUCTIONS, *ROW_NORMS, *VIEWS)}


def resolve_op(name: str) -> Any:
    """The OpOverload of a name in the tables. Raises KeyError for others."""
    return known_ops()[name]


# ---- pointwise: how rules are made ---------------------------------------------------------------------------


def _same(text: str, *names: str, boolean: str = "", integer: str = "", unsigned: str = "") -> Rule:
    """Computes in the result's dtype; other texts for bools and ints where C differs. "" refuses bools."""

    def rule(c: Lowering) -> Value:
        chosen = text
        if c.dtype is torch.bool:
            if not boolean:
                raise Unsupported(f"{c.call.op} of bools")
            chosen = boolean
        elif not c.dtype.is_floating_point:
            chosen = (unsigned if c.dtype is torch.uint8 else "") or integer or text
        if chosen == "refuse":
            raise Unsupported(f"{c.call.op} of {c.dtype}")
        args = [c.operand(name) for name in names or ("self",)]
        return c.result(c.b.op(chosen, *args, dtype=held(c.dtype)))

    return rule


def _float(text: str, *names: str) -> Rule:
    """Computes in floating point; ints become the default dtype, as the result's dtype says."""
    return _same(text, *(names or ("self",)), integer="refuse")


def _compare(text: str) -> Rule:
    def rule(c: Lowering) -> Value:
        dtype = c.common("self", "other")
        left, right = (c.b.held(_rounded(c, name, dtype)) for name in ("self", "other"))
        return c.b.op(text, left, right, dtype=torch.bool)

    return rule


def _rounded(c: Lowering, name: str, dtype: torch.dtype) -> Value:
    """An operand of a comparison: numbers are rounded to the common dtype too."""
    value = c[name]
    if isinstance(value, Value):
        return c.b.cast(value, dtype)
    if dtype.is_floating_point:
        value = torch.tensor(value, dtype=torch.float64).to(dtype).item()
    return c.b.const(value, dtype)


def _logical(text: str) -> Rule:
    def rule(c: Lowering) -> Value:
        args = [c.operand(name, torch.bool) for name in ("self", "other")]
        return c.b.op(text, *args, dtype=torch.bool)

    return rule


def _add(sign: str, first: str = "self", second: str = "other") -> Rule:
    def rule(c: Lowering) -> Value:
        left, right = c.operand(first), c.operand(second)
        alpha = c.get("alpha", 1)
        if isinstance(alpha, Value) or alpha != 1:
            right = c.b.op("{0} * {1}", right, c.as_operand(alpha, c.dtype), dtype=held(c.dtype))
        if c.dtype is torch.bool:
            if sign == "-":
                raise Unsupported("a difference of bools")
            return c.b.op("{0} | {1}", left, right, dtype=torch.bool)
        return c.result(c.b.op(f"{{0}} {sign} {{1}}", left, right, dtype=held(c.dtype)))

    return rule


def _quotient(c: Lowering, left: Value, right: Value) -> Value:
    if held(c.dtype) is torch.float64:
        return c.b.op("{0} / {1}", left, right, dtype=torch.float64)
    return c.b.op("f.div({0}, {1})", left, right, dtype=torch.float32)


def _div(c: Lowering) -> Value:
    left, right = c.operand("self"), c.operand("other")
    mode = c.get("rounding_mode")
    if c.dtype is torch.bool:
        raise Unsupported("a rounded quotient of bools")
    if not c.dtype.is_floating_point:
        if mode is None:
            raise Unsupported("a quotient of ints that is an int, without a rounding mode")
        return c.b.op(f"f.{mode}_div_int({{0}}, {{1}})", left, right, dtype=c.dtype)
    if mode == "floor":
        return c.result(c.b.op("f.floor_div({0}, {1})", left, right, dtype=held(c.dtype)))
    quotient = _quotient(c, left, right)
    if mode == "trunc":
        quotient = c.b.op("f.trunc({0})", quotient, dtype=held(c.dtype))
    return c.result(quotient)


def _floor_divide(c: Lowering) -> Value:
    left, right = c.operand("self"), c.operand("other")
    if c.dtype is torch.bool:
        raise Unsupported("a rounded quotient of bools")
    text = "f.floor_div({0}, {1})" if c.dtype.is_floating_point else "f.floor_div_int({0}, {1})"
    return c.result(c.b.op(text, left, right, dtype=held(c.dtype)))


def _pow(c: Lowering) -> Value:
    base, exponent = c["self"], c["exponent"]
    simple = not isinstance(exponent, Value) and isinstance(base, Value) and exponent in (0, 1, 2, 3, 4)
    if not c.dtype.is_floating_point and not simple:
        raise Unsupported("a power of ints other than 0 to 4")
    x = c.as_operand(base, c.dtype)
    if not isinstance(exponent, Value) and exponent in (0, 1, 2, 3, 4, -1, -2, 0.5, -0.5):
        return c.result(_constant_power(c, x, exponent))
    return c.result(c.b.op("f.pow({0}, {1})", x, c.as_operand(exponent, c.dtype), dtype=held(c.dtype)))


def _constant_power(c: Lowering, x: Value, exponent: float) -> Value:
    if exponent == 0:
        return c.b.const(1, x.dtype)
    root = abs(exponent) == 0.5
    y = c.b.op("f.sqrt({0})", x, dtype=x.dtype) if root else x
    for _ in range(0 if root else abs(int(exponent)) - 1):
        y = c.b.op("{0} * {1}", y, x, dtype=x.dtype)
    return _quotient(c, c.b.const(1, x.dtype), y) if exponent < 0 else y


def _clamp(c: Lowering) -> Value:
    x = c.operand("self")
    for name, kind in (("min", "maximum"), ("max", "minimum")):
        if name in c.arguments and c[name] is not None:
            x = c.b.op(_extreme(kind, c.dtype), x, c.operand(name), dtype=x.dtype)
    return c.result(x)


def _extreme(kind: str, dtype: torch.dtype) -> str:
    """maximum or minimum; of floats, NaN wins."""
    if dtype is torch.bool:
        return "{0} | {1}" if kind == "maximum" else "{0} & {1}"
    return f"f.{kind}({{0}}, {{1}})" if dtype.is_floating_point else f"tl.{kind}({{0}}, {{1}})"


def _binary_extreme(kind: str) -> Rule:
    def rule(c: Lowering) -> Value:
        args = (c.operand("self"), c.operand("other"))
        return c.result(c.b.op(_extreme(kind, c.dtype), *args, dtype=held(c.dtype)))

    return rule


def _where(c: Lowering) -> Value:
    condition = c.operand("condition", torch.bool)
    yes, no = c.operand("self"), c.operand("other")
    return c.result(c.b.op("tl.where({0}, {1}, {2})", condition, yes, no, dtype=held(c.dtype)))


def _prim_where(c: Lowering) -> Value:
    condition, yes, no = c.operand("pred", torch.bool), c.operand("a"), c.operand("b")
    return c.result(c.b.op("tl.where({0}, {1}, {2})", condition, yes, no, dtype=held(c.dtype)))


def _masked_fill(c: Lowering) -> Value:
    mask, x, fill = c.operand("mask", torch.bool), c.operand("self"), c.operand("value")
    return c.result(c.b.op("tl.where({0}, {2}, {1})", mask, x, fill, dtype=held(c.dtype)))


def _addcmul(c: Lowering) -> Value:
    x, a, b = c.operand("self"), c.operand("tensor1"), c.operand("tensor2")
    product = c.b.op("{0} * {1}", a, b, dtype=x.dtype)
    return c.result(c.b.op("{0} + {1} * {2}", x, c.operand("value"), product, dtype=x.dtype))


def _addcdiv(c: Lowering) -> Value:
    x, a, b = c.operand("self"), c.operand("tensor1"), c.operand("tensor2")
    return c.result(c.b.op("{0} + {1} * {2}", x, c.operand("value"), _quotient(c, a, b), dtype=x.dtype))


def _lerp(c: Lowering) -> Value:
    x, end, weight = c.operand("self"), c.operand("end"), c.operand("weight")
    text = "tl.where(tl.abs({2}) < 0.5, {0} + {2} * ({1} - {0}), {1} - ({1} - {0}) * (1.0 - {2}))"
    return c.result(c.b.op(text, x, end, weight, dtype=x.dtype))


def _sign(c: Lowering) -> Value:
    x = c.operand("self")
    if c.dtype is torch.bool:
        return x
    zero, one = c.b.const(0, x.dtype), c.b.const(1, x.dtype)
    text = "tl.where({0} > {1}, {2}, {1}) - tl.where({0} < {1}, {2}, {1})"
    return c.result(c.b.op(text, x, zero, one, dtype=x.dtype))


def _neg(c: Lowering) -> Value:
    if c.dtype is torch.bool:
        raise Unsupported("minus a bool")
    x = c.operand("self")
    if c.dtype.is_floating_point:
        return c.result(c.b.op("-{0}", x, dtype=x.dtype))
    return c.b.op("{1} - {0}", x, c.b.const(0, c.dtype), dtype=c.dtype)


def _test(text: str, otherwise: str) -> Rule:
    """isnan and the like: `otherwise` for ints."""

    def rule(c: Lowering) -> Value:
        x = c.b.held(c["self"])
        return c.b.op(text if x.floating else f"{{0}} {otherwise} {{0}}", x, dtype=torch.bool)

    return rule


def _logical_not(c: Lowering) -> Value:
    return c.b.op("f.not_({0})", c.operand("self", torch.bool), dtype=torch.bool)


def _bitwise_not(c: Lowering) -> Value:
    x = c.operand("self")
    if c.dtype is torch.bool:
        return c.b.op("f.not_({0})", x, dtype=c.dtype)
    return c.b.op("{0} ^ {1}", x, c.b.const(-1, c.dtype), dtype=c.dtype)


def _gelu(c: Lowering) -> Value:
    x = c.operand("self")
    if c["approximate"] == "tanh":
        text = "0.5 * {0} * (1.0 + f.tanh({1} * ({0} + {2} * ({0} * {0} * {0}))))"
        constants = [c.b.const(value, x.dtype) for value in (0.7978845608028654, 0.044715)]
        return c.result(c.b.op(text, x, *constants, dtype=x.dtype))
    return c.result(
        c.b.op("{0} * 0.5 * (1.0 + f.erf({0} * {1}))", x, c.b.const(0.5**0.5, x.dtype), dtype=x.dtype)
    )


def _exponential(c: Lowering) -> str:
    """What the op takes for exp: rounded to half precision, the fast one is as good."""
    return "f.fast_exp" if c.dtype in HALF else "f.exp"


def _sigmoid(c: Lowering) -> Value:
    x = c.operand("self")
    return c.result(_logistic(c, c.b.const(1, x.dtype), x))


def _silu(c: Lowering) -> Value:
    x = c.operand("self")
    return c.result(_logistic(c, x, x))


def _logistic(c: Lowering, numerator: Value, x: Value) -> Value:
    """``numerator / (1 + exp(-x))``."""
    below = c.b.op(f"1.0 + {_exponential(c)}(-{{0}})", x, dtype=x.dtype)
    if c.dtype in HALF:
        return c.b.op("f.fast_div({0}, {1})", numerator, below, dtype=x.dtype)
    return _quotient(c, numerator, below)


def _leaky_relu(c: Lowering) -> Value:
    x, slope = c.operand("self"), c.operand("negative_slope")
    return c.result(c.b.op("tl.where({0} > 0, {0}, {0} * {1})", x, slope, dtype=x.dtype))


def _elu(c: Lowering) -> Value:
    x = c.operand("self")
    negative = c.b.const(c["alpha"] * c["scale"], x.dtype)
    scales = c.operand("scale"), c.operand("input_scale")
    text = "tl.where({0} > 0, {0} * {1}, f.expm1({0} * {2}) * {3})"
    return c.result(c.b.op(text, x, *scales, negative, dtype=x.dtype))


def _softplus(c: Lowering) -> Value:
    x, beta, threshold = c.operand("self"), c.operand("beta"), c.operand("threshold")
    curve = _quotient(c, c.b.op("f.log1p(f.exp({0} * {1}))", x, beta, dtype=x.dtype), beta)
    return c.result(c.b.op("tl.where({0} * {1} > {2}, {0}, {3})", x, beta, threshold, curve, dtype=x.dtype))


def _cast(c: Lowering) -> Value:
    source = next(iter(c.arguments))
    return c.b.cast(c[source], c.dtype)


def _constant(value: Any = None, name: str = "") -> Rule:
    def rule(c: Lowering) -> Value:
        given = c[name] if name else value
        number = given if isinstance(given, Value) else c.b.const(_to_dtype(given, c.dtype), c.dtype)
        return c.b.cast(number, c.dtype) if isinstance(given, Value) else c.b.op("{0}", number, dtype=c.dtype)

    return rule


def _to_dtype(value: Any, dtype: torch.dtype) -> Any:
    return torch.tensor(value, dtype=dtype).item()


def _float_function(name: str) -> Rule:
    return _float(f"f.{name}({{0}})")


def _rounding(name: str) -> Rule:
    return _same(f"f.{name}({{0}})", "self", integer="{0}")


# ---- reductions ----------------------------------------------------------------------------------------------


def _accumulated(c: Lowering, value: Value, dtype: torch.dtype) -> Value:
    """A value to reduce, as `dtype`, in what it is accumulated in."""
    if dtype is torch.bool:
        raise Unsupported(f"{c.call.op} into bools")
    return c.b.held(c.b.cast(value, dtype))


def _ordered(c: Lowering, value: Value) -> Value:
    """A value to compare: narrow ints and bools as int32."""
    if value.dtype in (torch.bool, torch.int8, torch.uint8, torch.int16):
        return c.b.cast(value, torch.int32)
    return c.b.held(value)


def _sum(kind: str = "sum") -> Rule:
    def rule(c: Lowering) -> Value:
        return c.result(c.b.reduce(kind, _accumulated(c, c["self"], c.dtype)))

    return rule


def _mean_of(c: Lowering, x: Value) -> Value:
    return c.b.op(_division(x), c.b.reduce("sum", x), c.b.row_length(x.dtype), dtype=x.dtype)


def _division(x: Value) -> str:
    return "{0} / {1}" if x.dtype is torch.float64 else "f.div({0}, {1})"


def _mean(c: Lowering) -> Value:
    return c.result(_mean_of(c, _accumulated(c, c["self"], c.dtype)))


def _peak(kind: str) -> Rule:
    def rule(c: Lowering) -> Any:
        x = _ordered(c, c["self"])
        values = c.result(c.b.reduce(kind, x))
        if len(c.call.results) == 1:
            return values
        return values, c.b.reduce(f"arg{kind}", x)

    return rule


def _arg(kind: str) -> Rule:
    return lambda c: c.b.reduce(kind, _ordered(c, c["self"]))


def _truth(kind: str) -> Rule:
    def rule(c: Lowering) -> Value:
        truth = c.b.cast(c.b.cast(c["self"], torch.bool), torch.int32)
        return c.result(c.b.cast(c.b.reduce(kind, truth), torch.bool))

    return rule


def _moments(c: Lowering, x: Value, correction: float) -> tuple[Value, Value]:
    """Variance and mean of a row, in two passes."""
    mean = _mean_of(c, x)
    square = c.b.op("({0} - {1}) * ({0} - {1})", x, mean, dtype=x.dtype)
    less = c.b.const(correction, x.dtype)
    zero = c.b.const(0, x.dtype)
    count = c.b.op("tl.maximum({0} - {1}, {2})", c.b.row_length(x.dtype), less, zero, dtype=x.dtype)
    return c.b.op(_division(x), c.b.reduce("sum", square), count, dtype=x.dtype), mean


def _var(c: Lowering) -> Any:
    x = _accumulated(c, c["self"], c.dtype)
    variance, mean = _moments(c, x, 1 if c["correction"] is None else c["correction"])
    if c.call.op.startswith("aten.std"):
        variance = c.b.op("f.sqrt({0})", variance, dtype=x.dtype)
    if len(c.call.results) == 1:
        return c.result(variance)
    return c.result(variance), c.result(mean, 1)


def _log_sum_exp(c: Lowering) -> Value:
    x = _accumulated(c, c["self"], c.dtype)
    peak = c.b.reduce("max", x)
    shift = c.b.op('tl.where(tl.abs({0}) == float("inf"), 0.0, {0})', peak, dtype=x.dtype)
    total = c.b.reduce("sum", c.b.op("f.exp({0} - {1})", x, shift, dtype=x.dtype))
    return c.result(c.b.op("f.log({0}) + {1}", total, shift, dtype=x.dtype))


# ---- normalisations of rows ----------------------------------------------------------------------------------


def _softmax(c: Lowering) -> Value:
    x = _row(c)
    shifted = c.b.op("{0} - {1}", x, c.b.reduce("max", x), dtype=x.dtype)
    power = c.b.op(f"{_exponential(c)}({{0}})", shifted, dtype=x.dtype)
    division = "f.fast_div({0}, {1})" if c.dtype in HALF else _division(x)  # the sum is at least 1
    return c.result(c.b.op(division, power, c.b.reduce("sum", power), dtype=x.dtype))


def _log_softmax(c: Lowering) -> Value:
    x = _row(c)
    shifted = c.b.op("{0} - {1}", x, c.b.reduce("max", x), dtype=x.dtype)
    total = c.b.reduce("sum", c.b.op(f"{_exponential(c)}({{0}})", shifted, dtype=x.dtype))
    return c.result(c.b.op("{0} - f.log({1})", shifted, total, dtype=x.dtype))


def _row(c: Lowering) -> Value:
    """The row, in the dtype asked for. half_to_float and dtype= keep what half precision holds."""
    return c.b.held(c.b.cast(c["self"], c.dtype))


def _layer_norm(c: Lowering) -> Any:
    x = c.b.held(c["input"])
    variance, mean = _moments(c, x, 0)
    rstd = c.b.op("f.rsqrt({0} + {1})", variance, c.b.const(c["eps"], x.dtype), dtype=x.dtype)
    y = c.b.op("({0} - {1}) * {2}", x, mean, rstd, dtype=x.dtype)
    y = _affine(c, y, x.dtype)
    if len(c.call.results) == 1:
        return c.result(y)
    return c.result(y), c.result(mean, 1), c.result(rstd, 2)


def _rms_norm(c: Lowering) -> Any:
    if c["eps"] is None:
        raise Unsupported("rms_norm without eps")
    x = c.b.held(c["input"])
    square = _mean_of(c, c.b.op("{0} * {0}", x, dtype=x.dtype))
    rstd = c.b.op("f.rsqrt({0} + {1})", square, c.b.const(c["eps"], x.dtype), dtype=x.dtype)
    y = _affine(c, c.b.op("{0} * {1}", x, rstd, dtype=x.dtype), x.dtype)
    return c.result(y) if len(c.call.results) == 1 else (c.result(y), c.result(rstd, 1))


def _affine(c: Lowering, y: Value, dtype: torch.dtype) -> Value:
    for name, sign in (("weight", "*"), ("bias", "+")):
        if c.get(name) is not None:
            y = c.b.op(f"{{0}} {sign} {{1}}", y, c.b.held(c.b.cast(c[name], dtype)), dtype=dtype)
    return y


# ---- the tables ----------------------------------------------------------------------------------------------

_UNARY_FUNCTIONS = (
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "asin", "acos", "atan",
    "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "erfinv", "sqrt", "rsqrt",
)  # fmt: skip
_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}

POINTWISE: dict[Any, Rule] = {
    **{getattr(aten, name).default: _float_function(name) for name in _UNARY_FUNCTIONS},
    **{getattr(aten, name).default: _rounding(name) for name in ("floor", "ceil", "trunc", "round")},
    **{
        getattr(getattr(aten, name), overload): _compare(f"{{0}} {sign} {{1}}")
        for name, sign in _COMPARISONS.items()
        for overload in ("Tensor", "Scalar")
    },
    **{getattr(aten, f"logical_{name}").default: _logical(f"{{0}} {sign} {{1}}")
       for name, sign in (("and", "&"), ("or", "|"), ("xor", "^"))},
    **{
        getattr(getattr(aten, f"bitwise_{name}"), overload): _same(
            f"{{0}} {sign} {{1}}", "self", "other", boolean=f"{{0}} {sign} {{1}}"
        )
        for name, sign in (("and", "&"), ("or", "|"), ("xor", "^"))
        for overload in ("Tensor", "Scalar")
    },
    aten.add.Tensor: _add("+"),
    aten.add.Scalar: _add("+"),
    aten.sub.Tensor: _add("-"),
    aten.sub.Scalar: _add("-"),
    aten.rsub.Tensor: _add("-", "other", "self"),
    aten.rsub.Scalar: _add("-", "other", "self"),
    aten.mul.Tensor: _same("{0} * {1}", "self", "other", boolean="{0} & {1}"),
    aten.mul.Scalar: _same("{0} * {1}", "self", "other", boolean="{0} & {1}"),
    aten.div.Tensor: _div,
    aten.div.Scalar: _div,
    aten.div.Tensor_mode: _div,
    aten.div.Scalar_mode: _div,
    aten.floor_divide.default: _floor_divide,
    aten.reciprocal.default: lambda c: c.result(_quotient(c, c.b.const(1, held(c.dtype)), c.operand("self"))),
    **{getattr(aten.remainder, overload): _same(
        "f.remainder({0}, {1})", "self", "other", integer="f.remainder_int({0}, {1})"
    ) for overload in ("Tensor", "Scalar")},
    **{getattr(aten.fmod, overload): _same("f.fmod({0}, {1})", "self", "other", integer="f.rem({0}, {1})")
       for overload in ("Tensor", "Scalar")},
    **{getattr(aten.pow, overload): _pow for overload in ("Tensor_Tensor", "Tensor_Scalar", "Scalar")},
    aten.maximum.default: _binary_extreme("maximum"),
    aten.minimum.default: _binary_extreme("minimum"),
    aten.fmax.default: _same("f.fmax({0}, {1})", "self", "other", integer="tl.maximum({0}, {1})"),
    aten.fmin.default: _same("f.fmin({0}, {1})", "self", "other", integer="tl.minimum({0}, {1})"),
    aten.atan2.default: _float("f.atan2({0}, {1})", "self", "other"),
    aten.hypot.default: _float("f.hypot({0}, {1})", "self", "other"),
    aten.copysign.Tensor: _float("f.copysign({0}, {1})", "self", "other"),
    aten.clamp.default: _clamp,
    aten.clamp.Tensor: _clamp,
    aten.clamp_min.default: _clamp,
    aten.clamp_min.Tensor: _clamp,
    aten.clamp_max.default: _clamp,
    aten.clamp_max.Tensor: _clamp,
    aten.where.self: _where,
    aten.masked_fill.Scalar: _masked_fill,
    aten.masked_fill.Tensor: _masked_fill,
    aten.addcmul.default: _addcmul,
    aten.addcdiv.default: _addcdiv,
    aten.lerp.Scalar: _lerp,
    aten.lerp.Tensor: _lerp,
    aten.neg.default: _neg,
    aten.abs.default: _same("tl.abs({0})", "self", unsigned="{0}"),
    aten.sign.default: _sign,
    aten.sgn.default: _sign,
    aten.isnan.default: _test("{0} != {0}", "!="),
    aten.isinf.default: _test('tl.abs({0}) == float("inf")', "!="),
    aten.isfinite.default: _test('tl.abs({0}) < float("inf")', "=="),
    aten.logical_not.default: _logical_not,
    aten.bitwise_not.default: _bitwise_not,
    aten.relu.default: _same("tl.where({0} < 0, 0.0, {0})", "self", integer="tl.maximum({0}, 0)", unsigned="{0}"),
    aten.sigmoid.default: _sigmoid,
    aten.silu.default: _silu,
    aten.gelu.default: _gelu,
    aten.leaky_relu.default: _leaky_relu,
    aten.elu.default: _elu,
    aten.softplus.default: _softplus,
    aten._to_copy.default: _cast,
    aten.to.dtype: _cast,
    aten.clone.default: _cast,
    prims.convert_element_type.default: _cast,
    aten.zeros_like.default: _constant(0),
    aten.ones_like.default: _constant(1),
    aten.full_like.default: _constant(name="fill_value"),
    aten.scalar_tensor.default: _constant(name="s"),
    aten.full.default: _constant(name="fill_value"),
}  # fmt: skip
"""Ops whose result has the shape that its operands broadcast to."""

# Torch's decompositions end in prims of the same names and meanings.
_PRIMS = (
    *_UNARY_FUNCTIONS, *_COMPARISONS, "floor", "ceil", "trunc", "round", "neg", "abs", "sign", "isfinite", "reciprocal",
    "maximum", "minimum", "fmax", "fmin", "atan2", "hypot", "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not",
    "add", "sub", "mul", "div", "remainder", "fmod",
)  # fmt: skip
for _name in _PRIMS:
    _prim = getattr(prims, {"erfinv": "erf_inv"}.get(_name, _name), None)
    _aten = getattr(aten, _name)
    if _prim is not None:
        POINTWISE[_prim.default] = POINTWISE[
            getattr(_aten, "Tensor" if "Tensor" in _aten.overloads() else "default")
        ]
POINTWISE[prims.where.default] = _prim_where

REDUCTIONS: dict[Any, Rule] = {
    aten.sum.default: _sum(),
    aten.sum.dim_IntList: _sum(),
    aten.prod.default: _sum("prod"),
    aten.prod.dim_int: _sum("prod"),
    aten.mean.default: _mean,
    aten.mean.dim: _mean,
    aten.amax.default: _peak("max"),
    aten.amin.default: _peak("min"),
    aten.max.default: _peak("max"),
    aten.min.default: _peak("min"),
    aten.max.dim: _peak("max"),
    aten.min.dim: _peak("min"),
    aten.argmax.default: _arg("argmax"),
    aten.argmin.default: _arg("argmin"),
    **{getattr(aten.any, overload): _truth("max") for overload in ("default", "dim", "dims")},
    **{getattr(aten.all, overload): _truth("min") for overload in ("default", "dim", "dims")},
    aten.var.correction: _var,
    aten.std.correction: _var,
    aten.var_mean.correction: _var,
    aten.std_mean.correction: _var,
    aten.logsumexp.default: _log_sum_exp,
}
"""Ops with ``dim`` and ``keepdim``; without ``dim`` everything is reduced."""

ROW_NORMS: dict[Any, Rule] = {
    aten._softmax.default: _softmax,
    aten.softmax.int: _softmax,
    aten._log_softmax.default: _log_softmax,
    aten.log_softmax.int: _log_softmax,
    aten.native_layer_norm.default: _layer_norm,
    aten.layer_norm.default: _layer_norm,
    aten.rms_norm.default: _rms_norm,
    aten._fused_rms_norm.default: _rms_norm,
}
"""Ops that reduce rows and give back the row, and perhaps (keepdim) what they found on the way."""

VIEWS: frozenset[Any] = frozenset(
    {
        aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims,
        aten.view.default, aten._unsafe_view.default, aten.reshape.default,
        aten.permute.default, aten.transpose.int, aten.t.default, aten.expand.default,
        aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default,
    }
)  # fmt: skip
"""Ops that move no data: they rename axes. A reshape is one only if it adds and removes dims of size 1."""

MAY_ALIAS: frozenset[Any] = frozenset({*VIEWS, aten.to.dtype})
"""Ops that may return their operand: never the last of a kernel."""

CREATIONS: frozenset[Any] = frozenset({aten.scalar_tensor.default, aten.full.default})
"""Pointwise ops without a tensor operand."""

"""Ops of complex numbers, each as ops of the parts.

A rule is called like its op: an `Emitter`, then the arguments of the op's schema, with a `Pair` in the place of each
complex tensor. It returns a `Pair`, for an op with several results a pair of lists, and for a real result a node.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import fx

from trtcore_converters._values import CASTS
from trtcore_converters.passes._complex_values import REAL, Declined, Emitter, Pair
from trtcore_converters.passes._graph import tensor_of

aten = torch.ops.aten

Rule = Callable[..., Any]

_Rule = TypeVar("_Rule", bound=Rule)

RULES: dict[Any, Rule] = {}
"""The rule of each op."""


def rule(*ops: Any) -> Callable[[_Rule], _Rule]:
    """Enter a function as the rule of some ops."""

    def enter(function: _Rule) -> _Rule:
        RULES.update(dict.fromkeys(ops, function))
        return function

    return enter


# ---- made, looked at, taken apart ----


@rule(aten.view_as_complex.default)
def _view_as_complex(e: Emitter, x: Any) -> Pair:
    return Pair(e(aten.select.int, x, -1, 0), e(aten.select.int, x, -1, 1))


@rule(aten.view_as_real.default)
def _view_as_real(e: Emitter, z: Pair) -> Any:
    return e.stacked(z)


@rule(aten.view.dtype)
def _view_dtype(e: Emitter, z: Any, dtype: torch.dtype) -> Any:
    if isinstance(z, Pair) and dtype == tensor_of(z.re).dtype:  # type: ignore[union-attr]
        return e(aten.flatten.using_ints, e.stacked(z), -2, -1)
    if not isinstance(z, Pair) and tensor_of(z).dtype == REAL.get(dtype):  # type: ignore[union-attr]
        return _view_as_complex(e, e(aten.unflatten.int, z, -1, [-1, 2]))
    raise Declined("its bits are read as another dtype")


@rule(aten.sym_size.int, aten.sym_numel.default)
def _size(e: Emitter, z: Any, *dim: Any) -> Any:
    return e(e.node.target, z.re, *dim)


@rule(aten.complex.default)
def _complex(e: Emitter, real: Any, imag: Any) -> Pair:
    return e.like(Pair(real, imag))


@rule(aten.polar.default)
def _polar(e: Emitter, abs: Any, angle: Any) -> Pair:
    return e.polar(abs, angle)


@rule(aten.real.default)
def _real(e: Emitter, z: Pair) -> Any:
    return z.re


@rule(aten.imag.default)
def _imag(e: Emitter, z: Pair) -> Any:
    return z.im


@rule(aten.abs.default)
def _abs(e: Emitter, z: Pair) -> Any:
    return e.abs(z)


@rule(aten.angle.default)
def _angle(e: Emitter, z: Pair) -> Any:
    return e.angle(z)


@rule(aten._conj.default, aten.conj.default, aten.conj_physical.default, aten._conj_physical.default)
def _conj(e: Emitter, z: Pair) -> Pair:
    return Pair(z.re, e.neg(z.im))


@rule(aten._neg_view.default, aten.neg.default)
def _neg(e: Emitter, z: Pair) -> Pair:
    return Pair(e.neg(z.re), e.neg(z.im))


@rule(aten.resolve_conj.default, aten.resolve_neg.default, aten.lift_fresh_copy.default, aten.alias.default)
def _itself(e: Emitter, z: Pair) -> Pair:
    return z


@rule(*CASTS)
def _to(e: Emitter, z: Any, *_: Any, **__: Any) -> Any:
    dtype, device = e.value.dtype, e.value.device
    found = tensor_of(z.re if isinstance(z, Pair) else z)
    if found is None or found.device != device:
        raise Declined("it moves to another device")
    if dtype in REAL:
        return e.pair(z)
    return e.cast(z.re, dtype)


@rule(aten.full.default, aten.full_like.default, aten.new_full.default, aten.scalar_tensor.default)
def _full(e: Emitter, *args: Any, dtype: Any = None, **kwargs: Any) -> Any:
    *shape, value = (_re(arg) for arg in args)
    number = complex(value)
    if e.value.dtype not in REAL:
        return e(e.node.target, *shape, value, dtype=e.value.dtype, **kwargs)
    parts = (number.real, number.imag)
    return Pair(*(e(e.node.target, *shape, part, dtype=e.dtype, **kwargs) for part in parts))


@rule(
    aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default, aten.empty.memory_format,
    aten.empty_like.default, aten.new_empty.default,
)  # fmt: skip
def _zeros(e: Emitter, *args: Any, dtype: Any = None, **kwargs: Any) -> Any:
    def made() -> Any:
        dtype = e.dtype if e.value.dtype in REAL else e.value.dtype
        return e(e.node.target, *(_re(arg) for arg in args), dtype=dtype, **kwargs)

    return Pair(made(), made()) if e.value.dtype in REAL else made()


@rule(aten.ones.default, aten.ones_like.default, aten.new_ones.default, aten.arange.default, aten.arange.start,
      aten.arange.start_step)  # fmt: skip
def _ones(e: Emitter, *args: Any, dtype: Any = None, **kwargs: Any) -> Any:
    if e.value.dtype not in REAL:
        return e(e.node.target, *(_re(arg) for arg in args), dtype=e.value.dtype, **kwargs)
    made = e(e.node.target, *(_re(arg) for arg in args), dtype=e.dtype, **kwargs)
    return Pair(made, e(aten.zeros_like.default, made))


def _re(value: Any) -> Any:
    return value.re if isinstance(value, Pair) else value


# ---- arithmetic ----


@rule(aten.add.Tensor, aten.add.Scalar)
def _add(e: Emitter, a: Any, b: Any, alpha: Any = 1) -> Pair:
    x, y = e.pair(a), e.pair(b)
    y = y if alpha == 1 else e.product(y, e.pair(alpha))
    return e.like(Pair(e.add(x.re, y.re), e.add(x.im, y.im)))


@rule(aten.sub.Tensor, aten.sub.Scalar)
def _sub(e: Emitter, a: Any, b: Any, alpha: Any = 1) -> Pair:
    x, y = e.pair(a), e.pair(b)
    y = y if alpha == 1 else e.product(y, e.pair(alpha))
    return e.like(Pair(e.sub(x.re, y.re), e.sub(x.im, y.im)))


@rule(aten.rsub.Tensor, aten.rsub.Scalar)
def _rsub(e: Emitter, a: Any, b: Any, alpha: Any = 1) -> Pair:
    return _sub(e, b, a, 1) if alpha == 1 else _sub(e, b, _mul(e, a, alpha), 1)


@rule(aten.mul.Tensor, aten.mul.Scalar)
def _mul(e: Emitter, a: Any, b: Any) -> Pair:
    for z, factor in ((a, b), (b, a)):
        if _is_real(factor):
            x, by = e.pair(z), e.cast(factor)
            return e.like(Pair(e.mul(x.re, by), e.mul(x.im, by)))
        if isinstance(factor, complex) and factor.real == 0:
            x = e.pair(z)
            return e.like(Pair(e.mul(x.im, -factor.imag), e.mul(x.re, factor.imag)))
    return e.like(e.product(e.pair(a), e.pair(b)))


def _is_real(value: Any) -> bool:
    if isinstance(value, fx.Node):
        return tensor_of(value) is not None
    return isinstance(value, (int, float)) or (isinstance(value, complex) and value.imag == 0)


@rule(aten.div.Tensor, aten.div.Scalar, aten.true_divide.Tensor)
def _div(e: Emitter, a: Any, b: Any) -> Pair:
    x = e.pair(a)
    if _is_real(b):
        by = e.cast(b)
        return e.like(Pair(e.div(x.re, by), e.div(x.im, by)))
    return e.like(e.product(x, e.inverse(e.pair(b))))


@rule(aten.reciprocal.default)
def _reciprocal(e: Emitter, z: Pair) -> Pair:
    return e.inverse(z)


@rule(aten.square.default)
def _square(e: Emitter, z: Pair) -> Pair:
    return e.product(z, z)


@rule(aten.addcmul.default)
def _addcmul(e: Emitter, x: Any, a: Any, b: Any, value: Any = 1) -> Pair:
    return _add(e, x, _mul(e, a, b), value)


@rule(aten.sgn.default)
def _sgn(e: Emitter, z: Pair) -> Pair:
    size = e.abs(z)
    safe = e(aten.where.ScalarSelf, e(aten.eq.Scalar, size, 0), 1.0, size)
    return Pair(e.div(z.re, safe), e.div(z.im, safe))


# ---- functions ----


@rule(aten.exp.default)
def _exp(e: Emitter, z: Pair) -> Pair:
    return e.polar(e(aten.exp.default, z.re), z.im)


@rule(aten.log.default, aten.log2.default, aten.log10.default)
def _log(e: Emitter, z: Pair) -> Pair:
    bases: dict[Any, float] = {aten.log2.default: math.log(2), aten.log10.default: math.log(10)}
    base = bases.get(e.node.target, 1.0)
    re, im = e(aten.log.default, e.abs(z)), e.angle(z)
    return Pair(re, im) if base == 1.0 else Pair(e.mul(re, 1 / base), e.mul(im, 1 / base))


@rule(aten.sqrt.default)
def _sqrt(e: Emitter, z: Pair) -> Pair:
    half = e(aten.sqrt.default, e.mul(e.add(e.abs(z), e(aten.abs.default, z.re)), 0.5))
    twice = e(aten.where.ScalarSelf, e(aten.eq.Scalar, half, 0), 1.0, e.mul(half, 2.0))
    other = e.div(z.im, twice)
    right = e(aten.ge.Scalar, z.re, 0)
    below = e(aten.lt.Scalar, z.im, 0)
    signed = e(aten.where.self, below, e.neg(half), half)
    return Pair(
        e(aten.where.self, right, half, e(aten.abs.default, other)),
        e(aten.where.self, right, other, signed),
    )


@rule(aten.pow.Tensor_Scalar)
def _pow(e: Emitter, z: Pair, exponent: Any) -> Pair:
    power = complex(exponent)
    if power.imag:
        raise Declined("a power with a complex exponent")
    if power.real in (1.0, 2.0, 3.0, 4.0, -1.0, -2.0):
        whole = z
        for _ in range(int(abs(power.real)) - 1):
            whole = e.product(whole, z)
        return whole if power.real > 0 else e.inverse(whole)
    if power.real == 0.5:
        return _sqrt(e, z)
    return e.polar(e(aten.pow.Tensor_Scalar, e.abs(z), power.real), e.mul(e.angle(z), power.real))


def _waves(e: Emitter, x: Any) -> tuple[Any, Any]:
    return e(aten.cos.default, x), e(aten.sin.default, x)


def _hyperbolic(e: Emitter, x: Any) -> tuple[Any, Any]:
    return e(aten.cosh.default, x), e(aten.sinh.default, x)


@rule(aten.sin.default)
def _sin(e: Emitter, z: Pair) -> Pair:
    (cos, sin), (cosh, sinh) = _waves(e, z.re), _hyperbolic(e, z.im)
    return Pair(e.mul(sin, cosh), e.mul(cos, sinh))


@rule(aten.cos.default)
def _cos(e: Emitter, z: Pair) -> Pair:
    (cos, sin), (cosh, sinh) = _waves(e, z.re), _hyperbolic(e, z.im)
    return Pair(e.mul(cos, cosh), e.neg(e.mul(sin, sinh)))


@rule(aten.sinh.default)
def _sinh(e: Emitter, z: Pair) -> Pair:
    (cosh, sinh), (cos, sin) = _hyperbolic(e, z.re), _waves(e, z.im)
    return Pair(e.mul(sinh, cos), e.mul(cosh, sin))


@rule(aten.cosh.default)
def _cosh(e: Emitter, z: Pair) -> Pair:
    (cosh, sinh), (cos, sin) = _hyperbolic(e, z.re), _waves(e, z.im)
    return Pair(e.mul(cosh, cos), e.mul(sinh, sin))


# ---- comparisons and statistics ----


@rule(aten.eq.Tensor, aten.eq.Scalar, aten.ne.Tensor, aten.ne.Scalar)
def _equal(e: Emitter, a: Any, b: Any) -> Any:
    x, y = e.pair(a), e.pair(b)
    equal = e.node.target in (aten.eq.Tensor, aten.eq.Scalar)
    if not isinstance(x.re, fx.Node):
        x, y = y, x
    packet = aten.eq if equal else aten.ne
    op = getattr(packet, "Tensor" if isinstance(y.re, fx.Node) else "Scalar")
    parts = [e(op, x.re, y.re), e(op, x.im, y.im)]
    return e(aten.logical_and.default if equal else aten.logical_or.default, *parts)


@rule(aten.isnan.default)
def _isnan(e: Emitter, z: Pair) -> Any:
    return e(aten.logical_or.default, e(aten.isnan.default, z.re), e(aten.isnan.default, z.im))


@rule(aten.linalg_vector_norm.default, aten.linalg_norm.default, aten.norm.Scalar, aten.norm.ScalarOpt_dim)
def _norm(e: Emitter, z: Pair, ord: Any = None, dim: Any = None, *rest: Any, **kwargs: Any) -> Any:
    value = tensor_of(z.re)
    assert value is not None
    dims = len(dim) if isinstance(dim, (list, tuple)) else value.dim() if dim is None else 1
    if e.node.target is aten.linalg_norm.default and ord is not None and dims > 1:
        raise Declined("a norm of complex matrices")
    if "dtype" in kwargs:
        kwargs["dtype"] = REAL.get(kwargs["dtype"], kwargs["dtype"])
    parts = (ord,) if e.node.target is aten.norm.Scalar else (ord, dim, *rest)
    return e(e.node.target, e.abs(z), *parts, **kwargs)


@rule(
    aten.var.correction, aten.std.correction, aten.var.dim, aten.std.dim, aten.var.default, aten.std.default
)
def _var(e: Emitter, z: Pair, *args: Any, **kwargs: Any) -> Any:
    overload = str(e.node.target).rpartition(".")[2]
    op = getattr(aten.var, overload)
    total = e.add(e(op, z.re, *args, **kwargs), e(op, z.im, *args, **kwargs))
    return e(aten.sqrt.default, total) if "std" in str(e.node.target) else total


# ---- products ----


def _bilinear(e: Emitter, product: Callable[[Any, Any], Any], a: Any, b: Any) -> Pair:
    """A product that is linear in both operands, of which one may be real."""
    if not isinstance(a, Pair):
        y, x = e.pair(b), e.cast(a)
        return Pair(product(x, y.re), product(x, y.im))
    x = e.pair(a)
    if not isinstance(b, Pair):
        y = e.cast(b)
        return Pair(product(x.re, y), product(x.im, y))
    y = e.pair(b)
    return Pair(
        e.sub(product(x.re, y.re), product(x.im, y.im)), e.add(product(x.re, y.im), product(x.im, y.re))
    )


@rule(
    aten.mm.default,
    aten.bmm.default,
    aten.matmul.default,
    aten.dot.default,
    aten.mv.default,
    aten.outer.default,
)
def _matmul(e: Emitter, a: Any, b: Any, *_: Any) -> Pair:
    return _bilinear(e, lambda x, y: e(e.node.target, x, y), a, b)


@rule(aten.vdot.default)
def _vdot(e: Emitter, a: Pair, b: Any) -> Pair:
    return _bilinear(e, lambda x, y: e(aten.dot.default, x, y), _conj(e, a), b)


@rule(aten.addmm.default, aten.baddbmm.default)
def _addmm(e: Emitter, x: Any, a: Any, b: Any, beta: Any = 1, alpha: Any = 1, **_: Any) -> Pair:
    op = aten.mm.default if e.node.target is aten.addmm.default else aten.bmm.default
    product = _bilinear(e, lambda p, q: e(op, p, q), a, b)
    return _add(e, x if beta == 1 else _mul(e, x, beta), product if alpha == 1 else _mul(e, product, alpha))


@rule(aten.linear.default)
def _linear(e: Emitter, x: Any, weight: Any, bias: Any = None) -> Pair:
    product = _bilinear(e, lambda a, b: e(aten.linear.default, a, b), x, weight)
    return product if bias is None else _add(e, product, bias)


@rule(aten.einsum.default)
def _einsum(e: Emitter, equation: str, tensors: Any, **_: Any) -> Any:
    if len(tensors) == 1:
        (z,) = tensors
        return Pair(*(e(aten.einsum.default, equation, [part]) for part in (z.re, z.im)))
    if len(tensors) != 2:
        raise Declined("a product of more than two complex tensors in one einsum")
    return _bilinear(e, lambda a, b: e(aten.einsum.default, equation, [a, b]), *tensors)


@rule(*(
    getattr(aten, f"{name}{dims}d").default if not transposed else getattr(aten, f"{name}{dims}d").input
    if dims > 1 else aten.conv_transpose1d.default
    for name, transposed in (("conv", False), ("conv_transpose", True)) for dims in (1, 2, 3)
))  # fmt: skip
def _convolution(e: Emitter, x: Any, weight: Any, bias: Any, *rest: Any) -> Pair:
    product = _bilinear(e, lambda a, b: e(e.node.target, a, b, None, *rest), x, weight)
    if bias is None:
        return product
    value = tensor_of(product.re)
    assert value is not None
    last = str(e.node.target).split("d.")[0][-1]
    shape = [-1, *([1] * int(last))]
    columns = e.pair(bias)
    return _add(e, product, Pair(*(e(aten.view.default, part, shape) for part in (columns.re, columns.im))))


# ---- the same for both parts ----


def _parts(e: Emitter, *args: Any, **kwargs: Any) -> Any:
    """The op on each part: what it does to a value, it does to both alike, and is linear in it."""
    if e.node.target is aten.index.Tensor and any(_is_mask(index) for index in args[1]):
        raise Declined("a mask decides how many numbers are taken")
    if "dtype" in kwargs and kwargs["dtype"] in REAL:
        kwargs["dtype"] = REAL[kwargs["dtype"]]
    if (
        isinstance(e.value, torch.Tensor) and e.value.dtype not in REAL
    ):  # a complex argument gives its shape alone
        return _of_part(e, 0, args, kwargs)
    return Pair(*(_of_part(e, part, args, kwargs) for part in (0, 1)))


def _is_mask(index: Any) -> bool:
    value = tensor_of(index)
    return value is not None and value.dtype in (torch.bool, torch.uint8)


def _of_part(e: Emitter, part: int, args: Any, kwargs: Any) -> Any:
    def one(value: Any, tensors: bool = False) -> Any:
        if isinstance(value, Pair):
            pair = e.pair(value)
            return (pair.re, pair.im)[part]
        if isinstance(value, complex):
            return (value.real, value.imag)[part]
        if isinstance(value, (list, tuple)):
            mixed = any(isinstance(item, Pair) for item in value)
            return [one(item, tensors=mixed) for item in value]
        if tensors and isinstance(value, fx.Node):
            return one(e.pair(value))
        return value

    return e(e.node.target, *(one(arg) for arg in args), **{name: one(arg) for name, arg in kwargs.items()})


_SAME_FOR_BOTH = (
    "view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints", "unflatten.int", "permute.default",
    "transpose.int", "t.default", "mT.default", "numpy_T.default", "movedim.int", "movedim.intlist", "swapaxes.default",
    "unsqueeze.default", "squeeze.default", "squeeze.dim", "squeeze.dims", "expand.default", "expand_as.default",
    "broadcast_to.default", "slice.Tensor", "select.int", "narrow.default", "clone.default", "contiguous.default",
    "detach.default", "repeat.default", "tile.default", "roll.default", "flip.default", "rot90.default",
    "repeat_interleave.self_int", "cat.default", "stack.default", "concat.default", "split.Tensor",
    "split_with_sizes.default", "split.sizes", "chunk.default", "unbind.int", "index_select.default", "index.Tensor",
    "gather.default", "take.default", "embedding.default", "sum.default", "sum.dim_IntList", "mean.default", "mean.dim",
    "cumsum.default", "diff.default", "tril.default", "triu.default", "diagonal.default", "trace.default",
    "diag_embed.default", "unfold.default", "view_copy.default", "lift_fresh.default", "fft_fftshift.default",
    "fft_ifftshift.default",
)  # fmt: skip

for _name in _SAME_FOR_BOTH:
    _packet, _, _overload = _name.partition(".")
    if hasattr(aten, _packet) and hasattr(getattr(aten, _packet), _overload):
        RULES[getattr(getattr(aten, _packet), _overload)] = _parts


@rule(aten.mH.default, aten.matrix_H.default, aten.adjoint.default)
def _adjoint(e: Emitter, z: Pair) -> Pair:
    turned = [e(aten.transpose.int, part, -2, -1) for part in (z.re, z.im)]
    return Pair(turned[0], e.neg(turned[1]))


@rule(aten.where.self)
def _where(e: Emitter, condition: Any, a: Any, b: Any) -> Pair:
    x, y = e.pair(a), e.pair(b)
    return Pair(e(aten.where.self, condition, x.re, y.re), e(aten.where.self, condition, x.im, y.im))


@rule(aten.where.ScalarOther, aten.where.ScalarSelf)
def _where_number(e: Emitter, condition: Any, a: Any, b: Any) -> Pair:
    x, y = e.pair(a), e.pair(b)
    return Pair(e(e.node.target, condition, x.re, y.re), e(e.node.target, condition, x.im, y.im))


@rule(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def _masked_fill(e: Emitter, z: Any, mask: Any, value: Any) -> Pair:
    x, y = e.pair(z), e.pair(value)
    return Pair(e(e.node.target, x.re, mask, y.re), e(e.node.target, x.im, mask, y.im))


@rule(aten.constant_pad_nd.default)
def _pad_constant(e: Emitter, z: Pair, pad: Any, value: Any = 0) -> Pair:
    fill = e.pair(value)
    return Pair(
        e(aten.constant_pad_nd.default, z.re, pad, fill.re),
        e(aten.constant_pad_nd.default, z.im, pad, fill.im),
    )


@rule(aten.pad.default)
def _pad(e: Emitter, z: Pair, pad: Any, mode: str = "constant", value: Any = None) -> Pair:
    if mode == "constant":
        return _pad_constant(e, z, pad, value or 0)
    return Pair(e(aten.pad.default, z.re, pad, mode), e(aten.pad.default, z.im, pad, mode))


@rule(
    aten.copy.default, aten.select_scatter.default, aten.slice_scatter.default, aten.diagonal_scatter.default,
    aten.index_put.default, aten.index_add.default, aten.scatter.src, aten.index_copy.default,
)  # fmt: skip
def _scatter(e: Emitter, z: Any, *args: Any, **kwargs: Any) -> Pair:
    if e.value.dtype not in REAL:
        raise Declined("complex numbers are written into real ones")
    at = _source(e)
    given = [e.pair(value) if index == at else value for index, value in enumerate(args)]
    made: Pair = _parts(e, e.pair(z), *given, **kwargs)
    return made


EXACT = frozenset(
    {
        *(
            _view_as_complex,
            _view_as_real,
            _view_dtype,
            _size,
            _complex,
            _real,
            _imag,
            _conj,
            _neg,
            _itself,
            _to,
            _full,
            _zeros,
        ),
        *(_ones, _parts, _adjoint, _where, _where_number, _masked_fill, _pad_constant, _pad, _scatter),
    }
)
"""Rules that only move, negate or take numbers: infinities and NaN stay where torch has them."""


def _source(e: Emitter) -> int:
    """Where an op's source is among its arguments behind the first."""
    names = [argument.name for argument in e.node.target._schema.arguments]  # type: ignore[union-attr]
    return next(index for index, name in enumerate(names) if name in ("src", "source", "values")) - 1

"""Complex values as pairs of real ones, and what rules write pairs with."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from trtcore.pack import insert_call, insert_constant
from trtcore_converters.passes._graph import same_sizes, tensor_of

aten = torch.ops.aten

REAL = {
    torch.complex32: torch.float16,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}
"""The dtype of the two parts of a complex number."""


@dataclass(frozen=True)
class Pair:
    """A complex value.

    Attributes:
        re, im: its parts, of one shape and dtype: nodes, or both numbers.
    """

    re: Any
    im: Any


class Declined(Exception):
    """A rule cannot write a call as pairs; the text says why, as a user reads it."""


class Emitter:
    """Puts calls in front of a node.

    Args:
        node: the call of complex values that is written as pairs.
        known: the constants whose values may be relied on.
        made: takes every node that is put in.

    Attributes:
        value: what the node gives (a FakeTensor, or a list of them).
        dtype: of the parts of the result, or of the first complex argument where the result is real.
    """

    def __init__(self, node: fx.Node, known: Mapping[fx.Node, torch.Tensor], made: list[fx.Node]) -> None:
        self.node, self._known, self._made = node, known, made
        self.value: Any = node.meta.get("val")
        tensors = [self.value, *(source.meta.get("val") for source in node.all_input_nodes)]
        floats = [
            t.dtype for item in tensors for t in _tensors(item) if t.is_floating_point() or t.dtype in REAL
        ]
        complexes = [REAL[dtype] for dtype in floats if dtype in REAL]
        self.dtype = (*complexes, *floats, torch.float32)[0]

    def __call__(self, op: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A call of an op on nodes and plain values."""
        made = insert_call(self.node, op, args, kwargs)
        self._made.append(made)
        return made

    def constant(self, value: torch.Tensor) -> fx.Node:
        """A constant, of the dtype that it comes in."""
        owner = self.node.graph.owning_module
        assert owner is not None
        made = insert_constant(owner, self.node, value)
        self._made.append(made)
        return made

    def known(self, node: Any) -> torch.Tensor | None:
        """The tensor behind a constant; None for anything else."""
        return self._known.get(node) if isinstance(node, fx.Node) else None

    # -- arithmetic, on nodes and numbers --

    def add(self, a: Any, b: Any) -> Any:
        """``a + b``"""
        return self._binary(aten.add.Tensor, operator.add, a, b)

    def sub(self, a: Any, b: Any) -> Any:
        """``a - b``"""
        if isinstance(b, fx.Node) and not isinstance(a, fx.Node):
            return self(aten.rsub.Scalar, b, a)
        return self._binary(aten.sub.Tensor, operator.sub, a, b)

    def mul(self, a: Any, b: Any) -> Any:
        """``a * b``"""
        return self._binary(aten.mul.Tensor, operator.mul, a, b)

    def div(self, a: Any, b: Any) -> Any:
        """``a / b``"""
        if isinstance(b, fx.Node) and not isinstance(a, fx.Node):
            return self.mul(self(aten.reciprocal.default, b), a)
        return self._binary(aten.div.Tensor, operator.truediv, a, b)

    def neg(self, a: Any) -> Any:
        """``-a``"""
        return self(aten.neg.default, a) if isinstance(a, fx.Node) else -a

    def unary(self, op: Any, number: Callable[[float], float], a: Any) -> Any:
        """An op of one argument, or the same of a number."""
        return self(op, a) if isinstance(a, fx.Node) else number(a)

    def _binary(self, op: Any, number: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
        if isinstance(a, fx.Node):
            return self(op, a, b)
        return self(op, b, a) if isinstance(b, fx.Node) else number(a, b)

    # -- pairs --

    def pair(self, value: Any) -> Pair:
        """A pair, a real tensor or a number as a pair of parts in the dtype of the result."""
        if isinstance(value, Pair):
            return Pair(self.cast(value.re), self.cast(value.im))
        if isinstance(value, fx.Node):
            if tensor_of(value) is None:
                raise Declined("a number that is computed from sizes meets complex numbers")
            real = self.cast(value)
            return Pair(real, self(aten.zeros_like.default, real))
        return Pair(float(complex(value).real), float(complex(value).imag))

    def cast(self, value: Any, dtype: torch.dtype | None = None) -> Any:
        """A tensor in the dtype of the parts, or in another."""
        tensor, wanted = tensor_of(value), dtype or self.dtype
        if tensor is None or tensor.dtype == wanted:
            return value
        return self(aten._to_copy.default, value, dtype=wanted)

    def filled(self, value: Any, like: fx.Node) -> Any:
        """A part as a tensor: itself, or a tensor that is full of the number."""
        if isinstance(value, fx.Node):
            return value
        return self(aten.full_like.default, like, value)

    def like(self, pair: Pair) -> Pair:
        """A pair whose parts have the shape of the result: an operand of two numbers, or a broadcast one."""
        parts = [pair.re, pair.im]
        tensor = next((part for part in parts if isinstance(part, fx.Node)), None)
        if tensor is None:
            raise Declined("only numbers")
        re, im = (self.filled(part, tensor) for part in parts)
        shapes = [tensor_of(part).shape for part in (re, im)]  # type: ignore[union-attr]
        if same_sizes(*shapes):
            return Pair(re, im)
        zero = [self(aten.zeros_like.default, part) for part in (im, re)]
        return Pair(self.add(re, zero[0]), self.add(im, zero[1]))

    def abs(self, pair: Pair) -> Any:
        """The absolute values."""
        if not isinstance(pair.re, fx.Node):
            return math.hypot(pair.re, pair.im)
        return self(aten.hypot.default, pair.re, pair.im)

    def angle(self, pair: Pair) -> Any:
        """The angles, in (-pi, pi]."""
        return self(aten.atan2.default, pair.im, pair.re)

    def polar(self, radius: Any, angle: Any) -> Pair:
        """The pair of an absolute value and an angle."""
        cosines, sines = self(aten.cos.default, angle), self(aten.sin.default, angle)
        return Pair(self.mul(cosines, radius), self.mul(sines, radius))

    def product(self, a: Pair, b: Pair) -> Pair:
        """``a * b``"""
        return Pair(
            self.sub(self.mul(a.re, b.re), self.mul(a.im, b.im)),
            self.add(self.mul(a.re, b.im), self.mul(a.im, b.re)),
        )

    def inverse(self, a: Pair) -> Pair:
        """``1 / a``, scaled so that no square of a part leaves the range of the dtype."""
        if not isinstance(a.re, fx.Node):
            whole = 1 / complex(a.re, a.im)
            return Pair(whole.real, whole.imag)
        scale = self(aten.maximum.default, self(aten.abs.default, a.re), self(aten.abs.default, a.im))
        re, im = self.div(a.re, scale), self.div(a.im, scale)
        square = self.add(self.mul(re, re), self.mul(im, im))
        size = self.mul(square, scale)
        return Pair(self.div(re, size), self.neg(self.div(im, size)))

    def stacked(self, pair: Pair) -> fx.Node:
        """The parts as ``view_as_real`` has them: in a last dim of two."""
        return self(aten.stack.default, [pair.re, pair.im], -1)


def _tensors(value: Any) -> list[torch.Tensor]:
    items = value if isinstance(value, (list, tuple)) else [value]
    return [item for item in items if isinstance(item, torch.Tensor)]


def is_complex(value: Any) -> bool:
    """Whether a node's value is a complex tensor, or has some."""
    found = value.meta.get("val") if isinstance(value, fx.Node) else None
    return any(tensor.is_complex() for tensor in _tensors(found))

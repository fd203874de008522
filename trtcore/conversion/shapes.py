"""Shapes that are known only at run time, as TensorRT's shape arithmetic.

Symbolic ints reach converters as int64 ITensors of shape (1,); ints known now are Python ints. Every
helper that takes dims takes lists that mix the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from trtcore.conversion.shape_tensors import build_expression
from trtcore.conversion.tensors import Dim, ITensor, NetworkTensors, Operand
from trtcore.conversion.weights import WeightStore
from trtcore.errors import ConversionError

if TYPE_CHECKING:
    import sympy

    from trtcore.context import CompileContext

_FOLD: Mapping[str, Callable[[int, int], int]] = {
    "SUM": lambda a, b: a + b,
    "SUB": lambda a, b: a - b,
    "PROD": lambda a, b: a * b,
    "FLOOR_DIV": lambda a, b: a // b,
    "DIV": lambda a, b: int(a / b),
    "MAX": max,
    "MIN": min,
}


class NetworkShapes(NetworkTensors):
    """A network's tensors, and arithmetic on their dims."""

    def __init__(self, compile_context: CompileContext, net: Any, store: WeightStore) -> None:
        super().__init__(compile_context, net, store)
        self._traced: dict[ITensor, tuple[sympy.Expr | int, ...]] = {}
        self._shape_tensors: dict[ITensor, ITensor] = {}
        self._shape_vectors: dict[tuple[Dim, ...], ITensor] = {}
        self._dims: dict[tuple[ITensor, int], Dim] = {}
        self._symbols: dict[str, Dim | Callable[[], Dim]] = {}
        self._expressions: dict[sympy.Expr, Dim] = {}

    def know(self, x: ITensor, dims: Sequence[sympy.Expr | int]) -> None:
        """Remember the traced dims of an op's output (called by the interpreter).

        :meth:`dim` then computes the dim from the segment's inputs, once per network, and not from `x`.
        The inputs themselves are where symbols come from, also where an op hands one on.
        """
        if x.is_network_input:
            return
        if self._traced.setdefault(x, tuple(dims)) and -1 in (own := self.shape(x)):
            self._shapes[x] = tuple(t if isinstance(t, int) else have for t, have in zip(dims, own))

    def shape_of(self, x: ITensor) -> ITensor:
        """The shape of `x` as an int64 ITensor of shape (rank,)."""
        found = self._shape_tensors.get(x)
        if found is None:
            dims = self.shape(x)
            if -1 not in dims:
                return (
                    self.constant(list(dims), torch.int64)
                    if dims
                    else self.constant(torch.empty(0, dtype=torch.int64))
                )
            found = self._shape_tensors[x] = self.cast(self.output(self.net.add_shape(x)), torch.int64)
        return found

    def dim(self, x: Operand, index: int) -> Dim:
        """Dim `index` of `x`: an int if known now, else an int64 ITensor of shape (1,)."""
        dims = self.shape(x)
        index = self.axis(index, len(dims))
        if dims[index] != -1 or isinstance(x, torch.Tensor):
            return dims[index]
        if x in self._traced:
            try:
                return self.symbolic(self._traced[x][index])
            except ConversionError:  # the size depends on data: ask the tensor
                pass
        key = (x, index)
        if key not in self._dims:
            layer = self.net.add_slice(self.shape_of(x), (index,), (1,), (1,))
            self._dims[key] = self.output(layer)
        return self._dims[key]

    def dims_of(self, x: Operand) -> list[Dim]:
        """All dims of `x`, as :meth:`dim` gives them."""
        return [self.dim(x, index) for index in range(self.rank(x))]

    def dims(self, values: Sequence[Dim]) -> tuple[int, ...] | ITensor:
        """A tuple of ints where all are known now, else one int64 ITensor of shape (len,)."""
        known = [int(value) for value in values if not self.is_tensor(value)]
        return tuple(known) if len(known) == len(values) else self.shape_tensor(values)

    def shape_tensor(self, values: Sequence[Dim]) -> ITensor:
        """One int64 ITensor of shape (len,) from ints and symbolic ints."""
        if not values:
            return self.constant(torch.empty(0, dtype=torch.int64))
        key = tuple(values)
        if key in self._shape_vectors:
            return self._shape_vectors[key]
        parts: list[ITensor] = []
        run: list[int] = []
        for value in [*values, None]:
            if value is not None and not self.is_tensor(value):
                run.append(int(value))
                continue
            if run:
                parts.append(self.constant(run, torch.int64))
                run = []
            if value is not None:
                parts.append(self.cast(value, torch.int64))
        made = self._shape_vectors[key] = parts[0] if len(parts) == 1 else self.concat(parts, 0)
        return made

    def scalar(self, value: Dim | float, dtype: torch.dtype | None = None) -> ITensor:
        """A 0-d ITensor from a number or a symbolic int."""
        if not self.is_tensor(value):
            return self.constant(value, dtype)
        if self.rank(value):
            layer = self.net.add_shuffle(value)
            layer.reshape_dims = ()
            value = self.output(layer)
        return value if dtype is None else self.cast(value, dtype)

    def dim_op(self, a: Dim, b: Dim, operation: str) -> Dim:
        """Integer arithmetic on dims: SUM, SUB, PROD, FLOOR_DIV, DIV, MAX, MIN. Ints are folded."""
        if not self.is_tensor(a) and not self.is_tensor(b):
            return _FOLD[operation](a, b)
        a, b = (v if self.is_tensor(v) else self.constant([v], torch.int64) for v in (a, b))
        return self.output(self.net.add_elementwise(a, b, self._member("ElementWiseOperation", operation)))

    def dim_product(self, values: Sequence[Dim]) -> Dim:
        """The product of dims; 1 for none."""
        known = math.prod(value for value in values if not self.is_tensor(value))
        result: Dim = known
        for value in values:
            if self.is_tensor(value):
                result = (
                    value
                    if not self.is_tensor(result) and result == 1
                    else self.dim_op(result, value, "PROD")
                )
        return result

    def concat(self, values: Sequence[ITensor], axis: int) -> ITensor:
        """The tensors one after the other along `axis`."""
        if len(values) == 1:
            return values[0]
        layer = self.net.add_concatenation(list(values))
        layer.axis = self.axis(axis, self.rank(values[0]))
        return self.output(layer)

    # ---- symbolic ints ----------------------------------------------------------------------------

    def bind_symbol(self, name: str, make: Callable[[], Dim]) -> None:
        """Say how to get a symbol of the traced shapes in this network (called by the interpreter).

        `make` is called when the symbol is first used, so that unused ones add no layers.
        """
        self._symbols.setdefault(name, make)

    def symbol(self, name: str) -> Dim:
        """A symbol as an int64 ITensor of shape (1,). Raises ConversionError where nothing binds it."""
        if name not in self._symbols:
            raise ConversionError(f"the size {name} depends on data: it is no shape of this segment's inputs")
        value = self._symbols[name]
        if callable(value):
            value = self._symbols[name] = value()
        return value

    def symbolic(self, expression: sympy.Expr | int) -> Dim:
        """A shape expression as an int or an int64 ITensor of shape (1,)."""
        return build_expression(expression, self.symbol, self.dim_op, self._expressions)

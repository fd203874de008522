"""One launch of a program's kernel for all sizes: what a TensorRT plugin needs, planned before any size is known.

`trtcore_plugins.codegen.plan` decides with numbers. Here it decides with `Hinted` ones: ints, large primes for sizes
that vary, that remember how they came from the inputs' sizes. What the planner computes with them (grid and arguments)
is then known for all sizes; what it concludes from them (which axes merge, which strides are multiples of 8) holds for
all sizes, because inputs and outputs are contiguous and the primes divide nothing else.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch

from trtcore_plugins.codegen.calls import OMITTED
from trtcore_plugins.codegen.geometry import Axis
from trtcore_plugins.codegen.plan import (
    Blocks,
    Launch,
    Planner,
    column_blocks,
    loop_blocks,
    power_of_two,
    row_blocks,
)
from trtcore_plugins.codegen.program import Program, evaluate_all
from trtcore_plugins.codegen.rules import Unsupported
from trtcore_plugins.expressions import INTEGERS, lower
from trtcore_plugins.torch_private import floor_divide
from trtcore_plugins.tracing import TensorSpec, symbol_name

_FAR = (1 << 31) - (1 << 20)
_MULTIPROCESSORS = 132
_LONG_ROW = 1 << 16
_PRIMES = (1009, 1013, 1019, 1021, 1031, 1033, 1039, 1049, 1051, 1061, 1063, 1069, 1087, 1091, 1093, 1097)


class Hinted(int):
    """An int that knows the expression it is the value of.

    Attributes:
        expression: over the symbols of `trtcore_plugins.tracing.symbol_name`.
    """

    expression: sympy.Expr

    def __new__(cls, hint: int, expression: Any) -> Hinted:
        made = super().__new__(cls, hint)
        made.expression = sympy.sympify(expression)
        return made

    def __mul__(self, other: Any) -> Any:
        return Hinted(int(self) * int(other), self.expression * expression_of(other))

    def __add__(self, other: Any) -> Any:
        return Hinted(int(self) + int(other), self.expression + expression_of(other))

    def __sub__(self, other: Any) -> Any:
        return Hinted(int(self) - int(other), self.expression - expression_of(other))

    def __neg__(self) -> Any:
        return Hinted(-int(self), -self.expression)

    def __floordiv__(self, other: Any) -> Any:
        return Hinted(int(self) // int(other), floor_divide(self.expression, expression_of(other)))

    __rmul__ = __mul__
    __radd__ = __add__


def expression_of(number: int) -> sympy.Expr:
    """The expression of a `Hinted`, or the number."""
    return number.expression if isinstance(number, Hinted) else sympy.Integer(int(number))


@dataclass(frozen=True)
class SymbolicLaunch:
    """The one kernel of a program, for all sizes.

    Attributes:
        launch: kernel and blocks; in grid and arguments what depends on sizes is `Hinted`.
        shapes: per output its dims, ints or `Hinted`.
    """

    launch: Launch
    shapes: tuple[tuple[int, ...], ...]


def plan_symbolic(
    program: Program, specs: Sequence[TensorSpec], bounds: Mapping[str, int | None]
) -> SymbolicLaunch:
    """Plan one launch for contiguous inputs.

    Args:
        specs: the inputs; None for dims that vary.
        bounds: the largest size of each dim that varies, by symbol; None (or absent) where there is no limit.

    Raises:
        Unsupported: one kernel cannot do it, or not well; says why.
    """
    if program.sizes:
        raise Unsupported("a size of the graph is an operand, and a plugin's attributes are fixed")
    primes = iter(_PRIMES)
    shapes = [_hinted(at, spec, primes) for at, spec in enumerate(specs)]
    axes, outputs = _axes(program, shapes)
    planner = _OneKernel(program, axes, bounds)
    return SymbolicLaunch(planner.launch(), outputs)


def _hinted(tensor: int, spec: TensorSpec, primes: Iterator[int]) -> tuple[int, ...]:
    try:
        return tuple(
            size if size is not None else Hinted(next(primes), _symbol(tensor, dim))
            for dim, size in enumerate(spec.shape)
        )
    except StopIteration:
        raise Unsupported(f"more than {len(_PRIMES)} dims that vary") from None


def _symbol(tensor: int, dim: int) -> sympy.Symbol:
    return sympy.Symbol(symbol_name(tensor, dim), integer=True, nonnegative=True)


def _axes(
    program: Program, shapes: Sequence[tuple[int, ...]]
) -> tuple[list[Axis], tuple[tuple[int, ...], ...]]:
    """The domain's axes with the strides of contiguous operands, and the outputs' shapes."""
    sizes: list[int | None] = [None] * program.rank
    for spec, shape in zip(program.inputs, shapes):
        for axis, size in zip(spec.axes, shape):
            if axis != OMITTED and (sizes[axis] is None or not isinstance(size, Hinted)):
                sizes[axis] = size
    if None in sizes:  # made by the program itself, by an expand or a full: of a size that it has as a number
        stand_ins = [
            torch.empty(
                [1 if axis == OMITTED else int(sizes[axis]) for axis in spec.axes],  # type: ignore[arg-type]
                dtype=spec.dtype,
                device="meta",
            )
            for spec in program.inputs
        ]
        for spec, value in zip(program.specs, evaluate_all(program, stand_ins)):
            for axis, size in zip(spec.axes, value.shape):
                if axis != OMITTED and sizes[axis] is None:
                    sizes[axis] = int(size)
    known = [1 if size is None else size for size in sizes]
    made = [program.specs[number] for number in program.outputs]
    outputs = tuple(tuple(1 if axis == OMITTED else known[axis] for axis in spec.axes) for spec in made)
    strides = [[0] * (len(shapes) + len(outputs)) for _ in known]
    for operand, spec in enumerate((*program.inputs, *made)):
        stride = 1
        for axis in reversed(spec.axes):
            if axis != OMITTED:
                strides[axis][operand] = stride
                stride = known[axis] * stride
    return [Axis(size, tuple(along)) for size, along in zip(known, strides)], outputs


class _OneKernel(Planner):
    """Plans without cutting rows into pieces, which would take several kernels."""

    divides_by_sizes = True

    def __init__(self, program: Program, axes: Sequence[Axis], bounds: Mapping[str, int | None]) -> None:
        super().__init__(program, axes, (), _MULTIPROCESSORS)
        self.bounds = bounds
        reach = [
            self._at_most(sum(((axis.size - 1) * axis.strides[operand] for axis in axes), 0))
            for operand in range(self.operands)
        ]
        every = self._at_most(math.prod([self.rows.size, self.columns.size]))
        limits = [*reach, every]
        if any(one is not None and one >= 1 << 31 for one in limits):
            raise Unsupported("more than 2^31 elements: a plugin's sizes are 32-bit ints")
        self.wide = any(one is None or one >= _FAR for one in limits)

    def _at_most(self, number: int) -> int | None:
        """The largest value of a number in range; None where there is no limit."""
        expression = expression_of(number)
        values = {str(symbol): self.bounds.get(str(symbol)) for symbol in expression.free_symbols}
        if any(value is None for value in values.values()):
            return None
        return int(lower(expression, values, INTEGERS))

    def launch(self) -> Launch:
        rows, columns = self.rows.size, self.columns.size
        if not self.program.reduced:
            return self._pointwise()
        fixed = not isinstance(columns, Hinted)
        if fixed and self._columns_are_inner() and columns <= self._largest_tile():
            return self._launch(
                "tile",
                tile := row_blocks(rows, columns, self._bytes_of_wholes(), self.multiprocessors),
                -(-rows // tile.rows),
            )
        if fixed and not self._columns_are_inner() and columns <= 16:
            across = power_of_two(columns)
            blocks = Blocks(max(1, min(1024 // across, power_of_two(rows))), across, 4)
            return self._launch("tile", blocks, -(-rows // blocks.rows))
        if self._columns_are_inner():
            blocks = self._along_rows(rows, columns)
        else:
            blocks = column_blocks(rows, columns, self._bytes())
        few = not isinstance(rows, Hinted) and -(-rows // blocks.rows) < _MULTIPROCESSORS // 2
        if few and fixed and columns >= _LONG_ROW:
            raise Unsupported("few, long rows take several kernels, and a plugin has one")
        return self._launch("loop", blocks, -(-rows // blocks.rows))

    def _along_rows(self, rows: int, columns: int) -> Blocks:
        """The tile of a loop along rows; of several rows where they are known to be short."""
        usual = loop_blocks(self._bytes(), columns, self._reads_again())
        most = self._at_most(columns)
        if most is None or power_of_two(most) >= usual.columns:
            return usual
        across = max(16, power_of_two(most))
        down = min(power_of_two(rows), max(1, 2048 // across))
        return Blocks(down, across, max(1, min(8, down * across // 512)))


def evaluated(number: int, shapes: Sequence[Sequence[Any]]) -> Any:
    """A number of a plan for inputs of these shapes: of ints, or of symbolic ints."""
    if not isinstance(number, Hinted):
        return number
    symbols = {symbol_name(i, d): size for i, shape in enumerate(shapes) for d, size in enumerate(shape)}
    return lower(number.expression, symbols, INTEGERS)


def asking(names: Sequence[str], function: Callable[[list[Any]], Any]) -> Callable[..., Any]:
    """A function of the inputs' shapes as a function of the inputs, whose parameters are `names`."""

    def of_tensors(*tensors: torch.Tensor) -> Any:
        return function([tensor.shape for tensor in tensors])

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in names]
    of_tensors.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return of_tensors

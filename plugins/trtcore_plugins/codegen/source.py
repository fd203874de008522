"""Writing a kernel's source: a scalar program, looped over a domain.

Every kernel works on tiles of Y rows and X columns. In a program with reductions the columns are the reduced axes
and the rows the others; in a pointwise program the split is only a matter of memory order. How many rows and
columns there are, and all strides but those that are 0 or 1, are arguments of the kernel.

Forms:
    tile     one tile per program; with reductions, the whole row is in the tile
    loop     one tile of rows per program, columns in a loop, once per level of reductions and once for the results
    partial  the reductions of one level over one piece of the columns, into a workspace
    combine  the pieces of a level into one number per row
    apply    everything that is left once the reductions are known
The last three are for few, long rows: several kernels, so that all multiprocessors have work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import torch

from trtcore_plugins.codegen.builder import HALF, Builder, Value, held, triton_name
from trtcore_plugins.codegen.program import OMITTED, Program
from trtcore_plugins.codegen.rules import lower, resolve_op

ZERO, ONE, GIVEN, FLAT_ONE, FLAT_GIVEN = "0", "1", "s", "f1", "fs"
GIVEN_TIMES = {4: "s4", 8: "s8"}
"""How an operand moves along an axis: not at all, by one element, by a stride that is an argument (or 4 or 8 times
it, so that rows are known to be aligned); or along all axes of a side at once, because it is contiguous there."""

EVERYWHERE = "tl.full((1, 1), True, tl.int1)"
"""The mask of what is always there."""

Pattern = tuple[str, ...]


@dataclass(frozen=True)
class Shape:
    """What a kernel is specialised on, apart from dtypes and block sizes.

    Attributes:
        form: "tile", "loop", "partial", "combine" or "apply".
        level: of the reductions that "partial" and "combine" work on.
        row_axes, column_axes: how many axes each side has.
        operands: per input and output, how it moves along the rows' and the columns' axes.
        last: whether "combine" is the last kernel, and writes the results.
        wide: whether indices need 64 bits.
        multiples: what the numbers of rows and columns are known to be multiples of (1, 4 or 8; of 16 Triton takes note
            itself), so that their ends do not break up wide loads.
        group: neighbours along the columns that one thread loads at once; "loop" and "partial" may take them together.
        divides: whether coordinates are found by dividing, and not by multiplying with numbers made for the sizes.
    """

    form: str
    row_axes: int
    column_axes: int
    operands: tuple[tuple[Pattern, Pattern], ...]
    level: int = 0
    last: bool = False
    wide: bool = False
    multiples: tuple[int, int] = (1, 1)
    group: int = 1
    divides: bool = False


@dataclass(frozen=True)
class Kernel:
    """A kernel's source and what it takes, in order.

    Parameters are named: ``in_0``, ``out_0``, ``work_0`` (pointers), ``n_y``, ``n_x``, ``n_r``, ``rows_1``,
    ``columns_1`` (sizes of all axes of a side but the first; with ``_magic`` and ``_shift`` to divide by them),
    ``in_0_row_1`` (strides), ``size_0``, ``pieces``,
    ``piece`` (ints); then the constants Y, X, INDEX.
    """

    name: str
    source: str
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Scalars:
    """A program lowered to scalars: all values in order, and those of the outputs.

    `totals` are the sums of ``exp(x - max(x))`` that are taken in the same pass as their maximum: name of the
    maximum -> (the sum, its exponential's name). They are of the maximum's level.
    """

    values: tuple[Value, ...]
    outputs: tuple[Value, ...]
    totals: dict[str, tuple[Value, str]] = field(default_factory=dict, hash=False, compare=False)

    @cached_property
    def peaks(self) -> dict[str, Value]:
        """Name of a sum in `totals` -> its maximum."""
        named = {value.name: value for value in self.values}
        return {total.name: named[peak] for peak, (total, _) in self.totals.items()}

    @property
    def levels(self) -> int:
        """How many passes of reductions depend on one another."""
        return max((value.level for value in self.values), default=0)

    def reductions(self, level: int) -> list[Value]:
        return [value for value in self.values if value.reduce and value.level == level]


@lru_cache(maxsize=1024)
def scalars(program: Program) -> Scalars:
    """Lower a program to scalars.

    Raises:
        Unsupported: a call that the tables have no rule for.
    """
    b = Builder()
    values = [
        b.load(number, spec.dtype, any(axis in program.reduced for axis in spec.axes))
        for number, spec in enumerate(program.inputs)
    ]
    for call in program.calls:
        values.extend(lower(b, call, resolve_op(call.op), values, program.specs))
    totals = _totals(b.values)
    levelled = _levelled(b.values, {total.name for total, _ in totals.values()})
    named = {value.name: value for value in levelled}
    return Scalars(
        tuple(levelled),
        tuple(values[number] for number in program.outputs),
        {peak: (named[total.name], function) for peak, (total, function) in totals.items()},
    )


def _totals(values: Sequence[Value]) -> dict[str, tuple[Value, str]]:
    """The sums of exponentials, relative to a maximum of the same numbers: see `Scalars.totals`."""
    found: dict[str, tuple[Value, str]] = {}
    for value in values:
        if value.reduce != "sum" or len(value.args[0].args) != 1:
            continue
        power = value.args[0]
        (shifted,) = power.args
        function = {f"f.exp({shifted.name})": "exp", f"f.fast_exp({shifted.name})": "fast_exp"}.get(
            power.text
        )
        if function is None or len(shifted.args) != 2 or not shifted.floating:
            continue
        x, peak = shifted.args
        if shifted.text != f"{x.name} - {peak.name}" or peak.reduce != "max" or peak.args[0].name != x.name:
            continue
        found.setdefault(peak.name, (value, function))
    return found


def _levelled(values: Sequence[Value], with_their_maximum: set[str]) -> list[Value]:
    """The values with the levels they have where some sums need no pass of their own."""
    levels: dict[str, int] = {}
    for value in values:
        behind = max((levels[one.name] for one in value.args), default=0)
        adds = bool(value.reduce) and value.name not in with_their_maximum
        levels[value.name] = behind + adds
    return [replace(value, level=levels[value.name]) for value in values]


@lru_cache(maxsize=4096)
def write_kernel(program: Program, shape: Shape) -> Kernel:
    """The source of a kernel for a program and a shape."""
    return _Writer(program, shape).kernel()


def partials(reduction: Value) -> tuple[tuple[str, torch.dtype], ...]:
    """What is kept of a reduction between kernels: suffix and dtype."""
    if reduction.reduce.startswith("arg"):
        return (("", reduction.args[0].dtype), ("_at", torch.int64))
    return (("", reduction.dtype),)


@dataclass
class _Writer:
    program: Program
    shape: Shape
    lines: list[str] = field(default_factory=list)
    indent: int = 1
    written: set[str] = field(default_factory=set)
    whole: bool = False  # inside a loop over whole tiles

    def __post_init__(self) -> None:
        self.scalars = scalars(self.program)
        self.inputs = len(self.program.inputs)
        self.pointwise = not self.program.reduced
        tile = self.shape.form == "tile"  # which has the whole row, and its maximum before the sum
        self.totals = {} if tile else self.scalars.totals
        self.peaks = {} if tile else self.scalars.peaks

    def kernel(self) -> Kernel:
        body = {
            "tile": self._tile, "loop": self._loop, "partial": self._partial,
            "combine": self._combine, "apply": self._apply,
        }[self.shape.form]  # fmt: skip
        body()
        text = "\n".join(self.lines)
        for name, multiple in zip(("n_y", "n_x"), self.shape.multiples):
            if multiple > 1 and _mentions(text, name):
                text = f"    {name} = {name}_by_{multiple} * {multiple}\n{text}"
        assigned = {f"{name}" for name, one in zip(("n_y", "n_x"), self.shape.multiples) if one > 1}
        used = [one for one in self._all_parameters() if one not in assigned and _mentions(text, one)]
        name = self.program.name if self.shape.form == "tile" else f"{self.program.name}_{self.shape.form}"
        head = (
            f"def {name}({', '.join([*used, 'Y: tl.constexpr', 'X: tl.constexpr', 'INDEX: tl.constexpr'])}):"
        )
        return Kernel(name, f"@jit\n{head}\n{text}\n", tuple(used))

    def _all_parameters(self) -> Iterator[str]:
        yield from (f"in_{i}" for i in range(self.inputs))
        yield from (f"out_{i}" for i in range(len(self.program.outputs)))
        for level in range(1, self.scalars.levels + 1):
            for reduction in self.scalars.reductions(level):
                for suffix, _ in partials(reduction):
                    yield from (f"{kind}_{reduction.name}{suffix}" for kind in ("work", "row"))
        yield from ("n_y", "n_x", "n_r", "pieces", "piece", "across")
        yield from (f"{name}_by_{multiple}" for name in ("n_y", "n_x") for multiple in (4, 8))
        for side, axes in (("rows", self.shape.row_axes), ("columns", self.shape.column_axes)):
            for axis in range(1, axes):
                yield from (f"{side}_{axis}{suffix}" for suffix in ("", "_magic", "_shift"))
        for operand in range(len(self.shape.operands)):
            name = self._operand_name(operand)
            yield from (f"{name}_row_{axis}" for axis in range(max(1, self.shape.row_axes)))
            yield from (f"{name}_column_{axis}" for axis in range(max(1, self.shape.column_axes)))
        yield from (f"size_{i}" for i in range(self.program.sizes))

    # -- forms ----------------------------------------------------------------------------------------------

    def _tile(self) -> None:
        self._say("program = tl.program_id(0).to(INDEX)")
        if self.pointwise and self.shape.row_axes:
            self._rows("program // across")
            self._columns("(program % across) * X")
        elif self.pointwise:
            self._rows(None)
            self._columns("program * X")
        else:
            self._rows("program")
            self._columns(None)
        for value in self.scalars.values:
            if value.reduce:
                self._reduce_tile(value)
            else:
                self._assign(value)
        for number, value in enumerate(self.scalars.outputs):
            self._store(number, value)

    def _loop(self) -> None:
        self._say("program = tl.program_id(0).to(INDEX)")
        self._rows("program")
        for level in range(1, self.scalars.levels + 1):
            self._row_values(level - 1)
            self._pass(level, "0", "n_x")
            for reduction in self.scalars.reductions(level):
                self._finish(reduction)
        self._row_values(self.scalars.levels)
        self._store_rows()
        wide = [number for number in range(len(self.program.outputs)) if self._wide(number)]
        if wide:
            with_columns = [self.scalars.outputs[number] for number in wide]

            def store() -> None:
                for number in wide:
                    self._store(number, self.scalars.outputs[number])

            self._each_tile("0", "n_x", with_columns, store, backwards=True)

    def _partial(self) -> None:
        self._say("program = tl.program_id(0).to(INDEX)")
        self._rows("program // pieces")
        self._say("part = program % pieces")
        self._say("first = part * piece")
        self._say("last = tl.minimum(first + piece, n_x)")
        self._known_rows(self.shape.level - 1)
        self._pass(self.shape.level, "first", "last")
        for reduction in self.scalars.reductions(self.shape.level):
            self._finish(reduction, partial=True)
            for suffix, _ in partials(reduction):
                target = f"work_{reduction.name}{suffix} + (part * n_y + y)"
                self._say(f"tl.store({target}, {reduction.name}{suffix}_part, mask=y_mask)")

    def _combine(self) -> None:
        self._say("program = tl.program_id(0).to(INDEX)")
        self._rows("program")
        self._say("part = tl.arange(0, X)[None, :].to(INDEX)")
        self._say("mask = (part < pieces) & y_mask")
        if self.shape.last:
            self._known_rows(self.shape.level - 1)
        for reduction in self.scalars.reductions(self.shape.level):
            name = reduction.name
            for suffix, _ in partials(reduction):
                load = f"tl.load(work_{name}{suffix} + (part * n_y + y), mask=mask, other=0)"
                self._say(f"{name}{suffix}_acc = {load}")
            self._say(f"{name}_acc = tl.where(mask, {name}_acc, {self._neutral(reduction)})")
            if reduction.reduce.startswith("arg"):
                self._say(f"{name}_at_acc = tl.where(mask, {name}_at_acc, n_r)")
            self._finish(reduction, partial=not self.shape.last)
            for suffix, _ in partials(reduction) if not self.shape.last else ():
                self._say(f"tl.store(row_{name}{suffix} + y, {name}{suffix}_part, mask=y_mask)")
        if self.shape.last:
            self._row_values(self.shape.level)
            self._store_rows()

    def _apply(self) -> None:
        self._say("program = tl.program_id(0).to(INDEX)")
        self._rows("program // across")
        self._known_rows(self.scalars.levels)
        self._say("first = (program % across) * X")
        self._store_rows(only_first=True)
        wide = [number for number in range(len(self.program.outputs)) if self._wide(number)]
        if wide:
            self._columns("first")
            self._closure([self.scalars.outputs[number] for number in wide])
            for number in wide:
                self._store(number, self.scalars.outputs[number])

    # -- parts ----------------------------------------------------------------------------------------------

    def _say(self, line: str) -> None:
        self.lines.append("    " * self.indent + line)

    def _rows(self, block: str | None) -> None:
        """y, its mask, and the coordinates along the rows' axes."""
        if block is None:
            self._say(f"y_mask = {EVERYWHERE}")
            return
        self._say(f"y = ({block}) * Y + tl.arange(0, Y)[:, None].to(INDEX)")
        self._say("y_mask = y < n_y")
        self._coordinates("y", "rows", self.shape.row_axes)

    def _columns(self, start: str | None) -> None:
        """x, its mask, the tile's mask, and the coordinates along the columns' axes."""
        arange = "tl.arange(0, X)[None, :].to(INDEX)"
        self._say(f"x = {arange}" if start is None else f"x = {start} + {arange}")
        if self.whole:
            self._say("mask = y_mask")
        else:
            self._say("x_mask = x < n_x")
            self._say("mask = x_mask & y_mask")
        self._coordinates("x", "columns", self.shape.column_axes)

    def _coordinates(self, index: str, side: str, axes: int) -> None:
        rest = index
        for axis in range(axes - 1, 0, -1):
            size, before = f"{side}_{axis}", f"{index}_before_{axis}"
            divided = (
                f"{rest} // {size}"
                if self.shape.wide or self.shape.divides
                else f"f.divide({rest}, {size}_magic, {size}_shift)"
            )
            self._say(f"{before} = {divided}")
            self._say(f"{index}_{axis} = {rest} - {before} * {size}")
            rest = before
        if axes:
            self._say(f"{index}_0 = {rest}")

    def _row_values(self, level: int) -> None:
        """Everything per row that needs no more than `level` reductions."""
        for value in self.scalars.values:
            if not value.columns and not value.reduce and value.level <= level:
                self._assign(value)

    def _known_rows(self, level: int) -> None:
        """The results of reductions up to a level, from memory, and what follows from them per row."""
        for value in self.scalars.values:
            if value.reduce and value.level <= level:
                suffix = "_at" if value.reduce.startswith("arg") else ""
                self._say(f"{value.name} = tl.load(row_{value.name}{suffix} + y, mask=y_mask, other=0)")
                self.written.add(value.name)
        self._row_values(level)

    def _pass(self, level: int, first: str, last: str) -> None:
        """Accumulate the reductions of a level over the columns from `first` to `last`."""
        every = self.scalars.reductions(level)
        for reduction in every:
            kind = triton_name(held(reduction.args[0].dtype))
            grouped = reduction.name in self.totals or reduction.name in self.peaks
            across = f"X // {self.shape.group}" if grouped and self.shape.group > 1 else "X"
            self._say(f"{reduction.name}_acc = tl.full((Y, {across}), {self._neutral(reduction)}, {kind})")
            if reduction.reduce.startswith("arg"):
                self._say(f"{reduction.name}_at_acc = tl.full((Y, X), 0, INDEX) + {first}")
        reductions = [one for one in every if one.name not in self.peaks]

        def accumulate() -> None:
            for reduction in reductions:
                self._accumulate(reduction)

        self._each_tile(first, last, [reduction.args[0] for reduction in reductions], accumulate)
        for reduction in reductions:
            if reduction.reduce.startswith("arg"):
                at = f"{reduction.name}_at_acc"
                self._say(f"{at} = {at} + tl.arange(0, X)[None, :].to(INDEX)")
                self._say(f"{at} = tl.where({at} < {last}, {at}, n_r)")

    def _each_tile(
        self,
        first: str,
        last: str,
        needed: Sequence[Value],
        body: Callable[[], object],
        *,
        backwards: bool = False,
    ) -> None:
        """Two loops: over the tiles that are whole, without masks along the columns, and over what is left.

        `backwards`, what was read last comes first: it is still in the cache.
        """
        self._say(f"whole = {first} + ({last} - {first}) // X * X")
        parts = [(first, "whole", True), ("whole", last, False)]
        for begin, end, whole in reversed(parts) if backwards else parts:
            reverse = backwards and whole
            self._say(f"for {'back' if reverse else 'start'} in range({begin}, {end}, X):")
            self.indent += 1
            if reverse:
                self._say(f"start = {begin} + {end} - X - back")
            outside, self.whole = set(self.written), whole
            self._columns("start")
            if last != "n_x" and not whole:
                self._say(f"mask = mask & (x < {last})")
            self._closure(needed)
            body()
            self.written, self.whole = outside, False
            self.indent -= 1

    def _closure(self, needed: Sequence[Value]) -> None:
        """Assign what `needed` depends on and is not there yet."""
        names: set[str] = set()
        pending = list(needed)
        while pending:
            value = pending.pop()
            if value.name not in names and value.name not in self.written:
                names.add(value.name)
                pending.extend(value.args)
        for value in self.scalars.values:
            if value.name in names:
                self._assign(value)

    def _assign(self, value: Value) -> None:
        if value.name in self.written:
            return
        self.written.add(value.name)
        text = value.text
        if value.operand is not None:
            text = self._load(value.operand)
        self._say(f"{value.name} = {text}")

    def _load(self, operand: int) -> str:
        offset, mask = self._address(operand)
        function = "load_half" if self.program.inputs[operand].dtype in HALF else "load"
        return f"f.{function}(in_{operand} + ({offset}), {mask})"

    def _store(self, output: int, value: Value) -> None:
        offset, _ = self._address(self.inputs + output)
        wide = self._wide(output)
        dtype = self.program.specs[self.program.outputs[output]].dtype
        function = f"store_{triton_name(dtype).removeprefix('tl.')}" if dtype in HALF else "store"
        shape = "(Y, X)" if wide else "(Y, 1)"
        self._say(
            f"f.{function}(out_{output} + tl.broadcast_to({offset}, {shape}), "
            f"tl.broadcast_to({value.name}, {shape}), {'mask' if wide else 'y_mask'})"
        )

    def _store_rows(self, only_first: bool = False) -> None:
        narrow = [number for number in range(len(self.program.outputs)) if not self._wide(number)]
        if narrow and only_first:
            self._say("y_all = y_mask")
            self._say("y_mask = y_mask & (y * 0 + first < 1)")
        for number in narrow:
            self._store(number, self.scalars.outputs[number])
        if narrow and only_first:
            self._say("y_mask = y_all")

    def _wide(self, output: int) -> bool:
        """Whether an output has the columns' axes."""
        axes = {axis for axis in self.program.specs[self.program.outputs[output]].axes if axis != OMITTED}
        return self.pointwise or bool(axes & {*self.program.reduced})

    def _operand_name(self, operand: int) -> str:
        return f"in_{operand}" if operand < self.inputs else f"out_{operand - self.inputs}"

    def _address(self, operand: int) -> tuple[str, str]:
        """An operand's offset, and the mask of the lanes that it has."""
        name = self._operand_name(operand)
        rows, columns = self.shape.operands[operand]
        by_row = _offset("y", f"{name}_row", rows)
        by_column = _offset("x", f"{name}_column", columns)
        mask = {
            (True, True): "mask", (True, False): "y_mask", (False, True): EVERYWHERE if self.whole else "x_mask",
            (False, False): EVERYWHERE,
        }[bool(by_row), bool(by_column)]  # fmt: skip
        return " + ".join(filter(None, (by_row, by_column))) or "tl.full((1, 1), 0, tl.int32)", mask

    # -- reductions -----------------------------------------------------------------------------------------

    def _neutral(self, reduction: Value) -> str:
        kind = reduction.reduce
        if kind in ("sum", "prod"):
            return "0" if kind == "sum" else "1"
        low = kind.endswith("max")
        dtype = held(reduction.args[0].dtype)
        if dtype.is_floating_point:
            return f'float("{"-inf" if low else "inf"}")'
        return str(torch.iinfo(dtype).min if low else torch.iinfo(dtype).max)

    def _reduce_tile(self, reduction: Value) -> None:
        """A reduction whose whole row is in the tile."""
        name, (value,) = reduction.name, reduction.args
        neutral = f"tl.full((1, 1), {self._neutral(reduction)}, {triton_name(held(value.dtype))})"
        self._say(f"{name}_acc = tl.where(mask, {value.name}, {neutral})")
        if reduction.reduce.startswith("arg"):
            self._say(f"{name}_at_acc = tl.where(mask, x, n_r)")
        self._finish(reduction)

    def _accumulate(self, reduction: Value) -> None:
        name, value, kind = reduction.name, reduction.args[0], reduction.reduce
        acc, here = f"{name}_acc", value.name
        floating = value.dtype.is_floating_point
        if name in self.totals:
            total, function = self.totals[name]
            whole = f"tl.broadcast_to({here}, (Y, X))"
            given = whole if self.whole else f'tl.where(mask, {whole}, float("-inf"))'
            state = f"{acc}, {total.name}_acc"
            self._say(f"{state} = f.online_{function}({state}, {given}, {self.shape.group})")
            return
        if kind.startswith("arg"):
            # Of a place along the columns the tile's start is kept: the rest is the lane's own.
            worse = f"{here} {'<=' if kind == 'argmax' else '>='} {acc}"
            better = f"f.not_({worse})" + (f" & ({acc} == {acc})" if floating else "")  # NaN is not worse
            self._say(f"{name}_take = {better if self.whole else f'mask & {better}'}")
            self._say(f"{acc} = tl.where({name}_take, {here}, {acc})")
            self._say(f"{name}_at_acc = tl.where({name}_take, start, {name}_at_acc)")
            return
        combined = {
            "sum": f"{acc} + {here}", "prod": f"{acc} * {here}",
            "max": f"f.maximum({acc}, {here})" if floating else f"tl.maximum({acc}, {here})",
            "min": f"f.minimum({acc}, {here})" if floating else f"tl.minimum({acc}, {here})",
        }[kind]  # fmt: skip
        # Lanes of rows that do not exist are never stored, so whole tiles need no mask here.
        self._say(f"{acc} = {combined if self.whole else f'tl.where(mask, {combined}, {acc})'}")

    def _finish(self, reduction: Value, partial: bool = False) -> None:
        """One number per row from a tile of accumulators: the result, or (`partial`) what is kept of it."""
        name, kind = reduction.name, reduction.reduce
        floating = reduction.args[0].dtype.is_floating_point
        end = "_part" if partial else ""
        if name in self.peaks:
            peak = self.peaks[name].name
            function = self.totals[peak][1]
            self._say(f"{name}{end} = f.total_{function}({name}_acc, {peak}_acc, {peak}{end})")
            if (
                not partial
            ):  # no number is larger than the others' minus infinity: torch subtracts it from itself
                self._say(f'{name} = tl.where({peak} == float("-inf"), float("nan"), {name})')
                self.written.add(name)
            return
        if kind.startswith("arg"):
            extreme = f"row_{kind[3:]}{'_nan' if floating else ''}"
            self._say(f"{name}{'_part' if partial else '_best'} = f.{extreme}({name}_acc)")
            best = f"{name}{'_part' if partial else '_best'}"
            hit = f"{name}_acc == {best}"
            if floating:
                hit = f"({hit}) | (({name}_acc != {name}_acc) & ({best} != {best}))"
            target = f"{name}_at_part" if partial else name
            self._say(f"{target} = f.row_min(tl.where({hit}, {name}_at_acc, n_r)).to(tl.int64)")
        else:
            suffix = "_nan" if floating and kind in ("max", "min") else ""
            self._say(f"{name}{end} = f.row_{kind}{suffix}({name}_acc)")
        if not partial:
            self.written.add(name)


def _offset(index: str, name: str, pattern: Pattern) -> str:
    """An operand's offset along one side; "" where it does not move."""
    if pattern in ((FLAT_ONE,), (FLAT_GIVEN,)):
        return index if pattern == (FLAT_ONE,) else f"{index} * {name}_0"
    terms = {ZERO: "", ONE: f"{index}_{{0}}", GIVEN: f"{index}_{{0}} * {name}_{{0}}"}
    for times, kind in GIVEN_TIMES.items():
        terms[kind] = f"{index}_{{0}} * ({name}_{{0}} * {times})"
    return " + ".join(filter(None, (terms[kind].format(axis) for axis, kind in enumerate(pattern))))


def _mentions(text: str, name: str) -> bool:
    import re

    return re.search(rf"\b{name}\b", text) is not None

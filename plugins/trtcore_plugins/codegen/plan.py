"""Running a program on tensors: which kernels, with which arguments.

A plan is made once per sizes and strides of the inputs and kept. Kernels are compiled per program, dtypes and `Shape`
(how many axes are left after merging, and which strides are 0 or 1), so that other sizes use the same kernel.
"""

from __future__ import annotations

import linecache
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from trtcore_plugins.codegen.builder import held
from trtcore_plugins.codegen.calls import OMITTED
from trtcore_plugins.codegen.geometry import (
    Axis,
    Side,
    in_memory_order,
    largest_offset,
    merged,
    multiple,
    split_pointwise,
)
from trtcore_plugins.codegen.program import Program, evaluate, evaluate_all
from trtcore_plugins.codegen.source import GIVEN_TIMES, Kernel, Shape, partials, scalars, write_kernel

LARGEST_TILE = 16384
"""Columns up to which a row is kept in registers; see `Planner._largest_tile`."""
PIECES = 4
"""Programs per multiprocessor that few, long rows are cut into."""
_PLANS = 512
_FAR = (1 << 31) - (1 << 20)  # offsets beyond this need 64 bits; the last tile may reach over the end
_MULTIPROCESSORS = 132  # of a GPU that is not here (the interpreter's)


@dataclass(frozen=True)
class Blocks:
    """Rows and columns of a tile, and warps per program."""

    rows: int
    columns: int
    warps: int


@dataclass(frozen=True)
class Launch:
    """One kernel call. Arguments are names of tensors ("in_0", "out_0", "work_v3") and ints."""

    kernel: Kernel
    grid: int
    arguments: tuple[Any, ...]
    blocks: Blocks
    wide: bool


@dataclass(frozen=True)
class Plan:
    """Kernel calls, and the tensors to make before them: (size, stride, dtype) of the outputs, (name, elements,
    dtype) of the workspaces."""

    launches: tuple[Launch, ...]
    outputs: tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]
    workspaces: tuple[tuple[str, int, torch.dtype], ...] = ()


_plans: OrderedDict[Any, Plan | None] = OrderedDict()


def run(
    program: Program,
    inputs: Sequence[torch.Tensor],
    sizes: Sequence[int] = (),
    *,
    interpret: bool = False,
    poisoned: bool = False,
) -> list[torch.Tensor]:
    """Compute a program with its generated kernels.

    Args:
        inputs: on one CUDA device, or on the CPU with `interpret`.
        interpret: through Triton's interpreter, on the CPU.
        poisoned: fill outputs and workspaces before with what no kernel writes.

    Returns:
        new tensors with the sizes and strides that torch would give them.
    """
    key = (program.text, tuple((t.shape, t.stride()) for t in inputs), tuple(sizes), inputs[0].device)
    try:
        plan = _plans[key]
    except KeyError:
        plan = make_plan(program, inputs, sizes)
        _plans[key] = plan
        if len(_plans) > _PLANS:
            _plans.popitem(last=False)
    if plan is None:  # nothing to loop over
        return evaluate(program, inputs, sizes)
    return execute(plan, inputs, interpret=interpret, poisoned=poisoned)


def execute(
    plan: Plan, inputs: Sequence[torch.Tensor], *, interpret: bool = False, poisoned: bool = False
) -> list[torch.Tensor]:
    """Call a plan's kernels."""
    device = inputs[0].device
    outputs = [
        torch.empty_strided(size, stride, dtype=dtype, device=device) for size, stride, dtype in plan.outputs
    ]
    tensors: dict[str, torch.Tensor] = {f"in_{i}": one for i, one in enumerate(inputs)}
    tensors.update((f"out_{i}", one) for i, one in enumerate(outputs))
    for name, elements, dtype in plan.workspaces:
        tensors[name] = torch.empty(elements, dtype=dtype, device=device)
    if poisoned:
        for name, tensor in tensors.items():
            if not name.startswith("in_"):
                poison(tensor)
    if interpret:
        _interpret(plan, tensors)
        return outputs
    with torch.cuda.device(device):
        for launch in plan.launches:
            function, index = compiled(launch.kernel), index_type(launch.wide)
            function[(launch.grid, 1, 1)](
                *(tensors[one] if isinstance(one, str) else one for one in launch.arguments),
                Y=launch.blocks.rows, X=launch.blocks.columns, INDEX=index,
                num_warps=launch.blocks.warps, enable_fp_fusion=False,
            )  # fmt: skip
    return outputs


def _interpret(plan: Plan, tensors: dict[str, torch.Tensor]) -> None:
    for launch in plan.launches:
        function = interpreted(launch.kernel)
        function[(launch.grid, 1, 1)](
            *(tensors[one] if isinstance(one, str) else one for one in launch.arguments),
            Y=launch.blocks.rows, X=launch.blocks.columns, INDEX=index_type(launch.wide),
        )  # fmt: skip


def poison(tensor: torch.Tensor) -> None:
    """Fill a tensor with what no kernel writes by chance: NaN, or the dtype's lowest number plus one."""
    if tensor.dtype is torch.bool:
        tensor.view(torch.uint8).fill_(0xA5)
    elif tensor.dtype.is_floating_point:
        tensor.fill_(float("nan"))
    else:
        tensor.fill_(torch.iinfo(tensor.dtype).min + 1)


@lru_cache(maxsize=4096)
def compiled(kernel: Kernel) -> Any:
    """The kernel as a Triton function."""
    import triton

    from trtcore_plugins.codegen import device

    return _define(kernel, triton.jit, device)


@lru_cache(maxsize=4096)
def interpreted(kernel: Kernel) -> Any:
    """The kernel for Triton's interpreter."""
    from trtcore_plugins.codegen import interpreted as functions

    return _define(kernel, functions.InterpretedFunction, functions, range=functions.loop)


def _define(kernel: Kernel, jit: Any, functions: Any, **more: Any) -> Any:
    """Run a kernel's source, which is made of the texts in this package alone. Triton reads it from linecache."""
    import triton.language as tl

    file = f"<{kernel.name} {abs(hash(kernel.source)):x}>"
    linecache.cache[file] = (len(kernel.source), None, kernel.source.splitlines(keepends=True), file)
    namespace: dict[str, Any] = {"jit": jit, "tl": tl, "f": functions, "__name__": __name__, **more}
    exec(compile(kernel.source, file, "exec"), namespace)
    return namespace[kernel.name]


@lru_cache(maxsize=2)
def index_type(wide: bool) -> Any:
    """What a kernel indexes with, in Triton's words."""
    import triton.language as tl

    return tl.int64 if wide else tl.int32


# ---- making plans --------------------------------------------------------------------------------------------


def make_plan(program: Program, inputs: Sequence[torch.Tensor], sizes: Sequence[int]) -> Plan | None:
    """The plan for inputs of these sizes and strides; None if a tensor is empty."""
    with torch.no_grad():
        stand_ins = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta") for t in inputs]
        values = evaluate_all(program, stand_ins, sizes)
    if any(value.numel() == 0 for value in values):
        return None
    outputs = [values[number] for number in program.outputs]
    multiprocessors = _MULTIPROCESSORS
    if inputs[0].is_cuda:
        multiprocessors = torch.cuda.get_device_properties(inputs[0].device).multi_processor_count
    planner = Planner(program, _axes(program, values, [*inputs, *outputs]), sizes, multiprocessors)
    launches, workspaces = planner.plan()
    made = tuple((tuple(one.shape), tuple(one.stride()), one.dtype) for one in outputs)
    return Plan(tuple(launches), made, tuple(workspaces))


def _axes(program: Program, values: Sequence[torch.Tensor], operands: Sequence[torch.Tensor]) -> list[Axis]:
    """The domain's axes, with the strides of all operands (inputs, then outputs)."""
    sizes = [1] * program.rank
    for spec, value in zip(program.specs, values):
        for dim, axis in enumerate(spec.axes):
            if axis != OMITTED:
                sizes[axis] = max(sizes[axis], value.shape[dim])
    strides = [[0] * len(operands) for _ in sizes]
    specs = [*program.inputs, *(program.specs[number] for number in program.outputs)]
    for operand, (spec, value) in enumerate(zip(specs, operands)):
        for dim, axis in enumerate(spec.axes):
            if axis != OMITTED and value.shape[dim] > 1:
                strides[axis][operand] = value.stride(dim)
    return [Axis(size, tuple(along)) for size, along in zip(sizes, strides)]


def power_of_two(number: int) -> int:
    """The least power of two that is not below `number`."""
    return 1 << max(0, number - 1).bit_length()


def pointwise_blocks(rows: int, columns: int, bytes_: int, transposed: bool, multiprocessors: int) -> Blocks:
    """The tile of a pointwise kernel that reads `bytes_` for each of its elements."""
    if transposed:
        return Blocks(min(64, power_of_two(rows)), min(64, power_of_two(columns)), 8)
    share = power_of_two(max(1, rows * columns // (multiprocessors * 8)))
    tile = min(2048 if bytes_ <= 2 else 1024, max(128, share))
    across = min(tile, power_of_two(columns))
    return Blocks(min(tile // across, power_of_two(rows)), across, max(1, min(4, tile // 128)))


def row_blocks(rows: int, columns: int, bytes_: int, multiprocessors: int) -> Blocks:
    """The tile of a kernel that keeps whole rows of `columns` elements, and reads `bytes_` for each."""
    across = power_of_two(columns)
    down = min(power_of_two(rows), max(1, 2048 // across))
    while down > 1 and -(-rows // down) < 2 * multiprocessors:
        down //= 2
    per_warp = 512 if across <= 512 else 2048 if across == 8192 and bytes_ <= 2 else 1024
    return Blocks(down, across, max(1, min(32, down * across // per_warp)))


def loop_blocks(bytes_: int, columns: int, again: bool) -> Blocks:
    """The tile of a kernel that walks along rows that are too long to keep.

    Where the rows are read `again`, and a few per multiprocessor would not fit the cache, one row at a time is walked.
    """
    if again and columns * bytes_ >= 32 << 10:
        return Blocks(1, 16384 if bytes_ <= 2 else 8192, 32)
    return Blocks(1, 4096 if bytes_ <= 2 else 2048, 8)


def piece_blocks(bytes_: int, columns: int, again: bool) -> Blocks:
    """The tile of a kernel that walks along pieces of few, long rows: 64 bytes per thread are on their way."""
    return Blocks(1, 8192 if bytes_ <= 2 else 4096, 8)


def column_blocks(rows: int, columns: int, bytes_: int) -> Blocks:
    """The tile of a kernel whose rows lie side by side in memory: it reduces down the columns of a matrix."""
    side = 128 if bytes_ <= 2 else 64
    return Blocks(min(side, power_of_two(rows)), min(side, power_of_two(columns)), 8)


class Planner:
    """Which kernels a program takes for some axes, with which arguments."""

    divides_by_sizes = False
    """Whether kernels divide by sizes as they are, and not with `dividing_by`'s numbers for them."""

    def __init__(
        self, program: Program, axes: Sequence[Axis], sizes: Sequence[int], multiprocessors: int
    ) -> None:
        self.program = program
        self.scalars = scalars(program)
        self.inputs = len(program.inputs)
        self.operands = self.inputs + len(program.outputs)
        self.sizes = sizes
        self.multiprocessors = multiprocessors
        self.transposed = False
        outputs = list(range(self.inputs, self.operands))
        if program.reduced:
            self.rows, self.columns = self._split_reduction(axes, outputs)
        else:
            self.rows, self.columns, self.transposed = split_pointwise(axes, outputs, self.operands)
        self.wide = largest_offset((self.rows, self.columns), self.operands) >= _FAR

    def _split_reduction(self, axes: Sequence[Axis], outputs: Sequence[int]) -> tuple[Side, Side]:
        reduced = self.program.reduced
        rows = [axis for number, axis in enumerate(axes) if number not in reduced]
        columns = [axis for number, axis in enumerate(axes) if number in reduced]
        weight = sorted(range(self.operands), key=lambda one: -sum(axis.strides[one] > 0 for axis in axes))
        if not any(value.reduce.startswith("arg") for value in self.scalars.values):
            columns = in_memory_order(columns, weight)
        return merged(in_memory_order(rows, weight)), merged(columns)

    # -- which kernels --------------------------------------------------------------------------------------

    def plan(self) -> tuple[list[Launch], list[tuple[str, int, torch.dtype]]]:
        rows, columns = self.rows.size, self.columns.size
        if not self.program.reduced:
            return [self._pointwise()], []
        if self._columns_are_inner():
            if columns <= self._largest_tile():
                blocks = row_blocks(rows, columns, self._bytes_of_wholes(), self.multiprocessors)
                return [self._launch("tile", blocks, -(-rows // blocks.rows))], []
            few = self._are_few(rows)
            blocks = (piece_blocks if few else loop_blocks)(self._bytes(), columns, self._reads_again())
            programs = -(-rows // blocks.rows)
        elif columns <= 16:
            across = power_of_two(columns)
            blocks = Blocks(max(1, min(1024 // across, power_of_two(rows))), across, 4)
            return [self._launch("tile", blocks, -(-rows // blocks.rows))], []
        else:
            blocks = column_blocks(rows, columns, self._bytes())
            programs = -(-rows // blocks.rows)
            few = programs < 2 * self.multiprocessors and columns > 4 * blocks.columns
        if few:
            return self._pieces(blocks, programs)
        return [self._launch("loop", blocks, programs)], []

    def _pointwise(self) -> Launch:
        rows, columns = self.rows.size, self.columns.size
        blocks = pointwise_blocks(
            rows, columns, self._bytes_of_wholes(), self.transposed, self.multiprocessors
        )
        across = -(-columns // blocks.columns)
        return self._launch("tile", blocks, -(-rows // blocks.rows) * across, 0, {"across": across})

    def _bytes(self) -> int:
        """Bytes that a kernel reads per element of the domain."""
        reduced = {*self.program.reduced}
        wide = [spec.dtype.itemsize for spec in self.program.inputs if reduced & {*spec.axes}]
        return max(1, sum(wide))

    def _bytes_of_wholes(self) -> int:
        """Bytes per element of the domain that a kernel reads of inputs which have all of its axes."""
        axes = [axis for side in (self.rows, self.columns) for axis in side.axes if axis.size != 1]
        return sum(
            spec.dtype.itemsize
            for operand, spec in enumerate(self.program.inputs)
            if all(axis.strides[operand] for axis in axes)
        )

    def _are_few(self, rows: int) -> bool:
        """Whether so few rows, one at a time, leave multiprocessors idle."""
        return rows < self.multiprocessors * 3 // 4

    def _largest_tile(self) -> int:
        """Columns up to which a row is kept in registers. With few rows that is one kernel in place of several:
        twice as many are kept then, of one input, if no index is wanted."""
        reduced = {*self.program.reduced}
        wide = sum(bool(reduced & {*spec.axes}) and len(spec.axes) > 1 for spec in self.program.inputs)
        indices = any(value.reduce.startswith("arg") for value in self.scalars.values)
        return (
            LARGEST_TILE * 2 if self._are_few(self.rows.size) and wide <= 1 and not indices else LARGEST_TILE
        )

    def _reads_again(self) -> bool:
        return self.scalars.levels > 1 or self._has_wide_results()

    def _group(self) -> int:
        """Neighbours along a row that one thread loads at once: 16 bytes of them."""
        if not self._columns_are_inner():
            return 1
        return max(1, 16 // max(spec.dtype.itemsize for spec in self.program.inputs))

    def _has_wide_results(self) -> bool:
        reduced = {*self.program.reduced}
        return any(reduced & {*self.program.specs[number].axes} for number in self.program.outputs)

    def _columns_are_inner(self) -> bool:
        """Whether memory is walked along the rows' elements, as most operands see it."""
        votes = 0
        for operand in range(self.operands):
            along = [one for one in self.columns.strides(operand) if one]
            across = [one for one in self.rows.strides(operand) if one]
            if along and across:
                votes += 1 if min(along) < min(across) else -1
        return votes >= 0

    def _pieces(
        self, blocks: Blocks, programs: int
    ) -> tuple[list[Launch], list[tuple[str, int, torch.dtype]]]:
        """Few, long rows: cut into pieces that run side by side."""
        rows, columns = self.rows.size, self.columns.size
        wanted = min(1024, max(2, PIECES * self.multiprocessors // programs), -(-columns // blocks.columns))
        piece = -(-columns // wanted)
        piece = -(-piece // blocks.columns) * blocks.columns
        pieces = -(-columns // piece)
        extra = {"pieces": pieces, "piece": piece}
        wide_results = self._has_wide_results()
        launches: list[Launch] = []
        workspaces: list[tuple[str, int, torch.dtype]] = []
        for level in range(1, self.scalars.levels + 1):
            launches.append(self._launch("partial", blocks, programs * pieces, level, extra))
            across = power_of_two(pieces)
            combining = Blocks(min(power_of_two(rows), max(1, 2048 // across)), across, 4)
            last = level == self.scalars.levels and not wide_results
            launches.append(
                self._launch("combine", combining, -(-rows // combining.rows), level, extra, last=last)
            )
            for reduction in self.scalars.reductions(level):
                for suffix, dtype in partials(reduction):
                    name = f"{reduction.name}{suffix}"
                    workspaces.append((f"work_{name}", rows * pieces, held(dtype)))
                    workspaces.append((f"row_{name}", rows, held(dtype)))
        if wide_results:
            extra["across"] = -(-columns // blocks.columns)
            launches.append(self._launch("apply", blocks, programs * extra["across"], 0, extra))
        return launches, workspaces

    # -- their arguments ------------------------------------------------------------------------------------

    def _launch(
        self,
        form: str,
        blocks: Blocks,
        grid: int,
        level: int = 0,
        extra: dict[str, int] | None = None,
        *,
        last: bool = False,
    ) -> Launch:
        patterns = tuple((self.rows.pattern(one), self.columns.pattern(one)) for one in range(self.operands))
        multiples = (multiple(self.rows.size), multiple(self.columns.size))
        axes = len(self.rows.axes), len(self.columns.axes)
        shape = Shape(form, *axes, patterns, level, last, self.wide, multiples, divides=self.divides_by_sizes)
        if form in ("loop", "partial") and self.scalars.totals:
            shape = replace(shape, group=min(self._group(), blocks.columns))
        kernel = write_kernel(self.program, shape)
        known = {"n_y": self.rows.size, "n_x": self.columns.size, "n_r": self.columns.size, **(extra or {})}
        for name in ("n_y", "n_x"):
            known.update({f"{name}_by_{times}": known[name] // times for times in (4, 8)})
        arguments = tuple(self._argument(name, known) for name in kernel.parameters)
        return Launch(kernel, grid, arguments, blocks, self.wide)

    def _argument(self, name: str, known: dict[str, int]) -> Any:
        if name in known:
            return known[name]
        kind, _, rest = name.partition("_")
        if kind in ("rows", "columns"):
            axis, _, of = rest.partition("_")
            size = (self.rows if kind == "rows" else self.columns).axes[int(axis)].size
            return size if not of else dividing_by(size)[of == "shift"]
        if kind == "size":
            return self.sizes[int(rest)]
        if kind in ("in", "out") and "_" in rest:
            number, side_name, axis = rest.split("_")
            operand = int(number) + (self.inputs if kind == "out" else 0)
            side = self.rows if side_name == "row" else self.columns
            pattern = side.pattern(operand)
            if len(pattern) == 1:
                return side.last_stride(operand) // _times(pattern[0])
            return side.axes[int(axis)].strides[operand] // _times(pattern[int(axis)])
        return name


def _times(kind: str) -> int:
    return next((times for times, one in GIVEN_TIMES.items() if one == kind), 1)


def dividing_by(divisor: int) -> tuple[int, int]:
    """How to divide by a number without dividing: ``(magic, shift)``, both to be read as 32 unsigned bits.

    ``n // divisor == (high 32 bits of n * magic + n) >> shift`` for every ``0 <= n < 2 ** 31``. With
    ``2 ** shift >= divisor``, magic is ``2 ** 32 * (2 ** shift - divisor) // divisor + 1`` (T. Granlund and
    P. Montgomery, "Division by Invariant Integers using Multiplication", 1994, figure 4.1).
    """
    shift = (divisor - 1).bit_length()
    magic = (((1 << shift) - divisor) << 32) // divisor + 1
    return magic - (1 << 32) if magic >= 1 << 31 else magic, shift

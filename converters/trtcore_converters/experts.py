"""Products with the weights of several experts, whose rows come sorted by expert: mixtures of experts.

TensorRT has no such product, and no sizes inside of an engine that data decide. Two ways compute it all the same: every
expert on every row, with the rows of others as zeros, as one product; or for few rows a copy of the weights that each
takes. Both do more work than torch's op, which in turn stops for the offsets, starts a product per expert, and cuts the
engine. So what is estimated to take longer than that stays in torch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import fx

from trtcore.pack import ConversionContext, ITensor, NodeContext, Operand, Reject
from trtcore_converters._checks import arguments
from trtcore_converters._declare import converts
from trtcore_converters._values import most
from trtcore_converters.creation import positions

aten = torch.ops.aten

GROUPED = ("transformers::grouped_mm_fallback", aten._grouped_mm.default)

# What the estimate stands on, in microseconds; orders of magnitude of data centre GPUs.
_CUT = 40.0  # to leave the engine, wait for the offsets and come back
_LAUNCH = 5.0  # one more product of torch's
_BYTES = 3e6  # read in one
_FLOPS = {2: 3e8, 4: 4e7}  # computed in one, by the size of a number


class Work(NamedTuple):
    """How much there is to do, at most.

    Attributes:
        rows, experts, inner, columns: (rows, inner) by (experts, inner, columns).
        itemsize: bytes of a number.
    """

    rows: int
    experts: int
    inner: int
    columns: int
    itemsize: int

    def _microseconds(self, weights: float, rows: float) -> float:
        """Reading so many experts' weights, and multiplying so many rows."""
        read = weights * self.inner * self.columns * self.itemsize / _BYTES
        computed = 2.0 * rows * self.inner * self.columns / _FLOPS[self.itemsize]
        return max(read, computed)

    @property
    def gathers(self) -> bool:
        """Whether copies of the weights (read, written and read again) are less than all of them."""
        return 3 * self.rows < self.experts

    @property
    def in_engine(self) -> float:
        """Estimated time in an engine."""
        if self.gathers:
            return self._microseconds(3 * self.rows, self.rows)
        return self._microseconds(self.experts, self.rows * self.experts)

    @property
    def in_torch(self) -> float:
        """Estimated time of torch's op, with the cut."""
        active = min(self.rows, self.experts)
        return _CUT + _LAUNCH * active + self._microseconds(active, self.rows)


def work_of(rows: Any, weight: torch.Tensor) -> Work | None:
    """The work of a product; None where nothing bounds the rows, or the weights' sizes vary."""
    bound = most(rows)
    if bound is None or any(isinstance(size, torch.SymInt) for size in weight.shape):
        return None
    experts, inner, columns = map(int, weight.shape)
    return Work(bound, experts, inner, columns, weight.element_size())


def _pays(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    rows, weight, offsets = list(arguments(node).values())[:3]
    if not all(isinstance(value, torch.Tensor) for value in (rows, weight, offsets)):
        return Reject("a product by groups without offsets")
    if rows.dim() != 2 or weight.dim() != 3:
        return Reject("rows of several experts are (rows, inner), and weights (experts, inner, columns)")
    if rows.dtype != weight.dtype or rows.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return Reject(f"rows of {rows.dtype} and weights of {weight.dtype}")
    given = arguments(node)
    if given.get("bias") is not None or given.get("out_dtype") not in (None, rows.dtype):
        return Reject("a product by groups with a bias or of another dtype")
    work = work_of(rows.shape[0], weight)
    if work is None or work.rows > 1 << 24:
        return Reject(
            "the number of rows has no upper bound, and every expert on every row may take any time"
        )
    if work.in_engine > work.in_torch:
        return Reject(
            f"every expert on every row ({work.rows} rows, {work.experts} experts) would take some "
            f"{work.in_engine:.0f} us in an engine, and each on its own rows {work.in_torch:.0f} us in torch"
        )
    return True


@converts(GROUPED[0], capability_validator=_pays)
def grouped_mm_fallback(ctx: ConversionContext, input: Operand, weight: Operand, offs: Operand) -> ITensor:
    """Row r times the weights of expert e, where ``offs[e - 1] <= r < offs[e]``; rows behind the last are zero."""
    return _product(ctx, input, weight, offs)


@converts(GROUPED[1], capability_validator=_pays)
def grouped_mm(
    ctx: ConversionContext,
    x: Operand,
    mat2: Operand,
    offs: Any = None,
    bias: Any = None,
    out_dtype: Any = None,
) -> ITensor:
    """The same, as torch has it; it leaves rows behind the last expert's as they are, here they are zero."""
    return _product(ctx, x, mat2, offs)


def _product(ctx: ConversionContext, rows: Operand, weight: Operand, offsets: Operand) -> ITensor:
    x, ends = ctx.tensor(rows), ctx.tensor(offsets, torch.int64)
    shown = ctx.node.all_input_nodes[0].meta["val"].shape[0]
    experts, inner, columns = ctx.shape(weight)
    count = ctx.dim(x, 0)
    numbers = ctx.reshape(positions(ctx, count), [count, 1])
    below = ctx.elementwise(numbers, ctx.reshape(ends, [1, experts]), "LESS")  # (rows, experts)
    work = Work(most(shown) or 0, experts, inner, columns, ctx.dtype(x).itemsize)
    if work.gathers:
        return _gathered(ctx, x, weight, below, count)
    # Sorted by expert: a row is expert e's if it is below end e and not below end e - 1.
    earlier = ctx.constant(torch.zeros(1, 1, dtype=torch.int64).bool())
    before = ctx.concat(
        [ctx.expand(earlier, [count, 1]), ctx.slice(below, [0, 0], [count, experts - 1], [1, 1])], 1
    ) if experts > 1 else ctx.expand(earlier, [count, 1])  # fmt: skip
    mine = ctx.reshape(ctx.elementwise(below, before, "XOR"), [count, experts, 1])
    spread = ctx.select(mine, ctx.reshape(x, [count, 1, inner]), ctx.constant(0.0, ctx.dtype(x)))
    flat = ctx.reshape(ctx.expand(spread, [count, experts, inner]), [count, experts * inner])
    return ctx.matmul(flat, _flat(ctx, weight, experts * inner, columns))


def _flat(ctx: ConversionContext, weight: Operand, rows: int, columns: int) -> ITensor:
    if isinstance(weight, torch.Tensor):
        return ctx.constant(weight.reshape(rows, columns))
    return ctx.reshape(weight, [rows, columns])


def _gathered(ctx: ConversionContext, x: ITensor, weight: Operand, below: ITensor, count: Any) -> ITensor:
    """(rows, 1, inner) by (rows, inner, columns)."""
    experts, inner, columns = ctx.shape(weight)
    first = ctx.reduce(
        ctx.cast(ctx.unary(below, "NOT"), torch.int32), "SUM", [1]
    )  # ends that a row is not below
    expert = ctx.elementwise(first, experts - 1, "MIN")
    taken = ctx.gather(ctx.tensor(weight), expert, 0)
    made = ctx.reshape(ctx.matmul(ctx.reshape(x, [count, 1, inner]), taken), [count, columns])
    inside = ctx.reshape(ctx.elementwise(first, experts, "LESS"), [count, 1])
    return ctx.select(inside, made, ctx.constant(0.0, ctx.dtype(x)))

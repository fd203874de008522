"""The scalar program of a kernel: single assignments in Triton's expression language.

`Builder` is what the rules in `trtcore_plugins.codegen.rules` write to. A `Value` has the torch dtype that it
has in the model. Half precision is computed as CUDA's eager kernels do: operands widened to float32, the result
rounded once per ATen op. So a value of a half dtype is kept as a float32 that the half dtype can represent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Value:
    """One assignment.

    Attributes:
        name: the variable.
        text: the right-hand side; "" for what the emitter fills in (loads, reductions, sizes).
        dtype: the torch dtype in the model.
        args: the values that the text names.
        columns: whether it varies along the reduced axes.
        level: how many reductions it is behind, at most.
        reduce: the kind of a reduction ("sum", "argmax", ...), else "".
        operand: the number of the input that a load reads, else None.
    """

    name: str
    text: str
    dtype: torch.dtype
    args: tuple[Value, ...] = ()
    columns: bool = False
    level: int = 0
    reduce: str = ""
    operand: int | None = None

    @property
    def floating(self) -> bool:
        return self.dtype.is_floating_point

    def __hash__(self) -> int:
        return hash((self.name, self.dtype))


def held(dtype: torch.dtype) -> torch.dtype:
    """The dtype that values of `dtype` are kept and computed in."""
    return torch.float32 if dtype in HALF else dtype


def triton_name(dtype: torch.dtype) -> str:
    """``tl.float32``, ``tl.int1``, ..."""
    return "tl." + {"bool": "int1"}.get(name := str(dtype).removeprefix("torch."), name)


@dataclass
class Builder:
    """Collects the values of a program, each once."""

    values: list[Value] = field(default_factory=list)
    _known: dict[Any, Value] = field(default_factory=dict)

    # -- sources --------------------------------------------------------------------------------------------

    def load(self, operand: int, dtype: torch.dtype, columns: bool) -> Value:
        """An input, widened."""
        return self._add("", dtype, columns=columns, operand=operand)

    def const(self, value: Any, dtype: torch.dtype) -> Value:
        """A number, as an operand of an op that computes in `dtype`."""
        kind = held(dtype)
        if kind is torch.bool:
            text = str(bool(value))
        elif kind.is_floating_point:
            number = float(value)
            text = repr(number) if math.isfinite(number) else f'float("{number}")'
        else:
            bits = torch.iinfo(kind)
            text = str((int(value) - bits.min) % (bits.max - bits.min + 1) + bits.min)  # as C casts it
        return self._add(f"tl.full((1, 1), {text}, {triton_name(kind)})", kind)

    def size(self, index: int) -> Value:
        """A symbolic int of the call."""
        return self._add(f"tl.full((1, 1), 1, tl.int64) * size_{index}", torch.int64)

    def row_length(self, dtype: torch.dtype) -> Value:
        """How many elements a reduction reduces."""
        return self._add(f"tl.full((1, 1), 1, {triton_name(held(dtype))}) * n_r", held(dtype))

    # -- operations -----------------------------------------------------------------------------------------

    def op(self, text: str, *args: Value, dtype: torch.dtype) -> Value:
        """An expression over values: ``b.op("{0} + {1}", x, y, dtype=torch.float32)``."""
        return self._add(
            text.format(*(arg.name for arg in args)), dtype, args,
            columns=any(arg.columns for arg in args), level=max((arg.level for arg in args), default=0),
        )  # fmt: skip

    def reduce(self, kind: str, value: Value) -> Value:
        """A reduction of a value over the reduced axes: sum, prod, max, min, argmax, argmin."""
        dtype = torch.int64 if kind.startswith("arg") else value.dtype
        return self._add("", dtype, (value,), level=value.level + 1, reduce=kind)

    def cast(self, value: Value, dtype: torch.dtype) -> Value:
        """A value as torch's ``to(dtype)`` makes it."""
        if value.dtype is dtype:
            return value
        if dtype is torch.bool:
            return self.op("{0} != 0", value, dtype=dtype)
        source, target = held(value.dtype), held(dtype)
        converted = value
        if source is not target:
            text = f"{{0}}.to({triton_name(target)})"
            if source.is_floating_point and not target.is_floating_point and target is not torch.int64:
                text = f"{{0}}.to(tl.int64).to({triton_name(target)})"
            converted = self.op(text, value, dtype=target)
        if dtype in HALF:
            return self.op(f"f.round_{triton_name(dtype).removeprefix('tl.')}({{0}})", converted, dtype=dtype)
        return converted if converted.dtype is dtype else self._renamed(converted, dtype)

    def held(self, value: Value) -> Value:
        """A value to compute with: half dtypes as float32."""
        return self._renamed(value, held(value.dtype))

    @staticmethod
    def _renamed(value: Value, dtype: torch.dtype) -> Value:
        """The same variable under another dtype that is kept alike."""
        return Value(
            value.name, value.text, dtype, value.args, value.columns, value.level, value.reduce, value.operand
        )

    def _add(
        self,
        text: str,
        dtype: torch.dtype,
        args: tuple[Value, ...] = (),
        *,
        columns: bool = False,
        level: int = 0,
        reduce: str = "",
        operand: int | None = None,
    ) -> Value:
        key = (text, dtype, tuple(arg.name for arg in args), reduce, operand)
        if key not in self._known:
            name = f"v{len(self.values)}"
            value = Value(name, text, dtype, args, columns, level, reduce, operand)
            self.values.append(value)
            self._known[key] = value
        return self._known[key]

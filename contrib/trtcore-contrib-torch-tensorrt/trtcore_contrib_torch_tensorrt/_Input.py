"""Inputs of a compile, by their old name and arguments."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Any

import torch
from torch.utils import _pytree as pytree

import trtcore
from trtcore import errors
from trtcore_contrib_torch_tensorrt._enums import dtype as dtypes
from trtcore_contrib_torch_tensorrt._enums import memory_format
from trtcore_contrib_torch_tensorrt._told import NotHereError

__all__ = ["Input", "as_inputs"]


class Input:
    """A tensor input: its shape, or its smallest, usual and largest shape; dtype and format.

    Args:
        shape: ``Input((1, 3, 224, 224))`` or ``Input(shape=...)``: sizes that do not vary.
        min_shape, opt_shape, max_shape: all three, for sizes that vary.
        dtype: torch's, NumPy's, TensorRT's or `torch_tensorrt.dtype`; by default that of `torch_tensor`, else float32.
        format: torch's memory format or `torch_tensorrt.memory_format`.
        tensor_domain: (low, high): values for tracing lie in [low, high).
        torch_tensor: an example to trace with.
        name: what errors call it.
        is_shape_tensor: not here; see the error.

    Raises:
        InputError: shapes that are missing or contradict each other, or an argument that there is not.
        NotHereError: is_shape_tensor=True.
    """

    class _ShapeMode(Enum):
        STATIC = auto()
        DYNAMIC = auto()

    def __init__(
        self,
        *args: Any,
        shape: Sequence[int] | None = None,
        min_shape: Sequence[int] | None = None,
        opt_shape: Sequence[int] | None = None,
        max_shape: Sequence[int] | None = None,
        dtype: Any = None,
        format: Any = None,
        tensor_domain: tuple[float, float] | None = None,
        torch_tensor: torch.Tensor | None = None,
        name: str = "",
        is_shape_tensor: bool = False,
    ) -> None:
        if len(args) > 1 or (args and shape is not None):
            raise errors.InputError(
                f"Input takes its shape once, not {len(args)} arguments",
                advice="write Input((1, 3, 224, 224))",
            )
        if is_shape_tensor:
            raise NotHereError(
                "Input(is_shape_tensor=True): trtcore passes no values of shapes to an engine as an input",
                advice="give the size as a Python int, or take it from another input's shape; a size that a program "
                "computes from an int64 input is an Input of dtype int64",
            )
        ranges = {"min_shape": min_shape, "opt_shape": opt_shape, "max_shape": max_shape}
        given: dict[str, Any] = {key: tuple(value) for key, value in ranges.items() if value is not None}
        shape = args[0] if args else shape
        if shape is None and not given and torch_tensor is not None:
            shape = torch_tensor.shape
        if shape is not None:
            given["shape"] = tuple(shape)
        self.dtype = dtypes._from(
            dtype if dtype is not None else torch_tensor.dtype if torch_tensor is not None else torch.float32
        )
        self.format = memory_format.linear if format is None else memory_format._from(format)
        self.tensor_domain = (0.0, 2.0) if tensor_domain is None else tuple(map(float, tensor_domain))
        self.torch_tensor, self.name, self.is_shape_tensor = torch_tensor, name, False
        self._domain_given = tensor_domain is not None
        self._native = self._as_trtcore(given)
        self.shape_mode = self._ShapeMode.STATIC if "shape" in given else self._ShapeMode.DYNAMIC
        self.shape: Any = given.get("shape", given)

    def _as_trtcore(self, given: dict[str, Any]) -> trtcore.Input:
        torch_format = self.format.try_to(torch.memory_format)
        if torch_format is None:
            raise NotHereError(
                f"Input(format={self.format}): trtcore's engines take torch's memory formats",
                advice="leave format out, or give torch.channels_last",
            )
        example = self.torch_tensor
        if example is None and self._domain_given:
            example = self._values(given.get("shape", given.get("opt_shape", ())))
        return trtcore.Input(
            given.get("shape"),
            **{key: value for key, value in given.items() if key != "shape"},
            dtype=self.dtype.to(torch.dtype),
            format=torch_format,
            name=self.name or None,
            example=example,
        )

    def _values(self, shape: Sequence[int]) -> torch.Tensor:
        low, high = self.tensor_domain
        return (low + (high - low) * torch.rand(tuple(shape))).to(self.dtype.to(torch.dtype))

    def as_trtcore(self) -> trtcore.Input:
        """As `trtcore.Input`."""
        return self._native

    def example_tensor(self, optimization_profile_field: str | None = None) -> torch.Tensor:
        """A tensor of this dtype with values in `tensor_domain`.

        Args:
            optimization_profile_field: "min_shape", "opt_shape" or "max_shape", for an input whose sizes vary.

        Raises:
            InputError: it is missing for an input whose sizes vary, or given for one whose do not.
        """
        if (optimization_profile_field is None) == (self.shape_mode is self._ShapeMode.DYNAMIC):
            raise errors.InputError(
                f"example_tensor({optimization_profile_field!r}) of an input of shape {self.shape}",
                advice='name "min_shape", "opt_shape" or "max_shape" for an input whose sizes vary, else none',
            )
        if optimization_profile_field is None:
            return self.torch_tensor if self.torch_tensor is not None else self._values(self.shape)
        return self._values(self.shape[optimization_profile_field])

    @classmethod
    def from_tensor(cls, t: torch.Tensor, disable_memory_format_check: bool = False) -> Input:
        """An Input with a tensor's shape, dtype and format."""
        last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(t.dim())
        channels_last = last is not None and not t.is_contiguous() and t.is_contiguous(memory_format=last)
        use = torch.contiguous_format if disable_memory_format_check or not channels_last else last
        return cls(shape=tuple(t.shape), dtype=t.dtype, format=use, torch_tensor=t)

    @classmethod
    def from_tensors(cls, ts: Any, disable_memory_format_check: bool = False) -> list[Input]:
        """One `from_tensor` for every tensor."""
        return [cls.from_tensor(t, disable_memory_format_check) for t in ts]

    def __repr__(self) -> str:
        return f"Input(shape={self.shape}, dtype={self.dtype}, format={self.format})"


def as_inputs(given: Any) -> Any:
    """Inputs as trtcore takes them: every `Input` in a tree of them in its form, everything else as it is."""
    return pytree.tree_map(lambda leaf: leaf.as_trtcore() if isinstance(leaf, Input) else leaf, given)

# ruff: noqa: PIE796 (members have their old second names)
"""Dtypes, memory formats, devices' kinds, engine capabilities and platforms, by their old names."""

from __future__ import annotations

import builtins
import platform
import sys
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

import numpy as np
import torch

__all__ = ["DeviceType", "EngineCapability", "Platform", "dtype", "memory_format"]


class dtype(Enum):
    """A data type. ``dtype._from(torch.float16).to(np.dtype)`` goes between torch's, NumPy's and TensorRT's."""

    unknown = auto()
    u8 = auto()
    i8 = auto()
    i32 = auto()
    i64 = auto()
    f16 = auto()
    f32 = auto()
    f64 = auto()
    b = auto()
    bf16 = auto()
    f8 = auto()
    f4 = auto()

    uint8 = u8
    int8 = i8
    int32 = i32
    int = i32
    int64 = i64
    long = i64
    half = f16
    fp16 = f16
    float16 = f16
    float = f32
    fp32 = f32
    float32 = f32
    double = f64
    fp64 = f64
    float64 = f64
    bool = b
    bfloat16 = bf16
    fp8 = f8
    float8 = f8
    fp4 = f4
    float4 = f4

    @classmethod
    def _from(cls, t: Any, use_default: builtins.bool = False) -> dtype:
        """The member for a dtype of torch's, NumPy's or TensorRT's, or a member.

        Args:
            use_default: f32 for what there is no member for, instead of an error.

        Raises:
            TypeError: `t` is none of these.
        """
        found = cls.try_from(t, use_default)
        if found is None:
            raise TypeError(
                f"{t!r} is no dtype of torch's, NumPy's or TensorRT's that there is a torch_tensorrt.dtype for"
            )
        return found

    @classmethod
    def try_from(cls, t: Any, use_default: builtins.bool = False) -> dtype | None:
        """As `_from`; None in the place of an error."""
        if isinstance(t, dtype):
            return t
        found = _found(t)
        return cls.f32 if found is None and use_default else found

    def to(self, t: Any, use_default: builtins.bool = False) -> Any:
        """This dtype as one of `t`: ``torch.dtype``, ``np.dtype`` (or a NumPy type), ``trt.DataType`` or ``dtype``.

        Args:
            use_default: float32 where `t` has no such dtype, instead of an error.

        Raises:
            TypeError: `t` has no such dtype, or is none of these.
        """
        found = self.try_to(t, use_default)
        if found is None:
            raise TypeError(f"{t!r} has no dtype for {self}")
        return found

    def try_to(self, t: Any, use_default: builtins.bool = False) -> Any:
        """As `to`; None in the place of an error."""
        if t is dtype:
            return self
        if t is torch.dtype:
            return _TORCH.get(self, torch.float32 if use_default else None)
        if t is np.dtype or (isinstance(t, type) and issubclass(t, np.generic)):
            of_torch = _TORCH.get(self)
            name = str(of_torch).removeprefix("torch.")
            found = np.dtype(name) if name in _NUMPY else None
            return np.dtype("float32") if found is None and use_default else found
        members = _data_types(t)
        if members is None:
            return None
        found = members.get(_TENSORRT.get(self, ""))
        return members["FLOAT"] if found is None and use_default else found

    def __str__(self) -> str:
        return f"dtype.{self.name}"


_TORCH: Mapping[dtype, torch.dtype] = {
    dtype.u8: torch.uint8,
    dtype.i8: torch.int8,
    dtype.i32: torch.int32,
    dtype.i64: torch.int64,
    dtype.f16: torch.float16,
    dtype.f32: torch.float32,
    dtype.f64: torch.float64,
    dtype.b: torch.bool,
    dtype.bf16: torch.bfloat16,
    dtype.f8: torch.float8_e4m3fn,
    dtype.f4: torch.float4_e2m1fn_x2,
}
_OF_TORCH = {there: here for here, there in _TORCH.items()}
_NUMPY = {"uint8", "int8", "int32", "int64", "float16", "float32", "float64", "bool"}
_TENSORRT: Mapping[dtype, str] = {
    dtype.u8: "UINT8",
    dtype.i8: "INT8",
    dtype.i32: "INT32",
    dtype.i64: "INT64",
    dtype.f16: "HALF",
    dtype.f32: "FLOAT",
    dtype.b: "BOOL",
    dtype.bf16: "BF16",
    dtype.f8: "FP8",
    dtype.f4: "FP4",
}
_OF_TENSORRT = {there: here for here, there in _TENSORRT.items()}


def _found(t: Any) -> dtype | None:
    if isinstance(t, torch.dtype):
        return _OF_TORCH.get(t)
    members = _data_types(type(t))
    if members is not None:
        return _OF_TENSORRT.get(t.name)
    try:
        name = np.dtype(t).name
    except TypeError:
        return None
    return _OF_TORCH.get(getattr(torch, name, None)) if name in _NUMPY else None


def _data_types(kind: Any) -> Mapping[str, Any] | None:
    """The members of TensorRT's DataType, if that is what `kind` is."""
    if getattr(kind, "__name__", "") != "DataType":
        return None
    members = getattr(kind, "__members__", None)
    return members if isinstance(members, Mapping) and "FLOAT" in members else None


class memory_format(Enum):
    """How a tensor lies in memory."""

    linear = auto()
    chw2 = auto()
    hwc8 = auto()
    chw4 = auto()
    chw16 = auto()
    chw32 = auto()
    dhwc8 = auto()
    cdhw32 = auto()
    hwc = auto()
    dla_linear = auto()
    dla_hwc4 = auto()
    hwc16 = auto()
    dhwc = auto()

    contiguous = linear
    channels_last = hwc
    channels_last_3d = dhwc
    cdhw = linear

    @classmethod
    def _from(cls, f: Any) -> memory_format:
        """The member for one of torch's or TensorRT's formats, or a member.

        Raises:
            TypeError: `f` is none of these.
        """
        found = cls.try_from(f)
        if found is None:
            raise TypeError(f"{f!r} is no memory format that there is a torch_tensorrt.memory_format for")
        return found

    @classmethod
    def try_from(cls, f: Any) -> memory_format | None:
        """As `_from`; None in the place of an error."""
        if isinstance(f, memory_format):
            return f
        if isinstance(f, torch.memory_format):
            return _OF_TORCH_FORMATS.get(f)
        name = getattr(f, "name", "").lower()
        return cls.__members__.get(name) if type(f).__name__ == "TensorFormat" else None

    def to(self, t: Any) -> Any:
        """This format as one of `t`: ``torch.memory_format``, ``trt.TensorFormat`` or ``memory_format``.

        Raises:
            TypeError: `t` has no such format, or is none of these.
        """
        found = self.try_to(t)
        if found is None:
            raise TypeError(f"{t!r} has no format for {self}")
        return found

    def try_to(self, t: Any) -> Any:
        """As `to`; None in the place of an error."""
        if t is memory_format:
            return self
        if t is torch.memory_format:
            return {here: there for there, here in _OF_TORCH_FORMATS.items()}.get(self)
        return getattr(t, "__members__", {}).get(self.name.upper())


_OF_TORCH_FORMATS = {
    torch.contiguous_format: memory_format.linear,
    torch.channels_last: memory_format.hwc,
    torch.channels_last_3d: memory_format.dhwc,
}


class _FromTensorRT(Enum):
    """An enum whose members have the names of one of TensorRT's."""

    @classmethod
    def _from(cls, value: Any) -> Any:
        """The member for one of TensorRT's, or a member.

        Raises:
            TypeError: it has no such member.
        """
        found = cls.try_from(value)
        if found is None:
            raise TypeError(f"{value!r} is no {cls.__name__}")
        return found

    @classmethod
    def try_from(cls, value: Any) -> Any:
        """As `_from`; None in the place of an error."""
        if isinstance(value, cls):
            return value
        return cls.__members__.get(str(getattr(value, "name", "")).upper())

    def to(self, t: Any) -> Any:
        """This member as one of `t`: TensorRT's enum of the same name, or this one.

        Raises:
            TypeError: `t` has no such member.
        """
        found = self.try_to(t)
        if found is None:
            raise TypeError(f"{t!r} has nothing for {self}")
        return found

    def try_to(self, t: Any) -> Any:
        """As `to`; None in the place of an error."""
        return self if t is type(self) else getattr(t, "__members__", {}).get(self.name)


class DeviceType(_FromTensorRT):
    """What an engine runs on."""

    UNKNOWN = auto()
    GPU = auto()
    DLA = auto()


class EngineCapability(_FromTensorRT):
    """Which restrictions an engine is built under."""

    STANDARD = auto()
    SAFETY = auto()
    DLA_STANDALONE = auto()


class Platform(Enum):
    """An operating system and its processor."""

    LINUX_X86_64 = auto()
    LINUX_AARCH64 = auto()
    WIN_X86_64 = auto()
    UNKNOWN = auto()

    @classmethod
    def current_platform(cls) -> Platform:
        """That of this process."""
        machine = platform.machine().lower()
        if sys.platform.startswith("linux"):
            return cls.LINUX_X86_64 if machine in ("x86_64", "amd64") else cls.LINUX_AARCH64
        return (
            cls.WIN_X86_64
            if sys.platform.startswith("win") and machine in ("x86_64", "amd64")
            else cls.UNKNOWN
        )

    def __str__(self) -> str:
        return self.name.lower()

"""Versions, and what this machine has, by old names."""

from __future__ import annotations

import platform
import sys
from typing import Any

import torch
from packaging.version import Version

__all__ = [
    "check_cross_compile_trt_win_lib",
    "dump_build_info",
    "get_build_info",
    "is_tegra_platform",
    "is_tensorrt_rtx_version_supported",
    "is_tensorrt_version_supported",
    "sanitized_torch_version",
    "set_device",
]


def sanitized_torch_version() -> Any:
    """torch's version without what a build added to it."""
    return torch.__version__.partition("+")[0]


def _bindings() -> Any:
    from trtcore_contrib_torch_tensorrt._bindings import active_bindings

    return active_bindings()


def _is_rtx(bindings: Any) -> bool:
    return "rtx" in bindings.__name__


def is_tensorrt_version_supported(min_version: str) -> bool:
    """Whether the TensorRT in use is at least of a version. True for TensorRT for RTX, whose versions count from 1: see
    `is_tensorrt_rtx_version_supported`.
    """
    bindings = _bindings()
    return _is_rtx(bindings) or Version(bindings.__version__) >= Version(min_version)


def is_tensorrt_rtx_version_supported(min_version: str) -> bool:
    """Whether the TensorRT for RTX in use is at least of a version; True where another TensorRT is."""
    bindings = _bindings()
    return not _is_rtx(bindings) or Version(bindings.__version__) >= Version(min_version)


def check_cross_compile_trt_win_lib() -> bool:
    """Whether engines for Windows can be built here: not by this version of trtcore."""
    return False


def is_tegra_platform() -> bool:
    """Whether this is a Jetson."""
    return sys.platform.startswith("linux") and "tegra" in platform.release().lower()


def is_thor() -> bool:
    """Whether the current GPU is a Jetson Thor's."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() in ((11, 0), (10, 1))


def get_build_info() -> str:
    """The versions of trtcore, torch and the TensorRT in use, as text."""
    import trtcore

    bindings = _bindings()
    return (
        f"trtcore {trtcore.__version__}, torch {torch.__version__}, {bindings.__name__} {bindings.__version__}, "
        f"CUDA {torch.version.cuda or 'none'}"
    )


def dump_build_info() -> None:
    """Print `get_build_info`."""
    print(get_build_info())


def set_device(gpu_id: int) -> None:
    """Make a GPU the current one."""
    torch.cuda.set_device(gpu_id)

"""Running compiled modules, by old names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import trtcore
from trtcore.runtime import optimization_profile, set_multi_device_safe_mode, weight_streaming
from trtcore_contrib_torch_tensorrt._engine_module import EngineModule
from trtcore_contrib_torch_tensorrt._old_paths import give_old_paths
from trtcore_contrib_torch_tensorrt._told import NotHereError, told

__all__ = [
    "PythonTorchTensorRTModule",
    "RuntimeSettings",
    "TorchTensorRTModule",
    "enable_cudagraphs",
    "enable_output_allocator",
    "enable_pre_allocated_outputs",
    "get_cudagraphs_mode",
    "get_runtime_backend",
    "get_whole_cudagraphs_mode",
    "optimization_profile",
    "runtime_cache",
    "runtime_config",
    "set_cudagraphs_mode",
    "set_multi_device_safe_mode",
    "set_runtime_backend",
    "weight_streaming",
]


def enable_cudagraphs(compiled_module: Any, *, cuda_graph_strategy: str | None = None) -> Any:
    """A context manager that gives a module whose calls are replays of CUDA graphs: the whole call, torch ops too."""
    return trtcore.runtime.enable_cudagraphs(compiled_module)


def set_cudagraphs_mode(mode: bool) -> None:
    """False changes nothing; True is an error that says what to use: graphs are a module's, not the process's."""
    if mode:
        raise NotHereError(
            "set_cudagraphs_mode(True): CUDA graphs are recorded for one module, not for a process",
            advice="with torch_tensorrt.runtime.enable_cudagraphs(module) as graphed: graphed(x)",
        )


def get_cudagraphs_mode() -> bool:
    """False: there is no such mode of a process."""
    return False


def get_whole_cudagraphs_mode() -> bool:
    """False: there is no such mode of a process."""
    return False


class _Switch:
    """A context manager around a module which can be asked for without ``with``, too."""

    def __init__(self, module: Any, enable: Any) -> None:
        self._module, self._enable = module, enable
        with enable(module):  # is it one?
            pass

    def __enter__(self) -> Any:
        self._entered = self._enable(self._module)
        return self._entered.__enter__()

    def __exit__(self, *exception: Any) -> None:
        self._entered.__exit__(*exception)


class enable_pre_allocated_outputs(_Switch):
    """Nothing to switch on: `trtcore.runtime.enable_pre_allocated_outputs` says why."""

    def __init__(self, module: Any) -> None:
        super().__init__(module, trtcore.runtime.enable_pre_allocated_outputs)

    def set_pre_allocated_output(self, enable: bool) -> None:
        """Nothing changes."""


class enable_output_allocator(_Switch):
    """Nothing to switch on: `trtcore.runtime.enable_output_allocator` says why."""

    def __init__(self, module: Any) -> None:
        super().__init__(module, trtcore.runtime.enable_output_allocator)

    def set_output_allocator_output(self, enable: bool) -> None:
        """Nothing changes."""


def get_runtime_backend() -> str:
    """ "python": the only one."""
    return "python"


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def set_runtime_backend(backend: str) -> Any:
    """ "python" changes nothing; "cpp" is an error."""
    if backend != "python":
        raise NotHereError(
            f"set_runtime_backend({backend!r}): there is no C++ runtime here",
            advice="leave it out; for C++ write the bytes of convert_method_to_trt_engine to a file",
        )
    return _nothing()


@dataclass(frozen=True)
class RuntimeSettings:
    """How TensorRT for RTX makes kernels and graphs at run time.

    Raises:
        NotHereError: a value that trtcore does not set.
    """

    dynamic_shapes_kernel_specialization_strategy: str = "lazy"
    cuda_graph_strategy: str = "disabled"
    runtime_cache: Any = field(default=None)

    def __post_init__(self) -> None:
        if self.dynamic_shapes_kernel_specialization_strategy != "lazy":
            raise NotHereError(
                "RuntimeSettings(dynamic_shapes_kernel_specialization_strategy="
                f"{self.dynamic_shapes_kernel_specialization_strategy!r}) is not here",
                advice='leave it out: "lazy" is what is done',
            )
        if self.cuda_graph_strategy != "disabled":
            raise NotHereError(
                f"RuntimeSettings(cuda_graph_strategy={self.cuda_graph_strategy!r}) is not here",
                advice="with torch_tensorrt.runtime.enable_cudagraphs(module) as graphed: graphed(x)",
            )


def runtime_cache(target: Any = None, path: str | os.PathLike[str] | None = None, **kwargs: Any) -> Any:
    """A context manager: `trtcore.runtime.RuntimeCache`, which keeps kernels that TensorRT for RTX makes in a file."""
    if isinstance(target, (str, os.PathLike)):
        path = target
    return trtcore.runtime.RuntimeCache(path)


@contextmanager
def runtime_config(target: Any = None, **overrides: Any) -> Iterator[Any]:
    """`RuntimeSettings` for the calls of a block; `overrides` are its fields."""
    settings = RuntimeSettings(**overrides)
    with contextlib.ExitStack() as stack:
        if settings.runtime_cache is not None:
            stack.enter_context(runtime_cache(path=settings.runtime_cache))
        yield target


class TorchTensorRTModule(EngineModule):
    """A serialised engine as a module; see there."""


class PythonTorchTensorRTModule(EngineModule):
    """The same: there is one runtime."""


def __getattr__(name: str) -> Any:
    return told("runtime", name)


give_old_paths("runtime")

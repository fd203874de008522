"""TensorRT 10.x and 11.x: every NVIDIA GPU, with plugin layers. Builds on a GPU only."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from typing import Any

import torch
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from trtcore.pack import BackendUnavailableError, no_gpu_reason
from trtcore_backends.probed import ProbedBackend

SUPPORTED = SpecifierSet(">=10.3,<12")
PIP_COMMAND = (
    'pip install "tensorrt>=10.3,<12" --extra-index-url https://pypi.nvidia.com  '
    '(or: pip install "trtcore[tensorrt]" --extra-index-url https://pypi.nvidia.com)'
)
_DISTRIBUTION = re.compile(r"^tensorrt([-_.](cu\d+|lean|dispatch))?([-_.](bindings|libs))?$", re.I)


class TensorRTBackend(ProbedBackend):
    """TensorRT proper, backend name "tensorrt"."""

    name = "tensorrt"
    has_plugins = True

    def _load(self) -> Any:
        try:
            spec = importlib.util.find_spec("tensorrt")
        except (ImportError, ValueError):
            spec = None
        if spec is None:
            raise BackendUnavailableError(
                "the Python package `tensorrt` is not installed", advice=PIP_COMMAND
            )
        try:
            trt = importlib.import_module("tensorrt")
        except Exception as error:  # its loader raises ImportError, OSError, FileNotFoundError, RuntimeError
            raise BackendUnavailableError(
                f"importing tensorrt raised {error!r}; its libraries come from NVIDIA's own index",
                advice=PIP_COMMAND,
            ) from error
        version = getattr(trt, "__version__", None)
        if version is None or not hasattr(trt, "Builder"):
            raise BackendUnavailableError(
                f"the module `tensorrt` ({getattr(trt, '__file__', None)}) is not NVIDIA's, or is damaged",
                advice=PIP_COMMAND,
            )
        if Version(version) not in SUPPORTED:
            raise BackendUnavailableError(
                f"tensorrt {version} is installed; trtcore works with {SUPPORTED}", advice=PIP_COMMAND
            )
        return trt

    def distributions(self) -> tuple[tuple[str, str], ...]:
        """The installed TensorRT distributions (meta package, bindings, libraries)."""
        found = {
            (str(name), d.version)
            for d in importlib.metadata.distributions()
            if (name := d.metadata["Name"]) and _DISTRIBUTION.match(name)
        }
        return tuple(sorted(found))

    def compute_capabilities(self) -> tuple[tuple[int, int], ...]:
        """The compute capabilities of the GPUs here: TensorRT builds for the GPU it runs on."""
        if no_gpu_reason():
            return ()
        return tuple(sorted({torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}))

    def no_runtime_on(self, compute_capability: tuple[int, int]) -> str:
        """Engines run on compute capability 7.5 and more."""
        if compute_capability >= (7, 5):
            return ""
        major, minor = compute_capability
        return f"TensorRT runs on compute capability 7.5 and more, this GPU has {major}.{minor}"

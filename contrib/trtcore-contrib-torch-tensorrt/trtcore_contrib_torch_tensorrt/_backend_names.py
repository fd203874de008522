"""``torch.compile(backend="torch_tensorrt")`` and ``"tensorrt"``: trtcore's, where Torch-TensorRT is not installed.

Torch's registry of backends comes with Dynamo, which takes seconds to import: the names are entered when somebody has
imported it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from trtcore_contrib_torch_tensorrt.torch_private import BACKENDS_REGISTRY, enter_backend

__all__ = ["NAMES", "register_backends"]

NAMES = ("torch_tensorrt", "tensorrt")


def register_backends() -> None:
    """Enter the names now, or as soon as torch's registry is imported; not where Torch-TensorRT is installed."""
    if _other_is_installed():
        return
    registry = sys.modules.get(BACKENDS_REGISTRY)
    if registry is not None and not getattr(registry.__spec__, "_initializing", False):
        _enter(registry)
    elif not any(isinstance(finder, _AfterRegistry) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterRegistry())


def _other_is_installed() -> bool:
    try:
        metadata.distribution("torch-tensorrt")
    except metadata.PackageNotFoundError:
        return importlib.util.find_spec("torch_tensorrt") is not None
    return True


def _enter(registry: ModuleType) -> None:
    """As torch enters what it finds in entry points. What registers a name later goes its own way."""
    for name in NAMES:
        enter_backend(registry, name, _EntryPoint())


class _AfterRegistry(MetaPathFinder):
    """Sees the import of torch's registry, steps aside, and enters the names when it is done."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != BACKENDS_REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenEnter(spec.loader)
        return spec


class _ThenEnter(Loader):
    """A module's own loader, which the module has again as soon as it runs; and the names after it."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        _enter(module)


class _EntryPoint:
    """What torch's registry has for a backend that is loaded when it is asked for."""

    def load(self) -> object:
        from trtcore_contrib_torch_tensorrt.dynamo.backend.backends import torch_tensorrt_backend

        return torch_tensorrt_backend

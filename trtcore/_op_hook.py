"""Register `trtcore::execute_engine` as soon as there is a torch to register it with, and not before.

Plain `torch.export.load` must know the op after `import trtcore`, in whichever order the two are imported; and
`import trtcore` must not cost an import of torch, which takes seconds: `trtcore --help`, completion in a shell and
pytest's look at installed plugins import trtcore, too. So: at once where torch is there, else when it has been
imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

_OP = "trtcore.runtime.op"  # importing it registers the op


def register_with_torch() -> None:
    """Register the op now, or after the first import of torch."""
    if "torch" in sys.modules:
        _register_when_quiet()
    elif not any(isinstance(finder, _AfterTorch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterTorch())


class _AfterTorch(MetaPathFinder):
    """Sees the first import of torch, steps aside, and registers the op when it is done."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torch":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader)
        return spec


class _ThenRegister(Loader):
    """A module's own loader, which the module has again as soon as it runs; and the op after it."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        _register_when_quiet()


class _Later(MetaPathFinder):
    """Tries again at the next import of anything."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not _half_imported():
            sys.meta_path.remove(self)
            importlib.import_module(_OP)
        return None


def _register_when_quiet() -> None:
    """Register the op, unless a module of ours is in the middle of being imported: it was that which imported torch,
    and the op's module may need it whole."""
    if _half_imported():
        sys.meta_path.insert(0, _Later())
    else:
        importlib.import_module(_OP)


def _half_imported() -> bool:
    return any(
        name.startswith("trtcore.") and getattr(module.__spec__, "_initializing", False)
        for name, module in list(sys.modules.items())
        if module is not None and getattr(module, "__spec__", None) is not None
    )

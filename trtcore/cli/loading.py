"""A model from what a person types: a ``.pt2`` file, ``module:attribute`` or ``file.py:attribute``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtcore.errors import InputError, TrtcoreError

if TYPE_CHECKING:
    from types import ModuleType

FORMS = (
    "a .pt2 file, module:attribute or file.py:attribute; the attribute is a model, or makes one when called"
)


def load_model(spec: str) -> Any:
    """The model that `spec` names, in eval mode: an `nn.Module` or an `ExportedProgram`.

    ``module:attribute`` is looked up with the current directory on ``sys.path``. An attribute that is no
    model is called without arguments and must return one.

    Raises:
        InputError: nothing is there, importing or calling it raised, or what it gives is no model.
    """
    import torch

    module_name, colon, attribute = spec.rpartition(":")
    # A file first: paths may hold colons.
    if Path(spec).is_file() or not colon:
        return _load_file(Path(spec))
    found = _attribute(_import(module_name), module_name, attribute)
    is_class = isinstance(found, type)
    if is_class or not isinstance(found, (torch.nn.Module, torch.export.ExportedProgram)):
        if not callable(found):
            raise InputError(f"{spec} is a {type(found).__name__}, not a model", advice=f"give {FORMS}")
        found = _call(found, spec)
    if isinstance(found, torch.export.ExportedProgram):
        return found
    if not isinstance(found, torch.nn.Module):
        raise InputError(f"{spec}() returned a {type(found).__name__}, not a model", advice=f"give {FORMS}")
    return found.eval()


def import_modules(names: Sequence[str]) -> None:
    """Import what registers the operators of a model or a file: modules, or ``file.py``.

    Raises:
        InputError: there is none, or importing it raised.
    """
    for name in names:
        _import(name, "--import takes a module, or a file.py")


def _load_file(path: Path) -> Any:
    import torch

    from trtcore.archive import is_saved_module

    if not path.exists():
        raise InputError(f"there is no file {str(path)!r}", advice=f"a model is {FORMS}")
    if path.suffix != ".pt2":
        raise InputError(
            f"{str(path)!r} is not a .pt2 file",
            advice="save it with torch.export.save(torch.export.export(model, inputs), 'model.pt2')",
        )
    if not zipfile.is_zipfile(path):
        raise InputError(
            f"{str(path)!r} is no .pt2 file, or a truncated one",
            advice="write it again, with trtcore.save, trtcore compile -o or torch.export.save",
        )
    if is_saved_module(path):
        raise InputError(
            f"{str(path)!r} is compiled already",
            advice=f"run it with: trtcore run {path}; or give the model that it was made of",
        )
    try:
        return torch.export.load(path)
    except Exception as error:  # zip, pickle and schema errors of every kind
        raise InputError(
            f"{str(path)!r} could not be read as an ExportedProgram: {_text(error)}",
            advice="if it has operators of your own, --import the module that registers them",
        ) from error


def _import(name: str, advice: str = f"a model is {FORMS}") -> ModuleType:
    path = Path(name)
    try:
        if path.suffix == ".py":
            return _import_file(path)
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(name)
    except TrtcoreError:
        raise
    except Exception as error:
        raise InputError(f"importing {name} raised {_text(error)}", advice=advice) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _attribute(module: ModuleType, name: str, dotted: str) -> Any:
    found: Any = module
    for part in dotted.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            public = ", ".join(key for key in vars(module) if not key.startswith("_"))
            raise InputError(f"{name} has no {dotted!r}", advice=f"it has: {public}") from None
    return found


def _call(make: Any, spec: str) -> Any:
    try:
        return make()
    except Exception as error:
        raise InputError(f"calling {spec}() raised {_text(error)}", advice=f"a model is {FORMS}") from error


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"

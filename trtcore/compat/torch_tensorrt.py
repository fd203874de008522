"""The old name of the package ``trtcore_contrib_torch_tensorrt``; it goes away in trtcore 0.3.

Importing this module imports the package, and gives it and all its modules their old names too, so that both names
mean the same objects.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import warnings
from types import ModuleType

REMOVED_IN = "0.3"

_PACKAGE = "trtcore_contrib_torch_tensorrt"
_DISTRIBUTION = "trtcore-contrib-torch-tensorrt"


def _load() -> ModuleType:
    """The package.

    Raises:
        ImportError: it is not installed; the text has the pip command.
    """
    try:
        return importlib.import_module(_PACKAGE)
    except ModuleNotFoundError as error:
        if error.name != _PACKAGE:
            raise
        raise ImportError(
            f"{__name__} is the package {_DISTRIBUTION} by now, which is not installed: "
            f"pip install {_DISTRIBUTION}, and import {_PACKAGE}",
            name=_PACKAGE,
        ) from None


def _rename(package: ModuleType, old: str) -> None:
    """Let `old` and the names below it mean `package` and its modules."""
    for found in pkgutil.walk_packages(package.__path__, f"{_PACKAGE}."):
        module = importlib.import_module(found.name)
        sys.modules[old + found.name.removeprefix(_PACKAGE)] = module
    sys.modules[old] = package


warnings.warn(
    f"{__name__} is the package {_DISTRIBUTION} by now, and goes away in trtcore {REMOVED_IN}: import {_PACKAGE}",
    DeprecationWarning,
    stacklevel=2,
)
_rename(_load(), __name__)

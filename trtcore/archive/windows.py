"""Files of engines that were built on Linux for Windows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from trtcore.archive.loading import load
from trtcore.archive.saving import save
from trtcore.backend.base import WINDOWS, host_platform
from trtcore.errors import ArtifactError, BackendUnavailableError, SettingsError
from trtcore.runtime.engine import engines_in
from trtcore.runtime.module import CompiledModule


def refuse_on_windows() -> None:
    """Raise SettingsError on Windows, where there is nothing to cross."""
    if host_platform() == WINDOWS:
        raise SettingsError(
            "cross_compile_for_windows builds for Windows on another platform, and this is Windows",
            advice="use trtcore.dynamo.compile",
        )


def save_for_windows(
    module: CompiledModule, path: str | os.PathLike[str], inputs: Sequence[Any] | None = None
) -> None:
    """See `trtcore.dynamo.save_cross_compiled_exported_program`."""
    if isinstance(module, CompiledModule):
        _check(
            module, "the module", "make it with trtcore.dynamo.cross_compile_for_windows, or use trtcore.save"
        )
    save(module, path, inputs)


def load_on_windows(path: str | os.PathLike[str]) -> CompiledModule:
    """See `trtcore.dynamo.load_cross_compiled_exported_program`."""
    if (here := host_platform()) != WINDOWS:
        raise BackendUnavailableError(
            f"load_cross_compiled_exported_program loads engines for {WINDOWS}, and this is {here}",
            advice='load it on Windows; trtcore.load(path, runtime="reference") runs its networks in torch anywhere',
        )
    module = load(path)
    _check(module, os.fspath(path), "use trtcore.load")
    return module


def _check(module: CompiledModule, what: str, advice: str) -> None:
    """Raise ArtifactError where an engine is for another platform than Windows."""
    for engine in engines_in(module):
        platform = engine.manifest.target.get("platform")
        if platform != WINDOWS:
            raise ArtifactError(
                f"{what} has {engine.manifest.name}, which is built for {platform}", advice=advice
            )

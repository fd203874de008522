"""Which runtime a compiled module uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from trtcore.backend.base import host_platform
from trtcore.errors import SettingsError

if TYPE_CHECKING:
    from trtcore.backend.base import Backend, Target
    from trtcore.settings import CompilationSettings

Runtime = Literal["native", "reference"]


def choose_runtime(
    backend: Backend | None, settings: CompilationSettings, target: Target | None = None
) -> tuple[Runtime, str]:
    """Decide which runtime a compiled module uses.

    Args:
        target: what engines are built for; None is the backend's default.

    Returns:
        ("native" | "reference", why, one sentence). ``runtime="native"`` is taken at its word even where the
        engine cannot run here (it may be built to run elsewhere); the sentence then says so, and running it
        raises BackendUnavailableError.
    """
    asked = settings.runtime
    if asked not in ("auto", "native", "reference"):
        raise SettingsError(f"runtime={asked!r} is none of 'auto', 'native', 'reference'")
    if asked == "reference":
        return "reference", "settings.runtime='reference'"
    obstacle = native_obstacle(backend, target)
    if asked == "native":
        return "native", "settings.runtime='native'" + (
            f"; it cannot run here: {obstacle}" if obstacle else ""
        )
    if obstacle:
        return "reference", f"TensorRT engines cannot run here: {obstacle}"
    assert backend is not None
    return "native", f"{backend.name} engines run on {torch.cuda.get_device_name()}"


def native_obstacle(backend: Backend | None, target: Target | None) -> str:
    """Why the native runtime is impossible here; "" if it is possible."""
    if backend is None:
        return "no TensorRT backend is available"
    able = backend.native_runtime()
    if not able.ok:
        return able.message
    if target is not None:
        if target.platform != host_platform():
            return f"the engines are for {target.platform}"
        if target.compute_capability is not None:
            here = torch.cuda.get_device_capability()
            if tuple(target.compute_capability) != here:
                wanted = ".".join(map(str, target.compute_capability))
                return f"the engines are for compute capability {wanted}, this GPU has {here[0]}.{here[1]}"
    return ""

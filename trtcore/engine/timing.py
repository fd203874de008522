"""TensorRT's timing cache: what kernels took in earlier builds, in a file that processes share.

Read before a build; afterwards what the build has measured is added to what is in the file by then. Nothing that is
wrong with the file stops a build. TensorRT for RTX times no kernels: there the setting is refused
(`trtcore.engine.config.check_settings`), and nothing is done where it is not set.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtcore.paths import atomic_write, cache_directory

if TYPE_CHECKING:
    from trtcore.backend.base import Backend, Target
    from trtcore.settings import CompilationSettings

_LOCK_SECONDS = 30.0


@contextmanager
def timing_cache(
    backend: Backend, config: Any, settings: CompilationSettings, target: Target
) -> Iterator[None]:
    """Give a builder config the timing cache for what is built in the block, and keep it if the block ends well.

    Args:
        config: a `trt.IBuilderConfig` of the backend's.
    """
    path = timing_cache_file(backend, settings, target)
    if path is None:
        yield
        return
    _load(config, path)
    yield
    _save(config, path)


def timing_cache_file(backend: Backend, settings: CompilationSettings, target: Target) -> Path | None:
    """``timing_cache_path``, or a file of this TensorRT's and this target's in the user's cache folder.

    None where the backend has no timing cache.
    """
    if settings.timing_cache_path is None and not backend.can("timing_cache", target):
        return None
    if settings.timing_cache_path is not None:
        return Path(settings.timing_cache_path).expanduser()
    return cache_directory() / "timing" / f"{backend.name}-{backend.version}-{target.name}.cache"


def _load(config: Any, path: Path) -> None:
    """Attach what the file has; an empty cache where it is of another TensorRT or GPU, or no timing cache at all."""
    data = _read(path)
    if _attached(config, data) or not data:
        return
    warnings.warn(
        f"the timing cache {path} is of another TensorRT or GPU, or damaged: kernels are timed anew, and it is "
        "replaced",
        RuntimeWarning,
        stacklevel=4,
    )
    _attached(config, b"")


def _attached(config: Any, data: bytes) -> bool:
    cache = config.create_timing_cache(data)
    return cache is not None and bool(config.set_timing_cache(cache, False))


def _save(config: Any, path: Path) -> None:
    from filelock import FileLock, Timeout

    cache = config.get_timing_cache()
    if cache is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".lock"), timeout=_LOCK_SECONDS):
            # Other processes have written since: what both have measured stays as it is here.
            if (data := _read(path)) and (theirs := config.create_timing_cache(data)) is not None:
                cache.combine(theirs, False)
            with atomic_write(path) as file:
                file.write(bytes(memoryview(cache.serialize())))
    except (OSError, Timeout) as error:
        warnings.warn(f"the timing cache {path} cannot be written: {error}", RuntimeWarning, stacklevel=4)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""

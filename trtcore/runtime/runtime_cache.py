"""TensorRT for RTX's runtime cache: kernels that it compiled when engines started, in a file for the next process."""

from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path
from typing import Any

from trtcore.errors import InputError
from trtcore.paths import atomic_write, cache_directory

_LOCK_SECONDS = 30.0
_active: list[RuntimeCache] = []
_active_lock = threading.Lock()


class RuntimeCache:
    """Keeps what TensorRT for RTX compiles when engines start; in a ``with`` block around their first calls.

        with trtcore.runtime.RuntimeCache("kernels.cache"):
            compiled(x)

    The file is read when the first engine in the block is set up, and written in one step at the end of the block.
    TensorRT itself refuses one of another version, driver or GPU, which is told, and then replaced. Engines that have
    run before the block keep what they have. It is for all threads, and blocks may be nested: the innermost counts.

    TensorRT proper compiles kernels when it builds, and the reference runtime has none: there it means nothing, and the
    end of the block says so in a warning.

    Args:
        path: the file; None is one in the user's cache folder.

    Raises:
        InputError: it is no file name.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        if path is not None and not isinstance(path, (str, os.PathLike)):
            raise InputError(
                f"RuntimeCache takes a file's name or None, not {type(path).__name__}",
                advice="without a name the file is in the user's cache folder",
            )
        default = cache_directory() / "runtime" / "kernels.cache"
        self.path = default if path is None else Path(path).expanduser()
        self.engines = 0
        self._lock = threading.Lock()
        self._cache: Any = None
        self._read = b""
        self._meaningless = ""

    def __repr__(self) -> str:
        return f"<RuntimeCache {self.path}, of {self.engines} engines>"

    def __enter__(self) -> RuntimeCache:
        with _active_lock:
            _active.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        with _active_lock:
            _active.remove(self)
        if self.engines:
            self.save()
            return
        reason = self._meaningless or (
            "no engine was set up in the block. The reference runtime compiles nothing, and engines that ran before it "
            "keep what they have: call the module in the block for the first time"
        )
        warnings.warn(f"the runtime cache {self.path} was of no use: {reason}", RuntimeWarning, stacklevel=2)

    def save(self) -> None:
        """Write what has been compiled so far, if there is anything new. A file that cannot be written is a warning."""
        from filelock import FileLock, Timeout

        with self._lock:
            data = b"" if self._cache is None else bytes(memoryview(self._cache.serialize()))
        if not data or data == self._read:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock", timeout=_LOCK_SECONDS), atomic_write(self.path) as file:
                file.write(data)
            self._read = data
        except (OSError, Timeout) as error:
            warnings.warn(
                f"the runtime cache {self.path} cannot be written: {error}", RuntimeWarning, stacklevel=3
            )

    def create_context(self, trt: Any, engine: Any, strategy: Any) -> Any:
        """An execution context of an engine that takes its kernels from the cache, and puts them there.

        Args:
            trt: the bindings.
            engine: a `trt.ICudaEngine`. A CUDA context must be current.
            strategy: a `trt.ExecutionContextAllocationStrategy`.
        """
        if not hasattr(trt, "IRuntimeCache"):
            self._meaningless = f"{trt.__name__} {trt.__version__} compiles kernels when it builds an engine"
            return engine.create_execution_context(strategy)
        with self._lock:
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            if self._cache is None:
                self._cache = self._opened(config)
            config.set_runtime_cache(self._cache)
            self.engines += 1
        return engine.create_execution_context(config)

    def _opened(self, config: Any) -> Any:
        cache = config.create_runtime_cache()
        try:
            self._read = self.path.read_bytes()
        except OSError:
            return cache
        if self._read and not cache.deserialize(self._read):
            self._read = b""
            warnings.warn(
                f"the runtime cache {self.path} is of another TensorRT, driver or GPU, or damaged: kernels are "
                "compiled anew, and it is replaced",
                RuntimeWarning,
                stacklevel=6,
            )
        return cache


def active_cache() -> RuntimeCache | None:
    """The innermost block's."""
    with _active_lock:
        return _active[-1] if _active else None

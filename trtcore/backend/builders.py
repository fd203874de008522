"""TensorRT builders, which must not be destroyed while another is created.

TensorRT logs while it creates a builder, and holds a mutex meanwhile that destroying a builder takes too (TensorRT for
RTX 1.7). Python code that runs in the logger can destroy one: the garbage collector's, or another thread's, which then
has the interpreter's lock and waits for the mutex. Neither ever goes on. So every builder is kept here, and those that
nothing else refers to are destroyed before the next one is created.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any

_guard = threading.RLock()
_builders: list[Any] = []


def make_builder(trt: Any, logger: Any) -> Any:
    """A new `trt.Builder`; networks and configurations that it makes keep it alive, as those of any builder do."""
    with _guard:
        counts = _references(_builders)
        _builders[:] = [builder for builder, count in zip(_builders, counts) if count > _UNUSED]
        builder = trt.Builder(logger)
        _builders.append(builder)
    return builder


def _references(objects: Sequence[Any]) -> list[int]:
    return [sys.getrefcount(one) for one in objects]


(_UNUSED,) = _references([object()])
"""How many references there are to what only a list refers to."""

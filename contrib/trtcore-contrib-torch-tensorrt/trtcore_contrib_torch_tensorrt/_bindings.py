"""``trt`` as a name to import, without deciding at import which TensorRT it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_active: ContextVar[Any] = ContextVar("trtcore_contrib_torch_tensorrt_bindings", default=None)


class _Bindings:
    """The bindings module of the backend at work; outside of a compile, of the one that ``backend="auto"`` takes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what inspection tools look for must not load a TensorRT
            raise AttributeError(name)
        return getattr(active_bindings(), name)

    def __repr__(self) -> str:
        found = _active.get()
        return f"<the active TensorRT bindings{f': {found.__name__}' if found is not None else ''}>"


trt: Any = _Bindings()


def active_bindings() -> Any:
    """The bindings module in use.

    Raises:
        BackendUnavailableError: no compile is under way, and no backend can be used here.
    """
    found = _active.get()
    return found if found is not None else _default_bindings()


def _default_bindings() -> Any:
    from trtcore.testing import usable_backend

    return usable_backend().trt


@contextmanager
def bindings(module: Any) -> Iterator[None]:
    """Make `module` the active bindings of this thread."""
    token = _active.set(module)
    try:
        yield
    finally:
        _active.reset(token)


class _TensorMeta(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, active_bindings().ITensor)


class TRTTensor(metaclass=_TensorMeta):
    """``isinstance(x, TRTTensor)`` is true for an ITensor of the bindings in use. Has no instances of its own."""

"""Execution contexts that a CUDA graph owns, in this process's order of captures.

A graph replays what a context has queued: kernels that read the context's and the engine's own memory. So a context
that was captured runs nothing else as long as the graph, or an executable made of it, is there; a CUDA user object in
the graph tells when it is gone (`cuda.GraphToken`). Until then it is held here, even where its module is not any more.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from trtcore.runtime.native.context import Context


class Token(Protocol):
    """Tells about one graph."""

    def done(self) -> bool:
        """Whether it is gone."""


class Owner(Protocol):
    """Whoever takes contexts back."""

    spares: list[Context]


@dataclass(frozen=True)
class _Captured:
    token: Token
    context: Context
    key: Hashable
    owner: weakref.ref[Any]


_held: list[_Captured] = []
_lock = threading.Lock()


def hold(token: Token, context: Context, key: Hashable, owner: Owner) -> None:
    """Keep a context until the graph of `token` is gone; then `owner`, if it is there, has it as a spare."""
    with _lock:
        _held.append(_Captured(token, context, key, weakref.ref(owner)))


def held(key: Hashable, owner: Owner) -> Context | None:
    """The context that was captured by this key, for another call in the same capture."""
    with _lock:
        return next((one.context for one in _held if one.key == key and one.owner() is owner), None)


def sweep() -> None:
    """Give back what graphs owned that are gone."""
    with _lock:
        for one in [one for one in _held if one.token.done()]:
            _held.remove(one)
            owner = one.owner()
            if owner is not None:
                owner.spares.append(one.context)

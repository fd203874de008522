"""Choosing an optimisation profile for the calls of a thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from trtcore.errors import InputError

_chosen: ContextVar[int | None] = ContextVar("trtcore_optimization_profile", default=None)

chosen_profile = _chosen.get
"""The profile that this thread's calls must use; None lets every engine take its first one that fits."""


@contextmanager
def optimization_profile(index: int) -> Iterator[None]:
    """Run engines with one of their optimisation profiles, where several take the same shapes.

    Within it, every engine with dynamic inputs uses profile `index`, in the order in which the profiles were given
    (`trtcore.Input`); engines whose shapes are all static have none, and do not mind. Holds for the current thread
    (`contextvars`). The reference runtime computes the same with every profile, and checks the shapes.

    Args:
        index: from 0.

    Raises:
        InputError: `index` is no int from 0; from a call within it, an engine has no such profile, or the profile
            does not take the shapes.

    Example:
        >>> with trtcore.runtime.optimization_profile(1):  # doctest: +SKIP
        ...     compiled(x)
    """
    if type(index) is not int or index < 0:
        raise InputError(f"an optimisation profile is a number from 0, not {index!r}")
    token = _chosen.set(index)
    try:
        yield
    finally:
        _chosen.reset(token)

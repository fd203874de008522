"""Choosing an optimisation profile for the calls of a thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch

from trtcore.artifact.manifest import EngineManifest
from trtcore.errors import InputError

Chosen = tuple[tuple[str, "int | None"], ...]
"""(engine id, index) of what was chosen for some engines, and ("", index) for all others; None for no choice."""

_chosen: ContextVar[Chosen] = ContextVar("trtcore_optimization_profile", default=())

chosen = _chosen.get
"""What this thread's calls must use, as a value to be compared."""


def chosen_profile(engine: str) -> int | None:
    """The profile that this thread's calls of an engine must use; None lets it take its first one that fits."""
    found = _chosen.get()
    if not found:
        return None
    by_engine = dict(found)
    return by_engine.get(engine, by_engine.get(""))


@contextmanager
def optimization_profile(
    module: torch.nn.Module | int, index: int | Literal["auto"] | None = None
) -> Iterator[None]:
    """Run engines with one of their optimisation profiles, where several take the same shapes.

    Within it, every engine with dynamic inputs uses profile `index`, in the order in which the profiles were given
    (`trtcore.Input`); engines whose shapes are all static have none, and do not mind. Holds for the current thread
    (`contextvars`). The reference runtime computes the same with every profile, and checks the shapes.

    Args:
        module: the compiled module whose engines it is about; or `index` alone, for all modules.
        index: from 0; "auto" lets every engine take its first profile that fits, as without.

    Raises:
        InputError: `index` is no int from 0; `module` is no compiled module; from a call within it, an engine has no
        such
            profile, or the profile does not take the shapes.

    Example:
        >>> with trtcore.runtime.optimization_profile(compiled, 1):  # doctest: +SKIP
        ...     compiled(x)
    """
    wanted, ids = (module, [""]) if index is None else (index, _engine_ids(module))
    if wanted != "auto" and (type(wanted) is not int or wanted < 0):
        raise InputError(f"an optimisation profile is a number from 0, or 'auto', not {wanted!r}")
    number = wanted if isinstance(wanted, int) else None
    token = _chosen.set(tuple({**dict(_chosen.get()), **dict.fromkeys(ids, number)}.items()))
    try:
        yield
    finally:
        _chosen.reset(token)


def _engine_ids(module: Any) -> list[str]:
    if not isinstance(module, torch.fx.GraphModule):
        raise InputError(f"optimization_profile takes a compiled module, not a {type(module).__name__}")
    manifests = [
        node.args[3] for node in module.graph.nodes if node.target is torch.ops.trtcore.execute_engine.default
    ]
    return [EngineManifest.from_json(str(text)).id for text in manifests]

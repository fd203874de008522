"""What packs should no longer use, until when it works, and what to write instead.

A name or an argument of the packs' door that goes away stands in one of the tables here for at least two minor
versions. It goes on working and warns (`DeprecationWarning`) where a pack uses it:

- `NAMES`: names of `trtcore.pack`, each with the module that still has it.
- `HOOKS`, `HOOK_ARGUMENTS`: hooks, and arguments of hooks; `trtcore.packs.hookspecs` hands them to pluggy, which
  warns at the pack's implementation. A *new* argument of a hook needs nothing: pluggy passes an implementation the
  arguments that it names.
- `NODE_CONTEXT`: attributes that a capability validator's context no longer has.

A test fails when a version appears in which an entry should be gone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Deprecation:
    """Something that still works and will not.

    Attributes:
        what: as its user writes it.
        removed_in: the first version of trtcore without it.
        instead: what to write instead, as an imperative.
    """

    what: str
    removed_in: str
    instead: str

    def __str__(self) -> str:
        return f"{self.what} is deprecated and goes away in trtcore {self.removed_in}: {self.instead}"

    def warning(self) -> DeprecationWarning:
        """For pluggy, which issues it itself."""
        return DeprecationWarning(str(self))

    def warn(self, depth: int = 2) -> None:
        """Warn at the caller's caller; `depth` more frames up where helpers stand between."""
        warnings.warn(str(self), DeprecationWarning, stacklevel=depth + 1)


def _of_node_context(name: str) -> Deprecation:
    return Deprecation(
        f"ctx.{name} in a capability validator",
        "0.3",
        "decide by the node and by ctx.settings, ctx.backend and ctx.target",
    )


NAMES: dict[str, tuple[str, Deprecation, str]] = {}
"""Name of `trtcore.pack` -> (module that has it, deprecation, its name there)."""

HOOKS: dict[str, Deprecation] = {}
HOOK_ARGUMENTS: dict[str, dict[str, Deprecation]] = {}
"""Hook -> argument -> deprecation."""

NODE_CONTEXT: dict[str, Deprecation] = {
    name: _of_node_context(name) for name in ("registry", "observers", "no_backend_reason", "emit", "stage")
}


def every() -> Iterator[Deprecation]:
    """All that is deprecated, for the test that nothing outlives its version."""
    yield from (deprecation for _, deprecation, _ in NAMES.values())
    yield from HOOKS.values()
    for arguments in HOOK_ARGUMENTS.values():
        yield from arguments.values()
    yield from NODE_CONTEXT.values()

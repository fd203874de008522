"""Structures of arguments and results in pickles, as torch's text for them."""

from __future__ import annotations

from typing import Any

from torch.utils import _pytree as pytree


def spec_state(spec: pytree.TreeSpec | None) -> Any:
    """A structure as text, or as it is where the text would not give it back: torch warns of a pickled one."""
    if spec is None:
        return None
    try:
        text = pytree.treespec_dumps(spec)
        return text if pytree.treespec_loads(text) == spec else spec
    except Exception:  # a type that is registered without a name, a key that is no JSON
        return spec


def spec_of(state: Any) -> Any:
    """What `spec_state` was given."""
    return pytree.treespec_loads(state) if isinstance(state, str) else state

"""Packs: what they declare, how they are found and loaded, and which converter takes a node.

People who write packs import from `trtcore.pack`.
"""

from __future__ import annotations

from typing import Any

_OLD = ("build_registry", "describe_packs", "forget_packs", "load_packs", "register_pack")


def __getattr__(name: str) -> Any:
    if name not in _OLD:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trtcore.packs import listing, loading

    return getattr(listing if name == "describe_packs" else loading, name)

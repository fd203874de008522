"""What a compile did: the Report as data, text and JSON, and how it is filled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trtcore.report.data import Report

__all__ = ["Report"]


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trtcore.report import data

    return getattr(data, name)

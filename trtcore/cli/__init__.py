"""The `trtcore` command."""

from __future__ import annotations

from trtcore.cli.app import main

__all__ = ["main"]

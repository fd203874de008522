"""`python -m trtcore` is the `trtcore` command."""

from __future__ import annotations

from trtcore.cli import main

main()

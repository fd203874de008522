"""Looking into a compile: `compare` finds the first node that diverges from eager, `replay` builds a request again."""

from __future__ import annotations

from trtcore.debug.compare import Comparison, Step, compare
from trtcore.debug.debugger import Debugger
from trtcore.debug.replay import Replay, replay

__all__ = ["Comparison", "Debugger", "Replay", "Step", "compare", "replay"]

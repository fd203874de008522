"""Looking into a compile.

`compare` finds the first node that diverges from eager, `check_outputs` looks at a call's results, `replay` builds a
request again.
"""

from __future__ import annotations

from trtcore.debug.compare import Comparison, Step, compare
from trtcore.debug.curve import CurvePoint
from trtcore.debug.debugger import Debugger
from trtcore.debug.outputs import check_outputs
from trtcore.debug.replay import Replay, replay

__all__ = ["Comparison", "CurvePoint", "Debugger", "Replay", "Step", "check_outputs", "compare", "replay"]

"""What observers of a compile are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """Something that happened during a compile, for observers (packs' ``observe``, the CLI's progress).

    Attributes:
        stage: "export", "lowering", "partition", "conversion", "build", ...
        status: "start", "progress" or "end".
        data: plain values; what they are depends on the stage.
        seconds: how long the stage took, on "end".
    """

    stage: str
    status: str
    data: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None


Observer = Callable[[Event], None]

"""What the hand-written kernels contribute to the pack."""

from __future__ import annotations

from trtcore_plugins.kernels.declarations import rotary_embedding

PLUGINS = (rotary_embedding,)

"""What generated kernels contribute to the pack: the op, the passes that use it, and the plugin that it is."""

from __future__ import annotations

from trtcore.pack import LoweringPass
from trtcore_plugins.codegen import op as _op  # noqa: F401  (registers the op that saved graphs call)
from trtcore_plugins.codegen.fuse import fuse_named, fuse_uncovered
from trtcore_plugins.codegen.plugin import FusedKernels

PLUGINS = (FusedKernels(),)

PASSES = (
    LoweringPass(
        "fuse_named", fuse_named, after=("functionalize", "scalar_constants"), before=("decompose",)
    ),
    LoweringPass("fuse_uncovered", fuse_uncovered, after=("decompose",), before=("eliminate_dead_code",)),
)

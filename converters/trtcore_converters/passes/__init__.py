"""Lowering passes of the built-in pack. Each is small, has a name that ``settings.disabled_passes`` takes, and
changes no value that the model computes, beyond the rounding of floating point."""

from __future__ import annotations

from trtcore.pack import LoweringPass
from trtcore_converters.passes.cleanup import remove_assertions, remove_noops
from trtcore_converters.passes.folding import constant_folding, scalar_constants
from trtcore_converters.passes.subexpressions import common_subexpressions
from trtcore_converters.passes.views import strided_views

PASSES = (
    LoweringPass("remove_assertions", remove_assertions),
    LoweringPass("strided_views", strided_views, after=("remove_assertions",)),
    LoweringPass("remove_noops", remove_noops, after=("strided_views",)),
    LoweringPass("common_subexpressions", common_subexpressions, after=("remove_noops",)),
    LoweringPass("constant_folding", constant_folding, after=("common_subexpressions",)),
    LoweringPass("scalar_constants", scalar_constants, after=("constant_folding",)),
    LoweringPass(
        "remove_decomposed_assertions",
        remove_assertions,
        after=("decompose",),
        before=("eliminate_dead_code",),
    ),
)
"""In this order, unless other packs' passes ask for another."""

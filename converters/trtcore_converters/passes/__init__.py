"""Lowering passes of the built-in pack. Each is small, has a name that ``settings.disabled_passes`` takes, and
changes no value that the model computes, beyond the rounding of floating point."""

from __future__ import annotations

from trtcore.pack import LoweringPass, rules_pass
from trtcore_converters.passes.attention import group_heads, recover_attention
from trtcore_converters.passes.autocast import autocast
from trtcore_converters.passes.cleanup import plain_casts, plain_zeros, remove_assertions, remove_noops
from trtcore_converters.passes.complex_pairs import complex_pairs
from trtcore_converters.passes.convolution import fold_batch_norm, fold_padding
from trtcore_converters.passes.decomposed import recover_decomposed_attention
from trtcore_converters.passes.experts import whole_experts
from trtcore_converters.passes.factors import attention_factors
from trtcore_converters.passes.folding import constant_folding, scalar_constants
from trtcore_converters.passes.kernels import attention_kernels
from trtcore_converters.passes.linear import FUSE_LINEAR
from trtcore_converters.passes.masks import masked_updates
from trtcore_converters.passes.norms import recover_rms_norm
from trtcore_converters.passes.precision import fp32_accumulation, recurrent_dtypes, truncate_double
from trtcore_converters.passes.quantised import quantised_weights, scale_quantised_queries
from trtcore_converters.passes.rotary import recover_rotary
from trtcore_converters.passes.sizes import bounded_results, loop_counters, symbolic_bools, symbolic_floats
from trtcore_converters.passes.statistics import running_statistics
from trtcore_converters.passes.subexpressions import common_subexpressions
from trtcore_converters.passes.tables import pad_tied_tables
from trtcore_converters.passes.views import simplify_views, strided_views

_IN_ORDER = (
    ("remove_assertions", remove_assertions),
    ("plain_casts", plain_casts),
    ("truncate_double", truncate_double),
    ("complex_pairs", complex_pairs),
    ("strided_views", strided_views),
    ("remove_noops", remove_noops),
    ("attention_kernels", attention_kernels),
    ("common_subexpressions", common_subexpressions),
    ("quantised_weights", quantised_weights),
    ("masked_updates", masked_updates),
    ("constant_folding", constant_folding),
    ("scalar_constants", scalar_constants),
    ("fold_padding", fold_padding),
    ("fold_batch_norm", fold_batch_norm),
    ("fuse_linear", rules_pass("fuse_linear", FUSE_LINEAR).run),
    ("recover_rms_norm", recover_rms_norm),
    ("recover_rotary", recover_rotary),
    ("recover_decomposed_attention", recover_decomposed_attention),
    ("recover_attention", recover_attention),
    ("simplify_views", simplify_views),
    ("group_heads", group_heads),
    ("scale_quantised_queries", scale_quantised_queries),
    ("fold_recovered", constant_folding),
    ("pad_tied_tables", pad_tied_tables),
    ("autocast", autocast),
    ("fp32_accumulation", fp32_accumulation),
    ("attention_factors", attention_factors),
)

_ASKED_FOR = frozenset({"truncate_double", "autocast", "fp32_accumulation"})
"""What the user's settings ask for: without them the model would compute in other dtypes than wanted."""

PASSES = (
    LoweringPass("running_statistics", running_statistics, before=("functionalize",)),
    LoweringPass("plain_zeros", plain_zeros, after=("running_statistics",), before=("functionalize",)),
    LoweringPass(
        "recurrent_dtypes", recurrent_dtypes, after=("plain_zeros",), before=("functionalize",), required=True
    ),
    LoweringPass("loop_counters", loop_counters, after=("functionalize",), before=("match_patterns",)),
    *(
        LoweringPass(
            name, run, after=(_IN_ORDER[index - 1][0],) if index else (), required=name in _ASKED_FOR
        )
        for index, (name, run) in enumerate(_IN_ORDER)
    ),
    LoweringPass(
        "remove_decomposed_assertions",
        remove_assertions,
        after=("decompose",),
        before=("eliminate_dead_code",),
    ),
    LoweringPass(
        "symbolic_floats",
        symbolic_floats,
        after=("remove_decomposed_assertions",),
        before=("eliminate_dead_code",),
    ),
    LoweringPass(
        "symbolic_bools", symbolic_bools, after=("symbolic_floats",), before=("eliminate_dead_code",)
    ),
    LoweringPass(
        "bounded_results", bounded_results, after=("symbolic_bools",), before=("eliminate_dead_code",)
    ),
    LoweringPass("whole_experts", whole_experts, after=("bounded_results",), before=("eliminate_dead_code",)),
)
"""In this order, unless other packs' passes ask for another."""

"""What the entry point names."""

from __future__ import annotations

from collections.abc import Iterable

from trtcore.pack import Converter, LoweringPass, converters_in, hookimpl


@hookimpl
def converters() -> Iterable[Converter]:
    """The pack's converters."""
    from trtcore_contrib_llm import attention, moe, norm, rotary

    return converters_in(attention, moe, norm, rotary)


@hookimpl
def lowering_passes() -> Iterable[LoweringPass]:
    """The pass that finds attention over a cache."""
    from trtcore_contrib_llm.attention import PASSES

    return PASSES

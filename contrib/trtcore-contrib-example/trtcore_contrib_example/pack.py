"""What the entry point names: a function per extension point, each returning plain values."""

from __future__ import annotations

from collections.abc import Iterable

from trtcore.pack import Converter, LoweringPass, converters_in, hookimpl


@hookimpl
def converters() -> Iterable[Converter]:
    """The pack's converters."""
    from trtcore_contrib_example import converters as module

    return converters_in(module)


@hookimpl
def lowering_passes() -> Iterable[LoweringPass]:
    """The pack's pass."""
    from trtcore_contrib_example.passes import PASSES

    return PASSES
